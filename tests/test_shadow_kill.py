"""kill -9 of processes that use a hollow shadow, and of its server: the next one finds right plans and cleans up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from production import make_production

from optimizer.errors import ShadowUnavailableError
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow import pool
from optimizer.shadow.server.cluster import Cluster, ClusterKind
from optimizer.shadow.server.orphans import SET_ASIDE
from optimizer.shadow.server.watchdog import read_postmaster
from optimizer.shadow.template.database import owner_role, reader_role

QUERIES = (
    "SELECT * FROM orders WHERE user_id = 5",
    "SELECT * FROM orders WHERE total > 990",
    "SELECT * FROM orders WHERE placed_at > '2030-01-01'",
    "SELECT u.city, count(*) FROM users u JOIN orders o ON o.user_id = u.id GROUP BY 1",
)


@pytest.fixture(scope="module")
def home() -> Iterator[Settings]:
    """A home of this module's own, whose servers may be killed."""
    path = Path(tempfile.mkdtemp(prefix="pp-"))
    path.chmod(0o711)
    yield Settings(home=path, cluster_linger_s=5)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def services(home: Settings) -> Iterator[Services]:
    """Services on it, stopped at the end."""
    with Services.open(home) as services:
        yield services
        services.supervisor.stop_all()


@pytest.fixture(scope="module")
def production(scratch_cluster: Cluster) -> str:
    """The source, in a cluster that is not killed."""
    return make_production(scratch_cluster, "killed")


@pytest.fixture(scope="module")
def costs(services: Services, production: str) -> tuple[float, ...]:
    """What the queries cost on a fresh clone."""
    services.add_hollow("prod", production)
    return planned(services)


def planned(services: Services) -> tuple[float, ...]:
    """Costs of the queries on the shadow as it is now."""
    with services.shadow("prod").session() as session:
        return tuple(session.explain(query).cost.total_cost for query in QUERIES)


def kill_at(home: Settings, stage: str, dsn: str = "", then: Callable[[], None] = lambda: None) -> None:
    """Start a process, wait until it stands at a stage, do something else, and kill it."""
    script = Path(__file__).with_name("shadow_victim.py")
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, script, str(home.home), stage, dsn],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        then()
        victim.kill()


def databases(services: Services, pattern: str) -> list[str]:
    """Names of databases in the hollow cluster."""
    with services.supervisor.cluster(ClusterKind.HOLLOW).connect() as admin:
        rows = admin.execute(
            "SELECT datname::text FROM pg_database WHERE datname ~ %s ORDER BY 1", [pattern]
        ).fetchall()
    return [row[0] for row in rows]


def leftovers(services: Services) -> list[str]:
    """What there is in the hollow cluster that no database, and no shadow of the registry, accounts for."""
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    pool.sweep(cluster)
    wanted = {services.registry.get(name).database for name in services.registry.names()}
    with cluster.connect() as admin:
        oids = dict(admin.execute("SELECT datname::text, oid::text FROM pg_database").fetchall())
        roles = [row[0] for row in admin.execute("SELECT rolname::text FROM pg_roles WHERE rolname ~ '_[0-9a-f]{12}'")]
    found = [f"folder {path.name}" for path in (cluster.home / "base").iterdir() if path.name.isdigit()]
    found += [f"laid out {path.name}" for path in (cluster.home / SET_ASIDE).iterdir()]
    found += [f"database {name}" for name in oids if name.startswith("planproof_")]
    found += [f"role {name}" for name in roles]
    known = {f"folder {oid}" for oid in oids.values()} | {f"database {name}" for name in wanted}
    known |= {f"laid out {oids[name]}" for name in wanted} | {f"role {name}" for name in oids}
    known |= {f"role {role(name)}" for role in (owner_role, reader_role) for name in wanted}
    return sorted(set(found) - known)


