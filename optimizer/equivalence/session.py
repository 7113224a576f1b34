"""A connection to the scratch cluster that untrusted SQL may run on.

Every statement is sent by the extended protocol, which carries exactly one; many are sent at once (libpq's pipeline
mode), so that a generated database costs one round trip. Time and bytes are limited from the client's side: what the
server promises, SQL can undo (`set_config('statement_timeout', ...)`), and a function can catch its own cancellation,
so a session that runs too long is ended by a superuser's `pg_terminate_backend`.
"""

from __future__ import annotations

import array
import fcntl
import select
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, PGconn
from psycopg.pq.abc import PGresult

from optimizer.errors import CROWDED, NO_LOCKS_LEFT, ShadowUnavailableError
from optimizer.shadow.server.connecting import attempts, passes, reason_of

Row = tuple[bytes | None, ...]

#: Longest result that is read, in bytes on the wire, for one batch.
MAX_RESULT_BYTES = 8_000_000
#: Result rows that are compared; a longer result tells nothing that a small one does not.
MAX_RESULT_ROWS = 20_000
_CANCELLED = frozenset({"57014", "25P03", "57P01"})  # query_canceled, transaction and admin time-outs
_RESOURCES = frozenset({"53000", "53100", "53200", "53400", "54000", "54001", "55P03", "40001", "40P01", "58000"})


class SessionEnded(Exception):
    """The session was ended, or ended itself; `reason` is `time`, `size` or `lost`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Command:
    """One protocol request.

    Parameters:
        sql: the statement; for `describe` ignored.
        params: values in text form.
        types: parameter type oids, 0 for those the server infers.
        action: `run`; `prepare` only parses; `describe` tells columns and parameters of what was prepared last.
    """

    sql: str
    params: tuple[str | None, ...] = ()
    types: tuple[int, ...] = ()
    action: str = "run"


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """Name, type and type modifier of a result column, as every client sees them."""

    name: str
    type_oid: int
    typmod: int


@dataclass(frozen=True, slots=True)
class Result:
    """What the server answered to one command.

    Parameters:
        columns: of a query's result.
        rows: values as the server's text images, None for NULL.
        error: SQLSTATE and message, None when it succeeded.
        error_offset: the character of the statement that the error is about, counted from 0, where that is known.
        skipped: True when an earlier command of the group failed.
        affected: rows that an INSERT, UPDATE or DELETE touched.
        parameter_types: oids, for `describe`.
    """

    columns: tuple[ResultColumn, ...] = ()
    rows: tuple[Row, ...] = ()
    error: tuple[str, str] | None = None
    error_offset: int | None = None
    skipped: bool = False
    affected: int = 0
    parameter_types: tuple[int, ...] = ()

    @property
    def timed_out(self) -> bool:
        """True when the server's time limit ended it."""
        return self.error is not None and self.error[0] in _CANCELLED

    @property
    def starved(self) -> bool:
        """True when memory, disk, stack or a lock ran out: nothing that speaks about the query's meaning."""
        return self.error is not None and (self.error[0] in _RESOURCES or self.error[0].startswith("08"))


