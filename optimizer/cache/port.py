"""The cache port: bytes under a key, for a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that was found.

    Parameters:
        value: as it was put.
        ttl_s: seconds for which it may still be believed.
    """

    value: bytes
    ttl_s: float


class Cache(Protocol):
    """Keeps values for a while; safe to share between threads.

    A cache may lose anything at any time and never raises: what it cannot answer is a miss. Keys name their content
    (what was asked, of what, by what), so a value never has to be replaced or taken out.
    """

    def get(self, key: str) -> Kept | None:
        """Return what was put under the key; None when there is nothing, or when it cannot be had or trusted."""

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for at most `ttl_s` seconds, if that is possible."""

    def close(self) -> None:
        """Give back what the cache holds."""
