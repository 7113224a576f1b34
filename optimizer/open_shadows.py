"""The shadows that a process has open, by the folder of their registry and their name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.registry import ShadowRecord

#: Seconds for which an attached server's catalog is believed to be unchanged.
ATTACHED_FRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class _Opened:
    record: ShadowRecord
    shadow: ShadowDatabase
    since: float

    def serves(self, record: ShadowRecord) -> bool:
        fresh = record.kind != "attached" or time.monotonic() - self.since < ATTACHED_FRESH_S
        return fresh and self.record.revision == record.revision


class OpenShadows:
    """Open shadows, each in its latest revision. Safe to share between threads.

    Parameters:
        opener: opens a shadow.
    """

    def __init__(self, opener: Callable[[ShadowRecord], ShadowDatabase]) -> None:
        self._opener = opener
        self._open: dict[tuple[Path, str], _Opened] = {}
        self._opening: dict[tuple[Path, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, root: Path, record: ShadowRecord) -> ShadowDatabase:
        """Return a shadow in the revision of its record, opened if need be.

        Parameters:
            root: folder of its registry.

        Errors: those of the opener.
        """
        key = (root, record.name)
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        # A server that does not answer keeps those waiting who want this shadow, and nobody else.
        with opening:
            with self._lock:
                known = self._open.get(key)
            if known is not None and known.serves(record):
                return known.shadow
            shadow = self._opener(record)
            with self._lock:
                self._open[key] = _Opened(record, shadow, time.monotonic())
        if known is not None:
            _close(known.shadow)
        return shadow

    def fresh_s(self, root: Path, record: ShadowRecord) -> float:
        """Seconds for which an attached shadow that is open in this revision will still be believed; 0 for others."""
        with self._lock:
            known = self._open.get((root, record.name))
        if known is None or known.record.revision != record.revision:
            return 0.0
        return max(0.0, known.since + ATTACHED_FRESH_S - time.monotonic())

    def close(self, root: Path, name: str) -> None:
        """Close one shadow, if it is open."""
        self._close([(root, name)])

    def keep_only(self, root: Path, names: Container[str]) -> None:
        """Close all shadows of a registry but these."""
        with self._lock:
            doomed = [key for key in {**self._open, **self._opening} if key[0] == root and key[1] not in names]
        self._close(doomed)

    def close_all(self) -> None:
        """Close them all."""
        with self._lock:
            doomed = [*self._open]
        self._close(doomed)

    def _close(self, keys: list[tuple[Path, str]]) -> None:
        with self._lock:
            closed = [self._open.pop(key, None) for key in keys]
            for key in keys:
                self._opening.pop(key, None)
        for each in closed:
            if each is not None:
                _close(each.shadow)


def _close(shadow: ShadowDatabase) -> None:
    """Close a shadow of a kind that can be closed."""
    close: Callable[[], None] | None = getattr(shadow, "close", None)
    if close is not None:
        close()
