"""The worker: takes jobs out of the queue, runs each in a process of its own, and stays up while the store is away.

procrastinate hands out the jobs, at least once each, and notices workers that are gone by their heartbeat. What a job
is doing and how it ended stands in our own table (`api.jobs.records`), which decides whatever procrastinate hands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from datetime import UTC, datetime, timedelta

import procrastinate
import procrastinate.worker
import psycopg
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job as QueueJob

from api.jobs.attempt import Attempt, GivenBackError
from api.jobs.queue import TASK, Jobs
from api.jobs.records import Records
from api.jobs.requests import Requests
from optimizer.errors import PlanproofError, StoreUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

#: Seconds: between two looks for new jobs, between two signs of life, and without one until a worker counts as gone.
POLL_S, HEARTBEAT_S, STALLED_S = 0.5, 3.0, 12.0
#: Seconds between two rounds of tidying.
TIDY_S = 60.0
_RESTART_S = (0.5, 10.0)
_NEVER_S = 1e9
_log = logging.getLogger("planproof")


class Worker:
    """One worker.

    Parameters:
        settings: `job_timeout_ms`, `job_keep_days`, the store and the data folder.
        supervisor: of the embedded clusters.
        concurrency: jobs at once.
        grace_s: seconds that running jobs get when the worker is to stop; then they are given back.
    """

    def __init__(self, settings: Settings, supervisor: Supervisor, concurrency: int, grace_s: float) -> None:
        self._settings = settings
        self._jobs = Jobs(settings, supervisor)
        self._store = self._jobs.store
        self._records = Records(self._store)
        self._requests = Requests(settings.home)
        self._concurrency = concurrency
        self._grace_s = grace_s
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Take no further jobs, let the running ones end if they do so in time, give back the rest."""
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`. A store that is away, or restarts, is waited for."""
        delay_s = _RESTART_S[0]
        while not self._stop.is_set():
            began = asyncio.get_running_loop().time()
            try:
                with contextlib.suppress(StoreUnavailableError):  # which has been logged
                    await asyncio.to_thread(self._store.prepare)
                    await self._serve()
            except (ConnectorException, psycopg.Error, PlanproofError) as error:
                _log.warning("the worker lost its queue and tries again: %s", _reason(error))
            if asyncio.get_running_loop().time() - began > _RESTART_S[1]:
                delay_s = _RESTART_S[0]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)
            delay_s = min(2 * delay_s, _RESTART_S[1])
        await asyncio.to_thread(self._store.close)

    async def _serve(self) -> None:
        """Work with one pool of connections until it breaks."""
        connector = procrastinate.PsycopgConnector(
            conninfo=self._conninfo, min_size=1, max_size=4, timeout=10, kwargs={"prepare_threshold": None}
        )
        app = procrastinate.App(connector=connector)
        app.task(name=TASK, retry=_Again(), pass_context=False)(self._perform)
        worker = procrastinate.worker.Worker(
            app,
            queues=[self._requests.queue()],
            concurrency=self._concurrency,
            fetch_job_polling_interval=POLL_S,
            update_heartbeat_interval=_NEVER_S,  # see `_live`
            stalled_worker_timeout=STALLED_S,
            shutdown_graceful_timeout=self._grace_s,
            # A poll outlives a restart of PostgreSQL, and costs less than a connection that only listens.
            listen_notify=False,
            delete_jobs="always",
            install_signal_handlers=False,
        )
        async with app.open_async():
            working = asyncio.create_task(worker.run())  # type: ignore[no-untyped-call]
            others = [asyncio.create_task(each) for each in (self._live(app, worker), self._tend(app), self._wait())]
            try:
                await asyncio.wait((working, *others), return_when=asyncio.FIRST_COMPLETED)
            finally:
                working.cancel()  # which lets running jobs end; until then there are signs of life
                await asyncio.wait((working,))
                for task in others:
                    task.cancel()
                results = await asyncio.gather(working, *others, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _wait(self) -> None:
        await self._stop.wait()

    async def _conninfo(self) -> str:
        """Where the store is now; an embedded one that was killed is started again."""
        return await asyncio.to_thread(self._store.conninfo)

    async def _perform(self, job_id: str) -> None:
        """Run one job that the queue has handed out."""
        claim = await asyncio.to_thread(self._records.claim, job_id)
        folder, limit_s = self._requests.folder(job_id), self._settings.job_timeout_ms / 1000
        if claim is None or await Attempt(claim, self._records, folder, limit_s).run():
            await asyncio.to_thread(self._requests.delete, job_id)

    async def _live(self, app: procrastinate.App, worker: procrastinate.worker.Worker) -> None:
        """Give signs of life: procrastinate's own end, and stay unnoticed, the first time that the store is away."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if worker.worker_id is not None:
                with contextlib.suppress(ConnectorException):
                    await app.job_manager.update_heartbeat(worker.worker_id)

    async def _tend(self, app: procrastinate.App) -> None:
        """Every few seconds, hand out again what workers that are gone have left; every minute, tidy up."""
        tidy_at = 0.0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._rescue(app)
            with contextlib.suppress(OSError):  # the service that shows the figures, and their folder, may be gone
                await asyncio.to_thread(self._jobs.observe)
            with contextlib.suppress(StoreUnavailableError):
                if asyncio.get_running_loop().time() >= tidy_at:
                    tidy_at = asyncio.get_running_loop().time() + TIDY_S
                    await asyncio.to_thread(self._tidy)

    async def _rescue(self, app: procrastinate.App) -> None:
        queue = self._requests.queue()
        with contextlib.suppress(ConnectorException, StoreUnavailableError):  # the worker itself notices both
            for lost in await app.job_manager.get_stalled_jobs(queue=queue, seconds_since_heartbeat=STALLED_S):
                if await asyncio.to_thread(self._jobs.hand_out_again, lost):
                    _log.warning("a worker is gone: job %s is handed out again", lost.task_kwargs["job_id"])

    def _tidy(self) -> None:
        queue = self._requests.queue()
        self._records.forget(queue, self._settings.job_keep_days)
        self._requests.sweep(self._records.going(queue))


class _Again(procrastinate.BaseRetryStrategy):
    """Whatever makes a hand-out fail, there is another: our own table says when a job is over."""

    def get_retry_decision(self, *, exception: BaseException, job: QueueJob) -> procrastinate.RetryDecision:
        given_back = isinstance(exception, GivenBackError | asyncio.CancelledError)
        if not given_back:
            _log.error("a job could not be handed out", exc_info=exception)
        after_s = exception.after_s if isinstance(exception, GivenBackError) else 0 if given_back else 5
        return procrastinate.RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=after_s))


async def work(settings: Settings, concurrency: int, grace_s: float, *, until_eof: bool = False) -> None:
    """Run a worker in this process until SIGTERM or SIGINT; a second one ends it at once.

    Parameters:
        settings: as read from the environment.
        concurrency, grace_s: as for `Worker`.
        until_eof: stop also when standard input ends, as it does when the parent dies.
    """
    _log.info("this worker runs %d jobs at once", concurrency)
    supervisor = Supervisor(settings)
    worker = Worker(settings, supervisor, concurrency, grace_s)
    loop = asyncio.get_running_loop()

    def told(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        worker.stop()

    def orphaned() -> None:
        loop.remove_reader(0)
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    if until_eof:
        loop.add_reader(0, orphaned)  # nothing is ever sent: what can be read is the end
    try:
        await worker.run()
    finally:
        await asyncio.to_thread(supervisor.close)


def _reason(error: Exception) -> str:
    """What libpq said, where there is something: procrastinate's own text is a fixed sentence."""
    return str(error.__cause__ or error).strip().partition("\n")[0]
