"""The tables that a query touches, as a model is told of them: DDL and statistics, without anybody's values.

Most common values, histogram bounds and enum labels are never part of it, and literals in expressions are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from optimizer.canonical import relation_names
from optimizer.catalog import Catalog, Column, Constraint, Table, quote_identifier
from optimizer.errors import SqlError
from plugins.llm_advisor.redaction import Redactor

MAX_TABLES = 30
MAX_COLUMNS = 60
#: Views in views that are followed.
_MAX_DEPTH = 3
_UNTOLD = "..."


def touched(names: Iterable[str], catalog: Catalog, depth: int = 0) -> dict[tuple[str, str], Table]:
    """Find the relations by their names as written, and what views among them read.

    Parameters:
        names: as `optimizer.query.Query.tables`.
        catalog: where they are found.
        depth: of views followed so far.
    """
    by_name = {f"{t.schema}.{t.name}": t for t in catalog.tables.values()}
    found: dict[tuple[str, str], Table] = {}
    for name in names:
        table = catalog.table(name) or by_name.get(name)
        if table is None or len(found) >= MAX_TABLES:
            continue
        found[table.schema, table.name] = table
        if table.definition and depth < _MAX_DEPTH:
            try:
                inner = relation_names(table.definition)
            except SqlError:
                continue
            found = touched(inner, catalog, depth + 1) | found
    return found


def described(table: Table, redactor: Redactor, mentioned: str) -> dict[str, Any]:
    """DDL, size and statistics of one relation.

    Parameters:
        table: the relation.
        redactor: replaces the literals in its expressions.
        mentioned: text of the query; of a wide table, columns that do not occur in it are left out.
    """
    shown = _columns(table, mentioned)
    lines = [_column(column, redactor) for column in shown]
    lines += [_constraint(constraint, redactor) for constraint in table.constraints]
    what = "VIEW" if table.definition else "TABLE"
    entry: dict[str, Any] = {
        "ddl": f"CREATE {what} {table.qualified} (" + ", ".join(line for line in lines if line) + ")",
        "kind": table.kind,
        "rows": table.rows if table.rows >= 0 else None,
        "pages": table.pages,
        "indexes": [_safe(index.definition, redactor) for index in table.indexes],
        "statistics": {c.name: dict(_statistics(c)) for c in shown if c.statistics is not None},
    }
    if table.definition:
        entry["definition"] = _safe(table.definition, redactor)
    if len(shown) < len(table.columns):
        entry["columns_left_out"] = len(table.columns) - len(shown)
    return entry


def _columns(table: Table, mentioned: str) -> list[Column]:
    columns = list(table.columns.values())
    if len(columns) <= MAX_COLUMNS:
        return columns
    folded = mentioned.lower()
    keys = {name for constraint in table.constraints for name in constraint.columns}
    return [c for c in columns if c.name in keys or c.name.lower() in folded][:MAX_COLUMNS]


def _column(column: Column, redactor: Redactor) -> str:
    text = f"{quote_identifier(column.name)} {column.type}"
    if column.collation:
        text += f" COLLATE {quote_identifier(column.collation)}"
    text += " NOT NULL" if column.not_null else ""
    if column.default is not None:
        default = _safe(column.default, redactor)
        text += f" GENERATED ALWAYS AS ({default}) STORED" if column.generated else f" DEFAULT {default}"
    return text


def _constraint(constraint: Constraint, redactor: Redactor) -> str:
    columns = ", ".join(map(quote_identifier, constraint.columns))
    late = " DEFERRABLE" if constraint.deferrable else ""
    late += "" if constraint.validated else " NOT VALID"
    match constraint.kind:
        case "check":
            return f"CHECK ({_safe(constraint.expression or '', redactor)}){late}"
        case "foreign key":
            target = f"{quote_identifier(constraint.referenced_schema or '')}."
            target += quote_identifier(constraint.referenced_table or "")
            theirs = ", ".join(map(quote_identifier, constraint.referenced_columns))
            return f"FOREIGN KEY ({columns}) REFERENCES {target} ({theirs}){late}"
        case "primary key" | "unique":
            nulls = " NULLS NOT DISTINCT" if constraint.nulls_not_distinct else ""
            return f"{constraint.kind.upper()}{nulls} ({columns}){late}"
        case _:
            return ""


def _statistics(column: Column) -> Iterator[tuple[str, float]]:
    statistics = column.statistics
    if statistics is not None:
        yield "null_frac", round(statistics.null_frac, 3)
        yield "n_distinct", statistics.n_distinct
        yield "avg_width", statistics.avg_width
        if statistics.correlation is not None:
            yield "correlation", round(statistics.correlation, 2)


def _safe(text: str, redactor: Redactor) -> str:
    """A piece of SQL without its literals; nothing of it where that cannot be done."""
    try:
        return redactor.sql(text)
    except SqlError:
        return _UNTOLD
