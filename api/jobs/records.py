"""What workers read and write about jobs in the store. All of it blocks: call it on a thread."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import delete, func, select, text, update

from api.errors import INTERNAL
from optimizer.store.models import ENDED, Job
from optimizer.store.store import Store

#: Attempts that may fail in a way that may pass, or whose process may die, before the job has failed.
MAX_FAILURES = 3
#: Starts altogether, those whose worker died or was stopped included.
MAX_STARTS = 10


class Order(Enum):
    """What an attempt has to do next."""

    GO_ON = "go on"
    CANCEL = "cancel"
    #: Another attempt has taken the job over, or the job is over.
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job, until somebody claims it anew.

    Parameters:
        job_id, kind: of the job.
        attempt: the number of this start.
        failures: earlier attempts that failed.
    """

    job_id: str
    kind: str
    attempt: int
    failures: int


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended.

    Parameters:
        state: the job's state from now on; `queued` when there is to be another attempt.
        step: for people; empty leaves the last one, and the progress, as they are.
        error: a problem's members, for a failed job.
        after_s: seconds until the next attempt, for a queued job.
        failed: whether the attempt counts as a failure.
    """

    state: str
    step: str = ""
    error: dict[str, Any] | None = None
    after_s: int | None = None
    failed: bool = False


class Records:
    """The jobs in a store, for workers.

    Parameters:
        store: every call may raise its `StoreUnavailableError`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, job_id: str) -> Claim | None:
        """Begin a job, queued or lost by another worker; None when there is nothing to do any more."""
        with self._store.begin() as session:
            job = session.get(Job, job_id, with_for_update=True)
            if job is None or job.state in ENDED:
                return None
            job.version += 1
            if job.cancel_requested is not None:
                job.state, job.ended = "cancelled", func.now()
                return None
            if job.attempt >= MAX_STARTS:
                job.state, job.ended = "failed", func.now()
                job.error = problem(f"the worker ended while it ran this job, {MAX_STARTS} times: it was given up")
                return None
            job.state, job.step, job.progress = "running", "starting", 0.0
            job.attempt += 1
            job.started = job.started or func.now()
            return Claim(job.id, job.kind, job.attempt, job.failures)

    def pulse(self, claim: Claim, told: tuple[str, float] | None) -> Order:
        """Write down what an attempt is doing, if there is something new, and learn what it has to do.

        Parameters:
            claim: of the attempt.
            told: step and progress; None writes nothing.
        """
        with self._store.begin() as session:
            if told is not None:
                values = {"step": told[0], "progress": told[1], "version": Job.version + 1}
                row = session.execute(_mine(claim).values(values).returning(Job.cancel_requested)).one_or_none()
            else:
                mine = (Job.id == claim.job_id, Job.attempt == claim.attempt, Job.state == "running")
                row = session.execute(select(Job.cancel_requested).where(*mine)).one_or_none()
        if row is None:
            return Order.STOP
        return Order.GO_ON if row[0] is None else Order.CANCEL

    def end(self, claim: Claim, end: End) -> bool:
        """Write down how an attempt ended. Returns whether it could: not if another one has taken the job over."""
        ended = func.now() if end.state in ENDED else None
        values: dict[str, Any] = {"state": end.state, "error": end.error, "ended": ended, "version": Job.version + 1}
        values |= {"failures": Job.failures + int(end.failed)}
        if end.step:
            values |= {"step": end.step, "progress": float(end.state == "done")}
        with self._store.begin() as session:
            return session.execute(_mine(claim).values(values).returning(Job.id)).first() is not None

    def forget(self, queue: str, days: int) -> None:
        """Delete the jobs of a queue that ended longer than `days` ago."""
        old = func.now() - text("make_interval(days => :days)").bindparams(days=days)
        with self._store.begin() as session:
            session.execute(delete(Job).where(Job.queue == queue, Job.ended < old))

    def going(self, queue: str) -> frozenset[str]:
        """The ids of a queue's jobs that have not ended."""
        with self._store.begin() as session:
            return frozenset(session.scalars(select(Job.id).where(Job.queue == queue, Job.ended.is_(None))))


def problem(detail: str, status: int = INTERNAL.http_status, *, type_: str = "", title: str = "") -> dict[str, Any]:
    """A problem's members, as a failed job shows them; a failure of ours unless told otherwise."""
    return {"type": type_ or INTERNAL.type, "title": title or INTERNAL.title, "status": status, "detail": detail}


def _mine(claim: Claim) -> Any:
    return update(Job).where(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.state == "running")
