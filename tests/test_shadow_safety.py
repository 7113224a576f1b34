"""What hostile functions reach when a query that calls them is planned, or their schema is loaded: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.errors import InputError, PlanproofError, SqlError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.hollow import HollowSession, HollowShadow
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster

# `attempt` runs at plan time, since it is called immutable, and its result shows up in the plan.
SCHEMA = """
CREATE TABLE t (note text);
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE result text;
BEGIN
  EXECUTE command INTO result;
  RETURN 'done: ' || coalesce(result, '');
EXCEPTION WHEN OTHERS THEN
  RETURN 'failed: ' || SQLERRM;
END $$;
"""
# What is called immutable may not write, but what it calls may.
PLANTING = """
CREATE FUNCTION plant() RETURNS text LANGUAGE plpgsql AS $$
BEGIN CREATE TABLE IF NOT EXISTS public.planted (); RETURN 'x'; END $$;
"""


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def shadow(services: Services) -> ShadowDatabase:
    """A shadow with the hostile function."""
    return services.throwaway(SCHEMA)


@pytest.fixture
def session(shadow: ShadowDatabase) -> Iterator[HollowSession]:
    """A planning session in it."""
    with shadow.session() as session:
        assert isinstance(session, HollowSession)
        yield session


def attempt(session: HollowSession, command: str) -> str:
    """What became of a command that a function ran while a query was planned."""
    text = command.replace("'", "''")
    return str(session.explain(f"SELECT * FROM t WHERE note = attempt('{text}')").raw["Filter"])


def test_the_function_does_run(session: HollowSession) -> None:
    assert "done: 42" in attempt(session, "SELECT 6 * 7")


@pytest.mark.parametrize(
    "command",
    [
        "SELECT set_config('role', 'planproof', false)",
        "SELECT set_config('session_authorization', 'planproof', false)",
        "SET ROLE planproof",
        "SET SESSION AUTHORIZATION DEFAULT; SET ROLE planproof",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')::text",
        "SELECT lo_import('/etc/passwd')::text",
        "COPY t FROM '/etc/passwd'",
        "COPY t TO PROGRAM 'true'",
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'planproof'",
        "SELECT count(*) FROM planproof_private.spare",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "INSERT INTO t VALUES ('x')",
        "CREATE TABLE u ()",
        "CREATE TEMPORARY TABLE u ()",
        "DROP TABLE t",
        "ALTER ROLE CURRENT_USER SET enable_seqscan = off",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "CREATE EXTENSION dblink",
        "SELECT pg_reload_conf()",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'planproof'",
        "UPDATE pg_class SET reltuples = 7",
        "CREATE DATABASE x",
        "COMMIT",
    ],
)
def test_it_gets_nowhere(session: HollowSession, command: str) -> None:
    before = session.explain("SELECT * FROM t").raw
    outcome = attempt(session, command)
    assert "failed: " in outcome and "done" not in outcome
    assert session.explain("SELECT * FROM t").raw == before


def test_what_it_sets_is_gone_afterwards(session: HollowSession) -> None:
    for name, value in (("enable_seqscan", "off"), ("statement_timeout", "0"), ("search_path", "nowhere")):
        assert f"done: {value}" in attempt(session, f"SELECT set_config('{name}', '{value}', false)")
        assert f"done: {value}" not in attempt(session, f"SELECT current_setting('{name}')")
    assert session.explain("SELECT * FROM t").root.type == "Seq Scan"


def test_it_sees_no_other_shadow(session: HollowSession, services: Services, hollow_cluster: Cluster) -> None:
    other = services.throwaway("CREATE TABLE secret (id integer);")
    with other.session():
        databases = (
            hollow_cluster.connect().execute("SELECT datname::text FROM pg_database WHERE datallowconn").fetchall()
        )
    me = attempt(session, "SELECT current_user || ' ' || current_database()").split("'")[1].split()[-2]
    with hollow_cluster.connect() as admin:
        for (database,) in databases:
            may = admin.execute("SELECT has_database_privilege(%s, %s, 'CONNECT')", [me, database]).fetchone()
            assert may == (database in (me, "postgres", "template1"),), database


def test_what_a_hypothetical_index_does_reaches_nobody_else(services: Services) -> None:
    shadow = services.throwaway(SCHEMA + PLANTING)
    predicate = "attempt('SELECT public.plant()') = note"
    planting = IndexCandidate("public", "t", (IndexColumn("note", "note"),), predicate=predicate)
    look = "SELECT to_regclass('public.planted')::text"
    with shadow.session() as session:
        assert isinstance(session, HollowSession)
        session.create([planting])
        assert "planted" in attempt(session, look), "it ran as the owner, in this private copy"
    with shadow.session() as session:
        assert isinstance(session, HollowSession)
        assert "planted" not in attempt(session, look)


def test_text_after_the_statement_is_refused(session: HollowSession) -> None:
    for sql in ("SELECT 1; DROP TABLE t", "SELECT 1) ; DROP TABLE t --", "SELECT 1; COMMIT; DROP TABLE t"):
        with pytest.raises(SqlError):
            session.explain(sql)
    assert session.explain("SELECT * FROM t").cost.total_cost > 0


def test_statements_are_never_executed(session: HollowSession) -> None:
    for sql in ("DELETE FROM t", "INSERT INTO t SELECT 'x'", "SELECT * FROM t FOR UPDATE", "MERGE INTO t USING t s ON"
                " t.note = s.note WHEN MATCHED THEN DELETE"):  # fmt: skip
        assert session.explain(sql).cost.total_cost >= 0
    for sql in ("EXPLAIN ANALYZE SELECT 1", "ANALYZE SELECT 1", "(ANALYZE) SELECT 1", "DO 'BEGIN END'"):
        with pytest.raises(SqlError):
            session.explain(sql)


def test_a_plan_that_is_too_large_is_refused(session: HollowSession) -> None:
    with pytest.raises(PlanproofError, match=r"plan has .* bytes"):
        session.explain("SELECT * FROM t WHERE note = repeat('x', 34000000)")
    assert session.explain("SELECT * FROM t").cost.total_cost > 0


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE t (x text DEFAULT pg_read_file('/etc/passwd')); INSERT INTO t DEFAULT VALUES;",
        "CREATE TABLE t (x text); COPY t FROM '/etc/passwd';",
        "CREATE TABLE t (x text); COPY t FROM PROGRAM 'id';",
        "CREATE FUNCTION f() RETURNS void LANGUAGE c AS 'libc', 'system';",
        "ALTER ROLE planproof PASSWORD 'x';",
        "\\! touch /tmp/planproof-was-here\n",
        "SELECT pg_reload_conf();",
        "CREATE EXTENSION file_fdw; CREATE SERVER s FOREIGN DATA WRAPPER file_fdw;",
        "DO $$ BEGIN PERFORM pg_sleep(100); END $$;",
    ],
)
def test_a_hostile_schema_file_is_refused(services: Services, hollow_cluster: Cluster, schema: str) -> None:
    def databases() -> set[tuple[str, ...]]:
        """Without the copies in which others plan, which come and go."""
        with hollow_cluster.connect() as admin:
            return {*admin.execute(r"SELECT datname::text FROM pg_database WHERE datname !~ '^plan_'").fetchall()}

    before = databases()
    with pytest.raises(InputError):
        services.throwaway(schema)
    assert databases() <= before


TRAPS = "".join(
    f"""
