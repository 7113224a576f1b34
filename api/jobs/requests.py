"""What jobs were asked to do, as files that only this user may read: a request may hold a password or 64 MB of schema.

<home>/jobs/queue              names this data folder among those that share a store
<home>/jobs/ID/request.json    on the disk before the job is queued, deleted when it ends
<home>/jobs/ID/before          what there was before the job first began; see `api.jobs.tasks`
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from optimizer.errors import InputError
from optimizer.shadow.registry import write_file

_REQUEST, _BEFORE, _QUEUE = "request.json", "before", "queue"
#: Seconds after which a folder that belongs to no job in the store is nobody's: its service died before queueing it.
_ORPHAN_S = 3_600


class Requests:
    """The requests below one data folder.

    Parameters:
        home: the data folder; made when it is first needed.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.root = home / "jobs"

    def queue(self) -> str:
        """The name of this data folder's queue: a job runs where its request, and later its shadow, lies."""
        self._make_root()
        path = self.root / _QUEUE
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            pass
        name = f"home-{secrets.token_hex(8)}"
        proposed = self.root / f".{name}"
        write_file(proposed, name)
        with contextlib.suppress(FileExistsError):  # another process was first
            path.hardlink_to(proposed)
        proposed.unlink()
        _sync(self.root)
        return path.read_text(encoding="ascii")

    def folder(self, job_id: str) -> Path:
        """Where a job's files are."""
        return self.root / job_id

    def write(self, job_id: str, request: Mapping[str, Any]) -> int:
        """Keep a request; it is on the disk when this returns.

        Returns: its size in bytes.
        """
        self._make_root()
        folder = self.folder(job_id)
        folder.mkdir(mode=0o700)
        text = json.dumps(request)  # ASCII, so its length is its size; users' text may hold lone surrogates
        write_file(folder / _REQUEST, text)
        _sync(folder)
        _sync(self.root)
        return len(text)

    def delete(self, job_id: str) -> None:
        """Delete a job's files, if there are any."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def sweep(self, going: Collection[str]) -> None:
        """Delete the files of all jobs but those that are `going`, and those that may be about to be queued."""
        newest = time.time() - _ORPHAN_S
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if folder.is_dir() and folder.name not in going and folder.stat().st_mtime < newest:
                    shutil.rmtree(folder, ignore_errors=True)

    def _make_root(self) -> None:
        if not self._home.is_dir():
            self._home.mkdir(parents=True, exist_ok=True)
            self._home.chmod(0o711)  # the embedded servers' account passes through, and sees no names
        self.root.mkdir(mode=0o700, exist_ok=True)


def read_request(folder: Path) -> dict[str, Any]:
    """Read a job's request.

    Errors: `InputError` when it is gone or damaged.
    """
    try:
        request: dict[str, Any] = json.loads((folder / _REQUEST).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise InputError("what this job was asked to do cannot be read any more: ask again") from error
    return request


def remembered(folder: Path) -> str | None:
    """Return what there was when the job first began; None when it has not begun before."""
    try:
        return (folder / _BEFORE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def remember(folder: Path, present: str) -> None:
    """Keep what there is now, that the job begins for the first time; it is on the disk when this returns."""
    write_file(folder / _BEFORE, present)
    _sync(folder)


def _sync(folder: Path) -> None:
    """Put a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
