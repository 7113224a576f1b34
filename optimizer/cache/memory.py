"""The cache in this process's memory: the least recently used values go first once it is full."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from cachetools import TLRUCache

from optimizer.cache.port import Kept

#: Bytes that an entry takes beside its value and key: objects, the order, the heap of expiries.
_OVERHEAD = 500


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    until: float


class MemoryCache:
    """A cache of one process.

    Parameters:
        max_bytes: what all its entries may take together; a value that alone is larger is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: TLRUCache[str, _Entry] = TLRUCache(
            max_bytes, ttu=lambda _key, entry, _now: entry.until, timer=time.monotonic, getsizeof=_size
        )
        self._lock = threading.Lock()

    def get(self, key: str) -> Kept | None:
        """Return what was put under the key; takes microseconds."""
        with self._lock:
            entry = self._entries.get(key)
        return Kept(entry.value, entry.until - time.monotonic()) if entry is not None else None

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value, at the cost of those that were not asked for the longest."""
        entry = _Entry(value, time.monotonic() + ttl_s)
        if _size(entry) <= self.max_bytes:
            with self._lock:
                self._entries[key] = entry

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    @property
    def used_bytes(self) -> int:
        """What the entries take."""
        with self._lock:
            return int(self._entries.currsize)


def _size(entry: _Entry) -> int:
    return len(entry.value) + _OVERHEAD
