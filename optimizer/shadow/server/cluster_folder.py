"""One cluster's folder on disk: making it, starting its postmaster, mending what a killed process left behind.

    <home>/clusters/<name>/data          PGDATA, of the account that the server runs as
                           secret.json   the superuser's password, 0600
                           server.log, start.lock, lease.lock, server.lock, watchdog-<PID namespace>.lock
                           socket/       or, where that path is too long, /tmp/planproof-<uid>-<hash>/<name>

Everything here is called under the start lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.server import watchdog
from optimizer.shadow.server.account import Account
from optimizer.shadow.server.binaries import Binaries
from optimizer.shadow.server.configuration import PG_HBA, ClusterKind, initdb_arguments, postgresql_conf
from optimizer.shadow.server.locale_making import locale_environment
from optimizer.shadow.server.watchdog import Postmaster, read_postmaster, stop_postmaster

START_TIMEOUT_S = 60.0
_ORPHANS_TIMEOUT_S = 10.0
#: Largest file that a server may write in which users' SQL runs: no table of theirs needs more. Sparse files that are
#: larger may be there; they were made by us, and are only read.
_LARGEST_FILE_BYTES = 512_000_000
PORT = 5432
_LONGEST_SOCKET_PATH = 107 - len(f"/.s.PGSQL.{PORT}")


@dataclass(frozen=True, slots=True)
class ClusterFolder:
    """The folder of one cluster.

    Parameters:
        kind: which cluster.
        path: its folder, resolved.
        account: who its server runs as.
    """

    kind: ClusterKind
    path: Path
    account: Account

    @property
    def name(self) -> str:
        """What the cluster is called, as `server_config.cluster_name` says it."""
        return self.path.name

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.path / "data"

    def secret(self) -> bytes | None:
        """Return the superuser's password, or None where there is none yet or its file is damaged."""
        try:
            return bytes.fromhex(json.loads((self.path / "secret.json").read_text())["password"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def prepare(self, binaries: Binaries) -> None:
        """Make the cluster if there is none, or none that these binaries can run.

        Raises:
            ShadowUnavailableError: the account cannot reach the folder, initdb failed, the store is of another major
                version or without its password, or a server in another PID namespace uses the folder.
            OSError: the folder cannot be written.
        """
        self._check_reachable()
        if watchdog.runs_elsewhere(self.path):
            raise self._used_elsewhere()
        shutil.rmtree(self.path / "init", ignore_errors=True)  # what an initdb that was killed left
        if self.data.exists():
            obstacle = self._obstacle(binaries)
            if obstacle is None:
                return
            if not self.kind.disposable:
                raise ShadowUnavailableError(f"the cluster in {self.path} {obstacle}")
            self.discard()
        self._initialize(binaries)

    def discard(self) -> None:
        """Delete the data of a disposable cluster."""
        stop_postmaster(self.data)
        doomed = self.path / "init"
        self.data.rename(doomed)
        shutil.rmtree(doomed)

    def start(self, binaries: Binaries, memory_bytes: int | None) -> Postmaster:
        """Start the postmaster and wait until it accepts connections.

        Parameters:
            binaries: whose server to start.
            memory_bytes: address-space limit of each server process; None for no limit.

        Raises:
            ShadowUnavailableError: it did not start; the message has the server's last words.
            OSError: the folder cannot be written.
        """
        self._end_orphans()
        try:
            with watchdog.server_lock(self.path, timeout_s=_ORPHANS_TIMEOUT_S) as lock:
                return self._start(binaries, memory_bytes, lock)
        except TimeoutError:
            if watchdog.runs_elsewhere(self.path):
                raise self._used_elsewhere() from None
            raise ShadowUnavailableError(
                f"sessions of a killed server still use the {self.name} cluster in {self.path}: end those processes"
            ) from None

    def _start(self, binaries: Binaries, memory_bytes: int | None, lock: int) -> Postmaster:
        """Start the postmaster, which inherits the server lock `lock`."""
        sockets = self._socket_folder()
        # PostgreSQL would believe a stale file if the process number in it is in use again, or not yet reaped.
        for stale in (self.data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)
        self._write(self.data / "postgresql.conf", postgresql_conf(self.kind, str(sockets), binaries.major))
        self._write(self.data / "pg_hba.conf", PG_HBA)
        log = self.path / watchdog.LOG
        self._write(log, "")
        wait = ("-s", "-w", "-t", str(int(START_TIMEOUT_S)))
        files = ("-D", str(self.data), "-l", str(log))
        command = [*_limited(memory_bytes), binaries.path("pg_ctl"), "start", *wait, *files, "-o", f"-p {PORT}"]
        outcome = self._server_program(command, inherited=lock)
        postmaster = read_postmaster(self.data)
        if postmaster is None or not postmaster.ready:
            stop_postmaster(self.data, fast_stop_s=0)
            said = _last_words(outcome.stderr + log.read_text(errors="replace"))
            raise ShadowUnavailableError(f"the {self.name} cluster in {self.path} did not start: {said}")
        return postmaster

    def running(self) -> Postmaster | None:
        """Return the postmaster if it runs and can be reached; one that cannot is stopped.

        Raises:
            ShadowUnavailableError: one that cannot be reached lives in another PID namespace.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while (postmaster := read_postmaster(self.data)) is not None:
            if postmaster.ready and postmaster.socket.exists():
                return postmaster
            # Ready and no socket: something cleaned /tmp. Not ready: its starter was killed, it may still come up.
            if time.monotonic() > deadline or (postmaster.ready and not postmaster.elsewhere):
                if postmaster.elsewhere:
                    raise self._used_elsewhere()
                stop_postmaster(self.data)
                return None
            time.sleep(0.02)
        return None

    def ensure_watchdog(self, linger_s: float) -> None:
        """Start a watchdog unless one lives in our PID namespace."""
        own = self.path / watchdog.watchdog_lock()
        for other in set(self.path.glob("watchdog*.lock")) - {own}:
            _unlink_unused(other)
        lock = watchdog.open_lock(own)
        try:
            if not watchdog.try_exclusive(lock):
                return
            # The lock belongs to the open file, which the child shares: it is never free while the watchdog lives.
            subprocess.Popen(  # noqa: S603 - our interpreter and our file, no shell
                [sys.executable, "-I", "-S", watchdog.__file__, self.path, self.data, str(linger_s), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                pass_fds=(lock,),
                start_new_session=True,
            ).returncode = 0  # it outlives us: nobody waits for it
        finally:
            os.close(lock)

    def _obstacle(self, binaries: Binaries) -> str | None:
        """Say why these binaries cannot use the data folder; None if they can."""
        try:
            version = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            version = "unknown"
        if version != str(binaries.major):
            return (
                f"was made by PostgreSQL {version} and planproof brings {binaries.major}: move its rows with that "
                "version's pg_dump, or delete the folder to begin anew"
            )
        if self.secret() is None:
            return "has lost its secret.json: put it back, or delete the folder to begin anew"
        return None

    def _used_elsewhere(self) -> ShadowUnavailableError:
        return ShadowUnavailableError(
            f"the {self.name} cluster in {self.path} is used by a server in another container or PID namespace that "
            "cannot be reached from here: stop that one, or set PLANPROOF_HOME to another folder"
        )

    def _check_reachable(self) -> None:
        if any(sign in str(self.path) for sign in '"$`\\\n'):
            raise ShadowUnavailableError(
                f"PostgreSQL cannot be started in {self.path}: set PLANPROOF_HOME to a path without quotes, $ and \\"
            )
        closed = self.account.closed_folder(self.path)
        if closed is not None:
            raise ShadowUnavailableError(
                f"{closed} is closed to the unprivileged account that PostgreSQL must run as: open it (chmod o+x) or "
                "set PLANPROOF_HOME to another folder"
            )

    def _initialize(self, binaries: Binaries) -> None:
        """Run initdb beside the final place and rename, so that a half-made cluster is never taken for one."""
        if self.secret() is None:
            secret = self.path / "secret.new"
            self._write(secret, json.dumps({"password": secrets.token_hex(32)}), ours=True)
            secret.rename(self.path / "secret.json")
        making = self.path / "init"
        making.mkdir(mode=0o700)
        self.account.own(making)
        password = making / "password"
        self._write(password, f"{(self.secret() or b'').hex()}\n")
        outcome: subprocess.CompletedProcess[str] | None = None
        for arguments in initdb_arguments(self.kind, binaries.major):
            outcome = self._server_program(
                [binaries.path("initdb"), "-D", str(making / "data"), f"--pwfile={password}", *arguments]
            )
            if outcome.returncode == 0:
                break
        if outcome is None or outcome.returncode != 0:
            said = _last_words(outcome.stderr if outcome is not None else "")
            raise ShadowUnavailableError(f"making the {self.name} cluster failed: {said}")
        (making / "data").rename(self.data)
        shutil.rmtree(making)

    def _socket_folder(self) -> Path:
        """Make and return the folder of the socket, whose path the system limits to 107 bytes."""
        folder = self.path / "socket"
        if len(os.fsencode(folder)) > _LONGEST_SOCKET_PATH:
            owner = self.path.stat().st_uid
            digest = hashlib.sha256(os.fsencode(self.path.parent)).hexdigest()[:12]
            # Not the temporary folder of the environment: every process has to find the same one.
            parent = Path("/tmp") / f"planproof-{owner}-{digest}"  # noqa: S108 - owner and mode are checked below
            _make_private(parent, owner, 0o711)
            folder = parent / self.name
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        self.account.own(folder)
        return folder

    def _end_orphans(self) -> None:
        """Kill the sessions of a postmaster that was itself killed: until they end, no new one can start."""
        for process in psutil.process_iter(["name", "cwd", "cmdline", "uids"]):
            # Gone meanwhile, or not to be killed: then PostgreSQL itself says that it cannot start.
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == "postgres" and self._is_orphan(process):
                    process.kill()
                    process.wait(timeout=5)

    def _is_orphan(self, process: psutil.Process) -> bool:
        folder: str | None = process.info["cwd"]
        if folder is not None:
            return folder == str(self.data)
        # Root in a usual container may not see the folder of another account's process. Any session whose parent is
        # no postmaster has lost it, and is of no use to anybody.
        title = " ".join(process.info["cmdline"] or ())
        parent = process.parent()
        ours = process.info["uids"] is not None and process.info["uids"].real == self.account.uid
        return ours and title.startswith("postgres: ") and (parent is None or parent.name() != "postgres")

    def _server_program(
        self, command: list[str | Path], *, inherited: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the server's account, with the descriptor `inherited`, and hand back what it said."""
        return subprocess.run(  # noqa: S603 - a program of ours, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=2 * START_TIMEOUT_S,
            pass_fds=() if inherited is None else (inherited,),
            env=_environment() | locale_environment(self.path),
            **self.account.popen_arguments(),
        )

    def _write(self, path: Path, text: str, *, ours: bool = False) -> None:
        """Write a file that only its owner may read: the server's account, or with `ours` this process."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if not ours:
                self.account.own(path)
            file.write(text)


def _last_words(output: str) -> str:
    """Return the line in which a server program says what is wrong, without its time and process number."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|FATAL|PANIC):", line)]
    last = (errors or lines or ["no message"])[-1]
    return re.sub(r"^.*?\b(FATAL|PANIC|error):\s*", "", last)


