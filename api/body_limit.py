"""A limit on request bodies, counted while they arrive, so that nothing larger is ever held."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware that ends a request whose body is larger than `max_bytes`.

    Errors: `HTTPException` 413, raised where the application reads the body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, self._counted(scope, receive), send)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if announced.isdigit() and int(announced) > self.max_bytes:
                raise self._too_large()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than {self.max_bytes:,} bytes: send less")
