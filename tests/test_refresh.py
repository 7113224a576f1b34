"""Refreshing a hollow shadow: only what has changed is made anew, and the result is that of a new clone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from production import make_production, source_plan

from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.registry import ShadowRecord
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.template.clone import drop_template

MORE: LiteralString = """
CREATE TABLE "odd'name" (id integer PRIMARY KEY, tags text[], document tsvector, during int4range);
INSERT INTO "odd'name" SELECT i, ARRAY['a' || i % 7, 'b'], to_tsvector('simple', 'w' || i % 90), int4range(i, i + i % 9)
  FROM generate_series(1, 3000) i;
CREATE INDEX odd_document ON "odd'name" USING gin (document);
CREATE INDEX odd_range ON "odd'name" USING gist (during);
CREATE INDEX odd_block ON "odd'name" USING brin (id);
CREATE INDEX odd_hash ON "odd'name" USING hash (id);
CREATE INDEX users_lower ON users (lower(name));
CREATE STATISTICS both_sides (ndistinct, dependencies, mcv) ON user_id, stage FROM orders;
CREATE TABLE parted (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE INDEX parted_at ON parted (at);
INSERT INTO parted SELECT i, date '2024-01-01' + i % 700 FROM generate_series(1, 2000) i;
"""
QUERIES = (
    "SELECT * FROM orders WHERE user_id = 5 AND stage = 'paid'",
    "SELECT * FROM orders WHERE placed_at > '2030-01-01'",
    "SELECT u.city, count(*) FROM users u JOIN orders o ON o.user_id = u.id GROUP BY 1",
    "SELECT * FROM users WHERE lower(name) > 'x'",
    "SELECT * FROM \"odd'name\" WHERE document @@ 'w3'",
    "SELECT * FROM \"odd'name\" WHERE during && '[5,7)'",
    "SELECT * FROM parted WHERE at > '2025-05-01'",
    "SELECT * FROM quiet WHERE id = 3",
)
#: What happens at the source, how the refresh must be called, and in how few words.
MUTATIONS: dict[str, tuple[tuple[LiteralString, ...], str]] = {
    "analyzed after changes": (
        ("UPDATE users SET city = 7 WHERE id % 3 = 0", "VACUUM (ANALYZE) users"),
        "1 table changed",
    ),
    "grown, and not analyzed": (
        ("INSERT INTO orders SELECT id + 100000, user_id, stage, total, now(), note FROM orders WHERE id < 20000",),
        "1 table changed",
    ),
    "extended statistics": (
        ("UPDATE orders SET stage = 'new' WHERE user_id < 900", "VACUUM (FULL, ANALYZE) orders"),
        "1 table changed",
    ),
    "common values are gone": (
        ("UPDATE users SET city = id", "VACUUM (ANALYZE) users"),
        "1 table changed",
    ),
    "a column without values": (("UPDATE users SET name = NULL", "VACUUM (ANALYZE) users"), "1 table changed"),
    "first rows of an empty table": (
        ("INSERT INTO quiet SELECT generate_series(1, 5000)", "VACUUM (ANALYZE) quiet"),
        "1 table changed",
    ),
    "two tables, one under an odd name": (
        (
            "DELETE FROM quiet WHERE id > 100",
            'INSERT INTO "odd\'name" SELECT id + 5000, tags, document, during FROM "odd\'name"',
            'VACUUM (ANALYZE) quiet, "odd\'name"',
        ),
        "2 tables changed",
    ),
    "partitions": (("UPDATE parted SET at = at + 20 WHERE at < '2024-12-01'", "ANALYZE parted"), "2 tables changed"),
    "a table emptied": (("TRUNCATE parted_1", "ANALYZE parted"), "2 tables changed"),
    "other indexes shrink": (('TRUNCATE "odd\'name"', 'VACUUM (ANALYZE) "odd\'name"'), "cloned anew"),
    "a new index": (("CREATE INDEX users_city ON users (city)",), "cloned anew"),
    "a new table": (("CREATE TABLE another (id integer)",), "cloned anew"),
    "a setting": (("ALTER DATABASE refreshed SET random_page_cost = 3",), "cloned anew"),
}


@pytest.fixture(scope="module")
def services(settings: Settings, supervisor: Supervisor) -> Iterator[Services]:
    """Services over the clusters of this test process."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """A source that changes from test to test."""
    dsn = make_production(scratch_cluster, "refreshed")
    run(dsn, (MORE, "VACUUM (ANALYZE)"))
    return dsn


def run(dsn: str, statements: tuple[LiteralString, ...]) -> None:
    """Change the source."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def state(services: Services, name: str) -> dict[str, Any]:
    """Everything that the planner could find in a planning database of a shadow, by names."""
    with services.shadow(name).session() as session:
        database = session._database  # type: ignore[attr-defined]
        connection = database.superuser
        connection.execute("SET extra_float_digits = 3")
        relations = connection.execute(
            """SELECT n.nspname, c.relname, c.relkind, c.relpages, c.reltuples, c.relallvisible, c.relallfrozen,
                      c.relhasindex, coalesce(pg_relation_filepath(c.oid), ''), coalesce(pg_relation_size(c.oid), 0)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'public' ORDER BY 1, 2"""
        ).fetchall()
        statistics = connection.execute(
            """SELECT s.starelid::regclass::text, a.attname, (to_jsonb(s) - 'starelid')::text,
                      s.stavalues1::text, s.stavalues2::text, s.stavalues3::text, s.stavalues4::text, s.stavalues5::text
                 FROM pg_statistic s JOIN pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
                WHERE s.starelid >= 16384 ORDER BY 1, 2, s.stainherit"""
        ).fetchall()
        extended = connection.execute(
            """SELECT e.stxname, d.stxdinherit, d.stxdndistinct::text, d.stxddependencies::text,
                      (SELECT array_agg(m::text ORDER BY m.index) FROM pg_mcv_list_items(d.stxdmcv) m)
                 FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid ORDER BY 1, 2"""
        ).fetchall()
        folder = session._cluster.home  # type: ignore[attr-defined]
        return {
            "relations": [(*row[:-2], row[-1]) for row in relations],
            "statistics": statistics,
            "extended": extended,
            "files": {row[1]: digest(folder / row[-2]) for row in relations if row[-2]},
            "plans": [session.explain(query).raw for query in QUERIES],
        }


def statistics_of(record: ShadowRecord) -> list[str]:
    """The calls that set statistics."""
    return sorted(call.strip() for call in record.read("statistics.sql").split(";\n"))


def digest(path: Any) -> str:
    """Of a file's first pages: what comes then is empty."""
    visibility = path.with_name(f"{path.name}_vm")
    map_ = visibility.read_bytes() if visibility.exists() else b""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(64 * 8192) + map_).hexdigest()


