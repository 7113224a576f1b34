"""Background jobs of this process: kept in memory, so a restart forgets them."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from api.errors import INTERNAL, TooManyJobsError, UnknownJobError, problem_of
from optimizer.errors import PlanproofError

Progress = Callable[[str, float], None]
Work = Callable[[Progress], object]
State = Literal["queued", "running", "done", "failed"]
_log = logging.getLogger("planproof")

#: Jobs that run at once, that may wait, and that are remembered once they are over.
WORKERS = 2
MAX_WAITING = 16
MAX_REMEMBERED = 1_000


@dataclass(slots=True)
class Job:
    """One job; only the registry's lock holder writes to it.

    Parameters:
        progress: the share that is done, 0 to 1.
        step: what is being done.
        error: a problem's members, for a failed job.
    """

    id: str
    state: State = "queued"
    progress: float = 0.0
    step: str = ""
    error: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "id": self.id,
            "state": self.state,
            "progress": self.progress,
            "step": self.step,
            "error": self.error,
        }


class Jobs:
    """Runs jobs on threads and remembers how they went."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="planproof-job")

    def start(self, work: Work) -> str:
        """Queue a job.

        Parameters:
            work: is called on another thread with a function that takes a step's name and the share that is done.

        Returns: the job's id.

        Errors: `TooManyJobsError`.
        """
        job = Job(uuid.uuid4().hex)
        with self._lock:
            if sum(other.state == "queued" for other in self._jobs.values()) >= MAX_WAITING:
                raise TooManyJobsError(f"{MAX_WAITING} jobs are waiting already: try again later")
            self._forget()
            self._jobs[job.id] = job
        self._executor.submit(self._run, job, work)
        return job.id

    def get(self, job_id: str) -> dict[str, Any]:
        """How a job is doing.

        Errors: `UnknownJobError`.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                raise UnknownJobError("no such job: jobs are forgotten when the service restarts")
            return job.as_dict()

    def close(self) -> None:
        """Drop waiting jobs and wait for the running ones."""
        self._executor.shutdown(cancel_futures=True)

    def _forget(self) -> None:
        over = [job.id for job in self._jobs.values() if job.state in ("done", "failed")]
        for job_id in over[: max(0, len(over) - MAX_REMEMBERED + 1)]:
            del self._jobs[job_id]

    def _run(self, job: Job, work: Work) -> None:
        self._set(job, state="running")
        try:
            work(lambda step, done: self._set(job, step=step, progress=done))
        except PlanproofError as error:
            self._fail(job, error, " ".join(str(error).split()))
        except Exception as error:  # noqa: BLE001 - the thread's outermost edge: a job never stays `running` for ever
            _log.error("a job failed", exc_info=error)
            self._fail(job, error, "a defect of planproof; its log says more")
        else:
            self._set(job, state="done", progress=1.0)

    def _fail(self, job: Job, error: Exception, detail: str) -> None:
        problem = problem_of(error) if isinstance(error, PlanproofError) else INTERNAL
        shown = {"type": problem.type, "title": problem.title, "status": problem.http_status, "detail": detail}
        self._set(job, state="failed", error=shown)

    def _set(self, job: Job, **changes: Any) -> None:
        with self._lock:
            for key, value in changes.items():
                setattr(job, key, value)
