"""What keeps the gate from judging a statement: everything whose result is not a function of the tables' content."""

from __future__ import annotations

import re
from typing import Any

from optimizer.catalog import Catalog
from optimizer.equivalence import tree
from optimizer.query import Query

_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
_SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast", "pg_temp"})
#: Marked stable, yet they differ from one statement of a transaction to the next.
_STATEMENT_TIME = frozenset({"statement_timestamp", "pg_backend_pid", "pg_current_snapshot", "txid_current_snapshot"})
_WRITES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def obstacle(query: Query, catalog: Catalog, unlike: frozenset[str] = frozenset()) -> str | None:
    """Say why `query` cannot be judged by running it, None when it can.

    Parameters:
        query: the statement.
        catalog: for functions and views.
        unlike: names of collations by which different texts may be equal: the embedded server has no ICU, so what
            stands in for them there holds fewer texts for equal.
    """
    root = tree.statement(query.sql)
    return (
        volatile(query.sql, catalog)
        or _by_kind(root)
        or _by_tables(root, catalog)
        or (_by_collation(query.sql, catalog, unlike) if unlike else None)
        or _by_default(query, root, catalog)
    )


def volatile(sql: str, catalog: Catalog, _depth: int = 0) -> str | None:
    """Name the volatile or unknown function that a statement calls, itself or through a view; None without one."""
    root = tree.statement(sql)
    for schema, name in tree.calls(root):
        function = catalog.function(name, schema)
        if function is None:
            return f"it calls {name}, a function that is not known"
        if function.volatility == "volatile" or name in _STATEMENT_TIME:
            return f"it calls {name}, whose result changes from call to call"
    for _, table in tree.relations(root, catalog):
        if table is not None and table.definition is not None and _depth < 16:
            inner = volatile(table.definition, catalog, _depth + 1)
            if inner is not None:
                return inner
    return None


def _by_kind(root: Any) -> str | None:
    for node in tree.walk(root):
        name = tree.kind(node)
        if name == "LockingClause":
            return "it locks rows (FOR UPDATE or FOR SHARE)"
        if name == "RangeTableSample":
            return "it samples a table"
        if name == "IntoClause":
            return "it creates a table (SELECT INTO)"
        if name in _WRITES and node is not root:
            return "a CTE changes data"
        if name == "CurrentOfExpr":
            return "it needs an open cursor"
        if name == "ColumnRef" and tree.strings(node.fields)[-1] in _SYSTEM_COLUMNS:
            return f"it reads the system column {tree.strings(node.fields)[-1]}"
    return None


def _by_tables(root: Any, catalog: Catalog) -> str | None:
    for node, table in tree.relations(root, catalog):
        if node.schemaname in _SYSTEM_SCHEMAS or (table is None and node.relname.startswith("pg_")):
            return f"it reads the system table {node.relname}"
        if table is not None and table.kind == "foreign table":
            return f"{node.relname} is a foreign table"
    return None


def _by_collation(sql: str, catalog: Catalog, unlike: frozenset[str]) -> str | None:
    tables = tree.touched(sql, catalog)
    texts = [sql, *(table.definition for table in tables if table.definition is not None)]
    for text in texts:
        root = tree.statement(text)
        named = {tree.strings(node.collname)[-1] for node in tree.walk(root) if tree.kind(node) == "CollateClause"}
        if found := named & unlike:
            return f"it compares by the collation {min(found)}, which the judging server does not have"
    words = {word for text in texts for word in re.findall(r"[\w$]+", text.lower())}
    every = any("*" in text for text in texts)
    for table in tables:
        for column in table.columns.values():
            if not column.deterministic and (every or set(re.findall(r"[\w$]+", column.name.lower())) <= words):
                return f"the judging server does not have the collation of {table.name}.{column.name}"
    return None


def _by_default(query: Query, root: Any, catalog: Catalog) -> str | None:
    """INSERT and UPDATE also evaluate defaults: a sequence moves on, a clock ticks."""
    if query.kind == "select":
        return None
    target = catalog.table(root.relation.relname, root.relation.schemaname or None)
    if target is None or query.kind == "delete":
        return None
    named = {column.res_target.name for column in root.cols} if query.kind == "insert" else set(target.columns)
    all_named = query.kind == "insert" and not root.cols
    for column in target.columns.values():
        if column.name in named or all_named:
            continue
        if column.identity:
            return f"the identity column {column.name} counts on"
        if column.default and (reason := volatile(f"SELECT {column.default}", catalog)):
            return f"the default of {column.name} cannot be judged: {reason}"
    return None
