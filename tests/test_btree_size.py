"""Estimated B-tree sizes against indexes that PostgreSQL built."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, ColumnStatistics, Constraint, IndexColumn, Table
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.btree_size import IndexSize, estimate_index, height_of_blocks
from optimizer.shadow.sizes.index_groups import column_values, together, uniform
from optimizer.shadow.sizes.index_rows import selection
from optimizer.shadow.sizes.index_width import attribute, deduplicates, entry_sizes, parse_type
from optimizer.shadow.sizes.joint_counts import read_joint_counts
from optimizer.shadow.source.introspect import read_catalog

ROWS = """
CREATE EXTENSION IF NOT EXISTS pageinspect;
SELECT setseed(0.25);
CREATE TYPE size AS ENUM ('small', 'large');
CREATE TABLE t AS
SELECT i AS id, i::bigint AS big, (random() * 300)::int AS few, floor(500 * power(random(), 4))::int AS skewed,
       i % 3 = 0 AS flag, CASE WHEN i % 4 = 0 THEN NULL ELSE i % 1000 END AS gaps, NULL::int AS nothing,
       timestamp '2024-01-01' + i * interval '7 minutes' AS at, round((i % 5000) / 4.0, 2) AS price,
       (i % 50)::float8 AS ratio, gen_random_uuid() AS uid, repeat('x', i % 20) || i AS name,
       (ARRAY['open', 'in progress', 'closed'])[1 + (i % 100 > 1)::int + (i % 100 > 10)::int] AS status,
       (ARRAY['small', 'large'])[1 + i % 2]::size AS size, ('10.0.' || i % 200 || '.7')::inet AS address
  FROM generate_series(1, 60000) i;
