"""Arithmetic on a column, compared with a constant, moved to the constant's side."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from sqlglot import exp

from optimizer.matching import bare, type_name
from optimizer.rewriting.constants import (
    INTEGER_RANGES,
    Point,
    Span,
    Today,
    difference,
    fits,
    floor,
    integer,
    integer_node,
    number,
    number_node,
    point,
    point_node,
    span,
    span_node,
    today,
)
from optimizer.rewriting.sargable import ConstantComparison, PredicateRule, call
from optimizer.scope import Scope

_TIMESTAMP = "timestamp without time zone"
_TIMESTAMPTZ = "timestamp with time zone"
#: Functions that give the time of the transaction or statement as `timestamp with time zone`.
_NOW = tuple((name, ()) for name in ("now", "transaction_timestamp", "statement_timestamp"))
_TIMESTAMP_TYPE = re.compile(r"timestamp(\(\d\))? without time zone")
_INSTANT_TYPE = re.compile(r"timestamp(\(\d\))? with time zone")

#: Moves a constant to the column's side of the equation, None where that can't be done exactly.
_Move = Callable[[exp.Expr], exp.Expr | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Solved:
    """The comparison solved for its column.

    Parameters:
        mirrored: the column was subtracted, so the order turns round.
    """

    column: exp.Expr
    move: _Move
    mirrored: bool = False


class ArithmeticOffColumn(PredicateRule):
    """Move arithmetic from a column to the constant

    ## What it does
    Solves a comparison for its column: `col + 5 > 10` becomes `col > 5`, `ts + INTERVAL '1 day' < '2024-03-02'`
    becomes `ts < '2024-03-01'`, `now() - seen_at > INTERVAL '2 days'` becomes
    `seen_at < now() - INTERVAL '48 hours'`. Constants are folded where their value is known. `=`, `<`, `<=`, `>`, `>=`,
    `BETWEEN` and `IN` are understood.

    ## Why it is slow
    PostgreSQL solves no equations: an index on the column cannot serve a condition on the sum, and without statistics
    on the sum the number of rows is a guess.

    ## Example
    ```sql
    SELECT id FROM orders WHERE placed_at + INTERVAL '30 days' > '2024-03-31'
    ```

    ## Use instead
    ```sql
    SELECT id FROM orders WHERE placed_at > '2024-03-01'
    ```

    ## Preconditions
    The column is an integer or `numeric` and integers or decimals are added or subtracted (no multiplication, no
    floating point, whose sums round); or it is a `date` or `timestamp without time zone` and days or an interval
    without months are (a month's length hangs on the date); or it is a `timestamp with time zone` and the interval has
    no days either, since a day with a change of daylight saving time has 23 or 25 hours. The folded constant fits
    the column's type. Where the original fails because the sum overflows, the rewrite does not. `5 - col` is solved
    for integers only: in `numeric`, NaN is larger than all numbers on both sides of such an equation.
    """

    code: ClassVar[str] = "RW502"
    name: ClassVar[str] = "arithmetic-off-column"

    def replacement(self, test: ConstantComparison, scope: Scope) -> exp.Expr | None:
        solved = _solve(test.subject, scope)
        if solved is None:
            return None
        values = [value for constant in test.values if (value := solved.move(constant)) is not None]
        if len(values) < len(test.values):
            return None
        if solved.mirrored and test.operator is exp.Between:
            values.reverse()
        return test.over(solved.column, *values, mirrored=solved.mirrored)


def _solve(subject: exp.Expr, scope: Scope) -> _Solved | None:
    column, terms, negated = _terms(subject)
    known = scope.catalog_column(column) if isinstance(column, exp.Column) else None
    if known is None or not terms:
        return None
    if known.type in INTEGER_RANGES:
        return _integers(column, known.type, terms, negated)
    if negated:
        return _age(column, known.type, terms)
    if re.fullmatch(r"numeric(\(\d+,-?\d+\))?", known.type):
        return _decimals(column, terms)
    if known.type == "date":
        return _days(column, terms) or _timestamps(column, known.type, terms)
    if _TIMESTAMP_TYPE.fullmatch(known.type):
        return _timestamps(column, known.type, terms)
    if _INSTANT_TYPE.fullmatch(known.type):
        return _instants(column, terms)
    return None


#: A term of a sum: its sign and the expression.
_Term = tuple[int, exp.Expr]


def _terms(node: exp.Expr) -> tuple[exp.Expr, list[_Term], bool]:
    """Split a sum with one column into the column, the other terms in order, and whether the column is subtracted."""
    node = bare(node)
    if not isinstance(node, (exp.Add, exp.Sub)):
        return node, [], False
    sign = -1 if isinstance(node, exp.Sub) else 1
    if any(True for _ in node.this.find_all(exp.Column)):
        column, terms, negated = _terms(node.this)
        return column, [*terms, (sign, node.expression)], negated
    column, terms, negated = _terms(node.expression)
    return column, [(1, node.this), *((sign * s, t) for s, t in terms)], negated != (sign < 0)


def _integers(column: exp.Expr, type_: str, terms: list[_Term], negated: bool) -> _Solved | None:
    parts = [sign * value for sign, term in terms if (value := integer(term)) is not None]
    if len(parts) < len(terms):
        return None

    def move(constant: exp.Expr) -> exp.Expr | None:
        value = integer(constant)
        if value is None:
            return None
        solution = sum(parts) - value if negated else value - sum(parts)
        return integer_node(solution) if fits(solution, type_) else None

    return _Solved(column, move, negated)


def _decimals(column: exp.Expr, terms: list[_Term]) -> _Solved | None:
    parts = [sign * value for sign, term in terms if (value := number(term)) is not None]
    if len(parts) < len(terms):
        return None

    def move(constant: exp.Expr) -> exp.Expr | None:
        value = number(constant)
        for part in parts:
            value = difference(value, part) if value is not None else None
        return number_node(value) if value is not None else None

    return _Solved(column, move)


def _days(column: exp.Expr, terms: list[_Term]) -> _Solved | None:
    """`date + 7` is a date."""
    parts = [sign * value for sign, term in terms if (value := integer(term)) is not None]
    if len(parts) < len(terms):
        return None
    back = Span(-sum(parts), 0)
    return _Solved(column, lambda constant: _shifted(point(constant, "date"), back, "date"))


def _timestamps(column: exp.Expr, type_: str, terms: list[_Term]) -> _Solved | None:
    """A date or timestamp plus an interval is a timestamp, in which every day has 24 hours."""
    total = _total(terms)
    if total is None:
        return None

    def move(constant: exp.Expr) -> exp.Expr | None:
        folded = _shifted(point(constant, _TIMESTAMP), -total, type_)
        local = isinstance(bare(constant), exp.Localtimestamp) or today(constant) is not None
        return _minus(constant, total) if folded is None and local else folded

    return _Solved(column, move)


def _instants(column: exp.Expr, terms: list[_Term]) -> _Solved | None:
    """A timestamp with time zone plus hours, minutes and seconds is exact; days would follow the session's TimeZone."""
    total = _total(terms)
    if total is None or total.days:
        return None
    return _Solved(column, lambda constant: _minus(at, total) if (at := _instant(constant)) is not None else None)


def _age(column: exp.Expr, type_: str, terms: list[_Term]) -> _Solved | None:
    """`CURRENT_DATE - date > 30` and `now() - ts > INTERVAL '1 day'`."""
    if len(terms) > 1:
        return None
    start = bare(terms[0][1])
    if type_ == "date":
        typed = isinstance(start, exp.CurrentDate) or (isinstance(start, exp.Cast) and type_name(start) == "date")
        day = point(start, "date") if typed else None
        if day is None:
            return None

        def by_days(constant: exp.Expr) -> exp.Expr | None:
            count = integer(constant)
            return _shifted(day, Span(-count, 0), type_) if count is not None else None

        return _Solved(column, by_days, mirrored=True)
    local = isinstance(start, exp.Localtimestamp) and _TIMESTAMP_TYPE.fullmatch(type_)
    instant = _instant(start) is not None and not isinstance(start, exp.Literal) and _INSTANT_TYPE.fullmatch(type_)
    if not local and not instant:
        return None

    def by_length(constant: exp.Expr) -> exp.Expr | None:
        length = span(constant)
        # A difference counts days of 24 hours; taken from an instant, only hours are surely as long.
        return _minus(start, Span(0, length.delta // timedelta(microseconds=1))) if length is not None else None

    return _Solved(column, by_length, mirrored=True)


def _total(terms: list[_Term]) -> Span | None:
    total = Span(0, 0)
    for sign, term in terms:
        length = span(term)
        if length is None:
            return None
        total += length if sign > 0 else -length
    return total


def _instant(node: exp.Expr) -> exp.Expr | None:
    """A constant of type `timestamp with time zone`; an untyped string gets the type it is read as."""
    node = bare(node)
    if isinstance(node, exp.Literal) and node.is_string:
        return exp.Cast(this=node.copy(), to=exp.DataType(this=exp.DType.TIMESTAMPTZ, nested=False))
    if isinstance(node, exp.Cast):
        quoted = isinstance(bare(node.this), exp.Literal) or _instant(node.this) is not None
        return node if quoted and type_name(node) == _TIMESTAMPTZ else None
    if isinstance(node, exp.CurrentTimestamp) or call(node) in _NOW:
        return node
    if isinstance(node, (exp.Add, exp.Sub)) and isinstance(bare(node.expression), exp.Interval):
        base = node.this
        return node if _instant(base) is not None and not isinstance(bare(base), exp.Literal) else None
    return None


def _shifted(value: Point | None, by: Span, type_: str) -> exp.Expr | None:
    """Add a span to a point and write it as a constant to compare a column of `type_` with."""
    if isinstance(value, Today):
        return point_node(Today(value.offset + by.days)) if not by.microseconds else None
    try:
        moved = value + by.delta if value is not None else None
    except OverflowError:  # before the year 1 or after 9999
        return None
    if moved is None:
        return None
    written = point_node(moved)
    if type_ == "date" and moved != floor("day", moved):  # read as a date, the string would lose its time
        return exp.Cast(this=written, to=exp.DataType(this=exp.DType.TIMESTAMP, nested=False))
    return written


def _minus(constant: exp.Expr, length: Span) -> exp.Expr:
    negative = length.days <= 0 and length.microseconds <= 0
    operand = constant.copy()
    if negative:
        return exp.Add(this=operand, expression=span_node(-length))
    return exp.Sub(this=operand, expression=span_node(length))
