"""Counterexamples: made small, written down so that psql runs them, and run once more from nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from optimizer.clock import Deadline
from optimizer.ddl import Script, Statement
from optimizer.equivalence import tree
from optimizer.equivalence.generate import Database
from optimizer.equivalence.hints import TableKey
from optimizer.equivalence.load import inserts_sql, literal
from optimizer.equivalence.model import Model
from optimizer.equivalence.rows import Cells
from optimizer.equivalence.schema import GateSchema
from optimizer.equivalence.trial import Answer
from optimizer.parse_guard import read_outline
from optimizer.query import Query

_SHRINK_MS = 1_500
_BREAKABLE = {
    "deferrable": "may be broken inside a transaction",
    "not valid": "old rows may break it",
    "row-level security": "the referenced row may be hidden",
}
_FOR_ONE_TABLE = {
    "alter_table_stmt": "relation",
    "create_trig_stmt": "relation",
    "create_policy_stmt": "table",
    "alter_policy_stmt": "table",
}
_LEFT_OUT = frozenset(
    {
        *("comment_stmt", "create_stats_stmt", "alter_stats_stmt", "alter_seq_stmt", "alter_owner_stmt"),
        "create_foreign_table_stmt",
    }
)
_BY_MENTION = frozenset(
    {
        *("create_enum_stmt", "create_domain_stmt", "composite_type_stmt", "create_range_stmt", "alter_enum_stmt"),
        *("alter_domain_stmt", "create_function_stmt", "alter_function_stmt", "create_seq_stmt", "create_schema_stmt"),
        "define_stmt",
    }
)

_NAME_LISTS = frozenset({"type_name", "domainname", "funcname", "defnames"})


def shrink(database: Database, differs: Callable[[Database], bool], deadline: Deadline) -> Database:
    """Take out rows as long as the queries still differ.

    Parameters:
        database: one on which they do.
        differs: runs both on another one.
        deadline: of the verdict; shrinking takes part of what is left.
    """
    limit = Deadline.after(min(_SHRINK_MS, deadline.remaining_ms / 2))
    for key in database.rows:
        if database.rows[key] and not limit.passed:
            smaller = _with_rows(database, key, ())
            database = smaller if differs(smaller) else database
    changed = True
    while changed and not limit.passed:
        changed = False
        for key in database.rows:
            for place in reversed(range(len(database.rows[key]))):
                if limit.passed:
                    return database
                rows = database.rows[key]
                smaller = _with_rows(database, key, rows[:place] + rows[place + 1 :])
                if differs(smaller):
                    database, changed = smaller, True
    if database.zone != "UTC" and not limit.passed and differs(utc := replace(database, zone="UTC")):
        return utc
    return database


def _with_rows(database: Database, key: TableKey, rows: Sequence[Cells]) -> Database:
    return replace(database, rows={**database.rows, key: tuple(rows)})


def minimal_script(schema: GateSchema, model: Model, queries: Sequence[Query]) -> Script:
    """The statements of the schema that the tables in `model` need, in their own order.

    Parameters:
        schema: with the whole script.
        model: the tables.
        queries: which may also read views and call functions.
    """
    wanted = {t.key for t in model.tables}
    for query in queries:
        wanted |= {(t.schema, t.name) for t in tree.touched(query.sql, schema.catalog)}
    names = {name for _, name in wanted}
    statements = [item for item in schema.script.items if isinstance(item, Statement)]
    outlines = [read_outline(item.sql)[0] for item in statements]
    kept = [_kept(outline, names) for outline in outlines]
    words = _words(" ".join(q.sql for q in queries))
    words |= {w for item, keep in zip(statements, kept, strict=True) if keep for w in _words(item.sql)}
    words |= {schema_name for schema_name, _ in wanted}
    changed = True
    while changed:
        changed = False
        for place, (item, outline) in enumerate(zip(statements, outlines, strict=True)):
            if kept[place] is None and _defined(outline) & words:
                kept[place] = changed = True
                words |= _words(item.sql)
    items = tuple(item for item, keep in zip(statements, kept, strict=True) if keep)
    return Script(items, schema.script.extensions, ())


def _kept(node: Any, names: set[str]) -> bool | None:
    """True to keep a statement, False to leave it out, None when it depends on what others mention."""
    kind = node.WhichOneof("node")
    statement = getattr(node, kind)
    if kind in _LEFT_OUT:
        return False
    if kind in _FOR_ONE_TABLE:
        return getattr(statement, _FOR_ONE_TABLE[kind]).relname in names
    if kind == "index_stmt":
        return bool(statement.unique) and statement.relation.relname in names
    if kind == "create_stmt":
        parents = {parent.range_var.relname for parent in statement.inh_relations}
        return statement.relation.relname in names or bool(parents & names)
    if kind == "view_stmt":
        return statement.view.relname in names
    if kind == "create_table_as_stmt":
        return statement.into.rel.relname in names
    return None if kind in _BY_MENTION else True


def _defined(node: Any) -> set[str]:
    """Names that a statement defines or changes."""
    statement = getattr(node, node.WhichOneof("node"))
    found: set[str] = set()
    for field, value in statement.ListFields():
        if field.name in _NAME_LISTS and field.is_repeated:
            found |= set(tree.strings(value))
        elif field.name in ("typevar", "sequence"):
            found.add(value.relname)
        elif field.name == "func":
            found |= set(tree.strings(value.objname))
        elif field.name == "schemaname":
            found.add(value)
    return found - {"public", "pg_catalog"}


def _words(sql: str) -> set[str]:
    return set(re.findall(r"[^\W\d][\w$]*", sql)) | set(re.findall(r'"((?:[^"]|"")+)"', sql))


def setup_text(
    schema: GateSchema,
    script: Script,
    model: Model,
    database: Database,
    queries: tuple[Query, Query],
    types: Sequence[str],
    why: str,
) -> str:
    """Write a counterexample down: DDL, INSERTs and both queries, for psql on an empty database."""
    lines = [f"-- A database on which the two queries differ: {why}.".replace("\n", " "), ""]
    lines += [f"CREATE EXTENSION IF NOT EXISTS {e.name};" for e in script.extensions if not e.source]
    lines += [f"{item.sql};" for item in script.items if isinstance(item, Statement)]
    tables = {t.qualified for t in model.tables} | {t.key[1] for t in model.tables}
    for constraint in schema.breakable:
        if constraint.table in tables or constraint.table.rpartition(".")[2] in tables:
            lines += [
                f"-- {constraint.kind}: {_BREAKABLE[constraint.kind]}, so no query may rely on it",
                f"ALTER TABLE {constraint.table} DROP CONSTRAINT {_quoted(constraint.name)};",
            ]
    secured = [t.qualified for t in model.tables if any(t.key in family for family in schema.secured)]
    lines += [f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;" for name in secured]
    lines.append(f"SET search_path = {schema.search_path};")
    if database.zone != "UTC":
        lines.append(f"SET TimeZone = {literal(database.zone)};")
    else:
        lines.append("SET TimeZone = 'UTC';")
    lines += [f"{statement};" for statement in inserts_sql(model, database, readable=True)]
    lines += [f"REFRESH MATERIALIZED VIEW {name};" for name in model.refresh]
    for name, query in zip(("left", "right"), queries, strict=True):
        lines += ["", f"-- {name}", *_query_lines(name, query, database.params, types, model)]
    return "\n".join(lines) + "\n"


def _query_lines(name: str, query: Query, params: Cells, types: Sequence[str], model: Model) -> Iterator[str]:
    call = f"{query.sql}\n;" if "--" in query.sql.rpartition("\n")[2] else f"{query.sql};"
    if query.parameters:
        declared = ", ".join(types[: query.parameters])
        values = ", ".join(literal(p) for p in params[: query.parameters])
        yield f"PREPARE planproof_{name} ({declared}) AS\n{call}"
        call = f"EXECUTE planproof_{name} ({values});"
    if query.kind == "select":
        yield call
        return
    yield "BEGIN;"
    yield call
    yield from (f"SELECT * FROM {t.qualified};" for t in model.tables)  # noqa: S608
    yield "ROLLBACK;"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text_rows(answer: Answer) -> tuple[tuple[str | None, ...], ...]:
    """An answer's rows as texts: the query's own, or after a write what the tables hold."""
    results = answer.contents or (answer.result,)
    return tuple(
        tuple(None if v is None else v.decode(errors="replace") for v in row)
        for result in results
        for row in result.rows
    )
