"""Hand-made pages, the shape read from a source, and a hollow copy that plans as its source does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from optimizer.errors import InputError, ShadowUnavailableError
from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.pages.skeleton import (
    BLOCK_BYTES,
    SEGMENT_BLOCKS,
    btree_page,
    leaf_tuples,
    read_metapage,
    segments,
    visibility_map,
    with_height,
)
from optimizer.shadow.pages.storage import FileLayout, Layout, apply_shape, bind_shape, is_intact, lay_out_index
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.source.shape_reader import read_shape

OWNER, READER, STRANGER = "shape_owner", "shape_reader", "shape_stranger"

SCHEMA = """
CREATE EXTENSION pageinspect;
CREATE EXTENSION amcheck;
CREATE SCHEMA "Odd schema";
CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE item (
    id int PRIMARY KEY, grade positive, mood mood NOT NULL, label text, note varchar(4000), code char(6) NOT NULL,
    price numeric, uid uuid, made timestamptz, tag name, nothing int, stock bigint CHECK (stock >= 0), part int[]
);
INSERT INTO item
SELECT i, 1 + i % 500, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood, 'label ' || i % 7000, repeat('é', 1 + i % 700),
       lpad((i % 900)::text, 5, '0'), (i % 3000) * 0.25, md5(i::text)::uuid,
       timestamptz '2024-01-01 00:00:00.25+00' + i * interval '1 minute', 'tag' || i % 50, NULL, i % 1000,
       ARRAY[i % 20, i % 30]
  FROM generate_series(1, 20000) i;
UPDATE item SET label = NULL WHERE id % 10 = 0;
CREATE INDEX item_grade ON item (grade, label);
CREATE INDEX item_mood ON item (mood);
CREATE INDEX item_label ON item (label DESC, id);
CREATE INDEX item_label_first ON item (label NULLS FIRST) INCLUDE (price);
CREATE INDEX item_pattern ON item (label text_pattern_ops);
CREATE INDEX item_c ON item (tag COLLATE "POSIX");
CREATE INDEX item_note ON item (note);
CREATE INDEX item_code ON item (code);
CREATE INDEX item_price ON item (price DESC NULLS LAST);
CREATE UNIQUE INDEX item_uid ON item (uid);
CREATE INDEX item_made ON item (made);
CREATE INDEX item_tag ON item (tag);
CREATE INDEX item_nothing ON item (nothing);
CREATE INDEX item_lower ON item (lower(label));
CREATE INDEX item_recent ON item (made) WHERE stock > 990;
CREATE INDEX item_pair ON item (part);
CREATE INDEX item_hash ON item USING hash (id);
CREATE INDEX item_gin ON item USING gin (part);
CREATE TABLE empty (id int PRIMARY KEY, at date);
CREATE TABLE "Odd schema"."Odd table" ("Odd column" int PRIMARY KEY);
INSERT INTO "Odd schema"."Odd table" VALUES (7), (8);
CREATE TABLE log (at date NOT NULL, body text) PARTITION BY RANGE (at);
CREATE TABLE log_old PARTITION OF log FOR VALUES FROM ('2020-01-01') TO ('2024-01-01');
CREATE TABLE log_new PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2028-01-01');
CREATE INDEX log_at ON log (at);
INSERT INTO log SELECT date '2022-01-01' + i / 10, repeat('x', 30) FROM generate_series(1, 15000) i;
CREATE MATERIALIZED VIEW totals AS SELECT grade, sum(price) AS total FROM item GROUP BY 1;
CREATE UNIQUE INDEX totals_grade ON totals (grade);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO shape_reader;
VACUUM ANALYZE;
-- What the statistics do not know: rows past the histogram's ends.
INSERT INTO item (id, grade, mood, label, note, code, price, uid, made, stock, part)
SELECT 30000 + i, 600, 'ok', 'zz' || i, 'zz', 'zzzz', 90000, gen_random_uuid(), timestamptz '2031-01-01', 5, '{999}'
  FROM generate_series(1, 800) i;
