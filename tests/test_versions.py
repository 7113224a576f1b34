"""Sources of an older major version, planned by a server of that version: Debian's PostgreSQL 15."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from version_cases import HOSTILE, HYPOTHETICAL, QUERIES, SCHEMA

from optimizer.candidate import Rewrite
from optimizer.errors import ShadowUnavailableError, SqlError
from optimizer.hooks import PROJECT, Plugins, hookimpl
from optimizer.index_ddl import parse_index_ddl
from optimizer.pipeline import Optimizer, Options
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.hollow import HollowSession
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server import binaries
from optimizer.shadow.server.account import server_account
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.server.configuration import postgresql_conf
from optimizer.shadow.source.dump_script import dump_script
from optimizer.shadow.template.catalog_statistics import write_statistics
from optimizer.shadow.template.database import superuser_connection

MAJOR = 15
DEBIAN = Path(f"/usr/lib/postgresql/{MAJOR}/bin")


def missing(what: str) -> None:
    """Skip, saying why; on the build machines it is an error."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing on this build machine")
    pytest.skip(f"{what} is not installed here")


def home() -> Path:
    """A data folder that the server's account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pp-"))
    folder.chmod(0o711)
    return folder


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    """A server with the database `shop`, which `reader` may read."""
    folder = home()
    supervisor = Supervisor(Settings(home=folder, cluster_linger_s=10))
    if not supervisor.serves(MAJOR):
        missing(f"PostgreSQL {MAJOR} (Debian's package postgresql-{MAJOR})")
    cluster = supervisor.cluster(ClusterKind.HOLLOW, MAJOR)
    cluster.ensure_role("reader")
    with cluster.connect() as admin:
        admin.execute("CREATE DATABASE shop")
        admin.execute("ALTER DATABASE shop SET random_page_cost = 1.75")
        admin.execute("GRANT pg_read_all_data TO reader")
        admin.execute("ALTER ROLE reader INHERIT")
    with cluster.connect("shop") as connection:
        connection.execute(SCHEMA)
        connection.execute("VACUUM (ANALYZE)")
    yield cluster
    supervisor.stop_all()
    supervisor.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def services(source: Cluster) -> Iterator[Services]:
    """Services on a home of their own, since their clusters are thrown away."""
    folder = home()
    with Services.open(Settings(home=folder, cluster_linger_s=10)) as services:
        yield services
        services.supervisor.stop_all()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shadow(services: Services, source: Cluster) -> ShadowDatabase:
    """A clone of it, planned by its own version."""
    services.add_hollow("own", source.conninfo("shop", "reader"))
    return services.shadow("own")


@pytest.fixture(scope="module")
def session(shadow: ShadowDatabase) -> Iterator[HollowSession]:
    """A planning session in it."""
    with shadow.session() as session:
        assert isinstance(session, HollowSession)
        yield session


@pytest.fixture(scope="module")
def production(source: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the source."""
    with source.connect("shop") as connection:
        yield connection


def plan(production: psycopg.Connection[Any], query: str) -> Mapping[str, Any]:
    """Plan at the source."""
    ((found,),) = production.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchall()
    tree: Mapping[str, Any] = found[0]["Plan"]
    return tree


@pytest.mark.parametrize("query", QUERIES)
def test_plans_are_the_sources(session: HollowSession, production: psycopg.Connection[Any], query: str) -> None:
    assert session.explain(query).raw == plan(production, query)


def test_parameters_are_planned_generically(session: HollowSession, production: psycopg.Connection[Any]) -> None:
    query = "SELECT * FROM orders WHERE customer_id = $1"
    production.execute("SET plan_cache_mode = force_generic_plan")
    production.execute(f"PREPARE p AS {query}".encode())
    try:
        assert session.explain(query).raw == plan(production, "EXECUTE p (NULL)")
    finally:
        production.execute("DEALLOCATE p")
        production.execute("RESET plan_cache_mode")


def test_the_planner_is_named(shadow: ShadowDatabase, services: Services) -> None:
    record = services.registry.get("own")
    assert record.planner_major == MAJOR and record.server_version.startswith(f"{MAJOR}.")
    assert shadow.info.server_version == shadow.info.source_version == record.server_version
    assert shadow.info.planned_by == f"planned by PostgreSQL {record.server_version}, the source's own version"
    assert not [line for line in record.not_cloned if line.startswith("version:")]
    assert shadow.info.as_dict()["source_version"] == record.server_version


