"""Indexes of partitioned tables: the statements that advice prints, run on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.index_ddl import parse_index_ddl
from optimizer.index_script import index_rollback, index_script
from optimizer.pipeline import Optimizer
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.introspect import read_catalog

TABLES = """
CREATE TABLE events (id bigint NOT NULL, day date NOT NULL, kind text, payload jsonb) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE SCHEMA "Old data";
CREATE TABLE "Old data"."Events 2" (kind text, payload jsonb, day date NOT NULL, id bigint NOT NULL)
    PARTITION BY LIST (kind);
ALTER TABLE events ATTACH PARTITION "Old data"."Events 2" FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE events_2_view PARTITION OF "Old data"."Events 2" FOR VALUES IN ('view');
CREATE TABLE events_2_rest PARTITION OF "Old data"."Events 2" DEFAULT;
CREATE TABLE events_1_id_idx_taken (i int);
CREATE INDEX events_2_view_id_idx ON events_1_id_idx_taken (i);
CREATE TABLE measures (id bigint, day date) PARTITION BY RANGE (day);
CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE measures_2 PARTITION OF measures FOR VALUES FROM ('2024-02-01') TO ('2024-03-01') PARTITION BY RANGE (day);
CREATE TABLE measures_2_1 PARTITION OF measures_2 FOR VALUES FROM ('2024-02-01') TO ('2024-02-10');
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE measures_2_2 PARTITION OF measures_2 FOR VALUES FROM ('2024-02-10') TO ('2024-03-01')
    SERVER elsewhere;
INSERT INTO events SELECT i, date '2024-01-01' + i % 60, (ARRAY['click', 'view', 'buy'])[1 + i % 3], '{}'
  FROM generate_series(1, 40000) i;
