"""Extended statistics travel with their data: estimates that need them are the source's."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from production import source_plan

from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.source.extended_statistics import (
    ExtendedStatistics,
    McvItem,
    extended_from_json,
    extended_to_json,
    read_extended,
)
from optimizer.shadow.template.clone import drop_template
from optimizer.shadow.template.extended_bytes import (
    MalformedError,
    dependencies_bytes,
    ndistinct_bytes,
    parse_dependencies,
    parse_ndistinct,
    read_dependencies,
    read_ndistinct,
    renumbered,
    with_frequencies,
)
from optimizer.shadow.template.extended_restore import restore_extended

SOURCE: LiteralString = """
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[a-z]');
CREATE TABLE car (gone integer, make text, model code, year integer, mood mood, note citext, at timestamptz, odd text);
ALTER TABLE car DROP COLUMN gone;
INSERT INTO car
SELECT 'make' || i % 40, 'model' || i % 200, 1990 + i % 20, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood,
       CASE WHEN i % 5 > 0 THEN 'N''"{},\\' || i % 25 END,
       timestamptz '2024-01-01 00:00+00' + i % 30 * interval '1 day', 'Odd' || i % 60
  FROM generate_series(1, 30000) i;
CREATE STATISTICS depends (dependencies) ON make, model FROM car;
CREATE STATISTICS distincts (ndistinct) ON year, make, odd FROM car;
CREATE STATISTICS common (mcv) ON mood, note, year FROM car;
CREATE STATISTICS typed (mcv) ON at, model, make FROM car;
CREATE STATISTICS expressed ON (lower(odd)), (year % 7), make FROM car;
CREATE STATISTICS lone ON (date_part('dow', at)) FROM car;
ALTER STATISTICS common SET STATISTICS 500;
ALTER STATISTICS typed SET STATISTICS 1000;
ALTER TABLE car ALTER COLUMN year SET STATISTICS 7;
ALTER TABLE car ALTER COLUMN odd SET (n_distinct = 777);
CREATE TABLE parent (a integer, b integer);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent SELECT i % 10, i % 10 FROM generate_series(1, 1000) i;
INSERT INTO child SELECT i % 50, i % 50 FROM generate_series(1, 20000) i;
CREATE STATISTICS both_ways ON a, b FROM parent;
ANALYZE;
"""

QUERIES = {
    "dependencies": "SELECT * FROM car WHERE make = 'make7' AND model = 'model47'",
    "ndistinct": "SELECT year, make, odd FROM car GROUP BY year, make, odd",
    "ndistinct of two": "SELECT make, odd FROM car GROUP BY make, odd",
    "mcv with NULL and an enumeration": "SELECT * FROM car WHERE mood = 'ok' AND note IS NULL AND year < 1995",
    "mcv of citext": "SELECT * FROM car WHERE mood = 'happy' AND note = 'n''\"{},\\1' AND year > 2000",
    "mcv of a domain": "SELECT * FROM car WHERE model = 'model47' AND at = '2024-01-18 00:00+00' AND make = 'make7'",
    "expressions": "SELECT * FROM car WHERE lower(odd) = 'odd7' AND make = 'make7' AND year % 7 = 3",
    "expression alone": "SELECT * FROM car WHERE lower(odd) = 'odd7'",
    "grouped by an expression": "SELECT lower(odd), make FROM car GROUP BY 1, 2",
    "single expression": "SELECT * FROM car WHERE date_part('dow', at) = 3",
    "with children": "SELECT * FROM parent WHERE a = 3 AND b = 3",
    "without children": "SELECT * FROM ONLY parent WHERE a = 3 AND b = 3",
    "n_distinct that was set": "SELECT odd FROM car GROUP BY odd",
}


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """A database with extended statistics of every kind."""
    with scratch_cluster.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS correlated WITH (FORCE)")
        admin.execute("CREATE DATABASE correlated")
    with scratch_cluster.connect("correlated") as connection:
        connection.execute(SOURCE)
    return scratch_cluster.conninfo("correlated")


@pytest.fixture(scope="module")
def shadow(services: Services, source: str) -> Iterator[ShadowDatabase]:
    """Its clone."""
    services.add_hollow("correlated", source)
    yield services.shadow("correlated")
    services.drop("correlated")


@pytest.mark.parametrize("name", QUERIES)
def test_plans_are_the_sources(shadow: ShadowDatabase, source: str, name: str) -> None:
    with shadow.session() as session:
        assert session.explain(QUERIES[name]).root.raw == source_plan(source, QUERIES[name])


def test_plans_would_differ_without_the_data(source: str) -> None:
    with psycopg.connect(source) as connection:
        connection.execute("DELETE FROM pg_statistic_ext_data")
        for name in set(QUERIES) - {"n_distinct that was set"}:
            row = connection.execute(f"EXPLAIN (FORMAT JSON) {QUERIES[name]}".encode()).fetchone()
            assert row is not None
            assert row[0][0]["Plan"]["Plan Rows"] != source_plan(source, QUERIES[name])["Plan Rows"], name
        connection.rollback()


def test_nothing_is_missed(shadow: ShadowDatabase) -> None:
    assert not [line for line in shadow.info.not_cloned if "statistics" in line]


def test_a_template_that_was_lost_gets_them_again(services: Services, shadow: ShadowDatabase, source: str) -> None:
    record = services.registry.get("correlated")
    cluster = services.shadow("correlated")._cluster()  # type: ignore[attr-defined]
    services.idle.drop(shadow)
    drop_template(cluster, record.database)
    with shadow.session() as session:
        for query in QUERIES.values():
            assert session.explain(query).root.raw == source_plan(source, query)


def test_targets_travel(services: Services, shadow: ShadowDatabase, hollow_cluster: Cluster) -> None:
    with hollow_cluster.connect(services.registry.get("correlated").database) as connection:
        found = connection.execute(
            "SELECT (SELECT stxstattarget FROM pg_statistic_ext WHERE stxname = 'common'),"
            " (SELECT attstattarget FROM pg_attribute WHERE attrelid = 'car'::regclass AND attname = 'year'),"
            " (SELECT attoptions FROM pg_attribute WHERE attrelid = 'car'::regclass AND attname = 'odd')"
        ).fetchone()
        assert found == (500, 7, ["n_distinct=777"])
        casts = connection.execute("SELECT FROM pg_cast WHERE castsource = 'bytea'::regtype AND castmethod = 'b'")
        assert casts.fetchall() == []


def test_owners_of_tables_need_no_more(scratch_cluster: Cluster, source: str) -> None:
    """`pg_stats_ext` shows a table's owner the same, with six digits of dependencies."""
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        whole, _ = read_extended(connection)
    scratch_cluster.ensure_role("stats_owner")
    with psycopg.connect(source) as connection:
        connection.execute("ALTER TABLE car OWNER TO stats_owner; ALTER TABLE parent OWNER TO stats_owner")
        connection.execute("SET LOCAL search_path = pg_catalog; SET LOCAL ROLE stats_owner")
        seen, notes = read_extended(connection)
        assert notes == ()
        connection.rollback()
    rounded = {
        (one.schema, one.name, one.inherited): [(columns, round(value, 6)) for columns, value in one.dependencies]
        for one in whole
    }
    for one, other in zip(seen, whole, strict=True):
        assert list(one.dependencies) == rounded[one.schema, one.name, one.inherited]
        assert (one.label, one.inherited, one.ndistinct, one.mcv) == (
            other.label,
            other.inherited,
            other.ndistinct,
            other.mcv,
        )
        # The view shows no statistics of ranges; here there are none.
        assert [{k: _numbers(v) for k, v in e.items()} for e in one.expression_statistics] == [
            {k: _numbers(v) for k, v in e.items()} for e in other.expression_statistics
        ]


