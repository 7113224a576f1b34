"""Stops an embedded server that nobody uses any more; and how a postmaster is found and ended.

Every process that uses a cluster holds a shared `flock` on its lease file, which the kernel gives back however the
process ends. The watchdog waits until nobody has held the lease for the linger time, then stops the server.

It runs as a script, isolated and without site-packages (`python -I -S watchdog.py ...`), so that an idle server costs a
few megabytes: this file imports the standard library only, and `cluster.py` imports from here.

Whoever decides something (start, stop, "nobody needs me") holds the start lock while deciding and acting. That is the
whole protocol: no decision can be taken on a state that another one is changing.

Containers that share a data folder do not see each other's processes, and a process number means another process in
each. So the postmaster and all its sessions hold the server lock, which they inherit: file locks reach across
containers. The file says in which PID namespace they live; a server in another one is used, and never signalled.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

START_LOCK = "start.lock"
LEASE = "lease.lock"
SERVER_LOCK = "server.lock"
LOG = "server.log"
LOG_LIMIT_BYTES = 10_000_000
FAST_STOP_S = 30.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running postmaster, as its `postmaster.pid` tells.

    Parameters:
        pid: process id.
        started: seconds since the epoch.
        port: names the socket file; nothing listens on TCP.
        socket_folder: where the socket is.
        ready: whether it accepts connections.
        elsewhere: whether it lives in another PID namespace, so that its process id means nothing here.
    """

    pid: int
    started: int
    port: int
    socket_folder: str
    ready: bool
    elsewhere: bool

    @property
    def generation(self) -> str:
        """A text that changes at every start of the postmaster."""
        return f"{self.started}-{self.pid}"

    @property
    def socket(self) -> Path:
        """The file of its socket."""
        return Path(self.socket_folder) / f".s.PGSQL.{self.port}"


def read_postmaster(data: Path) -> Postmaster | None:
    """Return the postmaster that runs on the data folder `data`; None if there is none (a stale file counts as none).

    A postmaster that has only begun to write its file is returned with `ready` False.
    """
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    elsewhere = runs_elsewhere(data.parent)
    if not elsewhere and not _is_postmaster(pid, data):
        return None
    with contextlib.suppress(ValueError, IndexError):
        ready = lines[7].strip() == "ready"
        postmaster = Postmaster(pid, int(lines[2]), int(lines[3]), lines[4], ready, elsewhere)
        # Of a server elsewhere only the lock is seen, which its sessions hold a moment longer than it lives.
        return replace(postmaster, ready=ready and _listens(postmaster.socket)) if elsewhere else postmaster
    return Postmaster(pid, 0, 0, "", ready=False, elsewhere=elsewhere)


def pid_namespace() -> str:
    """Return what tells this process's PID namespace from others: the number of its inode; "" where there are none."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def runs_elsewhere(folder: Path) -> bool:
    """Tell whether the cluster in `folder` has a living server process in another PID namespace than ours."""
    try:
        descriptor = os.open(folder / SERVER_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 64, 0).decode("ascii", "replace") != pid_namespace()
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def server_lock(folder: Path, *, timeout_s: float) -> Iterator[int]:
    """Hold the server lock of the cluster in `folder`, and yield its descriptor, for the server to inherit.

    Parameters:
        folder: the cluster's folder.
        timeout_s: how long to wait, in seconds, for the last sessions of a dead server.

    Raises:
        TimeoutError: a server process lives.
    """
    with locked(folder / SERVER_LOCK, timeout_s=timeout_s) as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, pid_namespace().encode(), 0)
        yield descriptor


def watchdog_lock() -> str:
    """Return the name of the watchdog's lock file. A watchdog serves its own PID namespace."""
    return f"watchdog-{pid_namespace()}.lock"


def _listens(path: Path) -> bool:
    """Tell whether a process listens on the socket `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _is_postmaster(pid: int, data: Path) -> bool:
    """Tell whether process `pid` lives and is PostgreSQL on `data`: after a reboot the number may be anybody's."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # somebody else's: ours runs as us, or we are root
    process = Path("/proc") / str(pid)
    try:
        # A dead postmaster that nobody has reaped still has a number (containers without an init process).
        if process.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX":
            return False
        # Its arguments are open to all; its working folder is closed even to root in a usual container. Our watchdog
        # has the data folder among its arguments too.
        program, *arguments = process.joinpath("cmdline").read_bytes().split(b"\0")
        return program.endswith(b"/postgres") and os.fsencode(data.resolve()) in arguments
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # no /proc on this system: believe the signal
    except (OSError, IndexError):
        return False


