"""Type and statistics of an expression that an index is to have as a key, as far as its only column tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from sqlglot import exp
from sqlglot.errors import SqlglotError

from optimizer.catalog import Column, ColumnStatistics, Table, identifier_name
from optimizer.query import parse_expression
from optimizer.shadow.sizes.index_rows import Selection
from optimizer.shadow.sizes.index_width import parse_type

# Names as `format_type` prints them, for casts that are written otherwise.
_TYPE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "int": "integer",
        "varchar": "character varying",
        "char": "character",
        "decimal": "numeric",
        "timestamp": "timestamp without time zone",
        "timestamptz": "timestamp with time zone",
    }
)
_FUNCTION_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"date": "date", "length": "integer", "lower": "text", "md5": "text", "upper": "text"}
)
_PERIOD_DAYS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "second": 1 / 86_400,
        "minute": 1 / 1_440,
        "hour": 1 / 24,
        "day": 1,
        "week": 7,
        "month": 365.25 / 12,
        "quarter": 365.25 / 4,
        "year": 365.25,
    }
)


def expression_statistics(
    expression: str, type_name: str | None, table: Table, kept: Selection
) -> tuple[str, ColumnStatistics | None]:
    """Return an expression's type and what can be said of its values.

    Parameters:
        expression: as SQL.
        type_name: its type where known, None guesses it.
        table: whose columns it reads.
        kept: what the index's predicate keeps.

    Returns: the type as `format_type` prints it, and statistics, None where they cannot be told.
    """
    try:
        tree = parse_expression(expression).unnest()
    except SqlglotError:
        return type_name or "text", None
    names = {identifier_name(column.this) for column in tree.find_all(exp.Column)}
    source = table.columns.get(names.pop()) if len(names) == 1 else None
    type_name = type_name or _type_of(tree, source)
    statistics = kept.statistics(source) if source is not None else None
    if source is None or statistics is None or isinstance(tree, (exp.JSONExtract, exp.JSONExtractScalar)):
        return type_name, None
    periods = _periods(tree, type_name, source, statistics)
    if periods is not None:
        known = statistics.n_distinct if statistics.n_distinct > 0 else -statistics.n_distinct * max(table.rows, 1)
        return type_name, ColumnStatistics(statistics.null_frac, statistics.avg_width, min(periods, known or periods))
    if parse_type(source.type)[0] == parse_type(type_name)[0]:
        return type_name, statistics
    return type_name, replace(statistics, most_common_vals=(), most_common_freqs=(), histogram_bounds=())


def _type_of(tree: exp.Expr, source: Column | None) -> str:
    """Guess an expression's type: what it is cast to, else that of its only column."""
    if isinstance(tree, exp.Cast):
        name = tree.to.sql(dialect="postgres").lower()
        return _TYPE_NAMES.get(name, name)
    if isinstance(tree, exp.JSONExtractScalar):
        return "text"
    if isinstance(tree, exp.Anonymous) and tree.name.lower() in _FUNCTION_TYPES:
        return _FUNCTION_TYPES[tree.name.lower()]
    return source.type if source is not None else "text"


def _periods(tree: exp.Expr, type_name: str, source: Column, statistics: ColumnStatistics) -> float | None:
    """Number of seconds, days, months, ... between the histogram's ends for times cut down to them; else None."""
    if not source.type.startswith(("timestamp", "date")):
        return None
    days: float | None
    if isinstance(tree, exp.Anonymous) and tree.name.lower() == "date_trunc" and tree.expressions:
        unit = tree.expressions[0]
        while isinstance(unit, exp.Cast):
            unit = unit.this
        days = _PERIOD_DAYS.get(str(unit.this).lower())
    else:
        days = 1 if type_name == "date" and source.type != "date" else None
    values = statistics.histogram_bounds or sorted(statistics.most_common_vals)
    if days is None or len(values) < 2:
        return None
    try:
        span = datetime.fromisoformat(values[-1]) - datetime.fromisoformat(values[0])
    except ValueError:  # infinity, or a year that Python does not count
        return None
    return span.total_seconds() / 86_400 / days + 1
