"""A connection with a clock on this side, for statements that users wrote.

A function can catch a cancellation, and change a timeout for what comes later; it cannot catch the end of its session.
"""

from __future__ import annotations

import array
import fcntl
import select
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import errors, pq

from optimizer.clock import patience_s
from optimizer.errors import CROWDED, NO_LOCKS_LEFT, ShadowUnavailableError, SqlError, TimeLimitError

#: Seconds that a cancelled statement gets before its session is ended, and again before the connection is given up.
CANCEL_GRACE_S = 1.0
#: Most bytes of one answer that are read before the session is ended.
MAX_ANSWER_BYTES = 100_000_000
_OK = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})
_QUERY_CANCELED, _LOCK_NOT_AVAILABLE = "57014", "55P03"
_AWAY = "the shadow's server went away while planning: try again"


class GuardedConnection:
    """Runs statements within a time limit that they cannot lift.

    Parameters:
        connection: of an unprivileged login, in autocommit mode; nobody else uses it meanwhile.
        timeout_ms: limit for one statement, waiting for its cancellation not counted.
        setting: which setting that is, for the error.
        end_session: ends the server process of that number (`pg_terminate_backend`); called when a statement does not
            heed its cancellation.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        timeout_ms: int,
        end_session: Callable[[int], None],
        setting: str = "PLANPROOF_EXPLAIN_TIMEOUT_MS",
    ) -> None:
        self.connection = connection
        self.timeout_ms = timeout_ms
        self._setting = setting
        self._end_session = end_session
        self._read = 0

    @property
    def broken(self) -> bool:
        """True when the connection can no longer be used."""
        return self.connection.closed or self.connection.broken

    def command(self, command: str) -> None:
        """Run statements of our own, all in one message.

        Errors: `TimeLimitError`, `ShadowUnavailableError`.
        """
        result = self._roundtrip(lambda: self.connection.pgconn.send_query(command.encode()))
        if result.status not in _OK:
            raise _unavailable(result)

    def run(self, head: str, sql: str, values: Sequence[bytes | None] = ()) -> pq.abc.PGresult:
        """Run one statement, of which a user wrote the end; the extended protocol takes no second one.

        Parameters:
            head: what is put before it; places in error messages are counted without it.
            sql: the user's text.
            values: for its parameters, in text form.

        Errors: `SqlError`, `TimeLimitError`, `ShadowUnavailableError`.
        """
        text = (head + sql).encode()
        result = self._roundtrip(lambda: self.connection.pgconn.send_query_params(text, list(values)))
        if result.status not in _OK:
            raise self._translated(result, sql, len(head))
        return result

    def run_between(
        self, before: Sequence[str], head: str, sql: str, values: Sequence[bytes | None], after: Sequence[str]
    ) -> pq.abc.PGresult:
        """Run one statement, of which a user wrote the end, between statements of our own, all sent at once.

        Parameters:
            before: when one of them fails, the statement is not run.
            head, sql, values: as for `run`.
            after: run in any case.

        Errors: as `run`.
        """
        low = self.connection.pgconn
        self._read = 0
        try:
            low.enter_pipeline_mode()
            for text in before:
                low.send_query_params(text.encode(), None)
            low.send_query_params((head + sql).encode(), list(values))
            low.pipeline_sync()
            for text in after:
                low.send_query_params(text.encode(), None)
            low.pipeline_sync()
            ours = [self._piped() for _ in before]
            result = self._piped()
            self._result()  # the first point of synchronisation
            ours += [self._piped() for _ in after]
            self._result()
            low.exit_pipeline_mode()
        except psycopg.OperationalError as error:
            self.connection.close()
            raise ShadowUnavailableError(_AWAY) from error
        failed = next((r for r in ours if r.status not in _OK), None)
        if failed is not None:
            raise self._translated(failed, "", 0)
        if result.status not in _OK:
            raise self._translated(result, sql, len(head))
        return result

    def _piped(self) -> pq.abc.PGresult:
        """Take one statement's result in a pipeline, and the end of its results."""
        result = self._result()
        if result is None:
            self.connection.close()
            raise ShadowUnavailableError(_AWAY)
        if self.connection.pgconn.status == pq.ConnStatus.BAD:
            self.connection.close()
            raise _unavailable(result)
        self._result()
        return result

    def run_each(self, statements: Sequence[str]) -> list[SqlError | None]:
        """Run statements that users wrote, each a transaction of its own, all sent at once.

        Returns: for each, why the server refused it; None when it ran.

        Errors: `TimeLimitError`, `ShadowUnavailableError`, `SqlError` for an answer that is too long; then the session
            is ended, so that none is still to be run.
        """
        low = self.connection.pgconn
        self._read = 0
        try:
            low.enter_pipeline_mode()
            for statement in statements:
                low.send_query_params(statement.encode(), None)
                low.pipeline_sync()
            refusals = [self._refusal(statement) for statement in statements]
            low.exit_pipeline_mode()
        except psycopg.OperationalError as error:
            self.connection.close()
            raise ShadowUnavailableError(_AWAY) from error
        except TimeLimitError:
            if not self.broken:
                self._end()
            raise
        return refusals

    def _refusal(self, statement: str) -> SqlError | None:
        """Take one statement's results: its own, the end of them, and the point where its transaction ends."""
        result, _, end = self._result(), self._result(), self._result()
        if result is None or end is None:
            self.connection.close()
            raise ShadowUnavailableError(_AWAY)
        if result.status in _OK:
            return None
        refusal = self._translated(result, statement, 0)
        if isinstance(refusal, SqlError):
            return refusal
        raise refusal

    def _roundtrip(self, send: Callable[[], None]) -> pq.abc.PGresult:
        """Send, and wait for the last result no longer than the limit and some."""
        self._read = 0
        try:
            send()
            last = self._result()
            while (following := self._result()) is not None:
                last = following
        except psycopg.OperationalError as error:
            self.connection.close()
            raise ShadowUnavailableError(_AWAY) from error
        if last is None:
            self.connection.close()
            raise ShadowUnavailableError(_AWAY)
        return last

    def _result(self) -> pq.abc.PGresult | None:
        if not self._wait(patience_s(self.timeout_ms / 1000) + CANCEL_GRACE_S):
            self.connection.cancel_safe(timeout=CANCEL_GRACE_S)
            if not self._wait(CANCEL_GRACE_S):
                self._end()
                raise self._timed_out()
        return self.connection.pgconn.get_result()

    def _wait(self, seconds: float) -> bool:
        """Wait until the next result is complete; False when it is not after that time."""
        low = self.connection.pgconn
        poll = select.poll()
        deadline = time.monotonic() + seconds
        while True:
            unsent = low.flush()
            if not unsent and not low.is_busy():
                return True
            poll.register(low.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0 or not poll.poll(left_ms):
                return False
            waiting = array.array("i", [0])
            fcntl.ioctl(low.socket, termios.FIONREAD, waiting)
            self._read += waiting[0]
            if self._read > MAX_ANSWER_BYTES:
                self._end()
                raise SqlError(f"the server's answer has more than {MAX_ANSWER_BYTES:,} bytes: simplify the statement")
            low.consume_input()

    def _end(self) -> None:
        """End the session, and give the connection up."""
        process = self.connection.pgconn.backend_pid
        self.connection.close()
        self._end_session(process)

    def _translated(
        self, result: pq.abc.PGresult, sql: str, prefix: int
    ) -> SqlError | TimeLimitError | ShadowUnavailableError:
        """Say in our terms why the server refused a user's statement."""
        diagnosis = errors.error_from_result(result, encoding="utf-8").diag
        state = diagnosis.sqlstate or ""
        if state in (_QUERY_CANCELED, _LOCK_NOT_AVAILABLE):
            return self._timed_out()
        if state == "" or diagnosis.severity_nonlocalized in ("FATAL", "PANIC"):
            return _unavailable(result)
        message = (diagnosis.message_primary or "the server refused the statement").strip()
        if message == NO_LOCKS_LEFT:
            return ShadowUnavailableError(CROWDED)
        if diagnosis.message_hint:
            message += f": {diagnosis.message_hint.splitlines()[0].rstrip('.')}"
        place = diagnosis.statement_position
        offset = int(place) - 1 - prefix if place is not None else -1
        return SqlError.at_offset(message, sql, offset if 0 <= offset <= len(sql) else None)

    def _timed_out(self) -> TimeLimitError:
        return TimeLimitError(
            f"the statement took longer than {self.timeout_ms:,} ms: simplify it, or raise {self._setting}"
        )


def _unavailable(result: pq.abc.PGresult) -> ShadowUnavailableError:
    lines = result.error_message.decode("utf-8", errors="replace").strip().splitlines()
    return ShadowUnavailableError(f"the shadow's server ended the session: {lines[0] if lines else 'no message'}")
