"""A date function on a column, compared with a constant, as a range of the column itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from sqlglot import exp

from optimizer.matching import bare, type_name
from optimizer.rewriting.constants import (
    TRUNC_UNITS,
    Point,
    Today,
    floor,
    following,
    integer,
    point,
    point_node,
    text,
)
from optimizer.rewriting.sargable import ConstantComparison, PredicateRule, call, is_filter
from optimizer.scope import Scope

_TIMESTAMP = "timestamp without time zone"
_TIMESTAMP_TYPE = re.compile(r"timestamp(\(\d\))? without time zone")
_TIMESTAMPTZ_TYPE = re.compile(r"timestamp(\(\d\))? with time zone")
#: Formats of `to_char` whose text, read back, is one calendar unit; the pattern is what `to_char` prints for it.
_FORMATS = {
    "YYYY": ("year", re.compile(r"\d{4}", re.ASCII), "%Y"),
    "YYYY-MM": ("month", re.compile(r"\d{4}-\d\d", re.ASCII), "%Y-%m"),
    "YYYYMM": ("month", re.compile(r"\d{6}", re.ASCII), "%Y%m"),
    "YYYY-MM-DD": ("day", re.compile(r"\d{4}-\d\d-\d\d", re.ASCII), "%Y-%m-%d"),
    "YYYYMMDD": ("day", re.compile(r"\d{8}", re.ASCII), "%Y%m%d"),
}
_FIRST_DAY = datetime(1, 1, 1)

_Range = tuple[Point | None, Point | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A function of a column that rises in steps.

    Parameters:
        column: the column alone.
        unit: the calendar unit of its steps.
        read: a constant's place on the calendar, None where it can't be told.
        write: a boundary as a constant to compare the column with, None where there is none.
        text: True for `to_char`, whose result is ordered as text and has no era.
    """

    column: exp.Expr
    unit: str
    read: Callable[[exp.Expr], Point | None]
    write: Callable[[Point], exp.Expr | None]
    text: bool = False


class FunctionOnColumnToRange(PredicateRule):
    """Turn a date function on a column into a range

    ## What it does
    Replaces `date_trunc('unit', ts)`, `ts::date`, `date(ts)`, `extract(year FROM ts)`, `date_part('year', ts)` and
    `to_char(ts, 'YYYY-MM-DD')` (also `YYYY`, `YYYY-MM` and the forms without hyphens), compared with a constant, by a
    half-open range of `ts`. `=`, `<`, `<=`, `>`, `>=`, `BETWEEN` and `IN` are understood, for `to_char` only `=` and
    `IN`. `ts::date` may also be compared with `CURRENT_DATE` plus or minus days.

    ## Why it is slow
    PostgreSQL inverts no function: an index on the column cannot serve a condition on what a function makes of it,
    and without statistics on the function the number of rows is a guess.

    ## Example
    ```sql
    SELECT count(*) FROM orders WHERE date_trunc('month', placed_at) = '2024-03-01'
    ```

    ## Use instead
    ```sql
    SELECT count(*) FROM orders WHERE placed_at >= '2024-03-01' AND placed_at < '2024-04-01'
    ```

    ## Preconditions
    The column is `timestamp without time zone`, or `date` under `extract` and under a cast to `timestamp`, or
    `timestamp with time zone` under `AT TIME ZONE 'UTC'`. For a bare `timestamp with time zone` the result hangs on the
    session's TimeZone, and so it does for `date_trunc` and `to_char` of a `date`, which PostgreSQL casts to it. The
    constant is in ISO form, in the years 1 to 9998, and for `=` and `IN` a value that the function can return:
    `date_trunc('month', ts) = '2024-03-15'` is never true and left alone. The range is NULL when, and only when, the
    function is, so it may stand under NOT. Infinity stays on its side. `to_char` differs: it prints 5 BC and 5 AD
    alike and makes NULL of infinity, so years before 1 keep the old condition in a branch of their own, and it is
    replaced only where NULL and false do the same.
    """

    code: ClassVar[str] = "RW501"
    name: ClassVar[str] = "function-on-column-to-range"

    def replacement(self, test: ConstantComparison, scope: Scope) -> exp.Expr | None:
        step = _step(test.subject, scope)
        if step is None:
            return None
        points = [step.read(value) for value in test.values]
        known = [p for p in points if p is not None]
        if len(known) < len(points):
            return None
        ranges = _ranges(test.operator, step, known)
        predicate = _predicate(step, ranges) if ranges is not None else None
        return _with_years_before_1(test, step, predicate) if step.text and predicate is not None else predicate


