"""Shares of a table's rows that a condition keeps, from the statistics: enough to order candidates, not to plan.

The formulas are PostgreSQL's own (documentation, "Row Estimation Examples"; `src/backend/utils/adt/selfuncs.c`) without
its special cases. None means that the statistics don't say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from sqlglot import exp

from optimizer.catalog import Column, Table
from optimizer.matching import bare

#: What PostgreSQL takes for an equality and a range it knows nothing about (selfuncs.h).
DEFAULT_EQUALITY = 0.005
DEFAULT_RANGE = 1 / 3
DEFAULT_CLOSED_RANGE = 0.005
_UNKNOWN_ARRAY_LENGTH = 10

NUMBER_TYPES = frozenset({"smallint", "integer", "bigint", "numeric", "real", "double precision"})
_TIME_TYPES = frozenset({"date", "timestamp without time zone", "timestamp with time zone"})
_DAYS_PER_UNIT = {"day": 1.0, "week": 7.0, "month": 30.4375, "year": 365.25, "hour": 1 / 24, "minute": 1 / 1440}


def base_type(type_: str) -> str:
    """A type's name without its modifier: `numeric(10,2)` is numeric."""
    head, _, rest = type_.partition("(")
    return (head.strip() + rest.partition(")")[2]).strip()


def distinct_values(column: Column, table: Table) -> float | None:
    """The estimated number of distinct values in the whole table."""
    if column.statistics is None or column.statistics.n_distinct == 0:
        return None
    count = column.statistics.n_distinct
    return count if count > 0 else max(-count * max(table.rows, 1.0), 1.0)


def equality_selectivity(column: Column, table: Table, value: exp.Expr | None) -> float | None:
    """The share of rows with `column = value`.

    Parameters:
        value: the other side; None, or anything but a constant, stands for an average value.
    """
    statistics, distinct = column.statistics, distinct_values(column, table)
    if statistics is None or distinct is None:
        return None
    average = (1 - statistics.null_frac) / distinct
    wanted = _comparable(_text(value), column.type) if value is not None else None
    if wanted is None:
        return average
    for common, share in zip(statistics.most_common_vals, statistics.most_common_freqs, strict=False):
        if _comparable(common, column.type) == wanted:
            return share
    others = distinct - len(statistics.most_common_vals)
    rest = 1 - statistics.null_frac - sum(statistics.most_common_freqs)
    return max(rest, 0.0) / others if others >= 1 else min(average, 1 / max(table.rows, 1.0))


def range_selectivity(column: Column, value: exp.Expr | None, *, below: bool) -> float | None:
    """The share of rows with `column < value` (`below`) or `column > value`; the bound itself is not told apart."""
    statistics = column.statistics
    bound = _number(_text(value), column.type) if value is not None else None
    if statistics is None or bound is None:
        return None
    histogram = [n for text in statistics.histogram_bounds if (n := _number(text, column.type)) is not None]
    common = [
        (n, share)
        for text, share in zip(statistics.most_common_vals, statistics.most_common_freqs, strict=False)
        if (n := _number(text, column.type)) is not None
    ]
    if len(histogram) < 2 and not common:
        return None
    in_common = sum(share for n, share in common if n < bound)
    all_common = sum(share for _, share in common)
    in_histogram = max(1 - statistics.null_frac - all_common, 0.0) * _position(histogram, bound)
    less = in_common + in_histogram
    return min(max(less if below else 1 - statistics.null_frac - less, 0.0), 1.0)


def between_selectivity(column: Column | None, low: exp.Expr, high: exp.Expr) -> float:
    """The share of rows with `column BETWEEN low AND high`; PostgreSQL's default for a closed range where unknown."""
    above = range_selectivity(column, low, below=False) if column is not None else None
    below = range_selectivity(column, high, below=True) if column is not None else None
    if column is None or column.statistics is None or above is None or below is None:
        return DEFAULT_CLOSED_RANGE
    return max(above + below - (1 - column.statistics.null_frac), 0.0)


