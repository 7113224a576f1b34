"""`planproof explain`: a plan on a shadow, with hypothetical indexes."""

from __future__ import annotations

from typing import Annotated

import typer

from api.commands.options import AsJson, QueryFile, SchemaFile, ShadowName, opened, schema_text
from api.input import read_query
from api.settings import read_settings
from api.targets import target
from api.terminal import emit, emit_json, progress
from api.views import explanation_view
from optimizer.pipeline import Explanation
from plugins.renderers.plan_text import plan_text
from plugins.renderers.words import size, visible


def explain(
    file: QueryFile = None,
    shadow: ShadowName = None,
    schema: SchemaFile = None,
    index: Annotated[
        list[str] | None,
        typer.Option("--index", "-i", metavar='"CREATE INDEX ..."', help="Pretend this index exists; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the plan of one query on a shadow, with hypothetical indexes."""
    settings = read_settings()
    sql = read_query(file, settings.max_sql_bytes)
    text = schema_text(schema, settings)
    with progress("planning"), opened(settings) as optimizer, target(optimizer.services, shadow, text) as database:
        explanation = optimizer.explain(sql, database, index or ())
    if as_json:
        emit_json(explanation_view(explanation))
    else:
        emit(_text(explanation))


def _text(explanation: Explanation) -> str:
    lines = [plan_text(explanation.plan)]
    for index in explanation.indexes:
        used = "used" if index.serves(explanation.plan) else "not used"
        ddl = visible(index.candidate.ddl(concurrently=False))
        lines.append(f"{used}: {ddl} ({size(index.storage_bytes)}, hypothetical)")
    return "\n".join(lines)
