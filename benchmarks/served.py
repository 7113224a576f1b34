"""Nothing by itself: a real `planproof serve` in a home of its own, and what can be seen of it, for the others.

A `Home` is a temporary data folder; a `Server` one service on it, with as many processes as asked for. `look` counts
what they and the embedded clusters hold. Everything is stopped and deleted at the end, also after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
import psutil

from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor
from optimizer.shadow.server.watchdog import read_postmaster

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "fixtures/schemas/shop.sql"
#: The named shadow that requests use.
SHADOW = "shop"
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 30.0


def interruptible() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that everything is cleaned up."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def temporary_home(**changes: object) -> Iterator[Settings]:
    """Settings with a home of their own; at the end its clusters are stopped and it is deleted.

    Parameters:
        changes: further settings.
    """
    path = Path(tempfile.mkdtemp(prefix="pp-"))
    path.chmod(0o711)  # as root the server runs as another account
    settings = Settings(home=path, **changes)  # type: ignore[arg-type]
    try:
        yield settings
    finally:
        supervisor = Supervisor(settings)
        try:
            supervisor.stop_all()
        except ShadowUnavailableError as error:
            print(f"not stopped: {error}", file=sys.stderr)
        supervisor.close()
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on at present."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def planproof(*arguments: str, settings: Settings, **more: str) -> list[str]:
    """Run a command of planproof in a home and return the lines it printed."""
    outcome = subprocess.run(
        [sys.executable, "-m", "api.cli", *arguments],
        cwd=ROOT,
        env=environment(settings, more),
        check=True,
        capture_output=True,
        text=True,
    )
    return outcome.stdout.splitlines()


def environment(settings: Settings, more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a planproof process in a home."""
    mine = {"PLANPROOF_HOME": str(settings.home), "PLANPROOF_CLUSTER_LINGER_S": str(settings.cluster_linger_s)}
    return {**os.environ, "PYTHONPATH": str(ROOT), **mine, **more}


@dataclass
class Server:
    """A process of planproof that serves until it is stopped, started anew by `start`.

    Parameters:
        settings: whose home it uses.
        command: its arguments, such as `("serve", "--port", "8000")`.
        port: where it answers; 0 for one that does not.
        variables: further environment variables.
    """

    settings: Settings
    command: tuple[str, ...]
    port: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)
    process: psutil.Popen | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, in a process group of its own; its words go to a file in the home."""
        with (self.settings.home / f"{self.command[0]}.log").open("ab") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "api.cli", *self.command],
                cwd=ROOT,
                env=environment(self.settings, self.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_healthy(self, limit_s: float = _START_LIMIT_S) -> float:
        """Wait until it answers; returns the seconds that took.

        Errors: `RuntimeError` when it ended, or takes too long.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < limit_s:
            if self.process is not None and self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200:
                    return time.monotonic() - begin
            time.sleep(0.02)
        raise RuntimeError(f"the service did not start; its last words: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what it has printed."""
        log = self.settings.home / f"{self.command[0]}.log"
        return log.read_text(errors="replace")[-2_000:] if log.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """It and its children, without the watchdogs and clusters that it started and that outlive it."""
        if self.process is None or not self.process.is_running():
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [self.process, *self.process.children(recursive=True)]
            return [p for p in family if _session_of(p) == self.process.pid]
        return []

    def kill(self, process: psutil.Process | None = None) -> None:
        """kill -9 of one of its processes, or of all."""
        for each in [process] if process is not None else self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        if process is None and self.process is not None:
            self.process.wait()

    def stop(self) -> bool:
        """Stop it as an operator does; returns whether it ended by itself."""
        if self.process is None or self.process.poll() is not None:
            return True
        self.process.terminate()
        try:
            self.process.wait(_STOP_LIMIT_S)
        except psutil.TimeoutExpired:
            self.kill()
            return False
        return True


@contextlib.contextmanager
def serving(settings: Settings, workers: int, **variables: str) -> Iterator[Server]:
    """A service that answers; it is stopped at the end.

    Parameters:
        workers: server processes, where `serve` can have several.
        variables: further environment variables.
    """
    port = free_port()
    several = ("--workers", str(workers)) if workers > 1 else ()
    server = Server(settings, ("serve", "--port", str(port), *several), port, variables)
    server.start()
    try:
        server.wait_until_healthy()
        yield server
    finally:
        if not server.stop():
            print("the service had to be killed at the end", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class ClusterLook:
    """What one embedded cluster holds: memory in bytes (proportional set size), and counts."""

    pss: int
    backends: int
    databases: int
    roles: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a service and its clusters hold at one moment.

    Parameters:
        seconds: on the monotonic clock.
        pss: bytes of the service's processes.
        files: their open file descriptors.
        clusters: by kind, those that run.
        disk: bytes of the home that are really used; None when not counted.
    """

    seconds: float
    pss: int
    files: int
    clusters: Mapping[ClusterKind, ClusterLook]
    disk: int | None


def look(server: Server, supervisor: Supervisor, *, disk: bool) -> Look:
    """Count what is held now.

    Parameters:
        supervisor: of the same home.
        disk: count the home's files too, which takes longer.
    """
    pss = files = 0
    for process in server.processes():
        with contextlib.suppress(psutil.Error):
            pss += process.memory_full_info().pss
            files += process.num_fds()
    clusters = {}
    for kind in ClusterKind:
        with contextlib.suppress(ShadowUnavailableError):
            found = _look_at(kind, server.settings, supervisor)
            if found is not None:
                clusters[kind] = found
    return Look(time.monotonic(), pss, files, clusters, used_bytes(server.settings.home) if disk else None)


def _look_at(kind: ClusterKind, settings: Settings, supervisor: Supervisor) -> ClusterLook | None:
    postmaster = read_postmaster(settings.clusters.resolve() / kind / "data")
    if postmaster is None or not postmaster.ready:
        return None
    pss = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(postmaster.pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                pss += process.memory_full_info().pss
    with supervisor.cluster(kind).connect() as admin:
        ((backends, databases, roles),) = admin.execute(
            """
            SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') - 1,
                   (SELECT count(*) FROM pg_database),
                   (SELECT count(*) FROM pg_roles WHERE rolname !~ '^pg_')"""
        ).fetchall()
    return ClusterLook(pss, backends, databases, roles)


def used_bytes(folder: Path) -> int:
    """Bytes that the files below a folder really take; sparse ones take little."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - faster, and many files
    return total


def _session_of(process: psutil.Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(process.pid)
    return -1
