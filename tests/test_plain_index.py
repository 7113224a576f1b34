"""Hypothetical B-trees over plain columns: their entries, what may be one, holding many, dropping some."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from production import make_production, source_plan

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Column, ColumnStatistics, IndexColumn, Table
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.hollow import HollowSession, HollowShadow
from optimizer.shadow.pages.skeleton import leaf_tuples
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.index_ends import column_ends, has_grown, leaf_of
from optimizer.shadow.whatif.plain_index import is_plain

VALUES = {
    "smallint": ("-7", "300"),
    "integer": ("-70000", "2147483647"),
    "bigint": ("-5000000000", "12"),
    "real": ("-1.5", "3e20"),
    "double precision": ("-0.1", "1e300"),
    "date": ("0044-03-15 BC", "2026-11-23"),
    "timestamp without time zone": ("1999-12-31 23:59:59.999999", "infinity"),
    "timestamp with time zone": ("2024-01-01 00:00:00+00", "2024-06-01 12:00:00+02"),
    "boolean": ("f", "t"),
    "interval": ("-1 mon +2 days 03:04:05.000006", "90 days"),
    "inet": ("10.0.0.0/8", "fe80::1"),
    "uuid": ("00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "text": ('a "quoted" \\ value, with {braces}', "zebra"),
    "character varying(20)": ("", "ü and more"),
    "character(8)": ("ab      ", "zz      "),
    "numeric(12,2)": ("-1234567.89", "0.00"),
    "numeric": ("0.000001", "99999999999999999999.5"),
}


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def production(scratch_cluster: Cluster) -> str:
    dsn = make_production(scratch_cluster, "production_plain")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE orders_total_idx")
        connection.execute("CREATE DOMAIN positive AS integer CHECK (value > 0)")
        connection.execute("CREATE TABLE odd (id integer PRIMARY KEY, amount positive, tags text[])")
    return dsn


@pytest.fixture(scope="module")
def shadow(services: Services, production: str) -> Iterator[HollowShadow]:
    services.add_hollow("plain", production)
    shadow = services.shadow("plain")
    assert isinstance(shadow, HollowShadow)
    yield shadow
    services.drop("plain")


@pytest.fixture
def session(shadow: HollowShadow) -> Iterator[HollowSession]:
    with shadow.session() as session:
        yield session


def on(table: str, *columns: str, **changed: Any) -> IndexCandidate:
    return replace(IndexCandidate("public", table, tuple(IndexColumn(c, c) for c in columns)), **changed)


def column(type_: str, *values: str) -> Column:
    known = ColumnStatistics(0.0, 8, -1.0, histogram_bounds=values)
    return Column("v", type_, not_null=True, position=1, statistics=known)


def oid_of(connection: psycopg.Connection[Any], name: str) -> int:
    row = connection.execute("SELECT %s::regclass::oid::int8", [name]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("type_", VALUES)
@pytest.mark.parametrize("alone", [True, False])
def test_entries_are_postgresqls_own(scratch_cluster: Cluster, type_: str, alone: bool) -> None:
    keys = "v" if alone else "v DESC, w"
    with scratch_cluster.connect() as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pageinspect")
        connection.execute(f"CREATE TEMPORARY TABLE e (v {type_}, w bigint)".encode())
        connection.execute(f"INSERT INTO e SELECT unnest(%s::{type_}[]), NULL".encode(), [list(VALUES[type_])])
        connection.execute(f"CREATE INDEX e_i ON e ({keys})".encode())
        row = connection.execute("SELECT get_raw_page('e_i', 1)").fetchone()
        assert row is not None
        written = leaf_tuples(row[0])
        described = column(type_, *reversed(VALUES[type_]))
        ends = column_ends(connection, oid_of(connection, "e"), described)
    assert ends is not None
    made = leaf_of(ends, described, 1 if alone else 2, descending=not alone)
    pointer = 6  # where in the table the row is
    assert [entry[pointer:] for entry in made] == [entry[pointer:] for entry in written]


@pytest.mark.parametrize(
    "described",
    [
        replace(column("integer"), statistics=None),
        column("integer"),
        column("integer[]", "{1}", "{2}"),
        column("text", "a", "z" * 200),
        column("numeric", "1", "NaN"),
        replace(column("text", "a", "b"), collation="de-x-icu"),
        column("public.own", "a", "b"),
        column("integer", "one", "two"),
    ],
)
def test_other_columns_have_no_entries(scratch_cluster: Cluster, described: Column) -> None:
    type_ = "text" if described.type == "public.own" else described.type
    with scratch_cluster.connect() as connection:
        connection.execute(f"CREATE TEMPORARY TABLE e (v {type_})".encode())
        assert column_ends(connection, oid_of(connection, "e"), described) is None


@pytest.mark.parametrize("real", ["text", "bigint", "integer, v2 integer", "int8range"])
def test_what_the_column_is_here_decides(scratch_cluster: Cluster, real: str) -> None:
    """A source's catalog may say anything; bytes of another type must never get into an index."""
    with scratch_cluster.connect() as connection:
        connection.execute(f"CREATE TEMPORARY TABLE e (v {real})".encode())
        ends = column_ends(connection, oid_of(connection, "e"), column("integer", "1", "2"))
    assert (ends is not None) == real.startswith("integer")


