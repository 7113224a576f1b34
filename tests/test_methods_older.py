"""Hypothetical indexes of other methods on a hollow cluster of an older major version: Debian's PostgreSQL 15."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from many_kinds import CASES, Case, fill
from production import source_plan

from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import PlanningSession
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor

MAJOR = 15
#: Sizes there differ: GiST of 15 does not build ranges from sorted values.
WIDER = 0.15


@pytest.fixture(scope="module")
def folders() -> Iterator[tuple[Path, Path]]:
    """Data folders of the source and of the shadow, which the servers' account may enter."""
    made = tuple(Path(tempfile.mkdtemp(prefix="pp-")) for _ in range(2))
    for folder in made:
        folder.chmod(0o711)
    yield made[0], made[1]
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def source(folders: tuple[Path, Path]) -> Iterator[Cluster]:
    """A server of that version with the database `kinds`."""
    supervisor = Supervisor(Settings(home=folders[0], cluster_linger_s=10))
    if not supervisor.serves(MAJOR):
        if os.environ.get("CI"):
            pytest.fail(f"PostgreSQL {MAJOR} is missing on this build machine")
        pytest.skip(f"PostgreSQL {MAJOR} (Debian's package postgresql-{MAJOR}) is not installed here")
    cluster = supervisor.cluster(ClusterKind.HOLLOW, MAJOR)
    with cluster.connect() as admin:
        admin.execute("CREATE DATABASE kinds")
        admin.execute("ALTER DATABASE kinds SET random_page_cost = 1.5")
    with cluster.connect("kinds") as connection:
        fill(connection, vectors=False)
    yield cluster
    supervisor.stop_all()
    supervisor.close()


@pytest.fixture(scope="module")
def session(source: Cluster, folders: tuple[Path, Path]) -> Iterator[tuple[PlanningSession, Services]]:
    """A planning session in a clone of it, planned by its own version."""
    with Services.open(Settings(home=folders[1], cluster_linger_s=10)) as services:
        services.add_hollow("own", source.conninfo("kinds"))
        with services.shadow("own").session() as session:
            yield session, services
        services.supervisor.stop_all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.index)
def test_plans_as_with_the_real_one(session: tuple[PlanningSession, Services], source: Cluster, case: Case) -> None:
    planning, services = session
    shadow = services.shadow("own")
    assert shadow.info.server_version.startswith(str(MAJOR))
    candidate = parse_index_ddl(f"CREATE INDEX ON {case.index}", shadow.catalog())
    made = planning.create([candidate])
    assert candidate in made, planning.refused
    after = planning.explain(case.query, using=made.values())
    real = source_plan(source.conninfo("kinds"), case.query, f"CREATE INDEX ON {case.index}")
    assert after.root.type == real["Node Type"]
    assert made[candidate].serves(after)
    assert after.cost.total_cost == pytest.approx(real["Total Cost"], rel=max(case.share, WIDER))
