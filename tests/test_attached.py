"""Attached shadows and clones of another major version, on Debian's PostgreSQL 15."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from production import TABLES, source_plan

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.ddl import read_script
from optimizer.errors import InputError, ShadowUnavailableError, SqlError, TimeLimitError
from optimizer.index_ddl import parse_index_ddl
from optimizer.measurement import Executes
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase

BINARIES = Path("/usr/lib/postgresql/15/bin")
HYPOPG = Path("/usr/share/postgresql/15/extension/hypopg.control")
PASSWORD = "s3cret"


def missing(what: str) -> None:
    """Skip, saying why; on the build machines it is an error."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing on this build machine")
    pytest.skip(f"{what} is not installed here")


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL 15; `app` owns the database `shop`, `reader` may read it, `boss` is a superuser."""

    port: int

    def dsn(self, user: str, password: str = PASSWORD, dbname: str = "shop") -> str:
        """A connection string for a role."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{dbname}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The server, in a folder of its own."""
    if not (BINARIES / "initdb").exists():
        missing("PostgreSQL 15 (Debian's package postgresql-15)")
    home = Path(tempfile.mkdtemp(prefix="pg15-"))
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **account)  # type: ignore[call-overload]

    secret = home / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    run(BINARIES / "initdb", "-D", home / "data", "-U", "boss", f"--pwfile={secret}", "--no-sync", "--locale=C.UTF-8",
        "--auth=scram-sha-256")  # fmt: skip
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off -c autovacuum=off -c jit=off"
    run(BINARIES / "pg_ctl", "start", "-w", "-s", "-D", home / "data", "-o", options, "-l", home / "log")
    server = Server(port)
    with psycopg.connect(server.dsn("boss", dbname="postgres"), autocommit=True) as boss:
        boss.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
        boss.execute("GRANT pg_read_all_data TO reader")
        boss.execute("CREATE DATABASE shop OWNER app")
        boss.execute("CREATE DATABASE hypothetical OWNER app")
    for name in ("shop", "hypothetical"):
        with psycopg.connect(server.dsn("app", dbname=name), autocommit=True) as app:
            app.execute(TABLES)
            for table in ("users", "orders", "quiet"):
                app.execute(f"VACUUM (ANALYZE) {table}".encode())
    yield server
    run(BINARIES / "pg_ctl", "stop", "-s", "-m", "immediate", "-D", home / "data")
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture
def plain(services: Services, server: Server) -> Iterator[ShadowDatabase]:
    """Attached as the owner, without HypoPG."""
    services.add_attached("plain", server.dsn("app"))
    yield services.shadow("plain")
    services.drop("plain")


@pytest.fixture
def with_hypopg(services: Services, server: Server) -> Iterator[ShadowDatabase]:
    """Attached as a reader, with HypoPG."""
    if not HYPOPG.exists():
        missing("HypoPG (Debian's package postgresql-15-hypopg)")
    with psycopg.connect(server.dsn("boss", dbname="hypothetical"), autocommit=True) as boss:
        boss.execute("CREATE SCHEMA IF NOT EXISTS tools; CREATE EXTENSION IF NOT EXISTS hypopg SCHEMA tools")
        boss.execute("GRANT USAGE ON SCHEMA tools TO reader")
    services.add_attached("hypo", server.dsn("reader", dbname="hypothetical"))
    yield services.shadow("hypo")
    services.drop("hypo")


QUERY = "SELECT * FROM orders WHERE total > 995"


def test_superusers_are_refused(services: Services, server: Server) -> None:
    with pytest.raises(InputError, match=r"boss is a superuser .*CREATE ROLE planproof") as caught:
        services.add_attached("root", server.dsn("boss"))
    assert PASSWORD not in str(caught.value)
    assert services.registry.names() == ()