def _numbers(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def test_roles_that_may_not_read_them_are_told(scratch_cluster: Cluster, source: str) -> None:
    scratch_cluster.ensure_role("stats_reader")
    with psycopg.connect(source) as connection:
        connection.execute("GRANT SELECT ON car, parent TO stats_reader")
        connection.execute("SET LOCAL search_path = pg_catalog; SET LOCAL ROLE stats_reader")
        seen, (note,) = read_extended(connection)
        connection.rollback()
    assert seen == ()
    assert "public.both_ways on parent" in note
    assert "pg_read_all_data" in note


_COMBINATIONS = st.lists(
    st.tuples(
        st.lists(st.integers(-8, 1600), min_size=2, max_size=8, unique=True).map(tuple), st.floats(0, 1, width=64)
    ),
    min_size=1,
    max_size=30,
)


@given(_COMBINATIONS)
def test_bytes_are_read_as_they_are_written(found: list[tuple[tuple[int, ...], float]]) -> None:
    assert list(read_ndistinct(ndistinct_bytes(found))) == found
    assert list(read_dependencies(dependencies_bytes(found))) == found


@given(_COMBINATIONS, st.integers(0, 200), st.binary(max_size=4))
def test_damaged_bytes_are_refused_or_read_as_numbers_that_can_be(
    found: list[tuple[tuple[int, ...], float]], place: int, damage: bytes
) -> None:
    for write, read in ((ndistinct_bytes, read_ndistinct), (dependencies_bytes, read_dependencies)):
        data = write(found)
        broken = data[:place] + damage + data[place + 2 :]
        try:
            for columns, value in read(broken):
                assert len(columns) <= 8
                assert value >= 0
        except MalformedError:
            pass


def test_bytes_of_the_other_byte_order() -> None:
    data = struct.pack(">IIIdi2h", 0xA352BFA4, 1, 1, 40.0, 2, 1, 2)
    assert read_ndistinct(data) == (((1, 2), 40.0),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("=III", 0xA352BFA4, 1, 4_000_000_000),
        struct.pack("=IIIdi2h", 0xA352BFA4, 1, 1, float("nan"), 2, 1, 2),
        struct.pack("=IIIdi2h", 0xA352BFA4, 1, 1, float("inf"), 2, 1, 2),
        struct.pack("=IIIdi2h", 0xA352BFA4, 1, 1, 40.0, 2, 1, 1),
        struct.pack("=IIIdi2h", 0xA352BFA4, 1, 1, 40.0, 2_000_000_000, 1, 2),
        struct.pack("=IIIdi2h", 0xA352BFA4, 1, 1, 40.0, 2, 1, 2) + b"x",
        struct.pack("=IIIdi2h", 0xB4549A2C, 1, 1, 40.0, 2, 1, 2),
    ],
)
def test_bytes_that_no_server_writes(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_ndistinct(data)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"1": 3}', '{"1, 2": "x"}', '{"1, 1": 3}', '{"a": 1}', "[" * 9999])
def test_texts_that_no_server_writes(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_ndistinct(text)
    with pytest.raises(MalformedError):
        parse_dependencies(text.replace(", ", " => "))


def test_numbers_of_columns_that_the_statistics_are_not_about() -> None:
    with pytest.raises(MalformedError):
        renumbered([((1, 2), 1.0)], {1: 1})
    with pytest.raises(MalformedError):
        with_frequencies(b"\0" * 40, [0], [(0.1, 0.1)])


def test_json_holds_everything(source: str) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        found, _ = read_extended(connection)
    assert extended_from_json(extended_to_json(found)) == found


def test_values_that_a_type_refuses_leave_the_statistics_without_data(hollow_cluster: Cluster) -> None:
    hollow_cluster.ensure_role("stats_own")
    with hollow_cluster.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS stats_refused WITH (FORCE)")
        admin.execute("CREATE DATABASE stats_refused OWNER stats_own")
    with (
        hollow_cluster.connect("stats_refused", "stats_own") as owner,
        hollow_cluster.connect("stats_refused", options="-c search_path=pg_catalog") as superuser,
    ):
        owner.execute("CREATE TABLE t (a integer, b integer); CREATE STATISTICS s ON a, b FROM t")
        one = ExtendedStatistics("public", "s", ("a", "b"), (1, 2), mcv=(McvItem(("1", "no number"), 0.5, 0.1),))
        (note,) = restore_extended([one], owner, superuser)
        assert "public.s: invalid input syntax for type integer" in note
        twice = ExtendedStatistics("public", "s", ("a", "b"), (1, 2), mcv=(McvItem(("1", "2"), 0.5, 0.1),) * 2)
        (note,) = restore_extended([twice], owner, superuser)
        assert "without their data" in note
        (note,) = restore_extended([ExtendedStatistics("public", "s", ("a", "c"), (1, 2))], owner, superuser)
        assert "about other columns" in note
        assert superuser.execute("SELECT FROM pg_statistic_ext_data").fetchall() == []
    with hollow_cluster.connect() as admin:
        admin.execute("DROP DATABASE stats_refused WITH (FORCE)")
        admin.execute("DROP ROLE stats_own")


def test_a_server_before_18_keeps_its_own(supervisor: Supervisor, services: Services) -> None:
    """Read from and planned by PostgreSQL 15, where that is installed."""
    if not supervisor.serves(15):
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL 15 is missing on this build machine")
        pytest.skip("PostgreSQL 15 is not installed here")
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    other = Supervisor(Settings(home=home, cluster_linger_s=10))
    try:
        cluster = other.cluster(ClusterKind.HOLLOW, 15)
        with cluster.connect() as admin:
            admin.execute("CREATE DATABASE correlated")
        with cluster.connect("correlated") as connection:
            connection.execute(SOURCE)
        source = cluster.conninfo("correlated")
        services.add_hollow("correlated-15", source)
        shadow = services.shadow("correlated-15")
        assert shadow.info.server_version.startswith("15.")
        with shadow.session() as session:
            for name, query in QUERIES.items():
                assert session.explain(query).root.raw == source_plan(source, query), name
        assert not [line for line in shadow.info.not_cloned if "statistics" in line]
        services.drop("correlated-15")
    finally:
        other.stop_all()
        other.close()
        shutil.rmtree(home, ignore_errors=True)