def stop_postmaster(data: Path, *, fast_stop_s: float = FAST_STOP_S) -> bool:
    """Stop the postmaster on `data`, if one runs, and wait until it is gone. The caller holds the start lock.

    Parameters:
        data: the data folder.
        fast_stop_s: seconds given to a clean stop (open sessions are ended, data written) before it is made to quit.

    Returns: whether it is gone; never so for one that lives in another PID namespace.
    """
    for number, patience_s in ((signal.SIGINT, fast_stop_s), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)):
        postmaster = read_postmaster(data)
        if postmaster is None:
            return True
        if postmaster.elsewhere:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not _is_postmaster(postmaster.pid, data):
                return True
            time.sleep(_POLL_S)
    return read_postmaster(data) is None


def open_lock(path: Path, *, make: bool = True) -> int:
    """Open, or make, the lock file `path` and return its descriptor, which children do not inherit."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float | None = None, make: bool = True) -> Iterator[int]:
    """Hold the exclusive lock on `path`, and yield its descriptor.

    Parameters:
        path: the lock file.
        timeout_s: how long to wait, in seconds; None waits as long as it takes.
        make: the file, if it is not there.

    Raises:
        TimeoutError: somebody else kept it.
        FileNotFoundError: it is not there, and is not to be made.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    descriptor = _acquired(path, deadline, make)
    try:
        # Whoever held it may have deleted the file meanwhile: then this lock guards nothing any more.
        while not _same_file(descriptor, path):
            stale, descriptor = descriptor, _acquired(path, deadline, make)
            os.close(stale)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquired(path: Path, deadline: float | None, make: bool) -> int:
    """Open a lock file and take the exclusive lock on it before a moment of the monotonic clock."""
    descriptor = open_lock(path, make=make)
    try:
        if deadline is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return descriptor
        while not try_exclusive(descriptor):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} stayed locked")
            time.sleep(_POLL_S)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def try_exclusive(descriptor: int) -> bool:
    """Take the exclusive lock on an open lock file if nobody holds any lock on it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leased(folder: Path) -> bool:
    """Tell whether any process holds the lease of the cluster in `folder`. The caller holds the start lock.

    Raises:
        FileNotFoundError: the folder is being deleted.
    """
    descriptor = open_lock(folder / LEASE, make=False)
    try:
        return not try_exclusive(descriptor)
    finally:
        os.close(descriptor)


def watch(folder: Path, data: Path, linger_s: float, lock: int) -> None:
    """Wait until the cluster is unused for `linger_s` seconds, stop it, return. Returns also when it runs no more.

    Parameters:
        folder: the cluster's folder, with its lock files.
        data: its data folder.
        linger_s: seconds without a user.
        lock: descriptor of the watchdog lock, held since before this process began.
    """
    poll_s = min(max(linger_s / 4, 0.05), 2.0)
    idle_since: float | None = None
    while True:
        time.sleep(poll_s)
        if not _same_file(lock, folder / watchdog_lock()):
            return  # the folder was deleted, and perhaps made anew with a watchdog of its own
        with locked(folder / START_LOCK, make=False):  # a file made now could stop somebody's deleting of the folder
            postmaster = read_postmaster(data)
            if postmaster is None or postmaster.elsewhere:
                os.close(lock)  # while nobody can start a server that would count on us
                return
            _cap_log(folder / LOG)
            if leased(folder):
                idle_since = None
                continue
            # A user may have come and gone between two looks: taking a lease touches the file.
            idle_since = idle_since or time.time()
            last_use = max(idle_since, (folder / LEASE).stat().st_mtime)
            if time.time() - last_use >= linger_s and stop_postmaster(data):
                os.close(lock)
                return


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _cap_log(log: Path) -> None:
    """Empty the server's log when it has grown too large; the server appends, so it goes on at the start."""
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        os.truncate(log, 0)


def main() -> None:
    """Read the command line and watch. A folder that is deleted meanwhile ends the watch quietly."""
    parser = argparse.ArgumentParser(description=watch.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("linger_s", type=float)
    parser.add_argument("lock", type=int)
    chosen = parser.parse_args()
    with contextlib.suppress(FileNotFoundError):
        watch(chosen.folder, chosen.data, chosen.linger_s, chosen.lock)


if __name__ == "__main__":
    main()