ALTER TABLE t ADD PRIMARY KEY (id);
CREATE TABLE parent (a int, b int, PRIMARY KEY (a, b));
INSERT INTO parent SELECT i, i % 97 FROM generate_series(1, 500) i;
CREATE TABLE child AS SELECT a, b FROM parent, generate_series(1, 40);
ALTER TABLE child ADD FOREIGN KEY (a, b) REFERENCES parent;
CREATE TABLE empty (a int);
ANALYZE;
"""

KEYS = [
    ("id",),
    ("big",),
    ("few",),
    ("skewed",),
    ("flag",),
    ("gaps",),
    ("nothing",),
    ("at",),
    ("price",),
    ("ratio",),
    ("uid",),
    ("name",),
    ("status",),
    ("size",),
    ("address",),
    ("status", "at"),
    ("few", "flag"),
    ("gaps", "nothing"),
    ("flag", "id"),
    ("size", "few", "flag"),
]


def candidate(*keys: str, table: str = "t", include: tuple[str, ...] = (), where: str | None = None) -> IndexCandidate:
    columns = tuple(IndexColumn(key, None if key.startswith("(") else key) for key in keys)
    return IndexCandidate("public", table, columns, include=include, predicate=where)


def statistics(**changed: Any) -> ColumnStatistics:
    return replace(ColumnStatistics(0.0, 4, -1.0), **changed)


def table_of(rows: float, columns: Mapping[str, tuple[str, ColumnStatistics | None]]) -> Table:
    held = {
        name: Column(name, type_, not_null=True, position=number, statistics=known)
        for number, (name, (type_, known)) in enumerate(columns.items(), 1)
    }
    return Table("public", "t", "table", held, rows=rows, pages=100)


@pytest.fixture(scope="module")
def connection(scratch_cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with scratch_cluster.connect() as connection:
        connection.execute("CREATE DATABASE sizes")
    with scratch_cluster.connect("sizes") as connection:
        connection.execute(ROWS.encode())
        yield connection


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[Any]) -> Catalog:
    return read_catalog(connection)


def built(connection: psycopg.Connection[Any], wanted: IndexCandidate) -> IndexSize:
    connection.execute(wanted.ddl("built", concurrently=False).encode())
    row = connection.execute(
        "SELECT pg_relation_size('built') / 8192, (bt_metap('built')).fastlevel, reltuples"
        " FROM pg_class WHERE relname = 'built'"
    ).fetchone()
    connection.execute("DROP INDEX built")
    assert row is not None
    return IndexSize(*row)


def check(
    connection: psycopg.Connection[Any], catalog: Catalog, wanted: IndexCandidate, tolerance: float = 0.05
) -> None:
    estimated = estimate_index(wanted, catalog.tables["public", wanted.table], catalog)
    real = built(connection, wanted)
    assert estimated.blocks == pytest.approx(real.blocks, rel=tolerance, abs=1)
    assert estimated.height == real.height
    assert estimated.tuples == pytest.approx(real.tuples, rel=max(tolerance, 0.01))


@pytest.mark.parametrize("keys", KEYS, ids=",".join)
def test_built_indexes(connection: psycopg.Connection[Any], catalog: Catalog, keys: tuple[str, ...]) -> None:
    check(connection, catalog, candidate(*keys))


def test_included_columns_forbid_deduplication(connection: psycopg.Connection[Any], catalog: Catalog) -> None:
    check(connection, catalog, candidate("few", include=("price", "status")))


def test_partial_indexes(connection: psycopg.Connection[Any], catalog: Catalog) -> None:
    check(connection, catalog, candidate("at", where="status = 'in progress'"), 0.1)
    check(connection, catalog, candidate("gaps", where="gaps IS NOT NULL"))
    check(connection, catalog, candidate("few", where="NOT flag"))
    check(connection, catalog, candidate("status", where="status = 'closed'"))
    check(connection, catalog, candidate("id", where="status <> 'closed' AND flag"), 0.15)


def test_expressions(connection: psycopg.Connection[Any], catalog: Catalog) -> None:
    check(connection, catalog, candidate("(lower(name))"))
    # Every day has as many rows, which no statistics tell: the posting lists fill pages more evenly than by chance.
    check(connection, catalog, candidate("((at)::date)"), 0.08)
    check(connection, catalog, candidate("(date(at))"), 0.08)
    check(connection, catalog, candidate("(upper(status))"))
    check(connection, catalog, candidate("(date_trunc('hour'::text, at))"))


def test_a_foreign_key_of_two_columns_bounds_the_distinct_pairs(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    check(connection, catalog, candidate("a", "b", table="child"))


def test_the_planners_row_count_is_believed(catalog: Catalog) -> None:
    wanted = candidate("at", where="price * 2 > 7 AND ratio < few")
    assert estimate_index(wanted, catalog.tables["public", "t"], catalog, rows=300).tuples == 300


def test_empty_and_never_analyzed_tables_have_a_metapage_only(catalog: Catalog) -> None:
    empty = catalog.tables["public", "empty"]
    assert estimate_index(candidate("a", table="empty"), empty, catalog) == IndexSize(1, 0, 0)
    assert estimate_index(candidate("a", table="empty"), replace(empty, rows=-1), catalog) == IndexSize(1, 0, 0)
    assert IndexSize(1, 0, 0).bytes == 8192


def test_large_tables_without_reading_any() -> None:
    """A fresh index on a billion distinct 8-byte keys: 366 entries a leaf, 285 pivots an inner page."""
    table = table_of(1e9, {"id": ("bigint", statistics(avg_width=8))})
    size = estimate_index(candidate("id"), table, Catalog({}))
    assert size.blocks == pytest.approx(1e9 / 366 * (1 + 1 / 285), rel=0.001)
    assert size.height == 3


def test_columns_without_statistics_are_estimated() -> None:
    table = table_of(10_000, {"a": ("integer", None), "b": ("character varying(20)", None), "c": ("jsonb", None)})
    for column in table.columns:
        size = estimate_index(candidate(column), table, Catalog({}))
        assert 5 < size.blocks < 100


def test_deferrable_uniqueness_does_not_count() -> None:
    known = statistics(n_distinct=10.0)
    table = table_of(100_000, {"a": ("integer", known)})
    unique = replace(table, constraints=(Constraint("k", "unique", ("a",)),))
    deferrable = replace(table, constraints=(Constraint("k", "unique", ("a",), deferrable=True),))
    sizes = [estimate_index(candidate("a"), t, Catalog({})).blocks for t in (table, unique, deferrable)]
    assert sizes[0] == sizes[2] < sizes[1] / 2


@pytest.mark.parametrize(
    ("blocks", "height"), [(1, 0), (2, 0), (4, 1), (280, 1), (300, 2), (60_000, 2), (100_000, 3), (20_000_000, 3)]
)
def test_height_of_blocks(blocks: int, height: int) -> None:
    assert height_of_blocks(blocks, 8) == height


def test_deduplication_by_type_is_the_servers(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(
        "SELECT format_type(opcintype, NULL), EXISTS (SELECT FROM pg_amproc p WHERE p.amprocfamily = opcfamily"
        " AND p.amprocnum = 4 AND p.amproclefttype = opcintype)"
        " FROM pg_opclass JOIN pg_am a ON a.oid = opcmethod JOIN pg_type t ON t.oid = opcintype"
        " WHERE amname = 'btree' AND opcdefault AND t.typtype <> 'p' AND opcnamespace = 'pg_catalog'::regnamespace"
    ).fetchall()
    assert len(rows) > 30
    assert {name: deduplicates(name, None) for name, _ in rows} == dict(rows)


def test_nondeterministic_collations_are_never_deduplicated() -> None:
    column = Column("a", "text", not_null=True, position=1)
    assert deduplicates("text", column)
    assert not deduplicates("text", replace(column, collation="ci", deterministic=False))
    assert not deduplicates("integer[]", None)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("integer", ("integer", None, False)),
        ("numeric(15,2)", ("numeric", 15, False)),
        ("timestamp(3) without time zone", ("timestamp without time zone", 3, False)),
        ("character varying(25)[]", ("character varying", 25, True)),
        ('"char"', ('"char"', None, False)),
        ("double precision", ("double precision", None, False)),
    ],
)
def test_parse_type(text: str, parsed: tuple[str, int | None, bool]) -> None:
    assert parse_type(text) == parsed


def test_entry_sizes_follow_alignment() -> None:
    """int4 then int8 leaves a hole of four bytes; a NULL adds a bitmap; short text needs no alignment."""
    small, large = attribute("integer", None, None), attribute("bigint", None, None)
    assert entry_sizes([small, large]) == {24: 1.0}
    assert entry_sizes([small, small]) == {16: 1.0}
    half = attribute("integer", None, statistics(null_frac=0.5))
    assert entry_sizes([half]) == {16: 1.0}
    assert entry_sizes([half, large]) == {24: 1.0}
    text = attribute("text", None, statistics(avg_width=6, most_common_vals=("hello",), most_common_freqs=(1.0,)))
    assert entry_sizes([attribute("boolean", None, None), text]) == {16: 1.0}


@pytest.mark.parametrize(
    ("value", "width"), [("0", 3), ("7", 5), ("12345", 7), ("10000", 5), ("0.5", 5), ("-1.00001", 9), ("NaN", 3)]
)
def test_numeric_widths_are_the_servers(connection: psycopg.Connection[Any], value: str, width: int) -> None:
    known = statistics(avg_width=width, most_common_vals=(value,), most_common_freqs=(1.0,))
    assert dict(attribute("numeric", None, known).widths) == {width: 1.0}
    connection.execute("CREATE TEMPORARY TABLE n AS SELECT %s::numeric AS v", [value])
    assert connection.execute("SELECT pg_column_size(v) FROM n").fetchone() == (width,)
    connection.execute("DROP TABLE n")


def test_distinct_values_of_several_columns() -> None:
    ten, hundred = uniform(10), uniform(100)
    assert together([ten, hundred]).distinct(1_000_000) == pytest.approx(1000)
    assert together([ten, hundred]).distinct(500) < 450
    unique = column_values(statistics(), 1000)
    assert together([ten, unique]).distinct(1000) == 1000
    seen = column_values(statistics(n_distinct=600.0), 1000)
    assert seen.distinct(1000) == pytest.approx(600, rel=0.01)


@pytest.mark.parametrize(
    ("predicate", "share"),
    [
        (None, 1.0),
        ("status = 'open'", 0.2),
        ("status <> 'open'", 0.7),
        ("status IS NULL", 0.1),
        ("status IS NOT NULL", 0.9),
        ("status IN ('open', 'shut')", 0.5),
        ("status = 'rare'", 0.4 / 8),
        ("status = 'open' AND flag", 0.2 * 0.25),
        ("NOT flag", 0.75),
        ("status > 'm'", 1 / 3),
        ("lower(status) = 'x' AND flag", 0.25 / 3),
        ("not ) sql", 1 / 3),
    ],
)
def test_selection(predicate: str | None, share: float) -> None:
    status = statistics(null_frac=0.1, n_distinct=10.0, most_common_vals=("open", "shut"), most_common_freqs=(0.2, 0.3))
    flag = statistics(n_distinct=2.0, most_common_vals=("f", "t"), most_common_freqs=(0.75, 0.25))
    table = table_of(1000, {"status": ("text", status), "flag": ("boolean", flag)})
    assert selection(predicate, table).share == pytest.approx(share)


def analyzed(counts: Sequence[int], target: int = 100) -> tuple[float, tuple[float, ...], int]:
    """What ANALYZE would say of a column with values that often: n_distinct, shares of common values, rows sampled.

    Follows `compute_scalar_stats` and `analyze_mcv_list`, over a random sample that is the same each time.
    """
    rows = [value for value, count in enumerate(counts) for _ in range(count)]
    sample = random.Random(7).sample(rows, min(300 * target, len(rows)))
    found = Counter(sample)
    once = sum(count == 1 for count in found.values())
    n, total = len(sample), len(rows)
    distinct = n * len(found) / (n - once + once * n / total)
    common = [count for _, count in found.most_common(target) if count > 1]
    while common and n < total:
        others = max(distinct - len(common) + 1, 1)
        expected = (n - sum(common[:-1])) / others
        k = total * common[-1] / n
        deviation = math.sqrt(n * k * (total - k) * (total - n) / (total**2 * (total - 1)))
        if common[-1] > expected + 2 * deviation + 0.5:
            break
        common.pop()
    return distinct, tuple(count / n for count in common), n


def zipf(values: int, rows: int, power: float = 1.0) -> list[int]:
    weights = [rank**-power for rank in range(1, values + 1)]
    chance = random.Random(3)
    drawn = Counter(chance.choices(range(values), weights, k=rows))
    return list(drawn.values())


@pytest.mark.parametrize(
    ("name", "counts", "tolerance"),
    [
        ("pairs drawn at random", zipf(100_000, 200_000, 0.0), 0.05),
        ("few rows each", zipf(30_000, 300_000, 0.0), 0.02),
        ("Zipf", zipf(60_000, 300_000), 0.1),
        ("Zipf, flatter", zipf(40_000, 300_000, 0.7), 0.1),
        ("one common, many unique", [60_000, *([1] * 140_000)], 0.1),
    ],
)
def test_distinct_values_behind_an_estimate(name: str, counts: list[int], tolerance: float) -> None:
    """The model finds the number of values again that ANALYZE's sample hides."""
    distinct, common, sampled = analyzed(counts)
    rows, real = sum(counts), len(counts)
    known = statistics(n_distinct=distinct, most_common_freqs=common, histogram_bounds=("0",) * 101)
    found = column_values(known, rows).distinct(rows)
    assert sampled == 30_000
    assert found == pytest.approx(real, rel=tolerance), name
    if "Zipf" in name:
        assert distinct < 0.7 * real, "the case must be one that ANALYZE gets wrong"


