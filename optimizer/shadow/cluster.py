"""The supervisor of the three embedded PostgreSQL clusters (`ClusterKind`: HOLLOW, SCRATCH, STORE).

    supervisor = Supervisor(settings)
    cluster = supervisor.cluster(ClusterKind.HOLLOW)  # starts it if need be; call it again rather than keep the result
    cluster.connect("postgres")                       # superuser `planproof`, autocommit; unix socket, SCRAM
    cluster.ensure_role("owner_x")                    # an unprivileged login; its password is derived, never stored
    cluster.connect("db", "owner_x")                  # or psycopg.connect(cluster.conninfo("db", "owner_x"))
    cluster.run("pg_dump", "--schema-only", dbname="db")   # a client program; the password travels in the environment
    cluster.chown(path)                               # gives a file made inside cluster.home to the server's account
    cluster.generation                                # changes at every start of the server: check hand-written pages
    supervisor.stop(kind); supervisor.stop_all()      # stop now, whoever uses it
    supervisor.close()                                # give back the leases; the watchdog stops the servers later

All failures are `ShadowUnavailableError`. Processes share clusters: see `watchdog.py` for leases and locks.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from optimizer.clock import patience_s
from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow import watchdog
from optimizer.shadow.account import server_account
from optimizer.shadow.binaries import Binaries, bundled_binaries, usable_binaries
from optimizer.shadow.cluster_folder import ClusterFolder
from optimizer.shadow.connecting import attempts, is_full, last_line, passes, reason_of
from optimizer.shadow.orphans import sweep_folders
from optimizer.shadow.server_config import SUPERUSER, ClusterKind
from optimizer.shadow.watchdog import Postmaster, read_postmaster, stop_postmaster

__all__ = ["SUPERUSER", "Cluster", "ClusterKind", "Supervisor"]

_LOCK_TIMEOUT_S = 180.0
_UNPRIVILEGED: LiteralString = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster on which this process holds a lease.

    Parameters:
        kind: which of the three.
        home: its data folder (PGDATA).
        host: the folder of its socket.
        port: names the socket.
        binaries: the programs it was started with.
        started_by_us: whether this call started the server, or found it running.
        generation: changes at every start of the server.
    """

    kind: ClusterKind
    home: Path
    host: str
    port: int
    binaries: Binaries
    started_by_us: bool
    generation: str
    _folder: ClusterFolder = field(repr=False)
    _secret: bytes = field(repr=False)

    def conninfo(self, dbname: str, role: str | None = None) -> str:
        """Return a libpq connection string, password included: it must not be shown or logged.

        Parameters:
            dbname: the database.
            role: a role made by `ensure_role`; None is the superuser.
        """
        return make_conninfo(
            host=self.host,
            port=self.port,
            dbname=dbname,
            user=role or SUPERUSER,
            password=self._password(role),
            application_name="planproof",
            connect_timeout=10,
            client_encoding="UTF8",
            # A server that someone put in our place gets no password out of us.
            require_auth="scram-sha-256",
            # Said outright, because PGOPTIONS and their like in the user's environment would say otherwise.
            hostaddr="",
            options="",
            channel_binding="disable",
            gssencmode="disable",
            target_session_attrs="any",
        )

    def connect(
        self, dbname: str = "postgres", role: str | None = None, *, autocommit: bool = True, **arguments: Any
    ) -> psycopg.Connection[TupleRow]:
        """Open a connection.

        Parameters:
            dbname: the database.
            role: a role made by `ensure_role`; None is the superuser, which must never see users' SQL.
            autocommit: as psycopg means it.
            arguments: further ones for `psycopg.connect`.

        Raises:
            ShadowUnavailableError: the server cannot be reached, or refuses; one that is full is tried for a while.
        """
        for _ in attempts():
            try:
                return psycopg.connect(self.conninfo(dbname, role), autocommit=autocommit, **arguments)
            except psycopg.OperationalError as error:
                refusal = error
                if not passes(error):
                    break
        raise ShadowUnavailableError(f"the {self.kind} cluster refused a connection: {reason_of(refusal)}") from refusal

    def ensure_role(self, name: str, *, options: LiteralString = "") -> None:
        """Make the login `name`, or set it right if it exists. It may do nothing but log in, and has a password.

        Parameters:
            name: the role.
            options: further options of CREATE ROLE, such as "CONNECTION LIMIT 4"; part of the program, not user input.

        Raises:
            ShadowUnavailableError: the server cannot be reached, or refuses.
        """
        if name == SUPERUSER:
            raise ValueError(f"{SUPERUSER} is the superuser's name")
        with self.connect() as connection, connection.transaction():
            # Hashed here, so that the password itself never travels, not even into a server log.
            encrypted = connection.pgconn.encrypt_password(
                self._password(name).encode(), name.encode(), b"scram-sha-256"
            ).decode()
            # Two processes may make the same role at once.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('planproof.role'))")
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
            command = sql.SQL("ALTER ROLE") if known else sql.SQL("CREATE ROLE")
            connection.execute(
                sql.SQL("{} {} WITH {} {} PASSWORD {}").format(
                    command, sql.Identifier(name), sql.SQL(_UNPRIVILEGED), sql.SQL(options), sql.Literal(encrypted)
                )
            )

    def run(
        self,
        program: str,
        *arguments: str | Path,
        dbname: str = "postgres",
        role: str | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a client program such as pg_dump and return what it printed.

        Parameters:
            program: its name among the binaries.
            arguments: its arguments; secrets belong in `env`.
            dbname: the database it meets by default.
            role: as for `connect`.
            stdin: what it reads.
            env: further environment variables. A program that is to meet another server needs that one's PGPASSWORD
                here, empty if there is none, or it would offer ours.
            timeout_s: seconds before it is killed; None waits.

        Raises:
            ShadowUnavailableError: it is missing, failed (the message has its last line on stderr) or took too long.
        """
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": dbname,
            "PGUSER": role or SUPERUSER,
            "PGPASSWORD": self._password(role),
            "PGAPPNAME": "planproof",
        }
        try:
            outcome = subprocess.run(  # noqa: S603 - a program of ours, no shell
                [self.binaries.path(program), *arguments],
                input=stdin if stdin is not None else b"",
                capture_output=True,
                check=False,
                timeout=timeout_s,
                env=environment | dict(env or {}),
            )
        except subprocess.TimeoutExpired as error:
            raise ShadowUnavailableError(f"{program} took longer than {timeout_s:g} s and was ended") from error
        except OSError as error:
            raise ShadowUnavailableError(f"{program} cannot be run: {error.strerror}") from error
        if outcome.returncode != 0:
            raise ShadowUnavailableError(f"{program} failed: {last_line(outcome.stderr.decode(errors='replace'))}")
        return outcome

    def chown(self, path: Path) -> None:
        """Give a file or folder that we made inside `home` to the account that the server runs as.

        Raises:
            OSError: there is no such file.
        """
        self._folder.account.own(path)

    def alive(self) -> bool:
        """Tell whether the server that this object was made for still runs; costs half a millisecond."""
        postmaster = read_postmaster(self.home)
        return postmaster is not None and postmaster.ready and postmaster.generation == self.generation

    def ended(self) -> bool:
        """Tell whether the server that this object was made for is gone or on its way: what failed may be tried again.

        Waits for one that is going. Ask it when something has failed, not in good times.
        """
        for _ in attempts():
            if not self.alive():
                return True
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError as error:
                if is_full(error):
                    return False
            else:
                return False
        return False

    def _password(self, role: str | None) -> str:
        if role is None or role == SUPERUSER:
            return self._secret.hex()
        return hmac.new(self._secret, role.encode(), hashlib.sha256).hexdigest()


class Supervisor:
    """Starts clusters and keeps this process's leases on them. Safe to share between threads, and after a fork."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings `home`, `cluster_linger_s` and the memory limits; nothing is started yet."""
        self._settings = settings
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        #: One for each cluster: while one starts, the others are there for everybody.
        self._locks: defaultdict[ClusterKind, threading.RLock] = defaultdict(threading.RLock)
        self._clusters: dict[ClusterKind, Cluster] = {}
        self._leases: dict[ClusterKind, int] = {}
        self._binaries: Binaries | None = None

    def cluster(self, kind: ClusterKind) -> Cluster:
        """Return the running cluster, after making and starting it if need be, and hold a lease on it.

        Raises:
            ShadowUnavailableError: it cannot be made or started.
        """
        self._after_fork()
        with self._locked(kind):
            known = self._clusters.get(kind)
            if known is not None and known.alive():
                return known
            try:
                path = self._folder_path(kind)
                with watchdog.locked(path / watchdog.START_LOCK, timeout_s=patience_s(_LOCK_TIMEOUT_S)):
                    self._clusters[kind] = self._start(kind, path)
            except (OSError, subprocess.SubprocessError) as error:
                raise ShadowUnavailableError(f"the {kind} cluster cannot be started: {error}") from error
            return self._clusters[kind]

    def stop(self, kind: ClusterKind) -> None:
        """Stop a cluster now, whoever uses it; nothing happens if it does not run.

        Raises:
            ShadowUnavailableError: it cannot be stopped.
        """
        self._after_fork()
        with self._locked(kind):
            path = self._folder_path(kind)
            try:
                with watchdog.locked(path / watchdog.START_LOCK, timeout_s=_LOCK_TIMEOUT_S):
                    stopped = stop_postmaster(path / "data")
            except OSError as error:
                raise ShadowUnavailableError(f"the {kind} cluster cannot be stopped: {error}") from error
            self._release(kind)
            if not stopped:
                elsewhere = watchdog.runs_elsewhere(path)
                why = ": it was started in another container or PID namespace, stop it there" if elsewhere else ""
                raise ShadowUnavailableError(f"the {kind} cluster does not stop{why}")

    def stop_all(self) -> None:
        """Stop all clusters of this home now.

        Raises:
            ShadowUnavailableError: one cannot be stopped.
        """
        for kind in ClusterKind:
            if (self._settings.clusters / kind).exists():
                self.stop(kind)

    def close(self) -> None:
        """Give back all leases. The servers stop once no process has used them for `cluster_linger_s`."""
        self._after_fork()
        for kind in tuple(self._leases):
            with self._locked(kind):
                self._release(kind)

    @contextmanager
    def _locked(self, kind: ClusterKind) -> Iterator[None]:
        lock = self._locks[kind]
        if not lock.acquire(timeout=patience_s(_LOCK_TIMEOUT_S)):
            raise ShadowUnavailableError(f"the {kind} cluster is still being started: try again")
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

    def _folder_path(self, kind: ClusterKind) -> Path:
        path = self._settings.clusters.resolve() / kind
        for folder in (path.parents[1], path.parent, path):
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o711)  # the server's account passes through, and sees no names
        return path

    def _start(self, kind: ClusterKind, path: Path) -> Cluster:
        """Find or start the server, under the start lock. The lease comes first: from then on no watchdog stops it."""
        self._lease(kind, path)
        folder = ClusterFolder(kind, path, server_account(path / "data"))
        folder.ensure_watchdog(self._settings.cluster_linger_s)  # first: should we be killed, it is there
        original = self._binaries = self._binaries or bundled_binaries()
        postmaster = folder.running()
        secret = folder.secret()
        started = postmaster is None or secret is None
        binaries = original
        if postmaster is None or secret is None:
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

    def _lease(self, kind: ClusterKind, path: Path) -> None:
        if kind not in self._leases:
            descriptor = watchdog.open_lock(path / watchdog.LEASE)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._leases[kind] = descriptor
        os.utime(path / watchdog.LEASE)

    def _release(self, kind: ClusterKind) -> None:
        self._clusters.pop(kind, None)
        descriptor = self._leases.pop(kind, None)
        if descriptor is not None:
            os.utime(descriptor)  # the linger time begins now
            os.close(descriptor)
