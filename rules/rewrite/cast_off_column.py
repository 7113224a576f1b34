"""A cast on a column, or forced on it by a constant of another type, taken away."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Column
from optimizer.matching import bare, type_name
from optimizer.rewriting.constants import (
    INTEGER_RANGES,
    canonical_integer,
    fits,
    integer_node,
    number,
    text,
)
from optimizer.rewriting.sargable import ConstantComparison, PredicateRule
from optimizer.scope import Scope

_TEXT_TYPES = frozenset({"text", "character varying"})
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class CastOffColumn(PredicateRule):
    """Compare a column in its own type

    ## What it does
    Removes a cast from a column that is compared with a constant, and writes the constant in the column's type:
    `id::text = '5'` becomes `id = 5`, `id::bigint = 5` becomes `id = 5`, `status::text = 'paid'` becomes
    `status = 'paid'`. An integer column compared with a decimal constant, which PostgreSQL casts to `numeric`, is
    compared with the integer: `id = 500.0` becomes `id = 500`.

    ## Why it is slow
    An index on the column holds the column's own values. PostgreSQL casts every row instead and cannot use it.

    ## Example
    ```sql
    SELECT id, total FROM orders WHERE id::text = '5'
    ```

    ## Use instead
    ```sql
    SELECT id, total FROM orders WHERE id = 5
    ```

    ## Preconditions
    The cast keeps different values different. To text: the column is an integer, uuid or enum, the comparison is `=` or
    `IN` (text is ordered otherwise), and the literal is exactly what the type prints: `'05'`, `'+5'`, `' 5'` or an
    unknown label never match and are left alone. To `numeric` or to a wider or narrower integer: the constant is a
    whole number for `=` and `IN`; for an order it is rounded to the side that keeps the same rows. To `double
    precision`, though not from `bigint`, which it rounds: the constant is a whole number. The constant fits the
    column's type. A cast from text or `numeric` to an integer, and casts between dates and times, are not touched.
    Where the original fails because a value does not fit a narrower type, the rewrite does not.
    """

    code: ClassVar[str] = "RW503"
    name: ClassVar[str] = "cast-off-column"

    def replacement(self, test: ConstantComparison, scope: Scope) -> exp.Expr | None:
        subject, target = test.subject, ""
        if isinstance(subject, exp.Cast):
            target = type_name(subject)
            subject = bare(subject.this)
        column = scope.catalog_column(subject) if isinstance(subject, exp.Column) else None
        if column is None:
            return None
        converted = _as_text(test, column) if target in _TEXT_TYPES else _as_number(test, column, target)
        return test.over(subject, *converted) if converted is not None else None


def _as_text(test: ConstantComparison, column: Column) -> list[exp.Expr] | None:
    if test.operator not in (exp.EQ, exp.In):
        return None
    read: Callable[[str], exp.Expr | None]
    if column.type in INTEGER_RANGES:

        def read(literal: str) -> exp.Expr | None:
            value = canonical_integer(literal)
            return integer_node(value) if value is not None and fits(value, column.type) else None

    elif column.type == "uuid":

        def read(literal: str) -> exp.Expr | None:
            return exp.Literal.string(literal) if _UUID.fullmatch(literal) else None

    elif column.type_kind == "enum":

        def read(literal: str) -> exp.Expr | None:
            return exp.Literal.string(literal) if literal in column.enum_labels else None

    else:
        return None
    words = [text(value) for value in test.values]
    converted = [node for word in words if word is not None and (node := read(word)) is not None]
    return converted if len(converted) == len(words) else None


def _as_number(test: ConstantComparison, column: Column, target: str) -> list[exp.Expr] | None:
    if target == column.type:
        target = ""  # a cast that does nothing, and that PostgreSQL drops
    exact = {"numeric", *INTEGER_RANGES} | ({"double precision"} if column.type != "bigint" else set())
    if column.type not in INTEGER_RANGES or (target and target not in exact):
        return None
    if not target and not any(_is_decimal(value) for value in test.values):
        return None
    low, high = (test.values[0], test.values[-1]) if test.operator is exp.Between else (None, None)
    converted: list[exp.Expr] = []
    for value in test.values:
        known = number(value)
        rounding = _rounding(exp.GTE if value is low else exp.LTE if value is high else test.operator)
        if target == "double precision":
            rounding = None  # the constant becomes a double too, which may round to another side
        whole = _whole(known, rounding) if known is not None else None
        if whole is None or not fits(whole, column.type) or (target in INTEGER_RANGES and not fits(whole, target)):
            return None
        converted.append(integer_node(whole))
    return converted


def _is_decimal(value: exp.Expr) -> bool:
    """A numeric constant that PostgreSQL does not take for an integer."""
    value = bare(value)
    while isinstance(value, exp.Neg):
        value = bare(value.this)
    if isinstance(value, exp.Cast):
        return type_name(value) == "numeric"
    return isinstance(value, exp.Literal) and not value.is_string and not value.name.isdigit()


def _rounding(operator: type[exp.Expr]) -> str | None:
    """Integers are >= 4.5 when >= 5, and > 4.5 when > 4: the side to round to; None where rounding loses."""
    if operator in (exp.GTE, exp.LT):
        return ROUND_CEILING
    return ROUND_FLOOR if operator in (exp.LTE, exp.GT) else None


def _whole(value: Decimal, rounding: str | None) -> int | None:
    if value == value.to_integral_value():
        return int(value)
    return int(value.to_integral_value(rounding=rounding)) if rounding is not None else None
