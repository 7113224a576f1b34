"""uvicorn's HTTP/1.1 with the time limits that it lacks: for a request's head, and for connections as such."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.problems import problem_response

#: From the connection's start, or the request's first byte, to the end of its headers; also for a body that nobody
#: wants any more.
HEAD_TIMEOUT_S = 10.0
#: Bytes of the request line and headers together.
MAX_HEAD_BYTES = 32_768
KEEP_ALIVE_S = 15


class TimedProtocol(H11Protocol):
    """One connection. uvicorn's `limit_concurrency` is the number of connections that are served; further ones get
    503, and beyond twice as many are cut off."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        limit, self.limit_concurrency = self.limit_concurrency, None
        if limit is not None and len(self.connections) > limit:
            self.app = _overloaded
            if len(self.connections) > 2 * limit:
                transport.abort()
                return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """See `H11Protocol`; what is no HTTP is answered with a problem too, and the connection ends."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is on its way already
            return
        problem = problem_response(400, "Bad Request", "this is not HTTP, or its headers are too long")
        headers = [*problem.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(problem.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and answered):
            if self._overdue is None:
                self._overdue = self.loop.call_later(HEAD_TIMEOUT_S, self._cut_off)
        else:
            self._stop_watching()

    def _stop_watching(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _cut_off(self) -> None:
        self._overdue = None
        if not self.transport.is_closing():
            self.transport.abort()


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": "5", "Connection": "close"}
    answer: Any = problem_response(
        503, "Too many connections", "the service has too many connections: try again later", headers=headers
    )
    await answer(scope, receive, send)