def test_a_role_that_became_superuser_is_refused_later(services: Services, server: Server) -> None:
    with psycopg.connect(server.dsn("boss"), autocommit=True) as boss:
        boss.execute(f"CREATE ROLE climber LOGIN PASSWORD '{PASSWORD}'")
        services.add_attached("climb", server.dsn("climber"))
        boss.execute("ALTER ROLE climber SUPERUSER")
        with pytest.raises(InputError, match="superuser"):
            services.shadow("climb")
        services.drop("climb")
        boss.execute("DROP ROLE climber")


def test_servers_that_cannot_be_reached(services: Services, server: Server) -> None:
    for dsn, message in (
        (server.dsn("app", password="wr0ng"), r"password authentication failed.*check"),
        (Server(1).dsn("app"), r"127\.0\.0\.1:1 .*[Rr]efused"),
        (server.dsn("app", dbname="nowhere"), r'database "nowhere" does not exist'),
    ):
        with pytest.raises(ShadowUnavailableError, match=message) as caught:
            services.add_attached("away", dsn)
        assert not any(secret in str(caught.value) for secret in (PASSWORD, "wr0ng", "\n"))


def test_plans_are_the_servers_own(plain: ShadowDatabase, server: Server) -> None:
    assert plain.info.kind == "attached" and plain.info.server_version.startswith("15.")
    assert plain.catalog().server_version_num // 10000 == 15
    with plain.session() as session:
        for query in (QUERY, "SELECT count(*) FROM paid", "DELETE FROM orders WHERE id = 1"):
            assert dict(session.explain(query).raw) == source_plan(server.dsn("app"), query)
        assert session.explain_calls == 3


def test_parameters_before_version_16(plain: ShadowDatabase) -> None:
    with plain.session() as session:
        anything = session.explain("SELECT * FROM orders WHERE user_id = $1 AND note = $2")
        assert "$1" in str(anything.raw)
        with pytest.raises(SqlError, match="nope") as caught:
            session.explain("SELECT * FROM orders WHERE nope = $1")
        assert caught.value.column == 28
        with pytest.raises(SqlError, match="data type"):
            session.explain("SELECT * FROM orders WHERE $1 IS NULL")
        assert session.explain("SELECT * FROM orders WHERE user_id = $1", parameters=[3]).cost.plan_rows > 0
        assert session.explain("SELECT * FROM orders WHERE user_id = $1 AND note = $2").raw == anything.raw


def test_indexes_in_a_transaction_that_is_rolled_back(plain: ShadowDatabase, server: Server) -> None:
    assert any("rolled back" in line for line in plain.info.not_cloned)
    candidate = parse_index_ddl("CREATE INDEX ON orders (total)", plain.catalog())
    with plain.session() as session:
        before = session.explain(QUERY)
        index = session.create([candidate])[candidate]
        after = session.explain(QUERY, using=[index])
        assert after.indexes == {index.name} == {"orders_total_idx"}
        real = source_plan(server.dsn("app"), QUERY, candidate.ddl(index.name, concurrently=False))
        assert dict(after.raw) == real
        assert session.explain(QUERY).raw == before.raw
        assert session.explain("SELECT $1::int + total FROM orders", using=[index]).cost.total_cost > 0
    with psycopg.connect(server.dsn("app")) as app:
        assert app.execute("SELECT to_regclass('orders_total_idx')").fetchone() == (None,)
        size = app.execute("CREATE INDEX x ON orders (total); ").connection.execute("SELECT pg_relation_size('x')")
        assert size.fetchone() == (index.storage_bytes,)
        app.rollback()


def test_an_index_takes_ownership(services: Services, server: Server) -> None:
    services.add_attached("looker", server.dsn("reader"))
    shadow = services.shadow("looker")
    candidate = parse_index_ddl("CREATE INDEX ON orders (total)", shadow.catalog())
    with shadow.session() as session:
        assert session.create([candidate]) == {}
        assert "must be owner" in session.refused[candidate]  # type: ignore[attr-defined]
        assert session.explain(QUERY).cost.total_cost > 0
    services.drop("looker")


