"""`planproof equivalent`: the equivalence gate alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.commands.options import AsJson, SchemaFile, ShadowName, Timeout, milliseconds, opened, schema_text
from api.errors import EXIT_DONE, EXIT_REFUTED, EXIT_UNKNOWN
from api.input import read_query
from api.settings import read_settings
from api.targets import target
from api.terminal import emit, emit_json, is_terminal, progress
from optimizer.equivalence.verdict import Equivalence
from plugins.renderers.text import verdict_text

_EXIT_STATUS = {Equivalence.REFUTED: EXIT_REFUTED, Equivalence.UNKNOWN: EXIT_UNKNOWN}


def equivalent(
    left: Annotated[Path, typer.Argument(metavar="LEFT.sql", help="File with the first query.")],
    right: Annotated[Path, typer.Argument(metavar="RIGHT.sql", help="File with the second query.")],
    schema: SchemaFile = None,
    shadow: ShadowName = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Check whether two queries return the same rows.

    Exit status 0: proved, bounded or tested; 1: refuted, with a counterexample that replays in psql; 5: unknown.
    """
    settings = read_settings()
    queries = read_query(left, settings.max_sql_bytes), read_query(right, settings.max_sql_bytes)
    text = schema_text(schema, settings)
    with (
        progress("starting") as show,
        opened(settings) as optimizer,
        target(optimizer.services, shadow, text) as database,
    ):
        show("looking for a database on which the queries differ")
        verdict = optimizer.equivalent(*queries, database.ddl(), milliseconds(timeout))
    if as_json:
        emit_json(verdict.as_dict())
    else:
        emit(verdict_text(verdict, width=100, colours=is_terminal()))
    raise typer.Exit(_EXIT_STATUS.get(verdict.verdict, EXIT_DONE))