def _step(subject: exp.Expr, scope: Scope) -> _Step | None:
    if isinstance(subject, exp.Cast):
        return _date_step(subject.this, scope) if type_name(subject) == "date" else None
    if isinstance(subject, exp.Extract):
        return _year_step(subject.this.name, subject.expression, scope)
    called = call(subject)
    if called is None:
        return None
    name, arguments = called
    if name == "date" and len(arguments) == 1:
        return _date_step(arguments[0], scope)
    if len(arguments) != 2:
        return None
    if name == "date_part":
        return _year_step(text(arguments[0]) or "", arguments[1], scope)
    if name == "date_trunc":
        return _trunc_step((text(arguments[0]) or "").lower(), arguments[1], scope)
    if name == "to_char":
        return _text_step(text(arguments[1]) or "", arguments[0], scope)
    return None


def _date_step(argument: exp.Expr, scope: Scope) -> _Step | None:
    column = _timestamp_argument(argument, scope)
    return _Step(column[0], "day", lambda value: point(value, "date"), column[1]) if column is not None else None


def _trunc_step(unit: str, argument: exp.Expr, scope: Scope) -> _Step | None:
    column = _timestamp_argument(argument, scope) or _date_as_timestamp(argument, scope)
    if column is None or unit not in TRUNC_UNITS:
        return None
    return _Step(column[0], unit, lambda value: point(value, _TIMESTAMP), column[1])


def _year_step(field: str, argument: exp.Expr, scope: Scope) -> _Step | None:
    column = _timestamp_argument(argument, scope) or _date_as_timestamp(argument, scope) or _date(argument, scope)
    return _Step(column[0], "year", _year, column[1]) if column is not None and field.lower() == "year" else None


def _year(value: exp.Expr) -> datetime | None:
    year = integer(value)
    return datetime(year, 1, 1) if year is not None and 1 <= year <= 9998 else None


def _text_step(format_: str, argument: exp.Expr, scope: Scope) -> _Step | None:
    column = _timestamp_argument(argument, scope) or _date_as_timestamp(argument, scope)
    known = _FORMATS.get(format_.upper()) if format_ in (format_.upper(), format_.lower()) else None
    if column is None or known is None:
        return None
    unit, printed, layout = known

    def read(value: exp.Expr) -> datetime | None:
        words = text(value) or ""
        try:
            return datetime.strptime(words, layout) if printed.fullmatch(words) else None
        except ValueError:  # such as 2024-13
            return None

    return _Step(column[0], unit, read, column[1], text=True)


_Argument = tuple[exp.Expr, Callable[[Point], exp.Expr | None]]


def _timestamp_argument(node: exp.Expr, scope: Scope) -> _Argument | None:
    """A timestamp column, or one with time zone seen in UTC, which has no daylight saving time."""
    node = bare(node)
    if isinstance(node, exp.AtTimeZone):
        column = bare(node.this)
        in_utc = (text(node.args["zone"]) or "").upper() == "UTC"
        return (column, _write_utc) if in_utc and _has_type(column, _TIMESTAMPTZ_TYPE, scope) else None
    return (node, point_node) if _has_type(node, _TIMESTAMP_TYPE, scope) else None


def _date_as_timestamp(node: exp.Expr, scope: Scope) -> _Argument | None:
    node = bare(node)
    return _date(node.this, scope) if isinstance(node, exp.Cast) and type_name(node) == _TIMESTAMP else None