CREATE FUNCTION trap(oid, {kind}) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'trapped %', session_user; END $$;
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = {kind}, FUNCTION = trap);
CREATE FUNCTION pg_terminate_backend({kind}, integer) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'trapped %', session_user; END $$;
CREATE FUNCTION pg_partition_tree({kind}) RETURNS SETOF record LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'trapped %', session_user; END $$;
"""
    for kind in ("smallint", "integer", "bigint")
)


def test_the_superuser_falls_into_no_trap(services: Services, hollow_cluster: Cluster) -> None:
    """Operators and functions that fit our arguments better than PostgreSQL's own must not be found."""
    shadow = services.throwaway(f"CREATE TABLE t (id integer PRIMARY KEY, note text); {TRAPS}")
    assert isinstance(shadow, HollowShadow)
    with shadow.session():
        pass
    with (
        hollow_cluster.connect(shadow.record.database) as careless,
        pytest.raises(psycopg.errors.RaiseException, match="trapped planproof"),
    ):
        careless.execute("SELECT FROM pg_class WHERE oid = %s", [7])
    with shadow.session() as session:
        candidate = IndexCandidate("public", "t", (IndexColumn("note", "note"),))
        made = session.create([candidate])
        assert session.explain("SELECT * FROM t WHERE note = 'x'", using=made.values()).cost.total_cost > 0
