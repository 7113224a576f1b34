"""Large bodies: read into their models on a thread, so that the event loop goes on answering others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.message import Message
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from api.answers import MAX_INLINE_BYTES
from api.errors import ClientGoneError

#: Bodies that are read at the same time.
_READERS = 2


class LargeBodyRoute(APIRoute):
    """Reads large JSON bodies on a thread, straight into the route's model: what does not fit is never built."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the reading before the framework's own handler."""
        handler = super().get_route_handler()
        kind = self.body_field.field_info.annotation if self.body_field is not None else None
        if kind is None:
            return handler
        model: TypeAdapter[Any] = TypeAdapter(kind)
        readers = CapacityLimiter(_READERS)

        async def reading(request: Request) -> Response:
            try:
                body = await request.body()
            except ClientDisconnect:
                raise ClientGoneError from None
            if len(body) > MAX_INLINE_BYTES and _is_json(request.headers.get("content-type", "")):
                value = await to_thread.run_sync(partial(_read, model, body), limiter=readers)
                request = _ReadRequest(request, body, value)
            return await handler(request)

        return reading


class _ReadRequest(Request):
    """A request whose body has been read into its model."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._read = body
        self._value = value

    async def body(self) -> bytes:
        return self._read

    async def json(self) -> Any:
        return self._value


def _is_json(content_type: str) -> bool:
    """Whether the framework takes a body for JSON."""
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def _read(model: TypeAdapter[Any], body: bytes) -> Any:
    try:
        return model.validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None
