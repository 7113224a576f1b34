"""Errors over HTTP: RFC 9457 problem details for everything that goes wrong, and nothing else of an exception."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from api.errors import INTERNAL, BusyError, ClientGoneError, problem_of
from api.logs import logger, note
from optimizer.errors import PlanproofError, ShadowUnavailableError, SqlError

_log = logger("planproof.http")
MEDIA_TYPE = "application/problem+json"
#: As nginx says that the client closed the connection before there was an answer.
CLIENT_GONE = 499
_RETRY_AFTER_S = 5


def problem_response(
    status: int, title: str, detail: str, *, type_: str = "about:blank", headers: Any = None, **more: Any
) -> Response:
    """Build a problem details response.

    Parameters:
        status: of HTTP.
        title: the same for each problem of this type.
        detail: what is wrong here.
        type_: the problem's URI.
        headers: further response headers.
        more: extension members; those that are None are left out.
    """
    body = {"type": type_, "title": title, "status": status, "detail": detail}
    body |= {key: value for key, value in more.items() if value is not None}
    # ASCII, because users' text may hold lone surrogates.
    return Response(json.dumps(body), status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(PlanproofError, _ours)
    app.add_exception_handler(ClientGoneError, _gone)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


async def _ours(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    note(request.scope, problem=problem.slug)
    place = {"line": error.line, "column": error.column} if isinstance(error, SqlError) else {}
    detail = " ".join(_told(error).split())
    headers = None
    if problem.http_status in (429, 503):
        headers = {"Retry-After": str(error.retry_after_s if isinstance(error, BusyError) else _RETRY_AFTER_S)}
    return problem_response(problem.http_status, problem.title, detail, type_=problem.type, headers=headers, **place)


def _told(error: Exception) -> str:
    """The message, or what may be told of it; the rest is for the log."""
    public = error.public if isinstance(error, ShadowUnavailableError) else None
    if public is None:
        return str(error)
    _log.warning("a shadow's server cannot be used", reason=str(error))
    return public


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this; the status is for the log."""
    return Response(status_code=CLIENT_GONE)


async def _invalid(request: Request, error: Exception) -> Response:
    """A body that is not JSON is 415 or 400; one whose fields are wrong is 422."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json" and any(
        e["loc"] == ("body",) and e["type"] != "missing" for e in found
    ):
        return problem_response(
            415, "The body is not JSON", "send JSON, with the header Content-Type: application/json"
        )
    fields = [{"field": _field(e["loc"]), "detail": e["msg"]} for e in found[:20]]
    if any(e["type"] == "json_invalid" for e in found):
        return problem_response(400, "The body is not JSON", f"the body is not JSON: {found[0]['ctx']['error']}")
    detail = "; ".join(f"{f['field']}: {f['detail']}" for f in fields) or "the request is not valid"
    return problem_response(422, "A field is wrong", detail, type_="urn:planproof:problem:field", errors=fields)


def _field(place: tuple[int | str, ...]) -> str:
    """`body.sql` as `sql`; names are cut, since they may be the user's."""
    parts = [str(part)[:100] for part in place]
    return ".".join(parts[1:]) or parts[0]


async def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    phrase = HTTPStatus(status).phrase
    detail = str(error.detail) if isinstance(error, HTTPException) else phrase
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 405:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
    return problem_response(status, phrase, detail, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of a path; the framework names those of the first of its routes only."""
    path = request.scope["path"]
    methods = [
        method.upper()
        for template, operations in request.app.openapi().get("paths", {}).items()
        if compile_path(template)[0].match(path)
        for method in operations
    ]
    return ", ".join(sorted(set(methods)))


async def _defect(_: Request, error: Exception) -> Response:
    """The framework raises the error again once this is sent, so that the server logs it."""
    return problem_response(
        INTERNAL.http_status, INTERNAL.title, "a defect of planproof; its log says more", type_=INTERNAL.type
    )
