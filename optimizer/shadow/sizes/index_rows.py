"""Rows that a partial index holds, from statistics: simple predicates only, joined by AND."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sqlglot import exp
from sqlglot.errors import SqlglotError

from optimizer.catalog import Column, ColumnStatistics, Table, identifier_name
from optimizer.query import parse_expression

#: The planner's `DEFAULT_INEQ_SEL` (selfuncs.h), used for whatever is not understood.
DEFAULT_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Selection:
    """What a predicate keeps: the share of rows, columns that are never NULL, and columns of one value."""

    share: float = 1.0
    not_null: frozenset[str] = frozenset()
    constant: frozenset[str] = frozenset()

    def statistics(self, column: Column) -> ColumnStatistics | None:
        """Return a column's statistics within the predicate, as far as it changes them."""
        known = column.statistics
        if known is None or column.name not in self.not_null or not 0 < known.null_frac < 1:
            return known
        scale = 1 / (1 - known.null_frac)
        n_distinct = known.n_distinct * scale if known.n_distinct < 0 else known.n_distinct
        frequencies = tuple(share * scale for share in known.most_common_freqs)
        return replace(known, null_frac=0.0, n_distinct=n_distinct, most_common_freqs=frequencies)


def selection(predicate: str | None, table: Table) -> Selection:
    """Estimate what a partial index's predicate keeps of a table.

    Parameters:
        predicate: as SQL; None keeps all.
        table: with statistics.
    """
    if predicate is None:
        return Selection()
    try:
        tree = parse_expression(predicate)
    except SqlglotError:
        return Selection(DEFAULT_SHARE)
    kept = Selection()
    for part in _conjuncts(tree):
        one = _conjunct(part, table.columns)
        kept = Selection(kept.share * one.share, kept.not_null | one.not_null, kept.constant | one.constant)
    return kept


def _conjuncts(tree: exp.Expr) -> Iterator[exp.Expr]:
    tree = tree.unnest()
    if isinstance(tree, exp.And):
        yield from _conjuncts(tree.left)
        yield from _conjuncts(tree.right)
    else:
        yield tree


def _conjunct(node: exp.Expr, columns: Mapping[str, Column]) -> Selection:
    negated = isinstance(node, exp.Not)
    inner = node.this.unnest() if isinstance(node, exp.Not) else node
    negated = negated != bool(inner.args.get("negate"))  # IS NOT NULL
    column = _column(inner if isinstance(inner, exp.Column) else inner.this, columns)
    if column is None:
        return Selection(DEFAULT_SHARE)
    statistics = column.statistics or ColumnStatistics(0.0, 4, 0)
    name = frozenset({column.name})
    if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
        if negated:
            return Selection(1 - statistics.null_frac, not_null=name)
        return Selection(statistics.null_frac, constant=name)
    values = _compared_values(inner)
    if values is None:
        return Selection(DEFAULT_SHARE, not_null=name)
    share = sum(_value_share(statistics, value) for value in values)
    if negated or isinstance(inner, exp.NEQ):
        return Selection(max(1 - statistics.null_frac - share, 0.0), not_null=name)
    return Selection(min(share, 1.0), not_null=name, constant=name if len(values) == 1 else frozenset())


def _compared_values(node: exp.Expr) -> list[str] | None:
    """Values that a column is tested to be among (or not), in the text form of `pg_stats`; None if not so simple."""
    if isinstance(node, exp.Column):
        return ["t"]
    if isinstance(node, (exp.EQ, exp.NEQ)):
        value = _constant(node.expression)
        return None if value is None else [value]
    if isinstance(node, exp.In) and node.expressions:
        values = [_constant(item) for item in node.expressions]
        return None if None in values else [v for v in values if v is not None]
    return None


def _constant(node: exp.Expr) -> str | None:
    node = node.unnest()
    while isinstance(node, exp.Cast):
        node = node.this.unnest()
    if isinstance(node, exp.Literal):
        return str(node.this)
    if isinstance(node, exp.Boolean):
        return "t" if node.this else "f"
    return None


def _column(node: object, columns: Mapping[str, Column]) -> Column | None:
    if not isinstance(node, exp.Expr):
        return None
    node = node.unnest()
    while isinstance(node, exp.Cast):
        node = node.this.unnest()
    return columns.get(identifier_name(node.this)) if isinstance(node, exp.Column) else None


def _value_share(statistics: ColumnStatistics, value: str) -> float:
    """Share of rows with that value (`var_eq_const`, selfuncs.c): its own if common, else its part of the rest."""
    common = dict(zip(statistics.most_common_vals, statistics.most_common_freqs, strict=False))
    if value in common:
        return common[value]
    rest = max(1 - statistics.null_frac - sum(common.values()), 0.0)
    distinct = statistics.n_distinct - len(common)
    return rest / distinct if distinct >= 1 else rest * 0.005
