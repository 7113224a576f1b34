"""What a hollow clone cannot carry is told, and hurts nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.locale import Locale, locale_notes

SOURCE = """
CREATE SCHEMA app;
CREATE EXTENSION pg_trgm SCHEMA app;
CREATE TABLE app.plain (id integer PRIMARY KEY, name text, at timestamptz);
CREATE TABLE app."Odd ""one" ("A b" integer);
CREATE INDEX plain_trgm ON app.plain USING gin (name app.gin_trgm_ops);
CREATE STATISTICS app.pairs (dependencies) ON id, name FROM app.plain;
CREATE TABLE app.secret (id integer);
ALTER TABLE app.secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON app.secret USING (id = 1);
CREATE FUNCTION app.definer(integer) RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT $1';
CREATE RULE quiet AS ON INSERT TO app.secret DO INSTEAD NOTHING;
CREATE TABLE app.measured (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE app.measured_24 PARTITION OF app.measured FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE app.measured_25 PARTITION OF app.measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE MATERIALIZED VIEW app.totals AS SELECT name, count(*) FROM app.plain GROUP BY name;
CREATE UNLOGGED TABLE app.fleeting (id integer);
CREATE TABLE app.twin (id integer);
CREATE TABLE public.twin (id integer);
INSERT INTO app.twin SELECT generate_series(1, 20000);
INSERT INTO app.plain SELECT i, 'n' || i % 10, now() FROM generate_series(1, 20000) i;
INSERT INTO app.measured SELECT i, date '2024-01-01' + i % 700 FROM generate_series(1, 20000) i;
REFRESH MATERIALIZED VIEW app.totals;
ANALYZE;
"""


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def shadow(services: Services, scratch_cluster: Cluster) -> Iterator[ShadowDatabase]:
    """A clone of a source with all sorts of things."""
    with scratch_cluster.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS variety WITH (FORCE)")
        admin.execute("CREATE DATABASE variety")
        admin.execute("ALTER DATABASE variety SET search_path = app, public")
        admin.execute("ALTER DATABASE variety SET work_mem = '17MB'")
        admin.execute("ALTER DATABASE variety SET enable_nestloop = off")
        admin.execute("ALTER DATABASE variety SET jit = on")
    with scratch_cluster.connect("variety") as connection:
        connection.execute(SOURCE)
    services.add_hollow("variety", scratch_cluster.conninfo("variety"))
    yield services.shadow("variety")
    services.drop("variety")


@pytest.mark.parametrize(
    "words",
    [
        ("no policy applies to the role planproof", "1 tables", "--role"),
        ("SECURITY DEFINER became SECURITY INVOKER",),
        ("CREATE RULE", "quiet"),
        ("jit: not available",),
    ],
)
def test_losses_are_told_with_their_effect(shadow: ShadowDatabase, words: tuple[str, ...]) -> None:
    assert any(all(word in line for word in words) for line in shadow.info.not_cloned), shadow.info.not_cloned


def test_nothing_else_is_lost(shadow: ShadowDatabase) -> None:
    told = ("row-level", "CREATE FUNCTION: SECURITY", "CREATE RULE", "jit", "counters of 1 GIN")
    assert [line for line in shadow.info.not_cloned if not line.startswith(told)] == []


def test_settings_are_the_sources(services: Services, shadow: ShadowDatabase) -> None:
    settings = services.registry.get("variety").settings
    assert settings["search_path"] == '"app", "public"'
    assert settings["work_mem"] == "17408kB"
    assert settings["enable_nestloop"] == "off"
    with shadow.session() as session:
        plan = session.explain("SELECT * FROM plain a JOIN plain b ON a.id < b.id")  # unqualified: the path works
        assert plan.root.raw["Disabled"] is True


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT * FROM plain WHERE name = 'n3'", 2000),
        ("SELECT * FROM measured WHERE at < '2025-01-01'", 10457),
        ("SELECT * FROM totals", 10),
        ("SELECT * FROM fleeting", None),
        ("SELECT * FROM secret", None),
        ('SELECT "A b" FROM app."Odd ""one"', None),
        ("SELECT * FROM plain WHERE name LIKE '%abc%'", None),
    ],
)
def test_all_relations_plan(shadow: ShadowDatabase, query: str, rows: int | None) -> None:
    with shadow.session() as session:
        plan = session.explain(query)
    assert rows is None or plan.cost.plan_rows == pytest.approx(rows, rel=0.1)


def test_rules_see_row_security_all_the_same(shadow: ShadowDatabase) -> None:
    assert shadow.catalog().tables["app", "secret"].row_security


def test_hypothetical_indexes_on_partitioned_tables(shadow: ShadowDatabase) -> None:
    candidate = parse_index_ddl("CREATE INDEX ON measured (id)", shadow.catalog())
    query = "SELECT * FROM measured WHERE id = 77"
    with shadow.session() as session:
        before = session.explain(query)
        index = session.create([candidate])[candidate]
        assert session.explain(query).raw == before.raw
        after = session.explain(query, using=[index])
        assert after.cost.total_cost < before.cost.total_cost / 10
        assert len(after.indexes) == 2
        assert index.storage_bytes > 300_000
    with shadow.session() as session:
        assert session.explain(query).raw == before.raw


def test_indexes_of_equal_names_in_two_schemas(shadow: ShadowDatabase) -> None:
    texts = ("CREATE INDEX ON app.twin (id)", "CREATE INDEX ON public.twin (id)")
    candidates = [parse_index_ddl(text, shadow.catalog()) for text in texts]
    with shadow.session() as session:
        made = [session.create(candidates)[candidate] for candidate in candidates]
        assert [index.name for index in made] == ["twin_id_idx", "twin_id_idx"]
        assert made[0].storage_bytes > made[1].storage_bytes
        costs = {}
        for schema in ("app", "public"):
            query = f"SELECT * FROM {schema}.twin WHERE id = 5"
            costs[schema] = [session.explain(query, using=using).cost.total_cost for using in ([], made[:1], made[1:])]
    assert costs["app"][1] < costs["app"][0] == costs["app"][2]
    assert costs["public"][0] == costs["public"][1]


@pytest.mark.parametrize(
    ("wanted", "ours", "words"),
    [
        (Locale("libc", "C.UTF-8", "C.UTF-8"), Locale("libc", "C.UTF-8", "C.UTF-8"), None),
        (Locale("libc", "en_US.UTF-8", "x"), Locale("libc", "en_US.utf8", "x"), None),
        (Locale("libc", "C", "C"), Locale("libc", "C", "C"), None),
        (Locale("libc", "C", "C"), Locale("builtin", "C.UTF-8", "C"), None),
        (Locale("libc", "en_US.UTF-8", "x"), Locale("libc", "C.UTF-8", "x"), "far off"),
        (Locale("icu", "en-US", "x"), Locale("libc", "en_US.UTF-8", "x"), "some percent off"),
        (Locale("icu", "de", "x"), Locale("libc", "en_US.UTF-8", "x"), "far off"),
        (Locale("libc", "en_US.UTF-8", "x"), Locale("builtin", "C.UTF-8", "C"), "serves LIKE 'ab%' here and not there"),
        (Locale("libc", "C", "x"), Locale("libc", "C.UTF-8", "x"), "no index serves LIKE"),
        (Locale("libc", "C", "C", "LATIN1"), Locale("libc", "C", "C"), "encoding LATIN1"),
    ],
)
def test_collations_that_differ_are_told(wanted: Locale, ours: Locale, words: str | None) -> None:
    notes = locale_notes(wanted, ours)
    assert (words is None and notes == ()) or (words is not None and len(notes) == 1 and words in notes[0])