def test_an_index_does_not_wait_for_others(plain: ShadowDatabase, server: Server) -> None:
    candidate = parse_index_ddl("CREATE INDEX ON orders (total)", plain.catalog())
    with psycopg.connect(server.dsn("app")) as writer, plain.session() as session:
        writer.execute("UPDATE orders SET note = '' WHERE id = 1")
        assert session.create([candidate]) == {}
        assert "took longer" in session.refused[candidate]  # type: ignore[attr-defined]
        writer.rollback()


def test_large_tables_get_no_real_index(plain: ShadowDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.shadow.whatif.attached_indexes.MOMENTARY_LIMIT_BYTES", 100_000)
    candidate = parse_index_ddl("CREATE INDEX ON orders (total)", plain.catalog())
    with plain.session() as session:
        assert session.create([candidate]) == {}
        assert "install hypopg" in session.refused[candidate]  # type: ignore[attr-defined]


def test_only_index_statements_are_sent(plain: ShadowDatabase, with_hypopg: ShadowDatabase, server: Server) -> None:
    key = (IndexColumn("id", "id"),)
    for shadow in (plain, with_hypopg):
        for predicate in ("true; DROP TABLE quiet", "(", "id = (SELECT 1)"):
            candidate = IndexCandidate("public", "orders", key, predicate=predicate)
            with shadow.session() as session:
                assert session.create([candidate]) == {}
    with psycopg.connect(server.dsn("app")) as app:
        assert app.execute("SELECT to_regclass('quiet') IS NOT NULL").fetchone() == (True,)


def test_planning_writes_nothing(plain: ShadowDatabase, server: Server) -> None:
    with psycopg.connect(server.dsn("app"), autocommit=True) as app:
        app.execute(
            "CREATE SEQUENCE counter; CREATE FUNCTION sneak() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS"
            " $$ BEGIN RETURN nextval('counter'); END $$"
        )
        candidate = parse_index_ddl("CREATE INDEX ON orders (total)", plain.catalog())
        with plain.session() as session:
            made = session.create([candidate])
            for using in ((), made.values()):
                with pytest.raises(SqlError, match="read-only"):
                    session.explain("SELECT * FROM orders WHERE user_id = sneak()", using=using)
        assert app.execute("SELECT is_called FROM counter").fetchone() == (False,)
        app.execute("DROP FUNCTION sneak(); DROP SEQUENCE counter")


def test_a_stuck_planner_is_ended(services: Services, plain: ShadowDatabase, server: Server) -> None:
    quick = Services(
        services.settings.model_copy(update={"explain_timeout_ms": 300}), services.supervisor, services.plugins
    )
    with psycopg.connect(server.dsn("app"), autocommit=True) as app:
        app.execute(
            "CREATE FUNCTION stuck() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN LOOP BEGIN"
            " PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
        )
        with quick.shadow("plain").session() as session, pytest.raises(TimeLimitError, match="300 ms"):
            session.explain("SELECT stuck()")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'planproof' AND state = 'active'"
        gone = threading.Event()
        for _ in range(100):
            if app.execute(waiting).fetchone() == (0,):
                gone.set()
                break
            gone.wait(0.05)
        assert gone.is_set()
        app.execute("DROP FUNCTION stuck()")


def test_execution(plain: ShadowDatabase, server: Server) -> None:
    with plain.session() as session:
        assert isinstance(session, Executes)
        assert session.execution_ms("SELECT count(*) FROM orders WHERE user_id = $1", parameters=[7]) > 0
        with pytest.raises(SqlError, match="read-only"):
            session.execution_ms("DELETE FROM quiet")


def test_hypopg(with_hypopg: ShadowDatabase, server: Server) -> None:
    assert with_hypopg.info.not_cloned == ()
    texts = ("CREATE INDEX ON orders (total)", "CREATE INDEX ON users (city)", "CREATE INDEX ON orders (total, stage)")
    candidates = [parse_index_ddl(text, with_hypopg.catalog()) for text in texts]
    with with_hypopg.session() as session:
        before = session.explain(QUERY)
        made = session.create(candidates)
        total, city, both = (made[candidate] for candidate in candidates)
        assert [index.name for index in (total, city, both)] == [
            "orders_total_idx",
            "users_city_idx",
            "orders_total_stage_idx",
        ]
        assert session.explain(QUERY).raw == before.raw
        assert session.explain(QUERY, using=[total]).indexes == {"orders_total_idx"}
        assert session.explain(QUERY, using=[city]).raw == before.raw
        assert session.explain(QUERY, using=[both]).indexes == {"orders_total_stage_idx"}
        assert session.explain(QUERY, using=[]).raw == before.raw
        generic = session.explain("SELECT * FROM orders WHERE total = $1", using=[total])
        assert generic.indexes == {"orders_total_idx"}
        with psycopg.connect(server.dsn("app", dbname="hypothetical")) as app:
            app.execute("CREATE INDEX x ON orders (total)")
            row = app.execute("SELECT pg_relation_size('x')").fetchone()
            app.rollback()
        assert row is not None and total.storage_bytes == pytest.approx(row[0], rel=0.1)


def test_hypopg_refusals(with_hypopg: ShadowDatabase) -> None:
    good = IndexCandidate("public", "orders", (IndexColumn("note", "note"),))
    bad = IndexCandidate("public", "orders", (IndexColumn("nope", "nope"),))
    with with_hypopg.session() as session:
        assert list(session.create([bad, good])) == [good]
        assert "nope" in session.refused[bad]  # type: ignore[attr-defined]


def test_partial_indexes_stay_away_from_views_under_hypopg(with_hypopg: ShadowDatabase) -> None:
    candidate = parse_index_ddl("CREATE INDEX ON orders (total) WHERE stage = 'paid'", with_hypopg.catalog())
    with with_hypopg.session() as session:
        index = session.create([candidate])[candidate]
        direct = session.explain("SELECT * FROM orders WHERE stage = 'paid' AND total > 995", using=[index])
        assert direct.indexes == {index.name}
        assert session.explain("SELECT * FROM paid WHERE total > 995", using=[index]).indexes == frozenset()


def test_the_ddl_can_be_loaded(plain: ShadowDatabase, services: Services) -> None:
    script = read_script(plain.ddl(), max_bytes=1_000_000)
    assert {"CREATE TABLE", "CREATE INDEX", "CREATE VIEW"} <= {item.kind for item in script.items}  # type: ignore[union-attr]
    assert services.throwaway(plain.ddl()).catalog().tables.keys() == plain.catalog().tables.keys()


def test_the_revision_follows_the_server(services: Services, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.open_shadows.ATTACHED_FRESH_S", 0.0)
    services.add_attached("moving", server.dsn("app"))
    first = services.shadow("moving").info.revision
    assert services.shadow("moving").info.revision == first
    with psycopg.connect(server.dsn("app"), autocommit=True) as app:
        app.execute("ALTER TABLE quiet ADD COLUMN more integer")
        assert services.shadow("moving").info.revision != first
        app.execute("ALTER TABLE quiet DROP COLUMN more")
    services.refresh("moving")
    services.drop("moving")


def test_a_hollow_clone_of_another_major_version(services: Services, server: Server) -> None:
    with Services.open(services.settings.model_copy(update={"planner": "embedded"})) as embedded:
        record = embedded.add_hollow("older", server.dsn("reader"))
        assert record.server_version.startswith("15.")
        assert any(line.startswith("version: the source is PostgreSQL 15") for line in record.not_cloned)
        with embedded.shadow("older").session() as session:
            for query in (QUERY, "SELECT * FROM orders WHERE user_id = 5", "SELECT max(placed_at) FROM orders"):
                cost = session.explain(query).cost.total_cost
                assert cost == pytest.approx(source_plan(server.dsn("app"), query)["Total Cost"], rel=0.02)
    services.drop("older")