def test_a_sample_of_all_rows_is_believed() -> None:
    counts = zipf(500, 20_000)
    distinct, common, sampled = analyzed(counts)
    assert sampled == 20_000
    known = statistics(n_distinct=distinct, most_common_freqs=common, histogram_bounds=("0",) * 101)
    assert column_values(known, 20_000).distinct(20_000) == pytest.approx(len(counts), rel=0.03)


EXACT = """
SET default_statistics_target = 300;
CREATE TABLE seldom AS
SELECT i AS id, CASE WHEN i % 3 = 0 THEN repeat(md5(i::text), 2) END AS body,
       CASE WHEN i % 20 = 0 THEN i % 500 END AS rare, i % 400 AS city, i % 400 / 20 AS region, i % 400 / 100 AS country
  FROM generate_series(1, 80000) i;
CREATE STATISTICS seldom_places (ndistinct) ON city, region, country FROM seldom;
ANALYZE seldom;
"""


@pytest.fixture(scope="module")
def seldom(connection: psycopg.Connection[Any]) -> Catalog:
    """A table of which ANALYZE sees every row, so that its statistics are always the same."""
    connection.execute(EXACT.encode())
    connection.execute("RESET default_statistics_target")
    return read_catalog(connection)


def test_nulls_are_small_and_stand_together(connection: psycopg.Connection[Any], seldom: Catalog) -> None:
    for keys in (("body",), ("rare",), ("rare", "body"), ("body", "rare")):
        check(connection, seldom, candidate(*keys, table="seldom"))


