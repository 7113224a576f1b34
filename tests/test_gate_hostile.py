"""Hostile SQL in front of the gate: it must not write, read files, outlive its limit, or touch its neighbours."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator

import pytest

from optimizer.equivalence.gate import Gate
from optimizer.equivalence.scratch import Scratch
from optimizer.equivalence.session import Command, SessionEnded
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.errors import PlanproofError, SqlError
from optimizer.query import Query
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, Supervisor

LIMIT_MS = 2_000
#: The limit, one statement's grace, and what ending a session takes on a busy machine.
PATIENCE_S = 12.0

TABLES = """
CREATE TABLE t (id integer PRIMARY KEY, n integer);
CREATE TABLE log (line text);
"""


def function(body: str, declare: str = "") -> str:
    """A schema with a function that lies about its volatility."""
    return f"""{TABLES}
CREATE FUNCTION evil(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $body$
{declare}
BEGIN
    {body}
    RETURN $1;
END $body$;
"""


@pytest.fixture(scope="module")
def gate(supervisor: Supervisor, settings: Settings) -> Iterator[Gate]:
    gate = Gate(supervisor, settings.model_copy(update={"verify_timeout_ms": LIMIT_MS}))
    yield gate
    gate.close()


@pytest.fixture
def scratch(supervisor: Supervisor, settings: Settings) -> Iterator[Scratch]:
    scratch = Scratch(supervisor, settings)
    yield scratch
    scratch.close()


def check(gate: Gate, left: str, right: str, ddl: str = TABLES) -> Verdict:
    """Judge, and hold the gate to its time."""
    begin = time.monotonic()
    verdict = gate.check(Query.parse(left), Query.parse(right), ddl)
    assert time.monotonic() - begin < PATIENCE_S
    return verdict


def assert_works(gate: Gate) -> None:
    """The next verdict starts clean."""
    assert check(gate, "SELECT id FROM t WHERE n > 1", "SELECT id FROM t WHERE 1 < n").verdict is Equivalence.TESTED


EVIL = "SELECT evil(id) AS e FROM t"
EVIL_TOO = "SELECT evil(id) AS e FROM t WHERE true"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("INSERT INTO log VALUES ('was here');", id="insert"),
        pytest.param("DELETE FROM t;", id="delete"),
        pytest.param("CREATE TEMP TABLE x (a integer);", id="temporary table"),
        pytest.param("EXECUTE 'CREATE TABLE x (a integer)';", id="create table"),
        pytest.param("EXECUTE 'SET TRANSACTION READ WRITE'; INSERT INTO log VALUES ('x');", id="read write"),
        pytest.param("PERFORM set_config('transaction_read_only', 'off', true); DELETE FROM t;", id="set_config"),
        pytest.param("PERFORM lo_create(4711);", id="large object"),
        pytest.param("PERFORM lo_import('/etc/passwd');", id="lo_import"),
        pytest.param("PERFORM pg_read_file('/etc/passwd');", id="pg_read_file"),
        pytest.param("PERFORM pg_ls_dir('/');", id="pg_ls_dir"),
        pytest.param("EXECUTE $x$COPY t TO PROGRAM 'touch /tmp/pwned'$x$;", id="copy to program"),
        pytest.param("EXECUTE $x$COPY log FROM '/etc/passwd'$x$;", id="copy from file"),
        pytest.param("PERFORM pg_reload_conf();", id="reload"),
        pytest.param("EXECUTE 'SET ROLE planproof';", id="superuser role"),
        pytest.param("EXECUTE 'SET SESSION AUTHORIZATION planproof';", id="session authorization"),
        pytest.param("EXECUTE 'ALTER SYSTEM SET work_mem = 1';", id="alter system"),
        pytest.param("EXECUTE 'SET temp_file_limit = -1';", id="temp_file_limit"),
        pytest.param("EXECUTE 'CREATE EXTENSION dblink';", id="dblink"),
        pytest.param("COMMIT;", id="commit"),
    ],
)
def test_a_lying_function_is_refused(gate: Gate, body: str) -> None:
    verdict = check(gate, EVIL, EVIL_TOO, function(body))
    assert verdict.verdict is Equivalence.UNKNOWN
    assert "fails on most databases" in verdict.detail
    assert_works(gate)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT pg_sleep(100)",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT nextval('s')",
        "SELECT dblink('host=/tmp', 'SELECT 1')",
    ],
)
def test_volatile_calls_never_run(gate: Gate, query: str) -> None:
    verdict = check(gate, query, query)
    assert verdict.verdict is Equivalence.UNKNOWN
    assert verdict.databases == 0


@pytest.mark.parametrize(
    "ddl, left",
    [
        pytest.param(
            TABLES,
            "SELECT count(*) FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 100000) b",
            id="cross join",
        ),
        pytest.param(function("PERFORM pg_sleep(100);"), EVIL, id="sleep"),
        pytest.param(
            function("PERFORM set_config('statement_timeout', '0', false); PERFORM pg_sleep(100);"),
            EVIL,
            id="timeout off",
        ),
        pytest.param(
            function(
                "LOOP BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;",
            ),
            EVIL,
            id="cancellation caught",
        ),
        pytest.param(function("LOOP RAISE NOTICE 'flood %', repeat('x', 10000); END LOOP;"), EVIL, id="notices"),
        pytest.param(
            function("PERFORM set_config('client_min_messages', 'debug5', true); LOOP RAISE NOTICE 'f'; END LOOP;"),
            EVIL,
            id="notices switched on",
        ),
    ],
)
def test_nothing_outlives_the_limit(gate: Gate, ddl: str, left: str) -> None:
    right = EVIL_TOO if "evil" in left else left.replace("count(*)", "count(1)")
    verdict = check(gate, left + " WHERE id > -5" if "evil" in left else left, right, ddl)
    assert verdict.verdict is Equivalence.UNKNOWN
    assert "time" in verdict.detail or "too large" in verdict.detail
    assert_works(gate)


def test_a_trigger_that_never_ends_is_ended(gate: Gate) -> None:
    ddl = f"""{TABLES}
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOOP NULL; END LOOP; END $$;
CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow();
"""
    verdict = check(gate, "SELECT id FROM t", "SELECT id FROM t WHERE true", ddl)
    assert verdict.verdict is Equivalence.UNKNOWN
    assert "time" in verdict.detail
    assert_works(gate)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT repeat('x', 1000000000) AS r",
        "SELECT repeat('x', 300000000) AS r",
        "SELECT string_agg(repeat('x', 1000), '') AS r FROM generate_series(1, 5000000)",
        "SELECT array_agg(g) AS r FROM generate_series(1, 100000000) g",
        "SELECT g FROM generate_series(1, 100000000) g",
        "SELECT repeat('x', 100000) AS r FROM generate_series(1, 10000000) g",
    ],
)
def test_memory_is_bounded(gate: Gate, query: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdict = check(gate, query, query + " OFFSET 0" if " OFFSET" not in query else query)
    assert verdict.verdict is Equivalence.UNKNOWN
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert_works(gate)


def test_a_session_that_ends_itself(gate: Gate) -> None:
    verdict = check(gate, EVIL, EVIL_TOO, function("PERFORM pg_terminate_backend(pg_backend_pid());"))
    assert verdict.verdict is Equivalence.UNKNOWN
    assert_works(gate)


def test_the_loader_and_other_verdicts_cannot_be_ended_or_seen(
    gate: Gate, scratch: Scratch, scratch_cluster: Cluster
) -> None:
    schema = scratch.schema(TABLES)
    with scratch.lease(schema) as mine, scratch.lease(schema) as other:
        reader, victim = scratch.reader(mine), scratch.reader(other)
        for pid in (mine.loader.pid, other.loader.pid, victim.pid):
            ((answer,),) = reader.run([[Command("SELECT pg_terminate_backend($1::int)", (str(pid),))]], limit_s=5)
            assert answer.error is not None
            assert answer.error[0] == "42501"
        seen = reader.run(
            [[Command("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL")]],
            limit_s=5,
        )[0][0]
        assert {row[0] for row in seen.rows} <= {b"<insufficient privilege>"}
        for session in (victim, mine.loader, other.loader):
            assert session.run([[Command("SELECT 1")]], limit_s=5)[0][0].rows == ((b"1",),)
        reader.close()
        victim.close()


def test_a_role_enters_its_own_database_only(scratch: Scratch, scratch_cluster: Cluster) -> None:
    schema = scratch.schema(TABLES)
    with scratch.lease(schema) as mine, scratch.lease(schema) as other:
        for suffix in ("run", "own"):
            for dbname in (other.dbname, f"gate_{schema.key}", "gate_blank"):
                with pytest.raises(PlanproofError, match=r"CONNECT privilege|permission denied"):
                    scratch_cluster.connect(dbname, f"{mine.dbname}_{suffix}")


def test_the_reader_owns_nothing_and_writes_nothing(scratch: Scratch) -> None:
    schema = scratch.schema(TABLES)
    with scratch.lease(schema) as lease:
        reader = scratch.reader(lease)
        for sql in (
            "INSERT INTO t VALUES (1, 1)",
            "UPDATE t SET n = 1",
            "DELETE FROM t",
            "TRUNCATE t",
            "DROP TABLE t",
            "CREATE TABLE x ()",
            "CREATE TEMP TABLE x ()",
            "CREATE SCHEMA x",
            "ALTER TABLE t DISABLE TRIGGER ALL",
        ):
            ((answer,),) = reader.run([[Command(sql)]], limit_s=5)
            assert answer.error is not None, sql
            assert answer.error[0] == "42501", sql
        owned = "SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole"
        assert reader.run([[Command(owned)]], limit_s=5)[0][0].rows == ((b"0",),)
        reader.close()


def test_a_write_is_rolled_back(gate: Gate, scratch_cluster: Cluster) -> None:
    verdict = check(gate, "DELETE FROM t WHERE n > 1", "DELETE FROM t WHERE 1 < n")
    assert verdict.verdict is Equivalence.TESTED
    ddl = function("INSERT INTO log VALUES ('x');")
    check(gate, "DELETE FROM t WHERE evil(n) > 1", "DELETE FROM t WHERE 1 < evil(n)", ddl)
    (lease,) = (each for each in gate._scratch._free if each.schema.key == gate._scratch.schema(ddl).key)
    kept = lease.loader.run([[Command("SELECT count(*) FROM log WHERE line = 'x'")]], limit_s=5)
    assert kept[0][0].rows == ((b"0",),)
    assert_works(gate)


def test_commit_is_no_query() -> None:
    for sql in ("COMMIT", "SELECT 1; COMMIT", "ROLLBACK", "SET statement_timeout = 0", "DO $$ BEGIN COMMIT; END $$"):
        with pytest.raises(SqlError):
            Query.parse(sql)


def test_settings_do_not_leak_into_the_next_run(gate: Gate) -> None:
    body = """
    PERFORM set_config('TimeZone', 'Asia/Tokyo', false);
    PERFORM set_config('extra_float_digits', '-10', false);
    PERFORM set_config('search_path', 'pg_catalog', false);
    """
    ddl = function(body).replace("log (line text)", "log (line text, f float8, w timestamptz)")
    left = "SELECT f, w, (SELECT evil(t.id) FROM t LIMIT 1) IS NULL AS e FROM log"
    verdict = gate.check(
        Query.parse(left.replace(" LIMIT 1", " WHERE id = 1")), Query.parse("SELECT f, w, false AS e FROM log"), ddl
    )
    assert verdict.verdict is Equivalence.REFUTED
    assert_works(gate)


def test_a_session_is_ended_from_outside(scratch: Scratch, scratch_cluster: Cluster) -> None:
    with scratch.lease(scratch.schema(TABLES)) as lease:
        reader = scratch.reader(lease)
        pid = reader.pid
        with pytest.raises(SessionEnded) as ended:
            reader.run([[Command("SELECT pg_sleep(60)")]], limit_s=0.3)
        assert ended.value.reason == "time"
        with scratch_cluster.connect() as connection:
            assert connection.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() == (0,)


def test_verdicts_side_by_side(gate: Gate) -> None:
    """Threads share a gate; each verdict has a database of its own."""
    verdicts: list[Verdict] = []

    def work(bound: int) -> None:
        right = f"SELECT id FROM t WHERE n >= {bound + 1}"
        verdicts.append(
            gate.check(
                Query.parse(f"SELECT id FROM t WHERE n > {bound}"), Query.parse(right), TABLES, timeout_ms=30_000
            )
        )

    threads = [threading.Thread(target=work, args=(bound,)) for bound in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.verdict for verdict in verdicts] == [Equivalence.TESTED] * 4


def test_leftovers_of_a_killed_process_are_swept(
    supervisor: Supervisor, settings: Settings, scratch_cluster: Cluster
) -> None:
    killed = Scratch(supervisor, settings)
    with killed.lease(killed.schema(TABLES)) as lease:
        name = lease.dbname
    killed._control.close()  # type: ignore[union-attr] # what the kernel does at the end of a process
    successor = Scratch(supervisor, settings)
    successor.schema(TABLES + f"-- made at {time.time()}")  # a new template: time to sweep
    with scratch_cluster.connect() as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    assert found is None
    successor.close()


def test_a_query_that_does_not_fit_the_schema(gate: Gate) -> None:
    with pytest.raises(SqlError, match=r"right query does not fit the schema: column .*missing"):
        gate.check(Query.parse("SELECT id FROM t"), Query.parse("SELECT missing FROM t"), TABLES)
    with pytest.raises(SqlError, match=r"does not exist"):
        gate.check(Query.parse("SELECT id FROM nowhere"), Query.parse("SELECT id FROM t"), TABLES)


def test_no_session_stays_open(gate: Gate, scratch_cluster: Cluster) -> None:
    """No reader's session stays behind a verdict."""
    assert_works(gate)
    with scratch_cluster.connect() as connection:
        left = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '%\\_run'").fetchone()
    assert left == (0,)
