"""The jobs, seen from the service: queue one, ask about it, cancel it. Any process may ask about any job."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from procrastinate import SyncPsycopgConnector
from procrastinate.jobs import Job as QueueJob
from procrastinate.manager import JobManager
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from api.errors import TooManyJobsError, UnknownJobError
from api.jobs.requests import Requests
from api.jobs.watch import Watch
from api.metrics import JOBS
from optimizer.errors import StoreUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor
from optimizer.store.models import ENDED, STATES, Job
from optimizer.store.store import Store

#: The one task of procrastinate's; its only argument is the job's id.
TASK = "planproof.job"
#: Jobs that may wait, and bytes of their requests.
MAX_WAITING, MAX_WAITING_BYTES = 200, 1_000_000_000
_ID = re.compile(r"[0-9a-f]{32}")
_TAKEN_BACK = text("DELETE FROM procrastinate_jobs WHERE id = :id AND status = 'doing' RETURNING id")
_QUEUEING = text("SELECT pg_advisory_xact_lock(hashtext('planproof.queueing'))")


class Jobs:
    """The jobs of the store.

    Parameters:
        settings: the store and the data folder.
        supervisor: of the embedded clusters.

    Every method but `close` may raise `StoreUnavailableError`.
    """

    def __init__(self, settings: Settings, supervisor: Supervisor) -> None:
        self.store = Store(settings, supervisor)
        self._requests = Requests(settings.home)
        self._manager = JobManager(SyncPsycopgConnector())
        self.watch = Watch(self.many)

    def add(self, kind: str, subject: str, request: Mapping[str, Any]) -> str:
        """Queue a job. It is not lost any more when this returns.

        Parameters:
            kind: one of `api.jobs.tasks.TASKS`.
            subject: jobs of one subject run one after the other, in the order in which they were queued.
            request: what the task reads; kept in a file of this data folder until the job ends.

        Returns: the job's id.

        Errors: `TooManyJobsError`.
        """
        queue, job_id = self._requests.queue(), uuid.uuid4().hex
        size = self._requests.write(job_id, request)
        try:
            with self.store.begin() as session:
                session.execute(_QUEUEING)
                waiting = select(func.count(), func.coalesce(func.sum(Job.request_bytes), 0))
                count, total = session.execute(waiting.where(Job.queue == queue, Job.state == "queued")).one()
                if count >= MAX_WAITING or total + size > MAX_WAITING_BYTES:
                    raise TooManyJobsError(f"{count} jobs are waiting already: try again later")
                session.add(Job(id=job_id, kind=kind, subject=subject, queue=queue, request_bytes=size))
                handed_out = QueueJob(
                    queue=queue,
                    lock=f"{queue}:{subject}",
                    queueing_lock=None,
                    task_name=TASK,
                    task_kwargs={"job_id": job_id},
                )
                self._hand_out(session, handed_out)
        except BaseException:
            self._requests.delete(job_id)
            raise
        return job_id

    def hand_out_again(self, lost: QueueJob) -> bool:
        """Hand out a job whose worker is gone, under a new number of procrastinate's: should the worker come back, what
        it says under the old one counts no more. Jobs of the same subject wait for it as before.

        Parameters:
            lost: as procrastinate knows it.

        Returns: whether we were the first.
        """
        with self.store.begin() as session:
            if session.execute(_TAKEN_BACK, {"id": lost.id}).first() is None:
                return False
            self._hand_out(session, lost.evolve(id=None, priority=lost.priority + 1, scheduled_at=None))
        return True

    def _hand_out(self, session: Session, job: QueueJob) -> None:
        """Give a job to procrastinate in our transaction: there is never one without the other."""
        session.flush()
        self._manager.defer_job(job, connection=session.connection().connection.driver_connection)

    def get(self, job_id: str) -> dict[str, Any]:
        """How a job is doing.

        Errors: `UnknownJobError`.
        """
        return self.store.run(lambda session: view(_known(session, job_id)))

    def list(self, limit: int) -> list[dict[str, Any]]:
        """The newest jobs, newest first."""
        newest = select(Job).order_by(Job.created.desc(), Job.id).limit(limit)
        return self.store.run(lambda session: [view(job) for job in session.scalars(newest)])

    def many(self, job_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Those jobs of a collection of ids that there are, by id."""
        wanted = select(Job).where(Job.id.in_(job_ids))
        return self.store.run(lambda session: {job.id: view(job) for job in session.scalars(wanted)})

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: one that waits never starts, one that runs is ended by its worker, one that is over stays so.

        Returns: the job as it is now; still `running`, with `cancel_requested`, until its worker has ended it.

        Errors: `UnknownJobError`.
        """
        shown = self.store.run(lambda session: _cancelled(session, job_id))
        if shown["state"] == "cancelled":
            self._requests.delete(job_id)
        return shown

    def observe(self) -> None:
        """Set the figures of `api.metrics`; a store that is away, or that nobody has needed yet, changes nothing."""
        if self.store.state == "unused":
            return
        counted = select(Job.state, func.count()).group_by(Job.state)
        with contextlib.suppress(StoreUnavailableError):
            counts = self.store.run(lambda session: dict(session.execute(counted).tuples().all()))
            for state in STATES:
                JOBS.labels(state).set(counts.get(state, 0))

    def close(self) -> None:
        """Close the connections to the store; jobs go on."""
        self.store.close()


def view(job: Job) -> dict[str, Any]:
    """The contract's shape of a job."""
    times = {name: getattr(job, name) for name in ("created", "started", "ended")}
    return {
        "id": job.id,
        "kind": job.kind,
        "shadow": job.subject,
        "state": job.state,
        "progress": job.progress,
        "step": job.step,
        "error": job.error,
        **{name: None if time is None else time.isoformat(timespec="milliseconds") for name, time in times.items()},
        "attempt": job.attempt,
        "cancel_requested": job.cancel_requested is not None,
        "version": job.version,
    }


def _cancelled(session: Session, job_id: str) -> dict[str, Any]:
    job = _known(session, job_id, for_update=True)
    if job.state not in ENDED and job.cancel_requested is None:
        job.cancel_requested, job.version = func.now(), job.version + 1
    if job.state == "queued":
        job.state, job.ended = "cancelled", func.now()
    session.flush()
    session.refresh(job)
    return view(job)


def _known(session: Session, job_id: str, *, for_update: bool = False) -> Job:
    # What is no id may hold characters that PostgreSQL cannot be asked about.
    job = session.get(Job, job_id, with_for_update=for_update or None) if _ID.fullmatch(job_id) else None
    if job is None:
        raise UnknownJobError("no such job: jobs are forgotten some days after they end")
    return job