def test_losses_are_told(shadow: ShadowDatabase) -> None:
    told = [line for line in shadow.info.not_cloned if not line.startswith("entry statistics")]
    assert len(told) == 1
    assert told[0].startswith("statistics of public.visit.both_of, public.visit.list: values of composite types")


@pytest.mark.parametrize(("ddl", "query"), HYPOTHETICAL)
def test_hypothetical_indexes_cost_what_real_ones_do(
    shadow: ShadowDatabase, production: psycopg.Connection[Any], ddl: str, query: str
) -> None:
    candidate = parse_index_ddl(ddl, shadow.catalog())
    with production.transaction(force_rollback=True):
        production.execute(ddl.encode())
        real = plan(production, query)["Total Cost"]
    with shadow.session() as session:
        before = session.explain(query)
        (index,) = session.create([candidate]).values()
        using = session.explain(query, using=[index])
        assert using.indexes and using.cost.total_cost < before.cost.total_cost
        assert using.cost.total_cost == pytest.approx(real, rel=0.02)
        assert session.explain(query).raw == before.raw
    with shadow.session() as session:
        assert session.explain(query).raw == before.raw


def test_what_the_version_does_not_know_is_refused(session: HollowSession) -> None:
    with pytest.raises(SqlError, match="any_value"):
        session.explain("SELECT any_value(id) FROM orders")


def test_a_lost_cluster_is_made_again(
    services: Services, shadow: ShadowDatabase, production: psycopg.Connection[Any]
) -> None:
    services.supervisor.stop(ClusterKind.HOLLOW, MAJOR)
    shutil.rmtree(services.settings.clusters / f"hollow-{MAJOR}")
    with shadow.session() as session:
        for query in QUERIES[::7]:
            assert session.explain(query).raw == plan(production, query)


def test_a_crash_of_the_server_is_survived(services: Services, shadow: ShadowDatabase) -> None:
    with shadow.session() as session:
        before = session.explain(QUERIES[0])
        cluster = services.supervisor.cluster(ClusterKind.HOLLOW, MAJOR)
        postmaster = int((cluster.home / "postmaster.pid").read_text().split("\n")[0])
        os.kill(postmaster, signal.SIGKILL)
        assert session.explain(QUERIES[0]).raw == before.raw
    assert services.supervisor.cluster(ClusterKind.HOLLOW, MAJOR).generation != cluster.generation


def test_the_embedded_planner_can_be_asked_for(services: Services, source: Cluster) -> None:
    settings = services.settings.model_copy(update={"planner": "embedded"})
    with Services.open(settings) as asking:
        record = asking.add_hollow("embedded", source.conninfo("shop", "reader"))
        assert record.planner_major is None
        assert any(line.startswith(f"version: the source is PostgreSQL {MAJOR}") for line in record.not_cloned)
        info = asking.shadow("embedded").info
        assert info.server_version.startswith("18.") and info.source_version.startswith(f"{MAJOR}.")
        assert f"install postgresql-{MAJOR} beside planproof" in info.planned_by
        with asking.shadow("embedded").session() as session:
            assert session.explain("SELECT any_value(id) FROM orders").cost.plan_rows == 1
    refreshed = services.refresh("embedded")
    assert refreshed.planner_major == MAJOR
    services.drop("embedded")


def test_what_a_script_carried_over_is_planned_by_its_version(
    services: Services, source: Cluster, production: psycopg.Connection[Any]
) -> None:
    parts = conninfo_to_dict(source.conninfo("shop", "reader"))
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    environment = {"PATH": f"{DEBIAN}:/usr/bin:/bin"} | {name: str(parts[part]) for name, part in names.items()}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["bash", "-c", dump_script()], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
        )
        schema, statistics = (Path(folder, name).read_text() for name in ("schema.sql", "stats.sql"))
    record = services.add_files("carried", schema, statistics)
    assert record.planner_major == MAJOR
    with services.shadow("carried").session() as session:
        for query in QUERIES[::5]:
            assert session.explain(query).raw == plan(production, query)
    services.drop("carried")


class Proposing:
    """A plugin that proposes what only 16 and later know."""

    @hookimpl
    def planproof_propose(self) -> list[Rewrite]:
        """Propose it."""
        return [Rewrite("SELECT any_value(id) FROM orders WHERE id = 5", ("X001",), "title", "why", "rule")]


