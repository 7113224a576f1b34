"""Containers that share a data folder: one server a cluster, whichever PID namespace it was started in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server import watchdog
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

ROOT = Path(__file__).resolve().parents[1]
KIND = ClusterKind.SCRATCH
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

# Uses a cluster until standard input ends, then says whether it still answers.
USER = """
import sys
from pathlib import Path
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor
cluster = Supervisor(Settings(home=Path(sys.argv[1]), cluster_linger_s=1)).cluster(ClusterKind(sys.argv[2]))
print(cluster.generation, cluster.started_by_us, flush=True)
sys.stdin.read()
with cluster.connect() as connection:
    print(cluster.alive(), connection.execute("SELECT 1").fetchone()[0])
"""


def _may_unshare() -> bool:
    """Whether this machine lets us make PID namespaces: root in an ordinary container may not."""
    return shutil.which("unshare") is not None and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


#: How the tests come by a server of another namespace: a real one where that is allowed; and one of our own whose lock
#: file names another namespace, which is all that the supervisor can know of it.
WAYS = ["renumbered", *(["unshared"] if _may_unshare() else [])]


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pn-"))
    path.chmod(0o711)
    yield path
    for process in psutil.process_iter(["cmdline"]):  # servers and their watchdogs
        if any(argument.startswith(str(path)) for argument in process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def elsewhere(way: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has started the cluster in another PID namespace and uses it."""
    command = [sys.executable, "-c", USER, str(home), KIND]
    with subprocess.Popen(
        [*UNSHARE, *command] if way == "unshared" else command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        generation, started = process.stdout.readline().split()
        assert started == "True"
        assert generation
        if way == "renumbered":
            (home / "clusters" / KIND / watchdog.SERVER_LOCK).write_text("4026530000")
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("way", WAYS)
def test_a_server_of_another_namespace_is_shared_not_doubled(way: str, home: Path) -> None:
    with elsewhere(way, home) as other:
        supervisor = Supervisor(Settings(home=home, cluster_linger_s=1))
        cluster = supervisor.cluster(KIND)
        assert not cluster.started_by_us
        assert cluster.alive()
        with cluster.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert len(_servers(home)) == 1
        assert other.communicate(timeout=60)[0].split() == ["True", "1"]
        supervisor.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_server_of_another_namespace_is_never_signalled(way: str, home: Path) -> None:
    with elsewhere(way, home) as other:
        supervisor = Supervisor(Settings(home=home, cluster_linger_s=1))
        with pytest.raises(ShadowUnavailableError, match="another container or PID namespace, stop it there"):
            supervisor.stop(KIND)
        assert not watchdog.stop_postmaster(home / "clusters" / KIND / "data", fast_stop_s=0)
        assert other.communicate(timeout=60)[0].split() == ["True", "1"]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_cannot_be_reached_is_refused_and_keeps_its_data(way: str, home: Path) -> None:
    with elsewhere(way, home):
        folder = home / "clusters" / KIND
        (folder / "data" / "postmaster.pid").rename(folder / "hidden")
        supervisor = Supervisor(Settings(home=home, cluster_linger_s=1))
        with pytest.raises(ShadowUnavailableError, match=r"another container.*PLANPROOF_HOME"):
            supervisor.cluster(KIND)
        (server,) = _servers(home)
        (folder / "hidden").rename(folder / "data" / "postmaster.pid")
        assert not supervisor.cluster(KIND).started_by_us
        assert _servers(home) == [server]
        supervisor.close()


@pytest.mark.parametrize("way", WAYS)
def test_when_the_other_server_dies_the_next_user_starts_one(way: str, home: Path) -> None:
    with elsewhere(way, home):
        supervisor = Supervisor(Settings(home=home, cluster_linger_s=1))
        before = supervisor.cluster(KIND)
    # A container takes its server along when it ends.
    for process in _servers(home) if way == "renumbered" else ():
        process.kill()
    psutil.wait_procs(_servers(home), timeout=30)
    after = supervisor.cluster(KIND)
    assert after.started_by_us
    assert after.generation != before.generation
    with after.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    supervisor.stop(KIND)
    supervisor.close()


def test_a_watchdog_is_not_taken_for_the_postmaster(home: Path) -> None:
    """After a restart a container hands out the same process numbers again, perhaps to the watchdog."""
    data = home / "clusters" / KIND / "data"
    data.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()", str(data)], stdin=subprocess.PIPE) as process:
        (data / "postmaster.pid").write_text(f"{process.pid}\n{data}\n1700000000\n5432\n{home}\n\n0 0\nready\n")
        assert watchdog.read_postmaster(data) is None
        assert watchdog.stop_postmaster(data)
        assert process.poll() is None
        process.communicate(b"\n")


def _servers(home: Path) -> list[psutil.Process]:
    """The postmasters on this home, of all namespaces that we can see."""
    data = str(home / "clusters" / KIND / "data")
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if data in arguments and Path(arguments[0]).name == "postgres":
            found.append(process)
    return found
