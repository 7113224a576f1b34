"""What the command line prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from plugins.renderers.words import visible


class PipeClosedError(Exception):
    """The reader of our standard output went away."""


def emit(text: str) -> None:
    """Write text and a final newline to standard output.

    Errors: `PipeClosedError`.
    """
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosedError from None


def emit_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    emit(json.dumps(value, ensure_ascii=ascii_only, indent=2, allow_nan=False))


def complain(message: str, *, level: str = "") -> None:
    """Write one line to standard error: `planproof: <message>`."""
    line = visible(" ".join(message.split())) or "unknown error"
    sys.stderr.write(f"planproof: {level}{line}\n")
    sys.stderr.flush()


def is_terminal() -> bool:
    """Tell whether standard output is a terminal that wants colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Progress:
    """What is going on right now, shown on standard error while it is a terminal, otherwise silent."""

    def __init__(self, status: Any = None) -> None:
        self._status = status

    def __call__(self, doing: str, done: float | None = None) -> None:
        """Show `doing` until the next call, with the share that is done (0 to 1) where it is known."""
        if self._status is not None:
            self._status.update(visible(doing) + (f" ({done:.0%})" if done is not None else ""))


@contextmanager
def progress(doing: str) -> Iterator[Progress]:
    """Show a spinner with words beside it while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Progress()
        return
    with console.status(visible(doing), spinner="dots") as status:
        yield Progress(status)


class _Once(logging.Handler):
    """Prints each warning once, in the form of our own messages, and each error with its traceback (servers only)."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = getattr(record, "on_terminal", None) or record.getMessage()
        if record.exc_info:
            complain(message)
            sys.stderr.write(logging.Formatter().formatException(record.exc_info) + "\n")
        elif message not in self._said:
            self._said.add(message)
            complain(message, level="warning: ")


def show_warnings() -> None:
    """Send the warnings of planproof's logger to standard error."""
    logger = logging.getLogger("planproof")
    if not any(isinstance(handler, _Once) for handler in logger.handlers):
        logger.addHandler(_Once())
        logger.propagate = False
