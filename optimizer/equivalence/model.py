"""The tables that a pair of queries needs, with the values worth trying in each column."""

from __future__ import annotations

from dataclasses import dataclass, field

from optimizer.equivalence.constants import Constants, ValueType
from optimizer.equivalence.hints import ColumnKey, Hints, TableKey


@dataclass(slots=True)
class ColumnModel:
    """One column that rows give a value.

    Parameters:
        key: schema, table, column.
        kind: its type.
        not_null: NULL is refused.
        dense: a few values, the same in all columns of the type's family.
        own: constants compared with this column and their neighbours.
        wide: everything worth trying in the type.
        ends: where arithmetic overflows.
        hits: by FROM item, for each comparison the values that satisfy it.
        asked: by FROM item, the comparisons themselves: operator and constants.
        bound: by FROM item, comparisons with parameters: (operator, number).
        group: number of the set of columns that are compared with each other, None for others.
        wants_null: some query asks for `IS NULL`.
    """

    key: ColumnKey
    kind: ValueType
    not_null: bool
    dense: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    hits: dict[int, list[tuple[str, ...]]] = field(default_factory=dict)
    asked: dict[int, list[tuple[str, tuple[str, ...]]]] = field(default_factory=dict)
    bound: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    group: int | None = None
    wants_null: bool = False

    @property
    def name(self) -> str:
        """The column's name."""
        return self.key[2]

    @property
    def hopeless(self) -> bool:
        """True when no value is known that the column takes."""
        return not self.wide


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns by place, and the parent's; `forward` when the parent comes later, in a circle."""

    columns: tuple[int, ...]
    parent: TableKey
    parent_columns: tuple[int, ...]
    forward: bool = False


@dataclass(slots=True)
class TableModel:
    """One table to fill.

    Parameters:
        key: schema and name.
        qualified: its name in SQL.
        columns: those that rows give a value.
        uniques: keys, as places of columns.
        foreign: foreign keys.
        identity: an identity column gets values of ours.
        tolerant: INSERT may say ON CONFLICT DO NOTHING.
        occurrences: the queries' FROM items that compare its columns with constants.
        inequalities: places of columns that queries want ordered, with the operator.
    """

    key: TableKey
    qualified: str
    columns: tuple[ColumnModel, ...]
    uniques: tuple[tuple[int, ...], ...]
    foreign: tuple[ForeignKey, ...] = ()
    identity: bool = False
    tolerant: bool = True
    occurrences: tuple[int, ...] = ()
    inequalities: tuple[tuple[int, str, int], ...] = ()


@dataclass(slots=True)
class Model:
    """Everything the generator works with.

    Parameters:
        tables: parents first.
        hints: of both queries.
        constants: of both queries.
        params: a pool for each parameter.
        refresh: materialized views to refresh after loading, in order.
    """

    tables: tuple[TableModel, ...]
    hints: Hints
    constants: Constants
    params: tuple[ColumnModel, ...]
    refresh: tuple[str, ...]

    @property
    def circular(self) -> bool:
        """True when foreign keys form a circle."""
        return any(foreign.forward for table in self.tables for foreign in table.foreign)

    def table(self, key: TableKey) -> TableModel | None:
        """The table of that name, if rows are made for it."""
        return next((t for t in self.tables if t.key == key), None)