INSERT INTO measures SELECT i, date '2024-01-01' + i % 40 FROM generate_series(1, 1000) i;
"""


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """Connection string of a database with partitioned tables."""
    with scratch_cluster.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS partitioned WITH (FORCE)")
        admin.execute("CREATE DATABASE partitioned")
    with scratch_cluster.connect("partitioned") as connection:
        connection.execute(TABLES)
        connection.execute("VACUUM (ANALYZE) events, measures_1, measures_2_1")  # a foreign table cannot be
    return scratch_cluster.conninfo("partitioned")


@pytest.fixture
def connection(source: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """To the source, in autocommit mode."""
    with psycopg.connect(source, autocommit=True) as connection:
        yield connection


def indexes(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, bool]:
    """All indexes of user tables, and whether they are valid."""
    found = connection.execute(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'Old data')"
    )
    return {str(name): bool(valid) for name, valid in found}


@pytest.mark.parametrize(
    ("ddl", "attached"),
    [
        ("CREATE INDEX ON events (id)", 4),
        ("CREATE INDEX ON events (id, lower(kind) DESC) INCLUDE (day) WHERE kind <> 'buy'", 4),
        ("CREATE INDEX ON events USING gin (payload jsonb_path_ops) WITH (fastupdate = off)", 4),
        ("CREATE INDEX ON events USING brin (id) WITH (pages_per_range = 8)", 4),
        ('CREATE INDEX ON "Old data"."Events 2" USING hash (id)', 2),
        ("CREATE INDEX ON measures (id)", 3),
    ],
)
def test_the_script_makes_a_valid_index_and_its_rollback_undoes_it(
    connection: psycopg.Connection[tuple[object, ...]], ddl: str, attached: int
) -> None:
    catalog = read_catalog(connection)
    candidate = parse_index_ddl(ddl, catalog)
    before = indexes(connection)
    script = index_script(candidate, catalog)
    leaves = [line for line in script if "CONCURRENTLY" in line]
    assert all(line.startswith("CREATE INDEX CONCURRENTLY") for line in leaves)
    for statement in script:
        connection.execute(statement.encode())
    made = {name: valid for name, valid in indexes(connection).items() if name not in before}
    assert all(made.values()), "all of them are valid"
    assert len(made) == attached + 1
    ((number,),) = connection.execute(
        "SELECT count(*) - 1 FROM pg_partition_tree(%s::regclass)",
        [f'"{candidate.schema}"."{candidate.name}"'],
    ).fetchall()
    assert number == attached
    connection.execute(index_rollback(candidate, catalog).encode())
    assert indexes(connection) == before


def test_a_table_under_a_foreign_partition_takes_the_other_way(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    catalog = read_catalog(connection)
    script = index_script(parse_index_ddl("CREATE INDEX ON measures (id)", catalog), catalog, "by_id")
    assert script == (
        "CREATE INDEX CONCURRENTLY measures_1_id_idx ON public.measures_1 USING btree (id)",
        "CREATE INDEX CONCURRENTLY measures_2_1_id_idx ON public.measures_2_1 USING btree (id)",
        "CREATE INDEX by_id ON public.measures USING btree (id)",
    )


def test_the_script_of_nested_partitions(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    catalog = read_catalog(connection)
    assert index_script(parse_index_ddl("CREATE INDEX ON events (id)", catalog), catalog) == (
        "CREATE INDEX events_id_idx ON ONLY public.events USING btree (id)",
        'CREATE INDEX "Events 2_id_idx" ON ONLY "Old data"."Events 2" USING btree (id)',
        "CREATE INDEX CONCURRENTLY events_2_rest_id_idx ON public.events_2_rest USING btree (id)",
        'ALTER INDEX "Old data"."Events 2_id_idx" ATTACH PARTITION public.events_2_rest_id_idx',
        "CREATE INDEX CONCURRENTLY events_2_view_id_idx1 ON public.events_2_view USING btree (id)",
        'ALTER INDEX "Old data"."Events 2_id_idx" ATTACH PARTITION public.events_2_view_id_idx1',
        'ALTER INDEX public.events_id_idx ATTACH PARTITION "Old data"."Events 2_id_idx"',
        "CREATE INDEX CONCURRENTLY events_1_id_idx ON public.events_1 USING btree (id)",
        "ALTER INDEX public.events_id_idx ATTACH PARTITION public.events_1_id_idx",
    )


def test_other_tables_and_unknown_ones_take_one_statement(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    catalog = read_catalog(connection)
    plain = parse_index_ddl("CREATE INDEX ON events_1 (id)", catalog)
    assert index_script(plain, catalog) == (plain.ddl(),)
    assert index_rollback(plain, catalog) == plain.rollback()
    unknown = replace(plain, table="nowhere")
    assert index_script(unknown, catalog) == (unknown.ddl(),)
    empty = IndexCandidate("public", "nothing", (IndexColumn("a", "a"),))
    assert index_script(empty, replace(catalog, tables={})) == (empty.ddl(),)


def test_rules_advise_on_partitioned_tables(source: str, settings: Settings) -> None:
    query = "SELECT * FROM events WHERE id = 4711"
    with Services.open(settings) as services, psycopg.connect(source, autocommit=True) as connection:
        services.add_hollow("partitioned", source)
        optimizer = Optimizer(services)
        try:
            report = optimizer.optimize(query, services.shadow("partitioned"))
            (advice,) = (a for a in report.advice if a.kind == "index")
            assert advice.ddl[0] == "CREATE INDEX events_id_idx ON ONLY public.events USING btree (id)"
            assert len(advice.ddl) == 9
            assert advice.rollback == ("DROP INDEX public.events_id_idx",)
            assert advice.cost is not None
            for statement in advice.ddl:
                connection.execute(statement.encode())
            ((plan,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchall()
            assert plan[0]["Plan"]["Total Cost"] == pytest.approx(advice.cost.after.total_cost, rel=0.01)
            connection.execute(advice.rollback[0].encode())
        finally:
            optimizer.close()
            services.drop("partitioned")