def test_growth_since_analyze_makes_ends_stale() -> None:
    table = Table("public", "t", "table", {}, rows=1e6, pages=10_000)
    assert not has_grown(table, 9_950)
    assert has_grown(table, 9_000)
    assert has_grown(replace(table, pages=3), 1)


@pytest.mark.parametrize(
    ("ddl", "query"),
    [
        ("(total)", "SELECT * FROM orders WHERE total > 5000"),
        ("(total DESC)", "SELECT * FROM orders WHERE total > 5000"),
        ("(total, stage)", "SELECT * FROM orders WHERE total < -1"),
        ("(note)", "SELECT count(*) FROM orders WHERE note > 'zzz'"),
        ("(total) INCLUDE (stage)", "SELECT max(total) FROM orders WHERE total > 999"),
        ("(stage, user_id)", "SELECT * FROM orders WHERE stage = 'shipped' AND user_id = 9"),
    ],
)
def test_plans_past_the_ends_are_those_with_the_real_index(
    shadow: HollowShadow, session: HollowSession, production: str, ddl: str, query: str
) -> None:
    candidate = parse_index_ddl(f"CREATE INDEX ON orders {ddl}", shadow.catalog())
    assert is_plain(candidate, shadow.catalog())
    index = session.create([candidate])[candidate]
    real = source_plan(production, query, candidate.ddl(index.name, concurrently=False))
    assert dict(session.explain(query, using=[index]).raw) == real


def test_what_is_plain(shadow: HollowShadow) -> None:
    catalog = shadow.catalog()
    assert is_plain(on("orders", "stage", "total", include=("note",)), catalog)
    by_pattern = IndexColumn("note", "note", opclass="text_pattern_ops")
    lowered = IndexColumn("lower(note)", None)
    for other in (
        on("orders", "total", predicate="total > 3"),
        on("orders", "total", method="hash"),
        on("orders", "missing"),
        on("nowhere", "id"),
        on("odd", "amount"),
        on("odd", "id", include=("tags",)),
        on("paid", "id"),
        on("orders", "note", key_columns=(by_pattern,)),
        on("orders", "note", key_columns=(lowered,)),
    ):
        assert not is_plain(other, catalog), other


def test_the_text_of_a_plain_key_is_not_run(session: HollowSession) -> None:
    """A candidate's column says what is indexed; its text is for people."""
    lying = IndexCandidate("public", "orders", (IndexColumn("lower(note)", "total"),))
    index = session.create([lying])[lying]
    assert "Index Cond" not in str(session.explain("SELECT * FROM orders WHERE lower(note) = 'x'", using=[index]).raw)
    plan = session.explain("SELECT * FROM orders WHERE total = 3", using=[index])
    assert index.name in plan.indexes


def test_a_name_that_something_unknown_has_is_passed_over(session: HollowSession) -> None:
    wanted = on("orders", "total")
    assert session.create([wanted])[wanted].name == "orders_total_idx1"
    assert not session.refused


def test_fifty_held_and_any_of_them_shown(session: HollowSession) -> None:
    columns = ("id", "user_id", "stage", "total", "placed_at", "note")
    candidates = [on("orders", *some) for some in itertools.permutations(columns, 2)]
    candidates += [on("orders", *some) for some in itertools.permutations(columns, 3)]
    made = session.create(candidates[:50])
    assert len(made) == 50
    query = "SELECT count(*) FROM orders WHERE total BETWEEN 10 AND 11"
    bare = session.explain(query)
    by_total = [index for candidate, index in made.items() if candidate.key_columns[0].column == "total"]
    others = [i for candidate, i in made.items() if all(key.column != "total" for key in candidate.key_columns)]
    for index in by_total:
        assert session.explain(query, using=[*others, index]).indexes == {index.name}
    assert session.explain(query, using=others).raw == bare.raw
    assert len(session.explain(query, using=made.values()).indexes) == 1
    assert session.explain(query).raw == bare.raw


def test_dropped_ones_are_gone_and_can_be_made_again(session: HollowSession) -> None:
    first, second = on("orders", "total", "stage"), on("orders", "note")
    made = session.create([first, second])
    query = "SELECT * FROM orders WHERE total = 3"
    with_index = session.explain(query, using=[made[first]])
    assert made[first].name in with_index.indexes
    session.drop([made[first]])
    with pytest.raises(KeyError):
        session.explain(query, using=[made[first]])
    assert not session.explain(query, using=[made[second]]).indexes
    again = session.create([first])
    assert again[first] == made[first]
    assert session.explain(query, using=again.values()).raw == with_index.raw