class Session:
    """One connection, not shared between threads.

    Parameters:
        conninfo: a libpq connection string, password included.
        terminate: ends the server process of that number; called when a limit is passed.

    Errors: `ShadowUnavailableError` when the server cannot be reached.
    """

    def __init__(self, conninfo: str, terminate: Callable[[int], None]) -> None:
        self._terminate = terminate
        for _ in attempts():
            self._conn = PGconn.connect(conninfo.encode())
            said = self._conn.error_message.decode(errors="replace")
            if self._conn.status == ConnStatus.OK or not passes(said):
                break
        if self._conn.status != ConnStatus.OK:
            raise ShadowUnavailableError(f"the scratch cluster refused a connection: {reason_of(said)}")
        self._conn.notice_handler = None
        self._conn.nonblocking = 1
        self._conn.enter_pipeline_mode()
        self._poll = select.poll()

    @property
    def pid(self) -> int:
        """The server process's number."""
        return self._conn.backend_pid

    def close(self) -> None:
        """Close the connection; the server rolls back what is open."""
        self._conn.finish()

    def run(
        self,
        groups: Sequence[Sequence[Command]],
        *,
        limit_s: float,
        max_bytes: int = MAX_RESULT_BYTES,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[list[Result]]:
        """Send groups of commands and read all answers.

        Parameters:
            groups: a failing command makes the rest of its own group be skipped. Outside a transaction block each
                group is a transaction of its own.
            limit_s: seconds for the whole batch, after which the session is ended.
            max_bytes: longest answer, after which the session is ended.
            meanwhile: work of some milliseconds, done while the server is busy; it counts against the limit.

        Errors: `SessionEnded`; `ShadowUnavailableError` when the server's lock table is full.
        """
        try:
            for group in groups:
                for command in group:
                    self._send(command)
                self._conn.pipeline_sync()
            deadline = time.monotonic() + limit_s
            if meanwhile is not None:
                self._conn.flush()
                meanwhile()
            answers = self._receive(len(groups), deadline, max_bytes)
        except psycopg.OperationalError:
            self._conn.finish()
            raise SessionEnded("lost") from None
        if any(result.error is not None and result.error[1] == NO_LOCKS_LEFT for group in answers for result in group):
            raise ShadowUnavailableError(CROWDED)  # somebody's doing, and no answer to this question
        return answers

    def _send(self, command: Command) -> None:
        # Never a named statement: its typed constants would keep the TimeZone that it was prepared under.
        if command.action == "prepare":
            self._conn.send_prepare(b"", command.sql.encode(), command.types or None)
        elif command.action == "describe":
            self._conn.send_describe_prepared(b"")
        else:
            params = [None if p is None else p.encode() for p in command.params]
            self._conn.send_query_params(command.sql.encode(), params, command.types or None)

    def _receive(self, groups: int, deadline: float, max_bytes: int) -> list[list[Result]]:
        answers: list[list[Result]] = [[]]
        read = 0
        idle = 0
        while True:
            if self._conn.is_busy():
                read += self._wait(deadline)
                if read > max_bytes:
                    self._end("size")
                continue
            result = self._conn.get_result()
            if self._conn.status != ConnStatus.OK:
                self._end("lost")
            if result is None:
                idle += 1
                if idle > 1_000:  # nothing is under way although a sync point is missing
                    self._end("lost")
                continue
            idle = 0
            if result.status == ExecStatus.PIPELINE_SYNC:
                if len(answers) == groups:
                    return answers
                answers.append([])
            else:
                answers[-1].append(_result(result))

    def _wait(self, deadline: float) -> int:
        """Wait for the server, and return how many bytes it had sent."""
        sock = self._conn.socket
        pending = self._conn.flush()
        self._poll.register(sock, select.POLLIN | (select.POLLOUT if pending else 0))
        left = deadline - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            self._end("time")
        waiting = array.array("i", [0])
        fcntl.ioctl(sock, termios.FIONREAD, waiting)
        self._conn.consume_input()
        return waiting[0]

    def _end(self, reason: str) -> None:
        pid = self.pid
        self._conn.finish()
        if reason != "lost":
            self._terminate(pid)
        raise SessionEnded(reason)


def _result(result: PGresult) -> Result:
    if result.status == ExecStatus.PIPELINE_ABORTED:
        return Result(skipped=True)
    if result.status == ExecStatus.FATAL_ERROR:
        state = result.error_field(DiagnosticField.SQLSTATE) or b""
        message = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message
        place = result.error_field(DiagnosticField.STATEMENT_POSITION)
        said = state.decode(), message.decode(errors="replace").strip()
        return Result(error=said, error_offset=int(place) - 1 if place else None)
    width, height = result.nfields, result.ntuples
    columns = tuple(
        ResultColumn((result.fname(i) or b"").decode(errors="replace"), result.ftype(i), result.fmod(i))
        for i in range(width)
    )
    if height > MAX_RESULT_ROWS:
        return Result(columns, error=("54000", f"more than {MAX_RESULT_ROWS:,} rows"))
    rows = tuple(tuple(result.get_value(i, j) for j in range(width)) for i in range(height))
    types = tuple(result.param_type(i) for i in range(result.nparams))
    return Result(columns, rows, affected=result.command_tuples or 0, parameter_types=types)
