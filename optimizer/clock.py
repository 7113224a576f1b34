"""Time: phases that are measured, and one deadline for a whole request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from optimizer.errors import TimeLimitError

_stop: ContextVar[threading.Event | None] = ContextVar("planproof_stop", default=None)
_watcher: ContextVar[Callable[[str, float], None] | None] = ContextVar("planproof_phases", default=None)
_limit: ContextVar[Deadline | None] = ContextVar("planproof_limit", default=None)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Yield an event; once it is set, every deadline looked at in this context (or a copy of it) has passed."""
    event = threading.Event()
    token = _stop.set(event)
    try:
        yield event
    finally:
        _stop.reset(token)


def stopped() -> bool:
    """Tell whether the work in this context was stopped: what it found is not all there is."""
    stop = _stop.get()
    return stop is not None and stop.is_set()


@contextmanager
def limited(deadline: Deadline) -> Iterator[None]:
    """Let whatever waits inside the block, however deep, give up by a deadline; an outer one still counts.

    Parameters:
        deadline: of the request that is being worked on.
    """
    outer = _limit.get()
    token = _limit.set(deadline if outer is None or deadline.at < outer.at else outer)
    try:
        yield
    finally:
        _limit.reset(token)


def patience_s(most_s: float) -> float:
    """Seconds to wait for something that others hold: at most `most_s`, and no longer than the request may take."""
    limit = _limit.get()
    return most_s if limit is None else min(most_s, limit.remaining_ms / 1000)


@contextmanager
def watching_phases(ended: Callable[[str, float], None]) -> Iterator[None]:
    """Have `ended` told the name and the seconds of every phase that ends in this context (or a copy of it)."""
    token = _watcher.set(ended)
    try:
        yield
    finally:
        _watcher.reset(token)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, milliseconds: float) -> Deadline:
        """The moment `milliseconds` from now."""
        return cls(time.monotonic() + milliseconds / 1000)

    @classmethod
    def within(cls, milliseconds: float) -> Deadline:
        """The same, or the end of the request that is being worked on (see `limited`) if that comes first."""
        own, limit = cls.after(milliseconds), _limit.get()
        return own if limit is None or own.at <= limit.at else limit

    @property
    def remaining_ms(self) -> float:
        """Milliseconds left, never negative; none when the work was stopped."""
        if stopped():
            return 0.0
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
            seconds = time.perf_counter() - begin
            self._phases[name] = self._phases.get(name, 0.0) + seconds * 1000
            watcher = _watcher.get()
            if watcher is not None:
                watcher(name, seconds)

    def spent(self, name: str) -> float:
        """Milliseconds counted to `name`."""
        return self._phases.get(name, 0.0)

    @property
    def total(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._start) * 1000
