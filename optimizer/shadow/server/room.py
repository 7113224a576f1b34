"""Space on disk: a server that cannot write ends, with everybody's sessions, so nothing is begun where it is short."""

from __future__ import annotations

import shutil
from pathlib import Path

from optimizer.errors import ShadowUnavailableError

#: Bytes that must be free for a new database.
MIN_FREE_BYTES = 500_000_000


def is_short(folder: Path) -> bool:
    """Tell whether the disk of a folder, which need not exist yet, is nearly full."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < MIN_FREE_BYTES


def check_room(folder: Path) -> None:
    """Refuse to make a database where the disk is nearly full.

    Errors: `ShadowUnavailableError`.
    """
    if is_short(folder):
        raise ShadowUnavailableError(
            f"less than {MIN_FREE_BYTES // 1_000_000} MB are free on the disk of PLANPROOF_HOME: make room there"
        )
