"""Who may work when: a few requests at once, a few more waiting, and an honest no to the rest."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from api.errors import BusyError, ClientGoneError
from api.metrics import QUEUE, REFUSED
from api.telemetry import traced_phases
from optimizer.clock import Deadline, limited, stoppable
from optimizer.errors import TimeLimitError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_MAX_RETRY_AFTER_S = 60
_PROBE_THREADS = 2


class Admission:
    """Turns for work in this process; cached answers and health checks need none. Belongs to one event loop.

    Parameters:
        running: requests that work at once; 0 takes the number of cores.
        waiting: requests that may wait for their turn, first come, first served.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.max_running = running or len(os.sched_getaffinity(0))
        self.max_waiting = waiting
        self.waiting = 0
        self._turns = asyncio.Semaphore(self.max_running)
        self._threads = CapacityLimiter(self.max_running)
        self._probe_threads = CapacityLimiter(_PROBE_THREADS)
        self._usual_s = 1.0
        for state in ("running", "waiting"):
            QUEUE.labels(state).inc(0)  # shown from the beginning

    @asynccontextmanager
    async def slot(self, limit_ms: float) -> AsyncIterator[float]:
        """Wait for a turn and hold it while the block runs; a cancelled waiter gives its place back.

        Parameters:
            limit_ms: the whole time the request has; waiting uses it up.

        Yields: the milliseconds that are left for the work.

        Errors: `BusyError` when too many wait already; `TimeLimitError` when no turn came in time.
        """
        if self._turns.locked() and self.waiting >= self.max_waiting:
            REFUSED.inc()
            raise BusyError("the service is busy: try again later", retry_after_s=self.retry_after_s)
        began = time.monotonic()
        await self._turn(limit_ms)
        started = time.monotonic()
        QUEUE.labels("running").inc()
        try:
            yield max(1.0, limit_ms - (started - began) * 1000)
        finally:
            self._turns.release()
            QUEUE.labels("running").dec()
            self._usual_s += 0.1 * (time.monotonic() - started - self._usual_s)

    async def run(self, work: Callable[[float], _T], limit_ms: float) -> _T:
        """Wait for a turn, then work on a thread of its own.

        Parameters:
            work: is given the milliseconds that are left for it, and must end by itself.
            limit_ms: the whole time the request has.

        Errors: as `slot`, and those of `work`.
        """
        async with self.slot(limit_ms) as left_ms:
            with limited(Deadline.after(left_ms)):
                return await self.in_thread(work, left_ms)

    async def in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function on a thread; hold a `slot` while it runs. Its threads are not those of other routes.

        When the caller is cancelled, the function's deadlines pass at once (`optimizer.clock.stoppable`), and its turn
        is given back when it has ended: a thread cannot be ended from outside.
        """
        with stoppable() as stop, traced_phases():
            task = asyncio.ensure_future(to_thread.run_sync(partial(work, *args, **kwargs), limiter=self._threads))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait((task,))
            raise

    async def probe(self, ask: Callable[[], _T]) -> _T:
        """Ask something short on a thread that no work can take; a caller that is cancelled does not wait for it."""
        return await to_thread.run_sync(ask, limiter=self._probe_threads, abandon_on_cancel=True)

    @property
    def retry_after_s(self) -> int:
        """Seconds after which the queue is likely to be shorter, from how long work took lately."""
        expected = self._usual_s * (self.waiting + 1) / self.max_running
        return min(max(1, round(expected)), _MAX_RETRY_AFTER_S)

    async def _turn(self, limit_ms: float) -> None:
        self.waiting += 1
        QUEUE.labels("waiting").inc()
        try:
            async with asyncio.timeout(limit_ms / 1000):
                await self._turns.acquire()
        except TimeoutError:
            raise TimeLimitError(
                f"no turn came within {limit_ms:,.0f} ms, since the service is busy: try again later"
            ) from None
        finally:
            self.waiting -= 1
            QUEUE.labels("waiting").dec()


async def while_connected(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Await something for a client, and cancel it when the client goes away.

    Parameters:
        request: whose body has been read.
        work: a coroutine of this request alone.

    Errors: `ClientGoneError`, and those of `work`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for future in (task, gone):
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
