"""What is seen of every request from outside: its log line, its figures, and a problem for a defect."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import INTERNAL
from api.logs import logger, notes
from api.metrics import REQUEST_SECONDS, REQUESTS
from api.problems import CLIENT_GONE, problem_response

_log = logger("planproof.http")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Asked every few seconds by machines, so logged only when that goes wrong, or when debugging.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Observed:
    """ASGI middleware; the outermost but for the one that sets the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except asyncio.CancelledError:
            # Only the server does this, to requests that outlast its shutdown.
            if status:
                raise
            stopping = problem_response(503, "The service stops", "the service is stopping: try again later")
            await stopping(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - the outermost edge: a defect is logged and answered without details
            _log.error("a request met a defect", exc_info=error)
            if status:
                raise ConnectionAbortedError from None  # the answer has begun: the server can only cut it off
            broken = problem_response(
                INTERNAL.http_status, INTERNAL.title, "a defect of planproof; its log says more", type_=INTERNAL.type
            )
            await broken(scope, receive, sent)
        finally:
            _record(scope, status or CLIENT_GONE, time.perf_counter() - began)


def _record(scope: Scope, status: int, seconds: float) -> None:
    # Paths and methods are the client's to choose; routes and known methods are few.
    route = getattr(scope.get("route"), "path", None) or "(none)"
    method = scope["method"] if scope["method"] in _METHODS else "(other)"
    REQUESTS.labels(route, method, str(status)).inc()
    REQUEST_SECONDS.labels(route, method).observe(seconds)
    level = "debug" if route in _QUIET and status < 400 else "info"
    getattr(_log, level)(
        "request", method=method, route=route, status=status, duration_ms=round(seconds * 1000, 2), **notes(scope)
    )
