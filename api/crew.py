"""The processes of one service: started together, replaced when they die, ended together.

Nothing here knows what they do. Each is told to end by SIGTERM, and ends by itself when its standard input is closed,
which happens when this process dies in whatever way.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from api.logs import logger

_log = logger("planproof.serve")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
#: A process that lives this long has started well; one that dies sooner is started again less and less often.
SETTLED_S = 10.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
#: How long processes may take to end once their requests have had their time.
_MARGIN_S = 10.0

EXIT_KILLED = 130


@dataclass(frozen=True, slots=True)
class Program:
    """What one of the processes runs.

    Parameters:
        name: for the log.
        arguments: the command.
        files: descriptors that it inherits.
        essential: whether the service ends when this cannot start; else it is tried again for ever.
    """

    name: str
    arguments: tuple[str, ...]
    files: tuple[int, ...] = ()
    essential: bool = True


@dataclass(slots=True)
class _Place:
    """Where one program runs, in one process after another."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = 0.0
    due: float = 0.0
    retiring: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            self.program.arguments, stdin=subprocess.PIPE, pass_fds=self.program.files
        )
        self.started = time.monotonic()


class Crew:
    """Runs programs until a signal ends them.

    Parameters:
        programs: one process for each.
        grace_s: seconds for which processes may finish what they are doing.
        gone: is called with the id of each process that has ended.
        stopping: is called once, when no process will be started any more.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        grace_s: float,
        gone: Callable[[int], None],
        stopping: Callable[[], None],
    ) -> None:
        self._places = [_Place(program) for program in programs]
        self._grace_s = grace_s
        self._gone = gone
        self._stopping = stopping
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._settled = False

    def run(self) -> int:
        """Start everything, and return the exit status once everything has ended.

        SIGTERM and SIGINT end it gracefully, a second SIGINT at once; SIGHUP puts a new process in the place of each.
        """
        before = {number: signal.signal(number, self._received) for number in _SIGNALS}
        try:
            for place in self._places:
                place.start()
            return self._watch()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _received(self, number: int, _: FrameType | None) -> None:
        self._signals.put(number)

    def _next_signal(self, timeout_s: float) -> int | None:
        try:
            return self._signals.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _watch(self) -> int:
        while True:
            number = self._next_signal(0.5)
            if number in (signal.SIGINT, signal.SIGTERM):
                _log.info("stopping", grace_s=self._grace_s)
                return self._end()
            if number == signal.SIGHUP:
                self._renew()
            for place in self._places:
                failed = self._look_after(place)
                if failed is not None:
                    self._end()
                    return failed

    def _look_after(self, place: _Place) -> int | None:
        """Replace a process that has died; return its status when the service cannot start at all."""
        self._reap(place)
        process, now = place.process, time.monotonic()
        if process is None:
            if now >= place.due:
                place.start()
            return None
        lived_s, status = now - place.started, process.poll()
        if lived_s > SETTLED_S:
            self._settled, place.pause_s = self._settled or place.program.essential, 0.0
        if status is None:
            return None
        self._ended(process)
        place.process = None
        if status > 0 and place.program.essential and not self._settled:
            return status
        _log.warning("a process ended and is replaced", process=place.program.name, status=status)
        place.due = now + place.pause_s
        place.pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * place.pause_s))
        return None

    def _renew(self) -> None:
        _log.info("replacing all processes")
        for place in self._places:
            if place.process is not None:
                old = place.process
                place.start()
                old.terminate()
                place.retiring.append(old)

    def _reap(self, place: _Place) -> None:
        for process in [process for process in place.retiring if process.poll() is not None]:
            place.retiring.remove(process)
            self._ended(process)

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            process.stdin.close()
        self._gone(process.pid)

    def _living(self) -> list[subprocess.Popen[bytes]]:
        known = [process for place in self._places for process in (place.process, *place.retiring) if process]
        return [process for process in known if process.poll() is None]

    def _end(self) -> int:
        """End all processes and wait for them.

        Returns: 0, or `EXIT_KILLED` after a second SIGINT or when one did not end in time.
        """
        self._stopping()
        for process in self._living():
            process.terminate()
        limit = time.monotonic() + self._grace_s + _MARGIN_S
        while self._living():
            if self._next_signal(0.2) == signal.SIGINT or time.monotonic() > limit:
                self._kill()
                return EXIT_KILLED
        return 0

    def _kill(self) -> None:
        for process in self._living():
            process.kill()
            process.wait()