INSERT INTO log SELECT date '2027-01-01' + i % 9, 'late' FROM generate_series(1, 500) i;
"""

PAST_THE_END = (
    "SELECT * FROM item WHERE id > 29000",
    "SELECT * FROM item WHERE id > 99000",
    "SELECT id FROM item WHERE made > '2030-12-31'",
    "SELECT * FROM item WHERE made > '2024-06-01' ORDER BY made LIMIT 3",
    "SELECT * FROM item WHERE price > 5000",
    "SELECT * FROM item WHERE price < 0.5",
    "SELECT * FROM item WHERE label > 'zz'",
    "SELECT * FROM item WHERE lower(label) > 'zz1'",
    "SELECT * FROM item WHERE note >= 'zz'",
    "SELECT * FROM item WHERE code > 'zz'",
    "SELECT * FROM item WHERE grade > 550 AND label IS NULL",
    "SELECT * FROM item WHERE part > '{500}'",
    "SELECT count(*) FROM item a JOIN item b USING (id) WHERE a.made > '2030-01-01' AND b.price > 1000",
    "SELECT * FROM log WHERE at > '2027-01-01'",
    "SELECT * FROM log WHERE at >= '2026-06-01' ORDER BY at",
    "SELECT * FROM totals WHERE grade > 499",
    "SELECT * FROM empty WHERE id > 3",
    'SELECT * FROM "Odd schema"."Odd table" WHERE "Odd column" > 7',
)


@dataclass(frozen=True)
class Hollow:
    """A source and its hollow copy in one cluster; `source` and `plan` are connections, `oid` the copy's."""

    cluster: Cluster
    source: psycopg.Connection[Any]
    plan: psycopg.Connection[Any]
    shape: Shape
    layout: Layout
    oid: int


@pytest.fixture(scope="module")
def source(hollow_cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    for role in (OWNER, READER, STRANGER):
        hollow_cluster.ensure_role(role)
    with hollow_cluster.connect() as connection:
        connection.execute("CREATE DATABASE shape_source")
    with hollow_cluster.connect("shape_source") as connection:
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement.encode())
        yield connection


@pytest.fixture(scope="module")
def template(hollow_cluster: Cluster, source: psycopg.Connection[Any]) -> str:
    with hollow_cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE shape_template OWNER {OWNER}".encode())
    flags = ("--no-data", "--statistics", "--no-owner", "--no-privileges", "--exclude-extension=*")
    dump = hollow_cluster.run("pg_dump", *flags, dbname="shape_source").stdout
    hollow_cluster.run("psql", "-qX", "-v", "ON_ERROR_STOP=1", dbname="shape_template", role=OWNER, stdin=dump)
    with hollow_cluster.connect("shape_template") as connection:  # to look at pages
        connection.execute("CREATE EXTENSION pageinspect; CREATE EXTENSION amcheck")
    return "shape_template"


