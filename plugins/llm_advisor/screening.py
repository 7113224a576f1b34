"""Which names a model's SQL may use: those of the query, and PostgreSQL's own functions.

Planning alone executes functions, so a statement that somebody talked the model into must not even be planned when it
calls a function that the query does not, or reads a table that the query does not touch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pgparse

from optimizer.canonical import relation_names
from optimizer.catalog import Catalog
from optimizer.errors import SqlError
from optimizer.parse_guard import check_chains


def function_names(sql: str) -> frozenset[tuple[str, ...]]:
    """The functions that a statement calls, by name as written and stored.

    Errors: `SqlError`.
    """
    check_chains(sql)
    try:
        stack: list[Any] = list(pgparse.parse(sql))
    except (pgparse.PGQueryError, RecursionError) as error:
        raise SqlError(f"does not parse: {str(error) or 'nested too deeply'}") from None
    names: set[tuple[str, ...]] = set()
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            called = node.get("funcname")
            if isinstance(called, list):
                names.add(tuple(part["String"]["sval"] for part in called))
            stack.extend(node.values())
    return frozenset(names)


def objection(
    sql: str, allowed: Collection[tuple[str, ...]], tables: Collection[tuple[str, str]], catalog: Catalog
) -> str | None:
    """Say why a statement may not be planned, None when it may.

    Parameters:
        sql: what a model wrote, literals restored.
        allowed: functions that the query calls itself.
        tables: relations that the query touches, by schema and name.
        catalog: knows PostgreSQL's own functions.

    Errors: `SqlError` when it does not parse.
    """
    for name in sorted(function_names(sql)):
        if name not in allowed and not _built_in(name, catalog):
            return f"it calls the function {'.'.join(name)}, which the query does not"
    for relation in relation_names(sql):
        schema, _, table = relation.rpartition(".")
        found = catalog.table(table, schema or None)
        if found is None or (found.schema, found.name) not in tables:
            return f"it reads {relation}, which the query does not touch"
    return None


def _built_in(name: tuple[str, ...], catalog: Catalog) -> bool:
    if name[:-1] not in ((), ("pg_catalog",)):
        return False
    known = ("pg_catalog", name[-1]) in catalog.functions
    return known and not any(key[1] == name[-1] and key[0] != "pg_catalog" for key in catalog.functions)
