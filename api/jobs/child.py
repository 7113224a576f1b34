"""The process that runs one attempt of one job, and nothing else: `python -m api.jobs.child KIND FOLDER`.

A process of its own can be ended at any moment, connections, pg_dump and memory included, and takes nobody along.
It tells what it does in lines of JSON on standard output: `{"step", "progress"}`, at the end `{"outcome": "done"}` or
`{"outcome": "failed", "error": <problem>, "passing": bool}`. It ends when its worker does: then standard input closes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, NoReturn

from api.errors import INTERNAL, problem_of
from api.jobs.requests import read_request, remember, remembered
from api.jobs.tasks import TASKS
from api.logs import configure
from api.settings import read_settings
from optimizer.errors import PlanproofError, ShadowUnavailableError
from optimizer.services import Services
from optimizer.settings import Settings

_log = logging.getLogger("planproof")
#: Seconds between two lines about the same step.
_LINE_EVERY_S = 0.2


class _EndedError(BaseException):
    """The worker wants this attempt to end; no handler of `Exception` may stop that."""


def main() -> None:
    """Run the attempt that the command line names."""
    # Whatever a library prints must not get between the lines that the worker reads.
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    signal.signal(signal.SIGTERM, _ended)
    kind, folder = sys.argv[1], Path(sys.argv[2])
    try:
        settings = read_settings()
        configure(settings)
        outcome = _run(settings, kind, folder, _Line(channel))
    except PlanproofError as error:
        detail = " ".join(str(error).split())
        passing = isinstance(error, ShadowUnavailableError) and not error.lasting
        outcome = _failed(error, detail, passing=passing)
    except Exception as error:  # noqa: BLE001 - the process's outermost edge: the worker is told in any case
        _log.error("a job failed", exc_info=error)
        outcome = _failed(error, "a defect of planproof; its log says more", passing=False)
    except _EndedError:
        outcome = {"outcome": "ended"}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over, and the worker shall know how
    _Line(channel).say(outcome)
    channel.flush()
    os._exit(0)  # threads of libraries do not hold the worker up


def _run(settings: Settings, kind: str, folder: Path, line: _Line) -> dict[str, Any]:
    task, request = TASKS[kind], read_request(folder)
    done = {"outcome": "done"}
    with Services.open(settings) as services:
        before = remembered(folder)
        again = before is not None
        if before is None:
            before = task.mark(services, request)
            remember(folder, before)
        elif task.mark(services, request) != before:
            return done
        try:
            task.run(services, request, line.progress)
        except (_EndedError, PlanproofError) as error:
            # The end came just too late; or an earlier attempt, thought to be dead, did the work meanwhile.
            if (again or isinstance(error, _EndedError)) and task.mark(services, request) != before:
                return done
            raise
    return done


class _Line:
    """Writes to the worker, rarely enough."""

    def __init__(self, channel: IO[str]) -> None:
        self._channel = channel
        self._last = ("", 0.0)

    def progress(self, step: str, done: float) -> None:
        """What is being done, and the share that is behind us."""
        now = time.monotonic()
        if step != self._last[0] or now - self._last[1] >= _LINE_EVERY_S:
            self._last = (step, now)
            self.say({"step": step, "progress": done})

    def say(self, what: dict[str, Any]) -> None:
        """Write one line."""
        self._channel.write(json.dumps(what) + "\n")
        self._channel.flush()


def _failed(error: Exception, detail: str, *, passing: bool) -> dict[str, Any]:
    problem = problem_of(error) if isinstance(error, PlanproofError) else INTERNAL
    shown = {"type": problem.type, "title": problem.title, "status": problem.http_status, "detail": detail[:2_000]}
    return {"outcome": "failed", "error": shown, "passing": passing}


def _ended(_number: int, _frame: object) -> NoReturn:
    raise _EndedError


def _end_with_the_worker() -> None:
    """Wait until the worker is gone, then end this process and all that it started; the job begins anew elsewhere."""
    while os.read(0, 4_096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