def copy_of(cluster: Cluster, template: str, name: str) -> int:
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template} STRATEGY FILE_COPY".encode())
        row = connection.execute("SELECT oid FROM pg_database WHERE datname = %s", [name]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def hollow(hollow_cluster: Cluster, source: psycopg.Connection[Any], template: str) -> Iterator[Hollow]:
    with hollow_cluster.connect("shape_source", READER) as connection:
        shape = read_shape(connection)
    with hollow_cluster.connect(template, OWNER) as connection:
        layout = bind_shape(hollow_cluster, connection, shape)
    oid = copy_of(hollow_cluster, template, "shape_copy")
    apply_shape(hollow_cluster, oid, layout)
    with hollow_cluster.connect("shape_copy", OWNER) as plan:
        yield Hollow(hollow_cluster, source, plan, shape, layout, oid)


def explain(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(f"EXPLAIN (FORMAT JSON, VERBOSE) {query}".encode()).fetchone()
    assert row is not None
    return row[0][0]["Plan"]


# Pages


def test_segments() -> None:
    assert segments(0) == (0,)
    assert segments(3) == (3 * BLOCK_BYTES,)
    assert segments(SEGMENT_BLOCKS) == (SEGMENT_BLOCKS * BLOCK_BYTES,)
    assert segments(2 * SEGMENT_BLOCKS + 1) == (SEGMENT_BLOCKS * BLOCK_BYTES,) * 2 + (BLOCK_BYTES,)


def test_visibility_map_marks_the_first_block_only() -> None:
    page = visibility_map()
    assert len(page) == BLOCK_BYTES
    assert page[24] == 0b11
    assert not any(page[25:])


def test_leaf_page_round_trip() -> None:
    entries = (bytes([0, 0, 0, 0, 1, 0, 16, 0]) + b"a" * 8, bytes([0, 0, 0, 0, 2, 0, 24, 0]) + b"b" * 16)
    assert leaf_tuples(btree_page(entries, 0, 1)) == entries


def test_pages_that_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="fit"):
        btree_page([bytes(2800)] * 3, 0, 1)
    with pytest.raises(ValueError, match="metapage"):
        with_height(bytes(BLOCK_BYTES), 1)
    with pytest.raises(ValueError, match="bytes"):
        read_metapage(b"")
    with pytest.raises(ValueError, match="leaf"):
        leaf_tuples(btree_page([], 1, 2))


# The shape of a source


def test_heights_without_any_privilege_are_those_of_bt_metap(hollow: Hollow) -> None:
    btrees = {(r.schema, r.name): r.height for r in hollow.shape.relations if r.method == "btree"}
    assert len(btrees) == 22
    real = hollow.source.execute(
        "SELECT n.nspname, c.relname, (bt_metap(c.oid::regclass::text)).fastlevel FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_am a ON a.oid = relam"
        " WHERE amname = 'btree' AND relkind = 'i' AND nspname IN ('public', 'Odd schema')"
    ).fetchall()
    assert btrees == {(schema, name): height for schema, name, height in real}
    assert {0, 1, 2} <= set(btrees.values())
    assert any("ends of 1 B-trees" in note for note in hollow.shape.notes)  # the odd schema is closed to the reader


def test_a_superuser_reads_the_same_shape(hollow: Hollow) -> None:
    with hollow.cluster.connect("shape_source") as connection:
        shape = read_shape(connection)
    mine = {r.name: r for r in hollow.shape.relations}
    assert {r.name: r for r in shape.relations if r.schema == "public"} == {
        name: r for name, r in mine.items() if r.schema == "public"
    }


def test_ends(hollow: Hollow) -> None:
    ends = {r.name: r.ends for r in hollow.shape.relations}
    assert ends["item_pkey"] == ("1", "30800")
    assert ends["item_grade"] == ("1", "600")
    assert ends["item_mood"] == ("sad", "happy")
    assert ends["item_label"] == ("zz99", "label 1")
    assert ends["item_label_first"] == ("label 1", "zz99")
    assert ends["item_price"] == ("90000", "0.00")
    assert ends["item_made"] == ("2024-01-01 00:01:00.25+00", "2031-01-01 00:00:00+00")
    assert ends["item_nothing"] is None
    assert ends["item_recent"] is None
    assert ends["empty_pkey"] is None
    assert ends["log_old_at_idx"] == ("2022-01-01", "2023-12-31")


def test_without_privileges_the_histogram_stands_in_or_nothing_does(
    hollow_cluster: Cluster, source: psycopg.Connection[Any]
) -> None:
    with hollow_cluster.connect("shape_source", STRANGER) as connection:
        shape = read_shape(connection)
    assert all(r.ends is None for r in shape.relations)
    assert len(shape.notes) == 3  # heights, ends, counters of GIN indexes
    real = {r.name: r.height for r in read_whole(hollow_cluster).relations}
    assert all(abs((r.height or 0) - (real[r.name] or 0)) <= 1 for r in shape.relations)


def test_row_security_hides_the_ends_and_leaves_the_histogram(hollow_cluster: Cluster) -> None:
    with hollow_cluster.connect() as connection:
        connection.execute("CREATE DATABASE shape_policy")
    with hollow_cluster.connect("shape_policy") as connection:
        connection.execute("CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 3000) i")
        connection.execute("CREATE INDEX t_a ON t (a DESC)")
        connection.execute("CREATE INDEX t_twice ON t ((a * 2))")
        connection.execute("ANALYZE t")
        connection.execute("INSERT INTO t VALUES (9000)")
        connection.execute(f"GRANT SELECT ON t TO {READER}".encode())
        connection.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY p ON t USING (a < 100)")
    with hollow_cluster.connect("shape_policy", READER) as connection:
        hidden = {r.name: r.ends for r in read_shape(connection).relations}
    assert hidden["t_a"] is None  # pg_stats hides them as well
    with hollow_cluster.connect("shape_policy") as connection:
        open_ = {r.name: r.ends for r in read_shape(connection).relations}
    assert open_["t_a"] == ("9000", "1")
    assert open_["t_twice"] == ("2", "18000")


def test_an_owner_cannot_make_a_superuser_run_his_function(hollow_cluster: Cluster) -> None:
    with hollow_cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE shape_trap OWNER {OWNER}".encode())
    with hollow_cluster.connect("shape_trap", OWNER) as connection:
        connection.execute("CREATE TABLE seen (who name)")
        connection.execute("CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 3000) i")
        connection.execute(
            "CREATE FUNCTION trap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
            " $$BEGIN IF current_user <> 'shape_owner' THEN RAISE 'run by %', current_user; END IF; RETURN $1; END$$"
        )
        connection.execute("CREATE INDEX t_trap ON t (trap(a))")
        connection.execute("ANALYZE t")
    with hollow_cluster.connect("shape_trap") as connection:
        shape = read_shape(connection)
    (trap,) = (r for r in shape.relations if r.name == "t_trap")
    assert trap.height == 1
    assert trap.ends == ("1", "3000")  # from the statistics
    assert len(shape.notes) == 1


def read_whole(cluster: Cluster) -> Shape:
    with cluster.connect("shape_source") as connection:
        return read_shape(connection)


# The hollow copy


def test_plans_are_those_of_the_source(hollow: Hollow) -> None:
    queries = [
        *PAST_THE_END,
        "SELECT * FROM item WHERE uid = md5('7')::uuid",
        "SELECT * FROM item WHERE label LIKE 'label 12%'",
        "SELECT * FROM item WHERE stock > 990 AND made < '2024-01-03'",
        "SELECT * FROM item WHERE id = 5 AND tag = 'tag7'",
        "SELECT mood, count(*) FROM item GROUP BY 1",
    ]
    for query in queries:
        assert explain(hollow.plan, query) == explain(hollow.source, query)


def test_without_ends_plans_differ(hollow: Hollow, template: str) -> None:
    bare = Layout(tuple(replace(file, leaf=()) for file in hollow.layout.files))
    oid = copy_of(hollow.cluster, template, "shape_bare")
    apply_shape(hollow.cluster, oid, bare)
    with hollow.cluster.connect("shape_bare", OWNER) as plan:
        differing = sum(explain(plan, q) != explain(hollow.source, q) for q in PAST_THE_END)
    assert differing >= 6


def test_skeletons_pass_amcheck(hollow: Hollow) -> None:
    with hollow.cluster.connect("shape_copy") as connection:
        checked = connection.execute(
            "SELECT c.relname, bt_index_check(c.oid), (bt_metap(c.oid::regclass::text)).fastlevel"
            " FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'btree' AND relkind = 'i'"
            " AND relnamespace IN ('public'::regnamespace, '\"Odd schema\"'::regnamespace)"
        ).fetchall()
        heights = {name: height for name, _, height in checked}
        assert heights == {r.name: r.height for r in hollow.shape.relations if r.method == "btree"}
        leaf = connection.execute("SELECT htid::text, dead FROM bt_page_items('item_pkey', 2)").fetchall()
    assert leaf == [("(0,1)", False), ("(0,2)", False)]


def test_sizes_are_those_of_the_source_and_take_no_space(hollow: Hollow) -> None:
    query = "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relkind IN ('r', 'm', 'i') AND oid >= 16384"
    pageinspect = " AND relnamespace <> 'pg_toast'::regnamespace ORDER BY 1"
    sizes = hollow.plan.execute(query + pageinspect).fetchall()
    assert sizes == hollow.source.execute(query + pageinspect).fetchall()
    folder = hollow.cluster.home / "base" / str(hollow.oid)
    used = sum((folder / str(f.relfilenode)).stat().st_blocks * 512 for f in hollow.layout.files)
    assert used < sum(size for _, size in sizes) / 5


def test_is_intact(hollow: Hollow, template: str) -> None:
    assert is_intact(hollow.cluster, hollow.oid, hollow.layout)
    oid = copy_of(hollow.cluster, template, "shape_untouched")
    assert not is_intact(hollow.cluster, oid, hollow.layout)
    assert not is_intact(hollow.cluster, 1, hollow.layout)


def test_large_relations_span_segments(hollow: Hollow, template: str) -> None:
    oid = copy_of(hollow.cluster, template, "shape_large")
    relations = tuple(replace(r, blocks=400_000_000) if r.name == "item" else r for r in hollow.shape.relations)
    with hollow.cluster.connect(template, OWNER) as connection:
        layout = bind_shape(hollow.cluster, connection, replace(hollow.shape, relations=relations))
    apply_shape(hollow.cluster, oid, layout)
    with hollow.cluster.connect("shape_large", OWNER) as connection:
        row = connection.execute("SELECT pg_relation_size('item') / 8192").fetchone()
        assert row == (400_000_000,)
        assert explain(connection, "SELECT * FROM item")["Total Cost"] > 400_000_000


def test_what_is_missing_is_said(hollow: Hollow, template: str) -> None:
    ghost = RelationShape("public", "ghost", "table", 10, 100.0, 10, 0)
    refused = replace(
        next(r for r in hollow.shape.relations if r.name == "item_made"), ends=("not a time", "2031-01-01")
    )
    shape = replace(hollow.shape, relations=(ghost, refused))
    with hollow.cluster.connect(template, OWNER) as connection:
        layout = bind_shape(hollow.cluster, connection, shape)
    assert len(layout.files) == 1
    assert layout.files[0].leaf == ()
    assert any("public.ghost" in note for note in layout.notes)
    assert any("refused by their types" in note for note in layout.notes)


def test_a_wrong_database_is_refused(hollow: Hollow) -> None:
    with pytest.raises(ShadowUnavailableError):
        apply_shape(hollow.cluster, 1, Layout((FileLayout(999_999, 3),)))
    with pytest.raises(ShadowUnavailableError):
        lay_out_index(hollow.cluster, 1, 999_999, IndexSize(10, 1, 100.0))


def test_json_round_trips(hollow: Hollow) -> None:
    assert Shape.from_json(hollow.shape.to_json()) == hollow.shape
    assert Layout.from_json(hollow.layout.to_json()) == hollow.layout
    for text in ("", "[]", '{"version": 0}', '{"version": 1}', '{"version": 1, "files": [{}], "relations": [{}]}'):
        with pytest.raises(InputError):
            Shape.from_json(text)
        with pytest.raises(InputError):
            Layout.from_json(text)


def test_a_hypothetical_index_plans_as_a_real_one(hollow: Hollow, template: str) -> None:
    queries = [
        "SELECT * FROM item WHERE stock = 17",
        "SELECT id FROM item WHERE stock BETWEEN 300 AND 303 ORDER BY stock",
        "SELECT count(*) FROM item a JOIN item b ON a.id = b.stock WHERE b.stock > 900",
        "SELECT stock FROM item ORDER BY stock, id LIMIT 5",
    ]
    ddl = "CREATE INDEX what_if ON item (stock, id)"
    before = [explain(hollow.source, q) for q in queries]
    hollow.source.execute(ddl)
    row = hollow.source.execute(
        "SELECT relpages, reltuples, (bt_metap('what_if')).fastlevel FROM pg_class WHERE relname = 'what_if'"
    ).fetchone()
    assert row is not None
    real = [explain(hollow.source, q) for q in queries]
    hollow.source.execute("DROP INDEX what_if")
    oid = copy_of(hollow.cluster, template, "shape_what_if")
    with hollow.cluster.connect("shape_what_if", OWNER) as plan:
        plan.execute(ddl)
        apply_shape(hollow.cluster, oid, hollow.layout)
        with hollow.cluster.connect("shape_what_if") as superuser:
            superuser.execute(
                "UPDATE pg_class SET relpages = %s, reltuples = %s WHERE relname = 'what_if'", [row[0], row[1]]
            )
            (filenode,) = superuser.execute("SELECT pg_relation_filenode('what_if')").fetchone() or (0,)
        lay_out_index(hollow.cluster, oid, filenode, IndexSize(row[0], row[2], row[1]))
        hypothetical = [explain(plan, q) for q in queries]
    assert before != real
    for number in range(len(queries)):
        assert hypothetical[number] == real[number]


def test_every_height_can_be_laid_out(hollow: Hollow, template: str) -> None:
    oid = copy_of(hollow.cluster, template, "shape_heights")
    with hollow.cluster.connect("shape_heights") as connection:
        for height in range(6):
            connection.execute(f"CREATE INDEX h{height} ON empty (at)".encode())
            (filenode,) = connection.execute("SELECT pg_relation_filenode(%s)", [f"h{height}"]).fetchone() or (0,)
            lay_out_index(hollow.cluster, oid, filenode, IndexSize(2, height, 1e6))
            row = connection.execute(
                "SELECT fastlevel, level, root, bt_index_check(%s, true), pg_relation_size(%s) / 8192"
                " FROM bt_metap(%s)",
                [f"h{height}"] * 3,
            ).fetchone()
            assert row is not None
            assert (*row[:3], row[4]) == (height, height, 1, height + 2)


def test_nothing_of_the_source_was_written(hollow: Hollow) -> None:
    """The shape is read in a read-only transaction, and binding leaves no table behind."""
    with hollow.cluster.connect("shape_template") as connection:
        rows = connection.execute("SELECT relname FROM pg_class WHERE relname IN ('side', 'leaf')").fetchall()
    assert rows == []
