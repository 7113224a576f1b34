"""What a statement's own ORDER BY and LIMIT fix about its rows.

ORDER BY fixes the sequence of the sort keys' values; rows with equal keys may come in any order. A key that is not in
the output is made visible by appending it to the output of a copy of the statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import postgast

from optimizer.equivalence import tree
from optimizer.query import Query


@dataclass(frozen=True, slots=True)
class Order:
    """The top-level ORDER BY.

    Parameters:
        keys: output positions of the sort keys in the widened statement; () when no order is fixed.
        widened: the statement with its hidden keys appended to the output; None when all keys are visible.
        width: number of the statement's own output columns.
        limited: True with a top-level LIMIT, OFFSET or FETCH FIRST.
        offset: True when rows are left out at the beginning.
    """

    keys: tuple[int, ...] = ()
    widened: str | None = None
    width: int = 0
    limited: bool = False
    offset: bool = False


def order_of(query: Query, output: Sequence[str]) -> Order:
    """Read a statement's top-level ORDER BY and LIMIT.

    Parameters:
        query: the statement.
        output: names of its result columns, as the server describes them.
    """
    if query.kind != "select":
        return Order(width=len(output))
    parsed = tree.parsed(query.sql)
    select = parsed.stmts[0].stmt.select_stmt
    keys: list[int] = []
    hidden: list[Any] = []
    plain = not select.distinct_clause and not select.HasField("larg")
    for sort in select.sort_clause:
        node = sort.sort_by.node
        position = _visible(node, select, output)
        if position is None:
            if not plain:
                break  # PostgreSQL refuses it anyway
            position = len(output) + len(hidden)
            hidden.append(node)
        keys.append(position)
    widened = None
    if hidden:
        for node in hidden:
            select.target_list.add().res_target.val.CopyFrom(node)
        try:
            widened = postgast.deparse(parsed)
        except postgast.PgQueryError:  # it cannot be written: only the keys before the first hidden one are known
            keys = keys[: next(i for i, key in enumerate(keys) if key >= len(output))]
    return Order(tuple(keys), widened, len(output), *_limits(select))


def _limits(select: Any) -> tuple[bool, bool]:
    offset = select.HasField("limit_offset") and not _is_number(select.limit_offset, 0)
    count = select.HasField("limit_count") and not select.limit_count.a_const.isnull
    ties = "WITH_TIES" in postgast.pg_query_pb2.LimitOption.Name(select.limit_option)
    return bool((count and not ties) or offset), bool(offset)


def _is_number(node: Any, value: int) -> bool:
    const = node.a_const
    return bool(node.WhichOneof("node") == "a_const" and const.WhichOneof("val") == "ival" and const.ival.ival == value)


def _visible(node: Any, select: Any, output: Sequence[str]) -> int | None:
    """Return the output column that a sort key is, by PostgreSQL's rules (`findTargetlistEntrySQL92`)."""
    if node.WhichOneof("node") == "a_const" and node.a_const.WhichOneof("val") == "ival":
        return int(node.a_const.ival.ival) - 1
    if node.WhichOneof("node") == "column_ref" and len(node.column_ref.fields) == 1:
        (name,) = tree.strings(node.column_ref.fields)
        if name in output:
            return list(output).index(name)
    for position, target in enumerate(select.target_list):
        value = target.res_target.val
        if value.WhichOneof("node") == "column_ref" and "*" in tree.strings(value.column_ref.fields):
            return None  # from here on positions are not those of the target list
        if _same(value, node):
            return position
    return None


def _same(left: Any, right: Any) -> bool:
    return bool(_without_places(left) == _without_places(right))


def _without_places(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    for part in tree.walk(copy):
        if any(field.name == "location" for field in part.DESCRIPTOR.fields):
            part.ClearField("location")
    return copy
