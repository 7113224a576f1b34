"""`TableUse`: what a statement does with one table that it reads. `optimizer/predicates.py` makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sqlglot import exp

from optimizer.catalog import Column, IndexColumn, Table

ConditionKind = Literal["equality", "range", "other"]


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One condition that every row read from a table must meet.

    Parameters:
        kind: `equality` (=, IN, = ANY, IS NULL, a boolean column), `range` (<, BETWEEN, LIKE 'prefix%', ...), or
            `other`: what no B-tree searches but a partial index may hold (<>, NOT IN, IS NOT NULL).
        key: what is compared, as an index would hold it.
        node: the condition in the query's tree.
        single: True when rows that meet it share one value of the key, so that it doesn't disturb an order.
        constant: True when the condition holds literals only: no parameters, other columns or subqueries.
        column: the catalog's column, None for expressions.
        distinct: estimated number of the key's distinct values, None where unknown.
        selectivity: estimated share of rows that meet it, 0 to 1, None where unknown.
    """

    kind: ConditionKind
    key: IndexColumn
    node: exp.Expr
    single: bool = False
    constant: bool = False
    column: Column | None = None
    distinct: float | None = None
    selectivity: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class JoinKey:
    """One equality with a column of another FROM item (or of a subquery that PostgreSQL turns into a join).

    Parameters:
        key: this table's side.
        partner: the other item's alias, or what stands for it.
        node: the condition.
        distinct: as of `Condition`.
    """

    key: IndexColumn
    partner: str
    node: exp.Expr
    column: Column | None = None
    distinct: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ordering:
    """An order in which a table's rows are wanted.

    Parameters:
        keys: with direction and place of NULLs.
        clause: ORDER BY, GROUP BY, DISTINCT, PARTITION BY, min() or max().
        limited: True when only the first rows are wanted.
    """

    keys: tuple[IndexColumn, ...]
    clause: str
    limited: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TableUse:
    """One place in a statement that reads a base table.

    Parameters:
        alias: its name there.
        conditions: all must hold.
        alternatives: for each OR over this table, the conditions of each of its arms.
        joins, orderings: see there.
        referenced: names of the columns read, None when whole rows are (or when that can't be told).
        written: names of the columns that the statement sets.
    """

    table: Table
    alias: str
    conditions: tuple[Condition, ...] = ()
    alternatives: tuple[tuple[Condition, ...], ...] = ()
    joins: tuple[JoinKey, ...] = ()
    orderings: tuple[Ordering, ...] = ()
    referenced: frozenset[str] | None = frozenset()
    written: frozenset[str] = frozenset()

    def of_kind(self, kind: ConditionKind) -> tuple[Condition, ...]:
        """The conditions of one kind."""
        return tuple(c for c in self.conditions if c.kind == kind)

    def plain(self) -> TableUse:
        """The same use without what stands on expressions."""
        return replace(
            self,
            conditions=tuple(c for c in self.conditions if c.key.column is not None),
            alternatives=tuple(
                arm for arm in (tuple(c for c in arm if c.key.column is not None) for arm in self.alternatives) if arm
            ),
            joins=tuple(j for j in self.joins if j.key.column is not None),
            orderings=tuple(o for o in self.orderings if all(k.column is not None for k in o.keys)),
        )