def any_selectivity(column: Column | None, table: Table, values: Sequence[exp.Expr] | None) -> float | None:
    """The share of rows whose column is one of several values.

    Parameters:
        values: None for an array of unknown length, which PostgreSQL takes to hold ten.
    """
    if column is None:
        return None
    if values is None:
        average = equality_selectivity(column, table, None)
        return min(_UNKNOWN_ARRAY_LENGTH * average, 1.0) if average is not None else None
    shares = [equality_selectivity(column, table, value) for value in values]
    return min(sum(s for s in shares if s is not None), 1.0) if None not in shares else None


def prefix_selectivity(column: Column | None, prefix: str) -> float | None:
    """The share of rows whose text begins with `prefix`, counted among the statistics' own sample of values."""
    statistics = column.statistics if column is not None else None
    if statistics is None or not (statistics.histogram_bounds or statistics.most_common_vals):
        return None
    pairs = tuple(zip(statistics.most_common_vals, statistics.most_common_freqs, strict=False))
    common = sum(share for value, share in pairs if value.startswith(prefix))
    bounds = statistics.histogram_bounds
    rest = max(1 - statistics.null_frac - sum(share for _, share in pairs), 0.0)
    return common + rest * sum(b.startswith(prefix) for b in bounds) / max(len(bounds), 1)


def _position(histogram: list[float], bound: float) -> float:
    """Where `bound` lies among equally filled buckets, 0 to 1 (`ineq_histogram_selectivity`)."""
    if len(histogram) < 2 or bound <= histogram[0]:
        return 0.0
    if bound >= histogram[-1]:
        return 1.0
    bucket = max(bisect_left(histogram, bound), 1)
    low, high = histogram[bucket - 1], histogram[bucket]
    inside = (bound - low) / (high - low) if high > low else 0.5
    return (bucket - 1 + inside) / (len(histogram) - 1)


def _text(node: exp.Expr) -> str | None:
    """A constant's text as PostgreSQL would print it, date arithmetic included; None for what is not constant."""
    node = bare(node)
    if isinstance(node, exp.Literal):
        return str(node.this)
    if isinstance(node, exp.Boolean):
        return "t" if node.this else "f"
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal):
        return f"-{node.this.this}"
    if isinstance(node, exp.Cast):
        return _text(node.this)
    if isinstance(node, (exp.Add, exp.Sub)):
        return _moved(_text(node.this), node.expression, 1 if isinstance(node, exp.Add) else -1)
    return None


def _moved(start: str | None, step: exp.Expr, sign: int) -> str | None:
    """`start` plus or minus an interval or number."""
    if start is None:
        return None
    if isinstance(step, exp.Interval):
        moment, days = _moment(start), _days(step)
        if moment is None or days is None:
            return None
        try:
            return (moment + timedelta(days=sign * days)).isoformat(" ")
        except OverflowError:  # PostgreSQL's dates reach further than Python's
            return None
    left, right = _decimal(start), _decimal(_text(step))
    return None if left is None or right is None else str(left + sign * right)


def _days(interval: exp.Interval) -> float | None:
    unit = interval.args.get("unit")
    words = f"{interval.name} {unit.name if unit is not None else ''}".split()
    amount = _decimal(words[0]) if len(words) == 2 else None
    per_unit = _DAYS_PER_UNIT.get(words[1].lower().rstrip("s")) if amount is not None else None
    return None if amount is None or per_unit is None else float(amount) * per_unit


def _comparable(text: str | None, type_: str) -> object:
    """A value that equals another when PostgreSQL's would, for the types that matter."""
    if text is None:
        return None
    base = base_type(type_)
    if base == "boolean":
        return text.strip().lower() in ("t", "true", "yes", "on", "1")
    if base == "character":
        return text.rstrip(" ")
    number = _number(text, type_)
    return text if number is None else number


def _number(text: str | None, type_: str) -> float | None:
    """A number that orders values of a number or time type; None for other types and odd values."""
    if text is None:
        return None
    base = base_type(type_)
    if base in NUMBER_TYPES:
        number = _decimal(text)
        return float(number) if number is not None else None
    if base in _TIME_TYPES:
        moment = _moment(text)
        return moment.timestamp() if moment is not None else None
    return None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:  # infinity, BC, or a format of the user's own
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _decimal(text: str | None) -> Decimal | None:
    try:
        number = Decimal(text) if text is not None else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None
