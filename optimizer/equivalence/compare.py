"""Are two answers the same rows?

Rows are compared by the text images of their values, as bags; where the left query's ORDER BY fixes a sequence, group
by group of equal sort keys. Text images tell apart what SQL's `=` does not: 1.0 and 1.00, 0.0 and -0.0, citext a and A.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from optimizer.equivalence.order import Order
from optimizer.equivalence.session import Result, ResultColumn, Row
from optimizer.equivalence.trial import Answer, Pair

_NUMERIC = 1700
_FLOATS = frozenset({700, 701})
_BPCHAR = 1042
_TEXTS = frozenset({25, 1043, 19})
#: Types whose equal values have one text: bool, bytea, int8, int2, int4, oid, date, time, timestamp(tz), uuid.
_PLAIN = frozenset({16, 17, 20, 21, 23, 26, 1082, 1083, 1114, 1184, 2950})
#: cardinality_violation (a scalar subquery with two rows) and division_by_zero. Overflow may be hidden: moving
#: arithmetic off a column is worth more than an error at the ends of a type.
_GUARDS = frozenset({"21000", "22012"})
_Keys = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one database says.

    Parameters:
        difference: how the answers differ, None when they agree or nothing can be said.
        usable: False when the database says nothing: a limit was met, or the left query fails on it.
    """

    difference: str | None = None
    usable: bool = True


def column_difference(left: Sequence[ResultColumn], right: Sequence[ResultColumn]) -> str | None:
    """Say how two results' columns differ; a type modifier alone is no difference."""
    if len(left) != len(right):
        return f"the left query returns {len(left)} columns, the right one {len(right)}"
    for place, (a, b) in enumerate(zip(left, right, strict=True), start=1):
        if a.name != b.name:
            return f"column {place} is named {a.name!r} by the left query and {b.name!r} by the right one"
        if a.type_oid != b.type_oid:
            return f"column {place} ({a.name}) has another type in the right query"
    return None


def modifier_note(left: Sequence[ResultColumn], right: Sequence[ResultColumn]) -> str:
    """Name the columns whose type differs in length or precision only; empty without any."""
    names = [a.name for a, b in zip(left, right, strict=True) if a.type_oid == b.type_oid and a.typmod != b.typmod]
    return f"; declared length or precision differs in {', '.join(names)}" if names else ""


def judge(pair: Pair, orders: tuple[Order, Order], *, loose: bool, texts_ordered: bool = True) -> Judgement:
    """Compare the answers of both queries on one database.

    Parameters:
        pair: the answers.
        orders: what each query's ORDER BY fixes.
        loose: the top-level LIMIT leaves open which rows of a tie are kept, so only what is fixed is compared.
        texts_ordered: False when the schema has collations under which different texts are equal.
    """
    if pair.ended is not None or pair.left.unfit or pair.right.unfit:
        return Judgement(usable=False)
    if pair.left.result.error is not None:
        return _after_failure(pair)
    if pair.right.result.error is not None:
        return Judgement(f"the right query fails: {pair.right.result.error[1]}")
    for mine, theirs in zip(pair.left.contents, pair.right.contents, strict=True):
        if Counter(mine.rows) != Counter(theirs.rows):
            return Judgement("the tables hold other rows afterwards")
    left, right = pair.left.result, pair.right.result
    if len(left.rows) != len(right.rows):
        return Judgement(f"the left query returns {_rows(len(left.rows))}, the right one {_rows(len(right.rows))}")
    if not loose and Counter(left.rows) != Counter(right.rows):
        return Judgement("the rows differ")
    return Judgement(_sequence_difference(pair, orders, loose=loose, texts_ordered=texts_ordered))


def _after_failure(pair: Pair) -> Judgement:
    """The left query fails: mostly that says nothing, but some errors guard the rows, and must not be hidden."""
    state, message = pair.left.result.error or ("", "")
    if state in _GUARDS and pair.right.result.error is None:
        return Judgement(f"the left query fails ({message}) and the right one does not")
    return Judgement(usable=False)


def is_informative(answer: Answer, on_empty: Answer | None) -> bool:
    """True when the rows made a difference: the answer is not that of empty tables."""
    if on_empty is None:
        return False
    return any(Counter(a.rows) != Counter(b.rows) for a, b in zip(answer.results, on_empty.results, strict=False))


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _sequence_difference(pair: Pair, orders: tuple[Order, Order], *, loose: bool, texts_ordered: bool) -> str | None:
    order = orders[0]
    if not order.keys:
        return None
    source = pair.left.keyed or pair.left.result
    if source.error is not None:
        return None
    keys = _keys(source, order.keys, texts_ordered)
    rows = [row[: order.width] for row in source.rows]
    if loose:
        other = _right_keys(pair, orders, texts_ordered)
        if other is not None and other != keys:
            return "the sort keys of the rows differ"
    groups = _groups(keys)
    for number, (start, end) in enumerate(groups):
        if loose and ((number == len(groups) - 1) or (order.offset and number == 0)):
            continue  # LIMIT or OFFSET may cut through this group
        if Counter(rows[start:end]) != Counter(pair.right.result.rows[start:end]):
            return "the rows come in another order"
    return None


def _right_keys(pair: Pair, orders: tuple[Order, Order], texts_ordered: bool) -> list[_Keys] | None:
    """The left query's sort keys in the right query's rows; None where they cannot be seen."""
    left, right = orders
    if all(key < left.width for key in left.keys):
        return _keys(pair.right.result, left.keys, texts_ordered)
    keyed = pair.right.keyed or pair.right.result
    if len(left.keys) != len(right.keys) or keyed.error is not None:
        return None
    return _keys(keyed, right.keys, texts_ordered)


def _keys(result: Result, places: Sequence[int], texts_ordered: bool) -> list[_Keys]:
    """Each row's sort keys, as far as equal values can be told by their texts."""
    kept: list[int] = []
    for place in places:
        oid = result.columns[place].type_oid
        known = oid in _PLAIN or oid in (_NUMERIC, *_FLOATS) or (texts_ordered and (oid in _TEXTS or oid == _BPCHAR))
        if not known:
            break
        kept.append(place)
    return [tuple(_key(row, place, result.columns[place].type_oid) for place in kept) for row in result.rows]


def _key(row: Row, place: int, oid: int) -> Hashable:
    value = row[place]
    if value is None:
        return None
    if oid == _NUMERIC or oid in _FLOATS:
        try:
            number = Decimal(value.decode())
        except InvalidOperation:
            return value
        return str(number) if number.is_nan() else number
    return value.rstrip(b" ") if oid == _BPCHAR else value


def _groups(keys: Sequence[_Keys]) -> list[tuple[int, int]]:
    """Start and end of each run of equal keys."""
    found: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[start]:
            found.append((start, end))
            start = end
    return found
