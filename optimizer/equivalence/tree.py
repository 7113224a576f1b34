"""Walking libpg_query's parse tree: every statement that PostgreSQL accepts has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import postgast
from google.protobuf.message import DecodeError

from optimizer.catalog import Catalog, Table
from optimizer.errors import SqlError

_DEEPEST_VIEW = 16


class TooDeepError(SqlError):
    """The statement nests deeper than its tree can be read."""


def parsed(sql: str) -> Any:
    """Return the parse tree of a text with one statement.

    Errors: `TooDeepError`: protobuf reads 100 levels, some 50 links of `a + b + ...`.
    """
    try:
        return postgast.parse(sql)
    except DecodeError:
        raise TooDeepError("the statement is nested too deeply") from None


def statement(sql: str) -> Any:
    """Return the node of one statement (`SelectStmt`, `InsertStmt`, ...).

    Errors: `TooDeepError`.
    """
    node = parsed(sql).stmts[0].stmt
    return getattr(node, node.WhichOneof("node"))


def walk(message: Any) -> Iterator[Any]:
    """Yield a node and all nodes below it, wrappers left out."""
    if message.DESCRIPTOR.name != "Node":
        yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else (value,):
            yield from walk(part)


def kind(message: Any) -> str:
    """Return a node's type name, such as `FuncCall`."""
    return str(message.DESCRIPTOR.name)


def strings(nodes: Any) -> tuple[str, ...]:
    """Return the strings of a list of String nodes, such as a qualified name; stars come as `*`."""
    return tuple("*" if node.WhichOneof("node") == "a_star" else node.string.sval for node in nodes)


def relations(tree: Any, catalog: Catalog) -> Iterator[tuple[Any, Table | None]]:
    """Yield the table references of a statement that are not CTEs, each with the relation it names if that is known."""
    nodes = list(walk(tree))
    ctes = {node.ctename for node in nodes if kind(node) == "CommonTableExpr"}
    for node in nodes:
        if kind(node) == "RangeVar" and (node.schemaname or node.relname not in ctes):
            yield node, catalog.table(node.relname, node.schemaname or None)


def touched(sql: str, catalog: Catalog, _depth: int = 0) -> list[Table]:
    """Return the relations that a statement reads or writes, views and what is below them included, with repeats."""
    found: list[Table] = []
    for _, table in relations(statement(sql), catalog):
        if table is None:
            continue
        found.append(table)
        if table.definition is not None and _depth < _DEEPEST_VIEW:
            found += touched(table.definition, catalog, _depth + 1)
    return found


def calls(tree: Any) -> Iterator[tuple[str | None, str]]:
    """Yield (schema, name) of the functions called; operators and casts are not among them."""
    for node in walk(tree):
        if kind(node) == "FuncCall":
            *schema, name = strings(node.funcname)
            yield (schema[-1] if schema else None), name