class Entry(EntryPoint):
    """Its entry point."""

    def load(self) -> Any:
        """The plugin."""
        return Proposing()


def test_a_rewrite_that_the_version_does_not_know_is_rejected(services: Services, shadow: ShadowDatabase) -> None:
    entries = [entry for entry in entry_points(group=PROJECT) if entry.name in ("rules", "shadows")]
    plugins = Plugins([*entries, Entry("proposing", "", PROJECT)])
    with contextlib.closing(Optimizer(Services(services.settings, services.supervisor, plugins))) as optimizer:
        report = optimizer.optimize("SELECT min(id) FROM orders WHERE id = 5", shadow, Options())
    assert plugins.failures == []
    (rejection,) = (r for r in report.rejected if "any_value" in (r.sql or ""))
    assert rejection.reason == "invalid" and "does not exist" in rejection.detail
    assert report.shadow.planned_by == shadow.info.planned_by


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with that version's programs, while the places of packages have none."""
    folder = home()
    for program in DEBIAN.iterdir():
        (folder / program.name).symlink_to(program)
    monkeypatch.setattr(binaries, "_PLACES", ())
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_programs_that_go_away_are_missed(source: Cluster, elsewhere: Path) -> None:
    settings = Settings(home=home(), cluster_linger_s=10, postgres_binaries=(Path("/nowhere"), elsewhere))
    dsn = source.conninfo("shop", "reader")
    with Services.open(settings) as services:
        assert services.add_hollow("leaving", dsn).planner_major == MAJOR
        services.supervisor.stop_all()
    shutil.rmtree(elsewhere)
    with Services.open(settings) as services:
        with pytest.raises(ShadowUnavailableError, match=f"PostgreSQL {MAJOR} is not on this machine: install"):
            services.shadow("leaving").info  # noqa: B018 - asks the server
        with pytest.raises(ShadowUnavailableError, match="PLANPROOF_POSTGRES_BINARIES"):
            services.shadow("leaving").session().__enter__()
        assert services.refresh("leaving").planner_major is None
        with services.shadow("leaving").session() as session:
            assert session.explain("SELECT * FROM orders WHERE customer_id = 5").indexes == {"orders_customer"}
        services.drop("leaving")
        services.supervisor.stop_all()
    shutil.rmtree(settings.home, ignore_errors=True)


def test_a_folder_is_believed_by_what_its_programs_say(source: Cluster, elsewhere: Path, tmp_path: Path) -> None:
    account = server_account(tmp_path / "data")
    assert binaries.installed_binaries(MAJOR, account) is None
    found = binaries.installed_binaries(MAJOR, account, [tmp_path, elsewhere])
    assert found is not None and (found.major, found.folder) == (MAJOR, elsewhere)
    assert binaries.installed_binaries(16, account, [elsewhere]) is None
    (elsewhere / "initdb").unlink()
    assert binaries.installed_binaries(MAJOR, account, [elsewhere]) is None


def test_a_version_that_is_not_there() -> None:
    settings = Settings(home=home())
    supervisor = Supervisor(settings)
    assert not supervisor.serves(9)
    assert supervisor.planner_for(90600) is None
    assert supervisor.planner_for(180001) is None
    with pytest.raises(ShadowUnavailableError, match="PostgreSQL 9 is not on this machine"):
        supervisor.cluster(ClusterKind.HOLLOW, 9)
    assert supervisor.majors() == ()
    shutil.rmtree(settings.home, ignore_errors=True)


@pytest.mark.parametrize(("major", "unknown"), [(13, 5), (14, 4), (15, 4), (16, 3), (17, 1), (18, 0)])
def test_servers_get_the_settings_that_they_know(major: int, unknown: int) -> None:
    every = postgresql_conf(ClusterKind.HOLLOW, "/s", 18).splitlines()
    known = postgresql_conf(ClusterKind.HOLLOW, "/s", major).splitlines()
    assert len(every) - len(known) == unknown and set(known) <= set(every)