def test_nothing_has_changed(services: Services, source: str) -> None:
    record = services.add_hollow("refreshed", source)
    told: list[str] = []
    again = services.refresh("refreshed", lambda step, _: told.append(step))
    assert again == record
    assert told[-1] == "nothing has changed"
    assert services.registry.get("refreshed") == record


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_refresh_equals_a_new_clone(services: Services, source: str, mutation: str) -> None:
    statements, changes = MUTATIONS[mutation]
    if "refreshed" not in services.registry.names():
        services.add_hollow("refreshed", source)
    before = services.refresh("refreshed")
    old = state(services, "refreshed")
    run(source, statements)
    after = services.refresh("refreshed")
    assert after.revision != before.revision
    assert after.changes == changes
    fresh = services.add_hollow("fresh", source)
    try:
        assert after.not_cloned == fresh.not_cloned
        assert after.settings == fresh.settings
        for name in ("catalog.json", "shape.json", "schema.sql", "origin.json", "additions.json"):
            assert after.read(name) == fresh.read(name), name
        assert statistics_of(after) == statistics_of(fresh)
        refreshed, cloned = state(services, "refreshed"), state(services, "fresh")
        for part in cloned:
            assert refreshed[part] == cloned[part], part
        assert refreshed != old
    finally:
        services.drop("fresh")
    assert refreshed["plans"] == [source_plan(source, query) for query in QUERIES]


def test_a_refreshed_template_is_made_again_from_files(services: Services, source: str) -> None:
    if "refreshed" not in services.registry.names():
        services.add_hollow("refreshed", source)
    run(source, ("INSERT INTO quiet SELECT generate_series(20000, 30000)", "ANALYZE quiet"))
    record = services.refresh("refreshed")
    assert record.changes == "1 table changed"
    before = state(services, "refreshed")
    services.shadow("refreshed").close()  # type: ignore[attr-defined]
    drop_template(services.supervisor.cluster(ClusterKind.HOLLOW), record.database)
    with Services.open(services.settings) as fresh:
        again = state(fresh, "refreshed")
    assert again == before


@pytest.mark.parametrize("file", ["known.json", "layout.json", "shape.json", "template"])
def test_what_is_not_known_is_cloned_anew(services: Services, source: str, file: str) -> None:
    if "refreshed" not in services.registry.names():
        services.add_hollow("refreshed", source)
    record = services.refresh("refreshed")
    if file == "template":
        drop_template(services.supervisor.cluster(ClusterKind.HOLLOW), record.database)
    else:
        (record.folder / file).write_text("{}")
    run(source, ("INSERT INTO users (id, email, created_at) SELECT max(id) + 1, 'z' || max(id), now() FROM users",))
    run(source, ("ANALYZE users",))
    assert services.refresh("refreshed").changes == "cloned anew"
    with services.shadow("refreshed").session() as session:
        assert [session.explain(query).raw for query in QUERIES] == [source_plan(source, query) for query in QUERIES]


def test_a_refresh_is_seen_by_sessions_that_begin_after_it(services: Services, source: str) -> None:
    if "refreshed" not in services.registry.names():
        services.add_hollow("refreshed", source)
    query = "SELECT * FROM quiet"
    with services.shadow("refreshed").session() as session:
        before = session.explain(query).raw
        run(source, ("INSERT INTO quiet SELECT generate_series(200000, 250000)",))
        run(source, ("ANALYZE quiet",))
        services.refresh("refreshed")
        assert session.explain(query).raw == before
    with services.shadow("refreshed").session() as session:
        assert session.explain(query).raw == source_plan(source, query)
