"""kill -9 of processes that use a hollow shadow, and of its server: the next one finds right plans and cleans up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from production import make_production

from optimizer.errors import ShadowUnavailableError
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow import pool
from optimizer.shadow.cluster import Cluster, ClusterKind
from optimizer.shadow.watchdog import read_postmaster

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


def kill_at(home: Settings, stage: str, dsn: str = "") -> None:
    """Start a process, wait until it stands at a stage, and kill it."""
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
        victim.kill()


def databases(services: Services, pattern: str) -> list[str]:
    """Names of databases in the hollow cluster."""
    with services.supervisor.cluster(ClusterKind.HOLLOW).connect() as admin:
        rows = admin.execute(
            "SELECT datname::text FROM pg_database WHERE datname ~ %s ORDER BY 1", [pattern]
        ).fetchall()
    return [row[0] for row in rows]


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
