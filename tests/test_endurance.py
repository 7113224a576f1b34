"""What many users, killed servers and full ones do to a service: nothing that another user would notice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import throwaway_crowd

from optimizer import services as services_module
from optimizer.clock import Deadline, limited, patience_s
from optimizer.equivalence.gate import Gate
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.errors import ShadowUnavailableError
from optimizer.memo import remembered
from optimizer.query import Query
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow import idle, pool
from optimizer.shadow.idle import IdleSessions
from optimizer.shadow.registry import Registry
from optimizer.shadow.server import room
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.server.watchdog import read_postmaster

ROOT = Path(__file__).parents[1]
DDL = "CREATE TABLE t (id integer PRIMARY KEY, n integer, s text);"


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


def databases(cluster: Cluster, pattern: str) -> list[str]:
    """Names of a cluster's databases."""
    with cluster.connect() as admin:
        return [row[0] for row in admin.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [pattern])]


def kill_postmaster(settings: Settings, kind: ClusterKind) -> None:
    """kill -9 of a cluster's first process."""
    postmaster = read_postmaster(settings.clusters.resolve() / kind / "data")
    assert postmaster is not None
    os.kill(postmaster.pid, signal.SIGKILL)


# Throw-away shadows


def test_nobody_loses_a_throwaway_that_is_in_use(home: Settings, services: Services) -> None:
    script = Path(throwaway_crowd.__file__)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    crowds = [
        subprocess.Popen(
            [sys.executable, script, str(home.home), "8", "4", "40", str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed in (1, 2)
    ]
    for crowd in crowds:
        printed, _ = crowd.communicate(timeout=300)
        assert printed == "done\n"
    kept = Registry(home.home / "throwaways").names()
    assert len(kept) <= 2 * throwaway_crowd.KEPT, "each process trims when it is done, unless another just looks"
    hollow = services.supervisor.cluster(ClusterKind.HOLLOW)
    assert len(databases(hollow, "^throwaway_")) == len(kept)
    locks = {path.name.removesuffix(".used") for path in (home.home / "throwaways" / ".locks").iterdir()}
    assert len(locks) <= 2 * throwaway_crowd.KEPT, "locks of dropped shadows go with them"


def test_a_throwaway_in_use_stays_and_goes_when_it_is_not(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "MAX_THROWAWAYS", 1)
    with services.using_throwaway("CREATE TABLE held (id integer);") as held:
        for number in range(3):
            with services.using_throwaway(f"CREATE TABLE other{number} (id integer);"):
                pass
        with held.session() as session:
            assert session.explain("SELECT * FROM held").cost.total_cost > 0
    assert len(Registry(services.settings.home / "throwaways").names()) == 1


def test_large_throwaways_leave_less_room_for_others(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "MAX_THROWAWAY_BYTES", 1)
    registry = Registry(services.settings.home / "throwaways")
    with services.using_throwaway("CREATE TABLE large (id integer);") as large, large.session() as session:
        session.explain("SELECT * FROM large")
    assert registry.names() == ()


def test_a_full_disk_is_an_honest_refusal(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(ShadowUnavailableError, match="make room"), services.using_throwaway("CREATE TABLE x ();"):
        pass
    with pytest.raises(ShadowUnavailableError, match="make room"):
        services.add_files("never", "CREATE TABLE x ();")
    assert "never" not in services.registry.names()


# What a process keeps


class _Session:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_idle_sessions_are_limited_for_the_whole_process() -> None:
    kept: IdleSessions[_Session] = IdleSessions()
    owners = [object() for _ in range(2 * idle.MAX_IDLE_SESSIONS)]
    sessions = [_Session() for _ in owners]
    for owner, session in zip(owners, sessions, strict=True):
        kept.keep(owner, session, lambda: True)
    assert [s.closed for s in sessions] == [True] * idle.MAX_IDLE_SESSIONS + [False] * idle.MAX_IDLE_SESSIONS
    assert kept.take(owners[0]) is None
    assert kept.take(owners[-1]) is sessions[-1]
    assert kept.take(owners[-1]) is None
    kept.drop(owners[-2])
    assert sessions[-2].closed


def test_one_owner_keeps_few_and_a_closed_one_none() -> None:
    kept: IdleSessions[_Session] = IdleSessions()
    owner, sessions = object(), [_Session() for _ in range(idle.MAX_OF_ONE + 1)]
    for session in sessions:
        kept.keep(owner, session, lambda: True)
    assert [s.closed for s in sessions] == [True] + [False] * idle.MAX_OF_ONE
    late = _Session()
    kept.keep(owner, late, lambda: False)
    assert late.closed


def test_many_schemas_take_few_connections(services: Services) -> None:
    hollow = services.supervisor.cluster(ClusterKind.HOLLOW)
    for number in range(services_module.MAX_THROWAWAYS):
        with (
            services.using_throwaway(f"CREATE TABLE few{number} (id integer);") as shadow,
            shadow.session() as session,
        ):
            session.explain(f"SELECT * FROM few{number}")
    with hollow.connect() as admin:
        ((count,),) = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'plan%' AND backend_type = 'client backend'"
        ).fetchall()
    assert count == 2 * idle.MAX_IDLE_SESSIONS


def test_copies_of_other_shadows_make_room(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    hollow = services.supervisor.cluster(ClusterKind.HOLLOW)
    monkeypatch.setattr(pool, "MAX_ALL", len(databases(hollow, "^plan_")))
    with services.using_throwaway("CREATE TABLE roomy (id integer);") as shadow, shadow.session():
        assert len(databases(hollow, "^plan_")) <= pool.MAX_ALL


def test_long_texts_are_not_kept() -> None:
    calls = []

    @remembered(most=2, longest=3)
    def length(text: str) -> int:
        calls.append(text)
        return len(text)

    assert [length(text) for text in ("a", "a", "long", "long", "b", "c", "a")] == [1, 1, 4, 4, 1, 1, 1]
    assert calls == ["a", "long", "long", "b", "c", "a"]


# Servers that are full, or end


def test_a_full_server_is_waited_for_and_then_unavailable(supervisor: Supervisor) -> None:
    cluster = supervisor.cluster(ClusterKind.SCRATCH)
    with contextlib.ExitStack() as crowd:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            while True:
                crowd.enter_context(psycopg.connect(cluster.conninfo("postgres")))
        with limited(Deadline.after(300)), pytest.raises(ShadowUnavailableError, match="too many clients"):
            cluster.connect()
        leaving = crowd.pop_all()
        threading.Timer(0.5, leaving.close).start()
        with cluster.connect() as late:
            assert late.execute("SELECT 1").fetchone() == (1,)


def check(gate: Gate, left: str, right: str) -> Verdict:
    """A verdict that takes a while, since it needs many databases."""
    return gate.check(Query.parse(left), Query.parse(right), DDL, timeout_ms=120_000)


@pytest.mark.parametrize("what", ["postmaster", "session"])
def test_a_verdict_outlives_a_server(home: Settings, services: Services, what: str) -> None:
    patient = home.model_copy(update={"verify_databases": 400})
    gate = Gate(services.supervisor, patient)
    pair = "SELECT s, count(*) FROM t WHERE n > 3 GROUP BY s", "SELECT s, count(n) FROM t WHERE n > 3 GROUP BY s"
    undisturbed = check(gate, *pair)
    assert undisturbed.verdict is Equivalence.TESTED
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(check(gate, *pair)))
    thread.start()
    cluster = services.supervisor.cluster(ClusterKind.SCRATCH)
    with cluster.connect() as admin:
        sessions: list[tuple[int]] = []
        while not sessions:
            assert thread.is_alive()
            sessions = admin.execute("SELECT pid FROM pg_stat_activity WHERE usename LIKE '%\\_run'").fetchall()
    if what == "postmaster":
        kill_postmaster(home, ClusterKind.SCRATCH)
    else:
        psutil.Process(sessions[0][0]).kill()  # at which the server ends all others, too
    thread.join()
    assert found == [undisturbed]
    gate.close()


def test_making_a_shadow_outlives_a_server(home: Settings, services: Services) -> None:
    services.supervisor.cluster(ClusterKind.HOLLOW)
    schema = "\n".join(f"CREATE TABLE many{n} (id integer PRIMARY KEY, other integer UNIQUE);" for n in range(300))
    failures: list[BaseException] = []

    def add() -> None:
        try:
            services.add_files("survivor", schema)
        except BaseException as error:  # noqa: BLE001 - the test is to see it
            failures.append(error)

    thread = threading.Thread(target=add)
    thread.start()
    with services.supervisor.cluster(ClusterKind.HOLLOW).connect() as admin:
        while not admin.execute("SELECT 1 FROM pg_stat_activity WHERE usename LIKE 'own\\_%'").fetchall():
            assert thread.is_alive()
    kill_postmaster(home, ClusterKind.HOLLOW)
    thread.join()
    assert failures == []
    assert len(services.shadow("survivor").catalog().tables) == 300
    services.drop("survivor")


def test_folders_of_no_database_go_at_the_next_start(home: Settings) -> None:
    supervisor = Supervisor(home)
    cluster = supervisor.cluster(ClusterKind.SCRATCH)
    orphan = cluster.home / "base" / "999999"
    supervisor.stop(ClusterKind.SCRATCH)
    orphan.mkdir()
    (orphan / "1").write_bytes(b"x")
    with supervisor.cluster(ClusterKind.SCRATCH).connect() as admin:
        assert not orphan.exists()
        assert admin.execute("SELECT count(*) > 2 FROM pg_database").fetchone() == (True,)
    supervisor.close()


def test_copies_of_a_former_start_are_swept(home: Settings, services: Services) -> None:
    services.add_files("swept", DDL)
    with services.shadow("swept").session() as session:
        session.explain("SELECT * FROM t")
    services.supervisor.stop(ClusterKind.HOLLOW)
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    assert databases(cluster, "^plan_")
    pool.sweep(cluster)
    assert databases(cluster, "^plan_") == []
    services.drop("swept")


def test_what_a_killed_process_left_in_scratch_is_swept(home: Settings) -> None:
    supervisor = Supervisor(home)
    cluster = supervisor.cluster(ClusterKind.SCRATCH)
    dead = "0123456789abcdef"
    with cluster.connect() as admin:
        for name in (f"gate_{dead}_1", f"gate_{dead}_making"):
            admin.execute(f'CREATE DATABASE "{name}"'.encode())
        for role in (f"gate_{dead}_1_own", f"gate_{dead}_2_run"):
            admin.execute(f'CREATE ROLE "{role}"'.encode())
    gate = Gate(supervisor, home)
    fresh = f"CREATE TABLE fresh (id integer); -- {time.time_ns()}"
    gate.check(Query.parse("SELECT id FROM fresh"), Query.parse("SELECT id FROM fresh WHERE true"), fresh)
    gate.close()
    assert databases(cluster, dead) == []
    with cluster.connect() as admin:
        assert admin.execute("SELECT rolname FROM pg_roles WHERE rolname ~ %s", [dead]).fetchall() == []
    supervisor.close()


def test_a_template_that_another_process_swept_is_made_again(home: Settings) -> None:
    supervisor = Supervisor(home)
    gate = Gate(supervisor, home)
    assert check(gate, "SELECT id FROM t WHERE n > 1", "SELECT id FROM t WHERE n > 1 AND true").verdict
    gate._scratch.close()
    schema = gate._scratch.schema(DDL)
    with supervisor.cluster(ClusterKind.SCRATCH).connect() as admin:
        admin.execute(f"DROP DATABASE gate_{schema.key}".encode())
    verdict = check(gate, "SELECT id FROM t WHERE n > 2", "SELECT id FROM t WHERE n >= 2")
    assert verdict.verdict is Equivalence.REFUTED
    gate.close()
    supervisor.close()


# Time


def test_waiting_ends_with_the_request(services: Services, tmp_path: Path) -> None:
    assert patience_s(30.0) == 30.0
    registry = Registry(tmp_path / "shadows")
    with registry.lock("shop"), limited(Deadline.after(100)):
        with pytest.raises(ShadowUnavailableError, match="being changed"), registry.lock("shop"):
            pass
        with limited(Deadline.after(60_000)):
            assert patience_s(30.0) <= 0.1, "an outer limit still counts"
    assert Deadline.within(1_000).remaining_ms > 500
    with limited(Deadline.after(100)):
        assert Deadline.within(1_000).remaining_ms <= 100


def test_a_lock_file_that_is_deleted_guards_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "shadows")
    entered = threading.Event()

    def late() -> None:
        with registry.lock("shop"):
            entered.set()

    with registry.lock("shop"):
        thread = threading.Thread(target=late)
        thread.start()
        (registry.root / "shop").mkdir()
        registry.delete("shop")
        assert not entered.wait(0.3), "what is being deleted is still locked"
    thread.join(30)
    assert entered.is_set(), "whoever waited for the file that is gone now takes the one that is there"
    assert list((registry.root / ".locks").iterdir()) == []
