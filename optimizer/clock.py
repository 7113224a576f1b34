"""Time: phases that are measured, and one deadline for a whole request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from optimizer.errors import TimeLimitError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, milliseconds: float) -> Deadline:
        """The moment `milliseconds` from now."""
        return cls(time.monotonic() + milliseconds / 1000)

    @property
    def remaining_ms(self) -> float:
        """Milliseconds left, never negative."""
        return max(0.0, (self.at - time.monotonic()) * 1000)

    @property
    def passed(self) -> bool:
        """True when no time is left."""
        return self.remaining_ms <= 0

    def check(self, doing: str) -> None:
        """Raise `TimeLimitError` when no time is left for `doing`."""
        if self.passed:
            raise TimeLimitError(f"the time limit passed while {doing}: allow more time, or ask for less")


class Stopwatch:
    """Adds up the milliseconds spent in named phases."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block to `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._phases[name] = self._phases.get(name, 0.0) + (time.perf_counter() - begin) * 1000

    def spent(self, name: str) -> float:
        """Milliseconds counted to `name`."""
        return self._phases.get(name, 0.0)

    @property
    def total(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._start) * 1000