def test_counted_combinations(connection: psycopg.Connection[Any], seldom: Catalog) -> None:
    table = seldom.tables["public", "seldom"]
    joint = read_joint_counts(connection)["public", "seldom"]
    assert joint[frozenset({"city", "region"})] == 400
    wanted = candidate("region", "city", "country", table="seldom")
    real = built(connection, wanted)
    assert estimate_index(wanted, table, seldom, joint=joint).blocks == pytest.approx(real.blocks, rel=0.05)
    assert estimate_index(wanted, table, seldom).blocks > 1.5 * real.blocks, "as independent columns they have more"


def test_fillfactor(connection: psycopg.Connection[Any], seldom: Catalog) -> None:
    for fill in ("50", "100"):
        for key in ("id", "city"):
            check(connection, seldom, replace(candidate(key, table="seldom"), options=(("fillfactor", fill),)))


def test_a_foreign_key_has_no_more_values_than_its_target_has_rows() -> None:
    known = statistics(n_distinct=50_000.0, histogram_bounds=("0",) * 101)
    child = table_of(1_000_000, {"a": ("integer", known)})
    parent = Table("public", "parent", "table", {}, rows=5_000)
    key = Constraint("k", "foreign key", ("a",), referenced_schema="public", referenced_table="parent")
    catalog = Catalog({("public", "parent"): parent})
    free = estimate_index(candidate("a"), child, catalog)
    bound = estimate_index(candidate("a"), replace(child, constraints=(key,)), catalog)
    assert bound.blocks == pytest.approx(1_000_000 * 6 / 7_000, rel=0.1)
    assert free.blocks > 1.1 * bound.blocks
