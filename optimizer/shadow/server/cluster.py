"""The supervisor of the three embedded PostgreSQL clusters (`ClusterKind`: HOLLOW, SCRATCH, STORE).

    supervisor = Supervisor(settings)
    cluster = supervisor.cluster(ClusterKind.HOLLOW)  # starts it if need be; call it again rather than keep the result
    supervisor.cluster(ClusterKind.HOLLOW, 15)        # one served by the machine's own PostgreSQL 15: see `serves`
    cluster.connect("postgres")                       # superuser `planproof`, autocommit; unix socket, SCRAM
    cluster.ensure_role("owner_x")                    # an unprivileged login; its password is derived, never stored
    cluster.connect("db", "owner_x")                  # or psycopg.connect(cluster.conninfo("db", "owner_x"))
    cluster.run("pg_dump", "--schema-only", dbname="db")   # a client program; the password travels in the environment
    cluster.chown(path)                               # gives a file made inside cluster.home to the server's account
    cluster.generation                                # changes at every start of the server: check hand-written pages
    supervisor.stop(kind, major); supervisor.stop_all()    # stop now, whoever uses it
    supervisor.close()                                # give back the leases; the watchdog stops the servers later

All failures are `ShadowUnavailableError`. Processes share clusters: see `watchdog.py` for leases and locks.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimizer.clock import patience_s
from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server import watchdog
from optimizer.shadow.server.account import server_account
from optimizer.shadow.server.binaries import Binaries, bundled_binaries, installed_binaries, usable_binaries
from optimizer.shadow.server.cluster_folder import ClusterFolder
from optimizer.shadow.server.configuration import SUPERUSER, ClusterKind, cluster_name
from optimizer.shadow.server.orphans import sweep_folders, sweep_set_aside
from optimizer.shadow.server.running_cluster import Cluster
from optimizer.shadow.server.watchdog import Postmaster, stop_postmaster

__all__ = ["SUPERUSER", "Cluster", "ClusterKind", "Supervisor"]

_LOCK_TIMEOUT_S = 180.0


class Supervisor:
    """Starts clusters and keeps this process's leases on them. Safe to share between threads, and after a fork."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings `home`, `cluster_linger_s` and the memory limits; nothing is started yet."""
        self._settings = settings
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        #: All by a cluster's name. One lock for each: while one starts, the others are there for everybody.
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._clusters: dict[str, Cluster] = {}
        self._leases: dict[str, int] = {}
        #: By major version; None is the embedded one.
        self._binaries: dict[int | None, Binaries] = {}

    def serves(self, major: int) -> bool:
        """Tell whether this machine has a PostgreSQL of this major version that can serve a hollow cluster of its own.

        Parameters:
            major: such as 15; the embedded version is served by the cluster without a version.
        """
        try:
            self._programs(major, ClusterKind.HOLLOW)
        except ShadowUnavailableError:
            return False
        return True

    def planner_for(self, server_version_num: int) -> int | None:
        """Choose who plans for a source: a PostgreSQL of its own major version that this machine has, or the embedded.

        Returns: the major version for `cluster`; None is the embedded one.

        Raises:
            ShadowUnavailableError: there is no embedded one.
        """
        major = server_version_num // 10_000
        if self._settings.planner == "embedded" or major == self._programs(None, ClusterKind.HOLLOW).major:
            return None
        return major if self.serves(major) else None

    def majors(self) -> tuple[int, ...]:
        """Return the major versions that have hollow clusters of their own, whether they can be started or not."""
        beginning = f"{ClusterKind.HOLLOW}-"
        found = (path.name.removeprefix(beginning) for path in self._settings.clusters.glob(f"{beginning}*"))
        return tuple(sorted(int(text) for text in found if text.isdecimal()))

    def cluster(self, kind: ClusterKind, major: int | None = None) -> Cluster:
        """Return the running cluster, after making and starting it if need be, and hold a lease on it.

        Parameters:
            kind: which cluster.
            major: of a PostgreSQL of the machine's own that is to serve it, for hollow ones; None is the embedded one.

        Raises:
            ShadowUnavailableError: it cannot be made or started; the machine has no such PostgreSQL.
        """
        self._after_fork()
        name = cluster_name(kind, major)
        with self._locked(name):
            known = self._clusters.get(name)
            if known is not None and known.alive():
                return known
            original = self._programs(major, kind)
            try:
                path = self._folder_path(name)
                with watchdog.locked(path / watchdog.START_LOCK, timeout_s=patience_s(_LOCK_TIMEOUT_S)):
                    self._clusters[name] = self._start(kind, original, path)
            except (OSError, subprocess.SubprocessError) as error:
                raise ShadowUnavailableError(f"the {name} cluster cannot be started: {error}") from error
            return self._clusters[name]

    def stop(self, kind: ClusterKind, major: int | None = None) -> None:
        """Stop a cluster now, whoever uses it; nothing happens if it does not run.

        Parameters:
            kind, major: as for `cluster`.

        Raises:
            ShadowUnavailableError: it cannot be stopped.
        """
        self._after_fork()
        name = cluster_name(kind, major)
        with self._locked(name):
            path = self._folder_path(name)
            try:
                with watchdog.locked(path / watchdog.START_LOCK, timeout_s=_LOCK_TIMEOUT_S):
                    stopped = stop_postmaster(path / "data")
            except OSError as error:
                raise ShadowUnavailableError(f"the {name} cluster cannot be stopped: {error}") from error
            self._release(name)
            if not stopped:
                elsewhere = watchdog.runs_elsewhere(path)
                why = ": it was started in another container or PID namespace, stop it there" if elsewhere else ""
                raise ShadowUnavailableError(f"the {name} cluster does not stop{why}")

    def stop_all(self) -> None:
        """Stop all clusters of this home now.

        Raises:
            ShadowUnavailableError: one cannot be stopped.
        """
        own: list[tuple[ClusterKind, int | None]] = [(ClusterKind.HOLLOW, major) for major in self.majors()]
        for kind, major in (*((kind, None) for kind in ClusterKind), *own):
            if (self._settings.clusters / cluster_name(kind, major)).exists():
                self.stop(kind, major)

    def close(self) -> None:
        """Give back all leases. The servers stop once no process has used them for `cluster_linger_s`."""
        self._after_fork()
        for name in tuple(self._leases):
            with self._locked(name):
                self._release(name)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = self._locks[name]
        if not lock.acquire(timeout=patience_s(_LOCK_TIMEOUT_S)):
            raise ShadowUnavailableError(f"the {name} cluster is still being started: try again")
        try:
            yield
        finally:
            lock.release()

    def _after_fork(self) -> None:
        """In a forked child, forget the parent's leases and lock (a thread that is gone here may have held it)."""
        if self._pid != os.getpid():
            for descriptor in self._leases.values():
                os.close(descriptor)
            self._reset()

    def _folder_path(self, name: str) -> Path:
        path = self._settings.clusters.resolve() / name
        for folder in (path.parents[1], path.parent, path):
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o711)  # the server's account passes through, and sees no names
        return path

    def _programs(self, major: int | None, kind: ClusterKind) -> Binaries:
        """Return the programs of a version. They are found once: a folder that goes away is missed at the next start.

        Raises:
            ShadowUnavailableError: this machine does not have them.
        """
        self._after_fork()
        found = self._binaries.get(major)
        if found is None and major is None:
            found = bundled_binaries()
        elif major is not None and (found is None or not found.folder.is_dir()):
            account = server_account(self._settings.clusters / cluster_name(kind, major) / "data")
            found = installed_binaries(major, account, self._settings.postgres_binaries)
        if found is None:
            raise ShadowUnavailableError(
                f"PostgreSQL {major} is not on this machine: install its server (postgresql-{major}), name the folder "
                "of its programs in PLANPROOF_POSTGRES_BINARIES, or refresh the shadow: then the embedded one plans"
            )
        self._binaries[major] = found
        return found

    def _start(self, kind: ClusterKind, original: Binaries, path: Path) -> Cluster:
        """Find or start the server, under the start lock. The lease comes first: from then on no watchdog stops it."""
        self._lease(path)
        folder = ClusterFolder(kind, path, server_account(path / "data"))
        folder.ensure_watchdog(self._settings.cluster_linger_s)  # first: should we be killed, it is there
        postmaster = folder.running()
        secret = folder.secret()
        started = postmaster is None or secret is None
        binaries = original
        if postmaster is None or secret is None:
            if path.name == kind:  # the embedded one; others were found to be usable
                binaries = usable_binaries(original, folder.account, self._settings.home.resolve())
            postmaster = self._bring_up(folder, binaries)
            secret = folder.secret() or b""
        cluster = Cluster(
            kind=kind,
            home=folder.data,
            host=postmaster.socket_folder,
            port=postmaster.port,
            binaries=binaries,
            started_by_us=started,
            generation=postmaster.generation,
            _folder=folder,
            _secret=secret,
        )
        if started and kind.disposable:
            with cluster.connect() as admin:  # others are kept out by the lock
                sweep_folders(admin, folder.data)
                sweep_set_aside(admin, folder.data)
        return cluster

    def _bring_up(self, folder: ClusterFolder, binaries: Binaries) -> Postmaster:
        """Start a stopped cluster. A disposable one that does not come up twice (it was never synced) is remade."""
        memory = {
            ClusterKind.HOLLOW: self._settings.planning_memory_bytes,
            ClusterKind.SCRATCH: self._settings.scratch_memory_bytes,
        }.get(folder.kind)
        folder.prepare(binaries)
        for _ in range(2):
            try:
                return folder.start(binaries, memory)
            except ShadowUnavailableError as error:
                failure = error
        if not folder.kind.disposable:
            raise failure
        folder.discard()
        folder.prepare(binaries)
        return folder.start(binaries, memory)

    def _lease(self, path: Path) -> None:
        if path.name not in self._leases:
            descriptor = watchdog.open_lock(path / watchdog.LEASE)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._leases[path.name] = descriptor
        os.utime(path / watchdog.LEASE)

    def _release(self, name: str) -> None:
        self._clusters.pop(name, None)
        descriptor = self._leases.pop(name, None)
        if descriptor is not None:
            os.utime(descriptor)  # the linger time begins now
            os.close(descriptor)
