"""The orders in which a SELECT wants its rows: ORDER BY, GROUP BY, DISTINCT, windows, min() and max()."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sqlglot import exp

from optimizer.catalog import IndexColumn, identifier_name
from optimizer.indexing.operands import Operand, Operands
from optimizer.indexing.table_use import Ordering
from optimizer.matching import bare, is_aggregate
from optimizer.scope import Scope, Source, own_nodes

#: Longer orders are left to sorting.
MAX_SORT_COLUMNS = 4
#: What is sorted by, and the ORDER BY item that says how; None where the direction is free.
_Key = tuple[exp.Expr, exp.Expr | None]


def orderings(scope: Scope, operands: Operands) -> Iterator[tuple[Source, Ordering]]:
    """Yield the orders that one SELECT wants, each with the only table it sorts by."""
    select = scope.select
    limited = bool(select.args.get("limit"))
    order = select.args.get("order")
    if order is not None:
        keys: list[_Key] = [(_output(select, o.this, aliases=True), o) for o in order.expressions]
        yield from _ordering(scope, operands, keys, "ORDER BY", limited=limited)
    group = select.args.get("group")
    if group is not None:
        grouped = [_output(select, g, aliases=False) for g in group.expressions]
        yield from _ordering(scope, operands, _free(_as_sorted(grouped, order, select)), "GROUP BY", limited=False)
    distinct = select.args.get("distinct")
    if distinct is not None and order is None:
        on = distinct.args.get("on")
        wanted = on.expressions if isinstance(on, exp.Tuple) else [i.unalias() for i in select.expressions]
        yield from _ordering(scope, operands, _free(wanted), "DISTINCT", limited=limited)
    for window in own_nodes(select, exp.Window):
        inner = window.args.get("order")
        keys = _free(window.args.get("partition_by") or ())
        keys += [(o.this, o) for o in inner.expressions] if inner is not None else []
        yield from _ordering(scope, operands, keys, "the window", limited=False)
    if group is None:
        yield from _extremes(scope, operands)


def _extremes(scope: Scope, operands: Operands) -> Iterator[tuple[Source, Ordering]]:
    """min(x) and max(x) read one end of an index, if nothing else is aggregated (`planagg.c`)."""
    aggregates = [node for node in own_nodes(scope.select, exp.AggFunc) if is_aggregate(node, None)]
    if not aggregates or not all(isinstance(a, (exp.Min, exp.Max)) for a in aggregates):
        return
    if any(isinstance(a.parent, exp.Filter) for a in aggregates) or len(scope.sources) != 1:
        return
    for aggregate in aggregates:
        clause = "min()" if isinstance(aggregate, exp.Min) else "max()"
        yield from _ordering(scope, operands, _free([aggregate.this]), clause, limited=True)


def _ordering(
    scope: Scope, operands: Operands, keys: Sequence[_Key], clause: str, *, limited: bool
) -> Iterator[tuple[Source, Ordering]]:
    if not 0 < len(keys) <= MAX_SORT_COLUMNS:
        return
    found: list[tuple[Operand, IndexColumn]] = []
    for node, ordered in keys:
        reached = tuple(operands.of(scope, node, joined=True))
        if len(reached) != 1 or (found and reached[0].source is not found[0][0].source):
            return
        descending = bool(ordered.args.get("desc")) if ordered is not None else False
        nulls_first = bool(ordered.args.get("nulls_first")) if ordered is not None else False
        key = replace(reached[0].key, descending=descending, nulls_first=nulls_first)
        if all((k.expression, k.collation) != (key.expression, key.collation) for _, k in found):
            found.append((reached[0], key))
    yield found[0][0].source, Ordering(tuple(key for _, key in found), clause, limited)


def _output(select: exp.Select, node: exp.Expr, *, aliases: bool) -> exp.Expr:
    """What a sort or group item means: `ORDER BY 2` and, with `aliases`, output names stand for output columns."""
    node = bare(node)
    outputs = select.expressions
    if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdecimal():
        place = int(str(node.this))
        return bare(outputs[place - 1].unalias()) if 0 < place <= len(outputs) else node
    if aliases and isinstance(node, exp.Column) and not node.args.get("table"):
        name = identifier_name(node.this)
        for item in outputs:
            if isinstance(item, exp.Alias) and identifier_name(item.args["alias"]) == name:
                return bare(item.this)
    return node


def _free(nodes: Iterable[exp.Expr]) -> list[_Key]:
    return [(bare(node), None) for node in nodes]


def _as_sorted(grouped: list[exp.Expr], order: exp.Expr | None, select: exp.Select) -> list[exp.Expr]:
    """Grouping may sort in any order; the one that ORDER BY wants as well serves both."""
    wanted = [_output(select, o.this, aliases=True) for o in order.expressions] if order is not None else []
    first = [w for w in wanted if w in grouped]
    return first + [g for g in grouped if g not in first]
