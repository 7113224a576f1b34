"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from api.input import read_file
from optimizer.pipeline import Optimizer
from optimizer.services import Services
from optimizer.settings import Settings

QueryFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help="File with one query; `-` or nothing reads standard input.", show_default=False
    ),
]
ShadowName = Annotated[
    str | None,
    typer.Option(
        "--shadow", "-s", metavar="NAME", help="Shadow to plan on (see `planproof shadow`).", show_default=False
    ),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option(
        "--schema",
        metavar="FILE.sql",
        help="Plan on a throw-away shadow made from this DDL, rows or statistics included.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else, on standard output.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", min=0.001, max=86_400, help="Time limit in seconds.", show_default=False),
]


@contextmanager
def opened(settings: Settings) -> Iterator[Optimizer]:
    """Open everything a command needs, and give it back."""
    with Services.open(settings) as services:
        optimizer = Optimizer(services)
        try:
            yield optimizer
        finally:
            optimizer.close()


def schema_text(path: Path | None, settings: Settings) -> str | None:
    """Read the schema file, if one was named.

    Errors: `InputError`, `TooLargeError`.
    """
    return None if path is None else read_file(path, settings.max_schema_bytes)


def milliseconds(seconds: float | None) -> int | None:
    """The time limit as the core counts it."""
    return None if seconds is None else max(1, round(seconds * 1000))
