"""Single flight: what several callers want at the same moment is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


@dataclass(slots=True)
class _Flight(Generic[_T]):
    task: asyncio.Task[_T]
    waiting: int = 0


class Flights(Generic[_T]):
    """The work under way, by key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[_T]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def share(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do the work, or wait for whoever does it.

        It goes on as long as anybody waits for it, also when the caller who began it has gone; when the last one goes
        it is cancelled.

        Parameters:
            key: of the work.
            work: begins it; called only if nobody does it already.

        Errors: those of the work, for everyone who waits.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.create_task(work()))
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight.task)  # nobody may join what is being cancelled
                flight.task.cancel()

    def _landed(self, key: Hashable, task: asyncio.Task[_T]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # looked at, so that it is not reported as lost when everyone has gone

    def _forget(self, key: Hashable, task: asyncio.Task[_T]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