def _environment() -> dict[str, str]:
    """A bare environment: the user's may hold keys, and PG* variables that would change what programs do."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _limited(memory_bytes: int | None) -> list[str | Path]:
    """Return the beginning of a command that limits itself and all that it starts: core files, memory, largest file.

    Parameters:
        memory_bytes: of address space; None for a server that runs none of a user's SQL.

    The shell does it, because setting the limits of a running server takes a capability that root in a container lacks.
    """
    limits = "ulimit -c 0; "
    if memory_bytes is not None and sys.platform == "linux":
        limits += f"ulimit -v {memory_bytes // 1024} && ulimit -f {_LARGEST_FILE_BYTES // 512} && "
    return ["/bin/sh", "-c", limits + 'exec "$@"', "sh"]


def _unlink_unused(lock: Path) -> None:
    """Delete a lock file that nobody holds."""
    descriptor = watchdog.open_lock(lock)
    try:
        if watchdog.try_exclusive(descriptor):
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _make_private(folder: Path, owner: int, mode: int) -> None:
    """Make a folder in a place where everybody may write, and make sure that it is ours."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=mode)
        if os.geteuid() == 0:
            os.chown(folder, owner, -1, follow_symlinks=False)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o022:
        raise ShadowUnavailableError(
            f"{folder} belongs to somebody else: delete it, or set PLANPROOF_HOME to a shorter path"
        )