def _date(node: exp.Expr, scope: Scope) -> _Argument | None:
    node = bare(node)
    return (node, _write_date) if _has_type(node, re.compile("date"), scope) else None


def _has_type(node: exp.Expr, type_: re.Pattern[str], scope: Scope) -> bool:
    column = scope.catalog_column(node) if isinstance(node, exp.Column) else None
    return column is not None and type_.fullmatch(column.type) is not None


def _write_utc(value: Point) -> exp.Expr | None:
    return point_node(value, suffix="+00") if isinstance(value, datetime) else None


def _write_date(value: Point) -> exp.Expr | None:
    whole_day = isinstance(value, Today) or value == floor("day", value)
    return point_node(value) if whole_day else None


def _ranges(operator: type[exp.Expr], step: _Step, points: Sequence[Point]) -> list[_Range] | None:
    """The half-open ranges of the column for which the comparison holds; None where there is no such form."""
    if step.text and operator not in (exp.EQ, exp.In):
        return None
    if any(isinstance(p, Today) for p in points) and (step.unit != "day" or operator is exp.In):
        return None
    first, last = points[0], points[-1]
    try:
        if operator in (exp.EQ, exp.In):
            if any(_floor(step.unit, p) != p for p in points):
                return None
            return list(_merged([(p, _following(step.unit, p)) for p in points]))
        if operator is exp.Between:
            return [(_ceiling(step.unit, first), _following(step.unit, _floor(step.unit, last)))]
        if operator is exp.LT:
            return [(None, _ceiling(step.unit, first))]
        if operator is exp.LTE:
            return [(None, _following(step.unit, _floor(step.unit, first)))]
        if operator is exp.GT:
            return [(_following(step.unit, _floor(step.unit, first)), None)]
        return [(_ceiling(step.unit, first), None)]
    except OverflowError:  # a boundary past the year 9999, or a week that begins before the year 1
        return None


def _floor(unit: str, value: Point) -> Point:
    return value if isinstance(value, Today) else floor(unit, value)


def _following(unit: str, value: Point) -> Point:
    return Today(value.offset + 1) if isinstance(value, Today) else following(unit, value)


def _ceiling(unit: str, value: Point) -> Point:
    below = _floor(unit, value)
    return value if below == value else _following(unit, below)


def _merged(ranges: list[tuple[Point, Point]]) -> Iterator[_Range]:
    """Sort ranges and join those that touch; a single range may be relative to today and is left as it is."""
    if len(ranges) == 1:
        yield ranges[0]
        return
    known = sorted({(a, b) for a, b in ranges if isinstance(a, datetime) and isinstance(b, datetime)})
    low, high = known[0]
    for next_low, next_high in known[1:]:
        if next_low > high:
            yield low, high
            low = next_low
        high = next_high
    yield low, high


def _predicate(step: _Step, ranges: Sequence[_Range]) -> exp.Expr | None:
    choices: list[exp.Expr] = []
    for low, high in ranges:
        bounds: list[exp.Expr] = []
        for operator, bound in ((exp.GTE, low), (exp.LT, high)):
            if bound is not None:
                written = step.write(bound)
                if written is None:
                    return None
                bounds.append(operator(this=step.column.copy(), expression=written))
        choices.append(exp.and_(*bounds, copy=False, wrap=False))
    return exp.or_(*choices, copy=False, wrap=False)


def _with_years_before_1(test: ConstantComparison, step: _Step, predicate: exp.Expr) -> exp.Expr | None:
    first_day = step.write(_FIRST_DAY)
    before = exp.LT(this=step.column.copy(), expression=first_day)
    parent = test.node.parent
    if not is_filter(test.node) or (isinstance(parent, exp.And) and parent.left == before):
        return None  # the latter is this rule's own work
    return exp.or_(predicate, exp.and_(before, test.node.copy(), copy=False, wrap=False), copy=False, wrap=False)
