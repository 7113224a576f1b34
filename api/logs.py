"""The servers' log: structlog to standard error, one line an event, one line a request.

What users send (SQL, schemas, parameters, connection strings, keys, paths) is never logged: a request's line names its
route, and an exception is logged as its class and where it was raised, without its message, which may repeat SQL.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from starlette.types import Scope
from structlog.typing import EventDict, Processor, WrappedLogger

from optimizer.settings import Settings

_NOTES = "planproof.notes"
#: The userinfo of a URL, and a password among libpq's keywords.
_SECRET = re.compile(r"(?<=://)[^\s/@]+(?=@)|(?<=password=)('[^']*'|\S+)", re.IGNORECASE)
_MAX_FRAMES = 30


def configure(settings: Settings) -> None:
    """Send this process's log to standard error, in the form that the settings name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    levels = {"planproof": logging.getLevelName(settings.log_level.upper())}
    # uvicorn warns of every client that does not speak HTTP, which is not ours to mend.
    levels |= {"uvicorn": logging.ERROR, "uvicorn.error": logging.ERROR}
    for name, level in levels.items():
        chosen = logging.getLogger(name)
        chosen.handlers, chosen.propagate = [], True
        chosen.setLevel(level)
    logging.getLogger("uvicorn.error").addFilter(_not_cut_off)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events carry facts as keywords; its name begins with `planproof`."""
    made: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    ).bind()
    return made


def note(scope: Scope, **facts: str | int | float | bool) -> None:
    """Add facts to the line that will be logged for a request.

    Parameters:
        scope: of the request.
        facts: numbers and words of our own, never text that came with the request.
    """
    scope.setdefault(_NOTES, {}).update(facts)


def notes(scope: Scope) -> dict[str, Any]:
    """What was noted about a request."""
    found: dict[str, Any] = scope.get(_NOTES, {})
    return found


def _not_cut_off(record: logging.LogRecord) -> bool:
    """uvicorn reports it as a defect when we end a connection whose client does not read."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionAbortedError))


def _shared() -> list[Processor]:
    """What every event passes, whoever logs it."""
    return [
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _without_message,
        _without_secrets,
    ]


def _renderer(settings: Settings) -> Processor:
    terminal = sys.stderr.isatty()
    if settings.log_format == "json" or (settings.log_format == "auto" and not terminal):
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=terminal and "NO_COLOR" not in os.environ, timestamp_key="time")


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    request_id = correlation_id.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event


def _without_message(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Turn an exception into the classes of its chain and the places it passed, innermost last."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event["exception"] = [_described(link) for link in _chain(error)]
    return event


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links


def _described(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    kind = type(error)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def _without_secrets(_: WrappedLogger, __: str, event: EventDict) -> MutableMapping[str, Any]:
    """Take credentials out of what libraries log."""
    return {key: _SECRET.sub("***", value) if isinstance(value, str) else value for key, value in event.items()}
