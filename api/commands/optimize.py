"""`planproof optimize`: one query, advice on it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from api.commands.options import AsJson, QueryFile, SchemaFile, ShadowName, Timeout, milliseconds, opened, schema_text
from api.input import read_query
from api.settings import read_settings
from api.targets import check_measurable, target
from api.terminal import emit, emit_json, is_terminal, progress
from optimizer.advice import Report
from optimizer.equivalence.verdict import Equivalence
from optimizer.errors import InputError
from optimizer.hooks import Plugins
from optimizer.pipeline import Options


class Strength(StrEnum):
    """The verdicts that may be asked for."""

    TESTED = "tested"
    BOUNDED = "bounded"
    PROVED = "proved"


def optimize(
    file: QueryFile = None,
    shadow: ShadowName = None,
    schema: SchemaFile = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="VALUE", help="Value of $1, then $2, ...; NULL is null. Without: a generic plan."
        ),
    ] = None,
    disable: Annotated[
        list[str] | None,
        typer.Option("--disable", metavar="CODE", help="Leave out a rule (see `planproof rules`); repeatable."),
    ] = None,
    min_equivalence: Annotated[
        Strength, typer.Option(help="Weakest verdict that lets a rewrite become advice.")
    ] = Strength.TESTED,
    measure: Annotated[bool, typer.Option("--measure", help="Execute both forms; needs an attached shadow.")] = False,
    llm: Annotated[bool, typer.Option("--llm", help="Ask the configured language model for rewrites too.")] = False,
    timeout: Timeout = None,
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME", help="text, markdown, json, or a plugin's own format.")
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Find proven advice for one query: rewrites that return the same rows, and indexes.

    Every candidate is planned on a shadow database and compared with the original; every rewrite is checked to return
    the same rows. Without --shadow and --schema the shadow named `default` is used.
    """
    settings = read_settings()
    sql = read_query(file, settings.max_sql_bytes)
    text = schema_text(schema, settings)
    options = Options(
        disable=frozenset(code for entry in disable or () for code in entry.replace(",", " ").split()),
        min_equivalence=Equivalence(min_equivalence),
        parameters=tuple(None if value == "NULL" else value for value in parameters) if parameters else None,
        measure=measure,
        llm=llm,
        timeout_ms=milliseconds(timeout),
    )
    with opened(settings) as optimizer:
        with progress("opening the shadow") as show, target(optimizer.services, shadow, text) as database:
            if measure:
                check_measurable(database)
            show("planning and checking")
            report = optimizer.optimize(sql, database, options)
        if as_json or format == "json":
            emit_json(report.as_dict())
        else:
            emit(rendered(report, format, optimizer.services.plugins))


def rendered(report: Report, format: str, plugins: Plugins) -> str:
    """Print a report in a renderer's format.

    Errors: `InputError` when no plugin knows the format.
    """
    wanted = "terminal" if format == "text" and is_terminal() else format
    text = plugins.first("planproof_render", report=report, format=wanted)
    if text is None:
        raise InputError(f"no renderer knows the format {format}: use text, markdown or json")
    return str(text)