def test_hostile_types_meet_no_superuser(services: Services, source: Cluster) -> None:
    source.ensure_role("dba")
    with source.connect() as admin:
        admin.execute("CREATE DATABASE hostile OWNER dba")
    with source.connect("hostile") as admin:
        admin.execute("ALTER SCHEMA public OWNER TO dba")
    with source.connect("hostile", "dba") as dba:
        dba.execute(HOSTILE)
    record = services.add_hollow("hostile", source.conninfo("hostile", "dba"))
    assert record.planner_major == MAJOR
    assert any("values of composite types" in line for line in record.not_cloned)
    shadow = services.shadow("hostile")
    with shadow.session() as session, source.connect("hostile", "dba") as dba:
        for query in ("SELECT * FROM t WHERE word = 'w7'", "SELECT * FROM t WHERE touched(plain) = 'p3'"):
            assert session.explain(query).cost.plan_rows == plan(dba, query)["Plan Rows"]
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW, MAJOR)
    with cluster.connect() as admin:
        assert admin.execute("SELECT FROM pg_roles WHERE rolname = 'canary'").rowcount == 0
    services.drop("hostile")


@pytest.mark.parametrize(
    "command",
    [
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT rolpassword FROM pg_authid LIMIT 1",
        "SELECT set_config('role', 'planproof', false)",
        "SELECT set_config('session_authorization', 'planproof', false)",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'planproof' LIMIT 1",
        "SELECT lo_import('/etc/passwd')::text",
        "SELECT relname FROM planproof_private.spare",
        "INSERT INTO noted VALUES (1) RETURNING 'x'",
        "COPY noted TO PROGRAM 'touch /tmp/pp-canary'",
        "CREATE TABLE public.planted ()",
        "CREATE TABLE pg_temp.planted ()",
    ],
)
def test_planning_logins_may_as_little(services: Services, source: Cluster, command: str) -> None:
    if "attempts" not in services.registry.names():
        with source.connect() as admin:
            admin.execute("CREATE DATABASE attempts")
        with source.connect("attempts") as connection:
            connection.execute(ATTEMPTS)
        services.add_hollow("attempts", source.conninfo("attempts"))
    text = command.replace("'", "''")
    with services.shadow("attempts").session() as session:
        found = session.explain(f"SELECT * FROM noted WHERE attempt('{text}') = id::text").raw
        assert "failed: " in str(found["Filter"]), found


ATTEMPTS = """
CREATE TABLE noted (id integer);
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE result text;
BEGIN
  EXECUTE command INTO result;
  RETURN 'done: ' || coalesce(result, '');
EXCEPTION WHEN OTHERS THEN
  RETURN 'failed: ' || SQLERRM;
END $$;
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("'most_common_vals', '{1,2,3}'::text, 'most_common_freqs', '{0.5}'::real[]", "refuses the values"),
        ("'most_common_vals', '{{1,2},{3,4}}'::text, 'most_common_freqs', '{0.1,0.1,0.1,0.1}'::real[]", "refuses"),
        ("'most_common_vals', '{1,x}'::text, 'most_common_freqs', '{0.5,0.1}'::real[]", "refuses the values"),
        ("'histogram_bounds', '{1}'::text", "refuses the values"),
        ("'null_frac', 'NaN'::real", "not known"),
        ("'null_frac', 'x'::real", "not known"),
        ("'attname', 'other'", "not on the shadow"),
        ("'relname', 'pg_class', 'schemaname', 'pg_catalog', 'attname', 'relname'", "not on the shadow"),
    ],
)
def test_statistics_that_do_not_fit_are_left_out(services: Services, arguments: str, told: str) -> None:
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW, MAJOR)
    cluster.ensure_role("misfit")
    with cluster.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS misfits")
        admin.execute("CREATE DATABASE misfits OWNER misfit")
    call = (
        "SELECT * FROM pg_catalog.pg_restore_attribute_stats('schemaname', 'public', 'relname', 't', 'attname', 'id',"
        f" 'inherited', 'f'::boolean, {arguments})"
    )
    with cluster.connect("misfits", "misfit") as owner, superuser_connection(cluster, "misfits") as superuser:
        superuser.execute("CREATE TABLE public.t (id integer)")
        superuser.execute("ALTER TABLE public.t OWNER TO misfit")
        (line,) = write_statistics([call], owner, superuser)
        assert line.startswith("statistics") and told in line
        owner.execute("EXPLAIN SELECT * FROM public.t WHERE id = 2")
        rows = superuser.execute("SELECT FROM pg_statistic WHERE stavalues1 IS NOT NULL AND starelid > 16000").rowcount
        assert rows == 0
