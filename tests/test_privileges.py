"""A hollow clone with a read-only role: what it needs, what it says when that is missing, and what it does there."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from guarded_sources import DEBIAN, EMBEDDED, SCHEMA, fill, missing, source_cluster

from optimizer.errors import ShadowUnavailableError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.registry import ShadowRecord
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source import connection as source_module
from optimizer.shadow.source.privileges import Rights, read_rights
from optimizer.shadow.template.clone_options import CloneOptions

EVERY_TABLE: LiteralString = """
GRANT USAGE ON SCHEMA sales, "Odd ""one" TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA sales TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA "Odd ""one" TO {role};
"""
#: By role, what it is given.
ROLES: dict[str, LiteralString] = {
    "everything": "GRANT pg_read_all_data TO {role}",
    "past_policies": "GRANT pg_read_all_data TO {role}; ALTER ROLE {role} BYPASSRLS",
    "each_table": EVERY_TABLE,
    "one_missing": EVERY_TABLE + "REVOKE SELECT ON sales.orders FROM {role}",
    "one_column": EVERY_TABLE
    + "REVOKE SELECT ON sales.orders FROM {role}; GRANT SELECT (id) ON sales.orders TO {role}",
    "no_usage": EVERY_TABLE + "REVOKE USAGE ON SCHEMA sales FROM {role}",
    "nothing": "",
    "only_reads": EVERY_TABLE
    + "ALTER ROLE {role} SET default_transaction_read_only = on; ALTER ROLE {role} SET statement_timeout = '20s'",
}


@pytest.fixture(scope="module", params=[EMBEDDED, DEBIAN])
def source(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The source, with all the roles."""
    with source_cluster(request.param) as cluster:
        fill(cluster)
        with cluster.connect("guarded") as admin:
            for role, grants in ROLES.items():
                cluster.ensure_role(role)
                admin.execute(f"ALTER ROLE {role} INHERIT".encode())
                admin.execute(grants.replace("{role}", role).encode())
        yield cluster


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services that plan with the embedded server, whatever the source is."""
    with Services.open(settings.model_copy(update={"planner": "embedded"})) as services:
        yield services


def clone(services: Services, source: Cluster, role: str, *, only_readable: bool = False) -> ShadowRecord:
    """Clone it as a role; the shadow is dropped again when its record is all that is asked for."""
    name = f"p-{secrets.token_hex(6)}"
    options = CloneOptions(only_readable=only_readable)
    return services.add_hollow(name, source.conninfo("guarded", role), options=options)


def rights(source: Cluster, role: str) -> Rights:
    with psycopg.connect(source.conninfo("guarded", role), autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        return read_rights(connection)


def rows(shadow: ShadowDatabase, query: str) -> float:
    with shadow.session() as session:
        return session.explain(query).cost.plan_rows


def told(record: ShadowRecord, *words: str) -> bool:
    return any(all(word in line for word in words) for line in record.not_cloned)


@pytest.mark.parametrize("role", ["everything", "each_table", "only_reads", "past_policies"])
def test_a_role_that_may_only_read_is_enough(services: Services, source: Cluster, role: str) -> None:
    record = clone(services, source, role)
    shadow = services.shadow(record.name)
    assert rows(shadow, "SELECT * FROM sales.orders WHERE placed = date '2024-05-05'") == pytest.approx(40, abs=1)
    assert rows(shadow, "SELECT * FROM sales.totals") == 6000
    assert not told(record, "left out")
    hidden = role in ("each_table", "only_reads")
    assert told(record, "expressions in the indexes sales.customers_lower", "pg_read_all_data") is hidden
    lowered = rows(shadow, "SELECT * FROM sales.customers WHERE lower(email) = 'x'")
    assert lowered == (30 if hidden else 1)
    services.drop(record.name)


def test_row_security_hides_statistics_and_says_so(services: Services, source: Cluster) -> None:
    query = "SELECT * FROM sales.secrets WHERE owner = 'zanzibar owner 2'"
    blind, seeing = clone(services, source, "everything"), clone(services, source, "past_policies")
    mended = "statistics of sales.secrets are not visible to the role everything", "ALTER ROLE everything BYPASSRLS"
    assert told(blind, "row-level security", *mended)
    assert not told(seeing, "not visible")
    assert rows(services.shadow(seeing.name), query) == 500
    assert rows(services.shadow(blind.name), query) < 100
    for record in (blind, seeing):
        services.drop(record.name)


@pytest.mark.parametrize(
    ("role", "grants"),
    [
        ("one_missing", ["GRANT SELECT ON sales.orders TO one_missing;"]),
        ("one_column", ["GRANT SELECT ON sales.orders TO one_column;"]),
        ("no_usage", ["GRANT USAGE ON SCHEMA sales TO no_usage;"]),
        (
            "nothing",
            [
                'GRANT USAGE ON SCHEMA "Odd ""one", sales TO nothing;',
                'GRANT SELECT ON "Odd ""one"."A table", sales.customers, sales.logs, sales.logs_24, sales.orders, '
                "sales.secrets, sales.totals TO nothing;",
            ],
        ),
    ],
)
def test_the_missing_grants_are_said_and_suffice(
    services: Services, source: Cluster, role: str, grants: list[str]
) -> None:
    found = rights(source, role)
    assert list(found.grants()) == grants
    with pytest.raises(ShadowUnavailableError, match=r"may not read \d of the source's 6 tables") as caught:
        clone(services, source, role)
    message = str(caught.value)
    assert all(grant in message for grant in grants)
    assert f"GRANT pg_read_all_data TO {role};" in message
    assert "\n" not in message
    assert caught.value.lasting
    left_out = clone(services, source, role, only_readable=True)
    assert told(left_out, "left out", found.refused[0].name)
    assert found.refused[0].place not in services.shadow(left_out.name).catalog().tables
    services.drop(left_out.name)
    with source.connect("guarded") as admin:
        for grant in grants:
            admin.execute(grant.encode())
    try:
        assert rights(source, role).refused == ()
        record = clone(services, source, role)
        assert not told(record, "left out")
        services.drop(record.name)
    finally:
        with source.connect("guarded") as admin:
            for grant in grants:
                admin.execute(re.sub(" TO ", " FROM ", grant.replace("GRANT", "REVOKE")).encode())


def test_tables_that_cannot_be_read_leave_the_others_as_they_are(services: Services, source: Cluster) -> None:
    record = clone(services, source, "one_missing", only_readable=True)
    shadow = services.shadow(record.name)
    assert rows(shadow, "SELECT * FROM sales.customers WHERE city = 'zanzibar city 7'") == 150
    with shadow.session() as session, pytest.raises(Exception, match=r"sales\.orders"):
        session.explain("SELECT * FROM sales.orders")
    assert services.registry.get(record.name).options == CloneOptions(only_readable=True)
    again = services.refresh(record.name)  # as before
    assert told(again, "left out", "sales.orders")
    with pytest.raises(ShadowUnavailableError, match="may not read"):
        services.refresh(record.name, options=CloneOptions())
    services.drop(record.name)


def test_many_tables_of_a_schema_are_granted_at_once(source: Cluster) -> None:
    with source.connect("guarded") as admin:
        admin.execute("CREATE SCHEMA crowd")
        for number in range(30):
            admin.execute(f"CREATE TABLE crowd.t{number} (id integer)".encode())
    try:
        found = rights(source, "nothing")
        assert "GRANT SELECT ON ALL TABLES IN SCHEMA crowd TO nothing;" in found.grants()
        with pytest.raises(ShadowUnavailableError) as caught:
            found.check()
        assert len(str(caught.value)) < 1000
    finally:
        with source.connect("guarded") as admin:
            admin.execute("DROP SCHEMA crowd CASCADE")


def test_tables_of_extensions_are_nobodys_to_grant(source: Cluster) -> None:
    with source.connect("guarded") as admin:
        admin.execute("CREATE TABLE sales.owned (id integer)")
        admin.execute("CREATE EXTENSION pg_trgm; ALTER EXTENSION pg_trgm ADD TABLE sales.owned")
    try:
        assert [table.name for table in rights(source, "one_missing").refused] == ["sales.orders"]
        assert "sales.owned" not in " ".join(rights(source, "nothing").grants())
    finally:
        with source.connect("guarded") as admin:
            admin.execute("DROP EXTENSION pg_trgm CASCADE")


def test_a_clone_locks_and_reads_next_to_nothing(services: Services, source: Cluster) -> None:
    """It goes on while every table is locked in EXCLUSIVE mode, with which only ACCESS SHARE gets along."""
    read: LiteralString = """
        SELECT relname, seq_scan, seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE schemaname = 'sales'"""
    tables = "sales.customers, sales.orders, sales.logs_24, sales.secrets"
    with source.connect("guarded") as other, source.connect("guarded") as admin:
        admin.execute("SELECT pg_stat_reset()")
        with other.transaction():
            other.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE".encode())
            record = clone(services, source, "each_table")
        # What a session has counted shows within a second, or when it ends.
        found = admin.execute(read).fetchall()
    services.drop(record.name)
    assert found
    for _, scans, by_scan, by_index in found:
        assert not scans
        assert not by_scan
        assert (by_index or 0) <= 12  # the ends of its indexes


def test_a_table_that_is_locked_for_good_ends_the_clone(
    services: Services, source: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = source_module._LIMITS.replace("'10s'", "'300ms'")
    monkeypatch.setattr(source_module, "_LIMITS", impatient)
    with source.connect("guarded") as other, other.transaction():
        other.execute("LOCK TABLE sales.orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ShadowUnavailableError, match=r"lock timeout.*: somebody holds a table exclusively"):
            clone(services, source, "everything")


def test_a_standby_can_be_cloned(services: Services) -> None:
    """A hot standby of Debian's 15, where no statement may write."""
    binaries = Path("/usr/lib/postgresql/15/bin")
    if not (binaries / "initdb").exists():
        missing("PostgreSQL 15 (Debian's package postgresql-15)")
    home = Path(tempfile.mkdtemp(prefix="pp-"))
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

    def start() -> None:
        options = f"-p {port} -k {home} -c listen_addresses= -c fsync=off -c autovacuum=off"
        run(binaries / "pg_ctl", "start", "-w", "-s", "-D", home / "data", "-o", options, "-l", home / "log")

    dsn = f"host={home} port={port} dbname=postgres user="
    try:
        run(binaries / "initdb", "-D", home / "data", "-U", "boss", "--no-sync", "--locale=C.UTF-8", "--auth=trust")
        start()
        with psycopg.connect(f"{dsn}boss", autocommit=True) as boss:
            boss.execute(SCHEMA)
            boss.execute("CREATE UNLOGGED TABLE sales.fleeting (id integer PRIMARY KEY)")
            boss.execute("INSERT INTO sales.fleeting SELECT generate_series(1, 999)")
            boss.execute("CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader")
            boss.execute("VACUUM (ANALYZE)")
        run(binaries / "pg_ctl", "stop", "-w", "-s", "-D", home / "data")
        (home / "data" / "standby.signal").touch()
        start()
        record = services.add_hollow("standby", f"{dsn}reader")
        query = "SELECT * FROM sales.orders WHERE placed > date '2024-12-12'"
        with psycopg.connect(f"{dsn}boss") as boss:
            assert boss.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            row = boss.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
        assert row is not None
        with services.shadow(record.name).session() as session:
            assert session.explain(query).cost.plan_rows == row[0][0]["Plan"]["Plan Rows"]
        services.drop("standby")
    finally:
        run(binaries / "pg_ctl", "stop", "-s", "-m", "immediate", "-D", home / "data")
        shutil.rmtree(home)
