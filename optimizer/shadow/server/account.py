"""The operating-system account that the embedded servers run as.

PostgreSQL refuses to run as root. So root starts it as `nobody`, or as the account that already owns a cluster's files;
everybody else runs it as themselves.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.errors import ShadowUnavailableError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """An account that server programs run as.

    Parameters:
        uid: its user id.
        gid: its group id.
        switch: whether this process has to change to it (only root can and must).
    """

    uid: int
    gid: int
    switch: bool

    def popen_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments with which `subprocess` runs a program as this account."""
        # The caller's folder may be closed to the account, and PostgreSQL's programs look at where they stand.
        arguments: dict[str, Any] = {"cwd": "/"}
        if self.switch:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def own(self, path: Path) -> None:
        """Give the file or folder `path` to this account; nothing to do when it is the account we run as."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def closed_folder(self, path: Path) -> Path | None:
        """Return the first of `path` and its parents that this account may not pass through, or None."""
        if not self.switch:
            return None
        for folder in (*reversed(path.parents), path):
            status = folder.stat()
            if status.st_uid == self.uid:
                needed = stat.S_IXUSR
            else:
                needed = stat.S_IXGRP if status.st_gid == self.gid else stat.S_IXOTH
            if not status.st_mode & needed:
                return folder
        return None


def server_account(data: Path) -> Account:
    """Return the account for the cluster whose data folder is, or will be, `data`.

    Raises:
        ShadowUnavailableError: root is asking and there is no account to change to.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    if data.exists():
        owner = data.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid, switch=True)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise ShadowUnavailableError(
            f"PostgreSQL does not run as root and there is no account {UNPRIVILEGED!r}: run planproof as another user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, switch=True)
