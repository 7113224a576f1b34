"""Limits on request bodies, applied while they arrive: size, what all of them together hold, and how long they take."""

from __future__ import annotations

import asyncio
import time

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Every body may take this long, and longer only while it arrives at least at this rate.
BODY_GRACE_S = 20.0
MIN_BYTES_PER_S = 50_000
#: A client that does not read its answer is given up after this long.
SEND_TIMEOUT_S = 60.0
#: Small bodies are always let in: the share of a body that is not counted against `max_held`.
_FREE_BYTES = 64_000


class BodyLimit:
    """ASGI middleware that ends a request whose body is too large or too slow, or whose answer nobody reads.

    Parameters:
        max_bytes: largest body.
        max_held: most bytes of bodies that requests under way hold together; None is twice `max_bytes`.
        grace_s: seconds that every body may take.

    Errors: `HTTPException` 413, 408 or 503, raised where the application reads the body.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_held: int | None = None, grace_s: float = BODY_GRACE_S
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_held = max_held if max_held is not None else 2 * max_bytes
        self.grace_s = grace_s
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive)
        try:
            await self.app(scope, body.receive, _bounded(send))
        finally:
            self.held -= body.counted


class _Body:
    """One request's body as it arrives."""

    def __init__(self, limit: BodyLimit, scope: Scope, receive: Receive) -> None:
        announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
        self._announced = int(announced) if announced.isdigit() else 0
        self._limit = limit
        self._receive = receive
        self._began = time.monotonic()
        self._seen = 0
        self._complete = False
        self.counted = 0

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()  # what comes now is the news that the client has gone
        limit = self._limit
        if self._announced > limit.max_bytes:
            raise self._too_large()
        allowed_s = limit.grace_s + self._seen / MIN_BYTES_PER_S
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._left(allowed_s)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, "the request's body took too long to arrive: send it faster", {"Connection": "close"}
            ) from None
        self._seen += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._seen > limit.max_bytes:
            raise self._too_large()
        self._count(max(0, self._seen - _FREE_BYTES))
        return message

    def _left(self, allowed_s: float) -> float:
        return max(0.0, self._began + allowed_s - time.monotonic())

    def _count(self, now: int) -> None:
        limit = self._limit
        if now > self.counted and limit.held + now - self.counted > limit.max_held:
            raise HTTPException(503, "too much is being sent at once: try again later", {"Retry-After": "5"})
        limit.held += now - self.counted
        self.counted = now

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than {self._limit.max_bytes:,} bytes: send less")


def _bounded(send: Send) -> Send:
    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(message)
        except TimeoutError:
            raise ConnectionAbortedError from None

    return bounded
