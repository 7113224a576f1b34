"""Memory in front of Redis; without Redis, memory alone.

Keys name their content, so what memory holds cannot be out of date; it only expires, at the same time as in Redis.
"""

from __future__ import annotations

from collections.abc import Iterable

from optimizer.cache.memory import MemoryCache
from optimizer.cache.redis_cache import RedisCache
from optimizer.settings import Settings


class TieredCache:
    """The cache of one process.

    Parameters:
        memory: asked first.
        shared: asked next; None where there is no Redis.
    """

    def __init__(self, memory: MemoryCache, shared: RedisCache | None) -> None:
        self.memory = memory
        self.shared = shared

    @classmethod
    def of(cls, settings: Settings) -> TieredCache:
        """Make it by the settings; nothing is connected yet.

        Errors: `InputError` for a Redis URL that is none.
        """
        shared = RedisCache(settings.redis_url) if settings.redis_url is not None else None
        return cls(MemoryCache(settings.cache_memory_bytes), shared)

    def recall(self, keys: Iterable[str]) -> bytes | None:
        """Look in memory only: microseconds, never blocks. The first key that is known counts."""
        for key in keys:
            kept = self.memory.get(key)
            if kept is not None:
                return kept.value
        return None

    def fetch(self, keys: Iterable[str]) -> bytes | None:
        """Look in Redis, and remember what is found; takes up to `TIMEOUT_S` and more, so call it on a thread."""
        if self.shared is None:
            return None
        for key in keys:
            kept = self.shared.get(key)
            if kept is not None:
                self.memory.put(key, kept.value, kept.ttl_s)
                return kept.value
        return None

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value in both; call it on a thread."""
        self.memory.put(key, value, ttl_s)
        if self.shared is not None:
            self.shared.put(key, value, ttl_s)

    def close(self) -> None:
        """Give back memory and connections."""
        self.memory.close()
        if self.shared is not None:
            self.shared.close()