def kill_server(home: Settings, services: Services) -> None:
    """Kill the hollow server with all its processes, and wait until another one is there."""
    postmaster = read_postmaster(home.clusters.resolve() / "hollow" / "data")
    assert postmaster is not None
    os.kill(postmaster.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while services.supervisor.cluster(ClusterKind.HOLLOW).generation == postmaster.generation:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("stage", ["session", "swap"])
def test_killed_with_the_server_in_mid_what_if(
    home: Settings, services: Services, costs: tuple[float, ...], stage: str
) -> None:
    services.shadow("prod").close()  # type: ignore[attr-defined]
    kill_at(home, stage, then=lambda: kill_server(home, services))
    with Services.open(home) as fresh:
        assert planned(fresh) == costs
        assert leftovers(fresh) == []


@pytest.mark.parametrize("whole", [False, True])
def test_killed_while_refreshing(
    home: Settings, services: Services, production: str, costs: tuple[float, ...], whole: bool
) -> None:
    change = "CREATE TABLE later (id integer)" if whole else "INSERT INTO quiet SELECT generate_series(1, 3000)"
    with psycopg.connect(production, autocommit=True) as source:
        source.execute(change)
    before = services.registry.get("prod")
    kill_at(home, "refresh")
    assert services.registry.get("prod") == before
    assert len(databases(services, "^planproof_prod")) == 2, "this test should have left something"
    assert planned(services) == costs
    services.refresh("prod")
    assert databases(services, "^planproof_prod") == [services.registry.get("prod").database]
    assert planned(services) == costs
    assert leftovers(services) == []


def test_killed_while_cloning(home: Settings, services: Services, production: str, costs: tuple[float, ...]) -> None:
    kill_at(home, "clone", production)
    assert "victim" not in services.registry.names()
    assert len(databases(services, "^planproof_victim")) == 1, "this test should have left something"
    record = services.add_hollow("victim", production)
    assert databases(services, "^planproof_victim") == [record.database]
    services.drop("victim")
    assert databases(services, "^planproof_victim") == []
    assert planned(services) == costs


@pytest.mark.parametrize("stage", ["session", "swap"])
def test_killed_while_planning(home: Settings, services: Services, costs: tuple[float, ...], stage: str) -> None:
    services.shadow("prod").close()  # type: ignore[attr-defined]  # the victim finds our copy, and spoils it
    kill_at(home, stage)
    with Services.open(home) as fresh:
        assert planned(fresh) == costs
        assert len(databases(fresh, f"^{pool.PREFIX}")) <= 2


def test_killed_server(home: Settings, services: Services, costs: tuple[float, ...]) -> None:
    for number in (signal.SIGKILL, signal.SIGQUIT):
        with services.shadow("prod").session() as session:
            session.explain(QUERIES[0])
        before = set(databases(services, f"^{pool.PREFIX}"))
        postmaster = read_postmaster(home.clusters.resolve() / "hollow" / "data")
        assert postmaster is not None
        os.kill(postmaster.pid, number)
        deadline = time.monotonic() + 30
        while services.supervisor.cluster(ClusterKind.HOLLOW).generation == postmaster.generation:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert planned(services) == costs
        assert not before & set(databases(services, f"^{pool.PREFIX}")), "copies of a former start must not be used"


def test_killed_between_making_and_finishing_a_copy(services: Services, costs: tuple[float, ...]) -> None:
    prefix = databases(services, f"^{pool.PREFIX}")[0].rpartition("_")[0]
    with services.supervisor.cluster(ClusterKind.HOLLOW).connect() as admin:
        admin.execute(f'CREATE DATABASE "{prefix}_00000000"'.encode())
        admin.execute(f'CREATE DATABASE "{pool.PREFIX}0123456789ab_00000000"'.encode())
        admin.execute("CREATE ROLE own_0123456789ab")
    services.shadow("prod").close()  # type: ignore[attr-defined]
    with Services.open(services.settings) as fresh:
        assert planned(fresh) == costs
        pool.sweep(fresh.supervisor.cluster(ClusterKind.HOLLOW))
        assert databases(fresh, "_00000000$") == []
        with fresh.supervisor.cluster(ClusterKind.HOLLOW).connect() as admin:
            assert admin.execute("SELECT 1 FROM pg_roles WHERE rolname = 'own_0123456789ab'").fetchone() is None


def test_a_session_outlives_one_server_and_says_so_clearly_at_the_next(
    services: Services, costs: tuple[float, ...]
) -> None:
    shadow = services.shadow("prod")
    candidate = parse_index_ddl("CREATE INDEX ON orders (total)", shadow.catalog())
    with shadow.session() as session:
        made = session.create([candidate])
        before = session.explain(QUERIES[1], using=made.values())
        calls = session.explain_calls
        services.supervisor.stop(ClusterKind.HOLLOW)
        assert session.explain(QUERIES[1], using=made.values()).raw == before.raw
        assert session.explain_calls >= calls + 1
        assert session.explain(QUERIES[1]).cost.total_cost == costs[1]
        services.supervisor.stop(ClusterKind.HOLLOW)
        with pytest.raises(ShadowUnavailableError, match="server"):
            session.explain(QUERIES[0])
    assert planned(services) == costs
