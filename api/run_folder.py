"""The folder of one running service below the data folder: what its processes leave there for each other.

Its lock is inherited by them, so the next service knows which folders belong to nobody any more, and deletes them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import InputError

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one service.

    Parameters:
        figures: where its processes leave their figures.
        lock: a descriptor; the folder is in use as long as some process has it open.
    """

    figures: Path
    lock: int


@contextmanager
def run_folder(home: Path) -> Iterator[RunFolder]:
    """Make a folder for the length of the block, and delete those of services that are gone.

    Parameters:
        home: the data folder.

    Errors: `InputError` when the data folder cannot be written to.
    """
    try:
        folder, lock = _made(home)
    except OSError as error:
        raise InputError(
            f"the data folder {home} cannot be written to ({error.strerror}): set PLANPROOF_HOME to another"
        ) from None
    try:
        yield RunFolder(folder / "figures", lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made(home: Path) -> tuple[Path, int]:
    if not home.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711)  # the embedded servers' account passes through, and sees no names
    runs = home / "run"
    runs.mkdir(mode=0o700, exist_ok=True)
    guard = os.open(runs / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)  # nobody sweeps while a folder is made and not locked yet
        for left in runs.glob("serve-*"):
            _delete_unused(left)
        folder = Path(tempfile.mkdtemp(prefix="serve-", dir=runs))
        (folder / "figures").mkdir(mode=0o700)
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder, lock
    finally:
        os.close(guard)


def _delete_unused(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        return  # its own service has just deleted it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # in use
    finally:
        os.close(lock)
