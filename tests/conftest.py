"""Fixtures that several test files share: real embedded clusters, one home per test process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor


@pytest.fixture(scope="session")
def settings() -> Iterator[Settings]:
    """Settings with a home of this test process alone; with pytest-xdist every worker has its own."""
    # Short, because socket paths are limited, and open, because as root the server runs as another account.
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    yield Settings(home=home, cluster_linger_s=10)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def supervisor(settings: Settings) -> Iterator[Supervisor]:
    """The supervisor of this test process; its clusters are stopped at the end."""
    supervisor = Supervisor(settings)
    yield supervisor
    supervisor.stop_all()
    supervisor.close()


@pytest.fixture(scope="session")
def hollow_cluster(supervisor: Supervisor) -> Cluster:
    """A running hollow cluster."""
    return supervisor.cluster(ClusterKind.HOLLOW)


@pytest.fixture(scope="session")
def scratch_cluster(supervisor: Supervisor) -> Cluster:
    """A running scratch cluster."""
    return supervisor.cluster(ClusterKind.SCRATCH)
