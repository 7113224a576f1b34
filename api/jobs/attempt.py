"""One attempt at a job, seen from the worker: a child process that is watched, ended if need be, and written about."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api.errors import problem_of
from api.jobs.records import MAX_FAILURES, Claim, End, Order, Records, problem
from api.metrics import JOB_SECONDS
from optimizer.errors import StoreUnavailableError, TimeLimitError

#: Seconds between two looks at the store, and that a child gets for a clean end.
PULSE_S, END_S = 0.5, 3.0
#: Seconds before a failed attempt is followed by the next.
RETRY_AFTER_S = (2, 8)
#: Seconds for which the end of a job is offered to a store that is away; after them the job runs once more.
RECORD_S = 300.0
_LONGEST_LINE = 1_000_000
_log = logging.getLogger("planproof")


class GivenBackError(Exception):
    """The job is to be run again.

    Parameters:
        after_s: seconds from now.
    """

    def __init__(self, after_s: int) -> None:
        super().__init__(after_s)
        self.after_s = after_s


class Attempt:
    """One attempt.

    Parameters:
        claim: the right to make it.
        records: of the store.
        folder: with the job's request.
        limit_s: seconds it may take.
    """

    def __init__(self, claim: Claim, records: Records, folder: Path, limit_s: float) -> None:
        self._claim = claim
        self._records = records
        self._folder = folder
        self._limit_s = limit_s
        self._told: tuple[str, float] | None = None
        self._outcome: dict[str, Any] | None = None

    async def run(self) -> bool:
        """Make the attempt and write down how it ended.

        Returns: whether the job is over; not if another attempt has taken it over.

        Errors: `GivenBackError` when the job is to be run again; `StoreUnavailableError` when the store stays away.
        """
        began = time.monotonic()
        order = Order.GO_ON
        stopped = late = False
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "api.jobs.child", self._claim.kind, str(self._folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # its children are ended with it
            limit=_LONGEST_LINE,
        )
        reading = asyncio.create_task(self._read(child.stdout or asyncio.StreamReader()))
        try:
            async with asyncio.timeout(self._limit_s):
                order = await self._watch(reading)
        except TimeoutError:
            late = True
        except asyncio.CancelledError:
            stopped = True  # the worker ends; what follows is short
        finally:
            await _end(child, reading)
        end, claim = self._judged(order, late=late, stopped=stopped), self._claim
        if not await _offered(lambda: self._records.end(claim, end), 0 if stopped else RECORD_S):
            _log.warning("job %s was taken over by another worker", claim.job_id)
            return False
        took_s = time.monotonic() - began
        _log.info("job %s (%s), attempt %d: %s, %.1f s", claim.job_id, claim.kind, claim.attempt, end.state, took_s)
        with contextlib.suppress(OSError):  # the service that shows the figures, and their folder, may be gone
            JOB_SECONDS.labels(claim.kind, end.state).observe(took_s)
        if end.after_s is not None:
            raise GivenBackError(end.after_s)
        return True

    async def _watch(self, reading: asyncio.Task[None]) -> Order:
        """Follow the child until it ends, or has to."""
        written = None
        while not reading.done():
            await asyncio.wait((reading,), timeout=PULSE_S)
            told = self._told
            try:
                order = await asyncio.to_thread(self._records.pulse, self._claim, told if told != written else None)
            except StoreUnavailableError:
                continue  # the work goes on; the next pulse may get through
            written = told
            if order is not Order.GO_ON:
                return order
        return Order.GO_ON

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            said = json.loads(line)
            if "outcome" in said:
                self._outcome = said
            else:
                self._told = (str(said["step"]), float(said["progress"]))

    def _judged(self, order: Order, *, late: bool, stopped: bool) -> End:
        """What is to be written down, from what the child said last and why it was ended."""
        outcome = self._outcome or {"outcome": "lost"}
        if outcome["outcome"] == "done":
            return End("done", "done")
        if order is Order.CANCEL:
            return End("cancelled")
        if late:
            return End("failed", error=_late(self._limit_s))
        if outcome["outcome"] == "failed" and not outcome["passing"]:
            return End("failed", error=outcome["error"])
        if stopped:
            return End("queued", "waiting for another worker", after_s=0)
        error = outcome.get("error") or problem("the process that ran this job was killed")
        if self._claim.failures + 1 >= MAX_FAILURES:
            return End("failed", error=error, failed=True)
        after_s = RETRY_AFTER_S[min(self._claim.failures, len(RETRY_AFTER_S) - 1)]
        return End("queued", f"trying again in {after_s} s: {error['detail']}", after_s=after_s, failed=True)


async def _end(child: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    """End a child if it has not ended, gently first, and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        if not reading.done():
            child.terminate()
            await asyncio.wait((reading,), timeout=END_S)
        if reading.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await asyncio.gather(reading, child.wait(), return_exceptions=True)


async def _offered(write: Callable[[], bool], patience_s: float) -> bool:
    """Write to the store, and if it is away again and again."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await asyncio.to_thread(write)
        except StoreUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(1)


def _late(limit_s: float) -> dict[str, Any]:
    found = problem_of(TimeLimitError())
    detail = f"the job took longer than {limit_s:,.0f} s (PLANPROOF_JOB_TIMEOUT_MS) and was ended"
    return problem(detail, found.http_status, type_=found.type, title=found.title)
