"""Rows of one generated database, with keys and foreign keys that hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from optimizer.equivalence import values
from optimizer.equivalence.constants import ValueType
from optimizer.equivalence.hints import TableKey, Threshold
from optimizer.equivalence.model import ColumnModel, ForeignKey, TableModel

Cells = tuple[str | None, ...]

#: Chance that a cell of a row that is to meet a FROM item's conditions meets its own.
_MEETS = 0.9
#: The comparison that holds when the sides change places.
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Chooser(Protocol):
    """What chooses values for all rows of a database."""

    @property
    def random(self) -> random.Random:
        """The source of all choices."""

    def best(self, column: ColumnModel, occurrence: int) -> tuple[str, ...]:
        """Values that satisfy most of a FROM item's comparisons on a column."""

    def entity(self, column: ColumnModel, number: int) -> str | None:
        """The value that all columns of a set share for one entity."""

    def holds(self, kind: ValueType, operator: str, bound: str, value: str) -> bool:
        """False when `value operator bound` is certainly false."""

    def beyond(self, kind: ValueType, operator: str, bound: str) -> str | None:
        """A value for which `value operator bound` holds."""

    def number_of(self, table: TableModel) -> int:
        """The table's place."""


@dataclass(frozen=True, slots=True)
class Style:
    """How cells are drawn.

    Parameters:
        nulls, hits, own, wide, ends: shares of NULLs, satisfying values, constants with neighbours, any values, and
            ends of the type; the rest comes from the dense domain.
        unmatched: columns that are compared with each other get different values.
        aligned: every row belongs to an entity, whose rows in all tables match.
        meeting: share of rows that belong to an entity and meet nearly all conditions of one FROM item.
    """

    nulls: float = 0.0
    hits: float = 0.5
    own: float = 0.2
    wide: float = 0.0
    ends: float = 0.0
    unmatched: bool = False
    aligned: bool = False
    meeting: float = 0.5


class Rows:
    """Adds rows to one database, keeping its keys."""

    def __init__(self, chooser: Chooser, made: dict[TableKey, list[list[str | None]]], style: Style) -> None:
        self._chooser = chooser
        self._made = made
        self._style = style
        self._seen: dict[tuple[TableKey, tuple[int, ...]], set[Cells]] = {}
        self._fresh = 10

    def add(
        self,
        table: TableModel,
        place: int,
        *,
        entity: int | None = None,
        fixed: Threshold | None = None,
        given: Mapping[int, str] | None = None,
    ) -> None:
        """Add one row: of an entity, so that joins hit, or with every cell drawn."""
        chance = self._chooser.random
        meeting = entity is not None or self._style.aligned or chance.random() < self._style.meeting
        number = entity if entity is not None else place if self._style.aligned else chance.randrange(4)
        occurrence = chance.choice(table.occurrences) if table.occurrences else -1
        row: list[str | None] = []
        for position, column in enumerate(table.columns):
            if given is not None and position in given:
                row.append(given[position])
            elif (fixed is not None and column.key in fixed.groups) or self._shares(column, meeting):
                row.append(self._chooser.entity(column, number))
            else:
                row.append(self._cell(table, column, occurrence, meeting))
        if meeting and chance.random() < _MEETS:
            self._put_in_order(table, row)
        self.put(table, row)

    def _put_in_order(self, table: TableModel, row: list[str | None]) -> None:
        """Change columns without conditions of their own so that those which queries want ordered are."""
        for _ in range(2):  # a < b < c takes a second turn
            for first, operator, second in table.inequalities:
                low, high = row[first], row[second]
                kind = table.columns[first].kind
                if low is None or high is None or self._chooser.holds(kind, operator, high, low):
                    continue
                if table.columns[first].hits:
                    row[second] = self._chooser.beyond(kind, MIRRORED[operator], low) or high
                else:
                    row[first] = self._chooser.beyond(kind, operator, high) or low

    def _shares(self, column: ColumnModel, meeting: bool) -> bool:
        """True when the column takes the value that its set shares for an entity."""
        if column.group is None or self._style.unmatched:
            return False
        return meeting or self._chooser.random.random() < 0.3

    def put(self, table: TableModel, row: list[str | None]) -> None:
        """Add a row after mending foreign keys and unique keys; leave it out where that is impossible."""
        for foreign in table.foreign:
            if not self._point(table, row, foreign):
                return
        for unique in table.uniques:
            if not self._distinguish(table, row, unique):
                return
        for column, value in zip(table.columns, row, strict=True):
            if value is None and column.not_null:
                return
        for unique in table.uniques:
            self._seen.setdefault((table.key, unique), set()).add(tuple(row[i] for i in unique))
        self._made[table.key].append(row)

    def _cell(self, table: TableModel, column: ColumnModel, occurrence: int, meeting: bool) -> str | None:
        chance, style = self._chooser.random, self._style
        nulls = max(style.nulls, 0.4) if column.wants_null else style.nulls
        best = self._chooser.best(column, occurrence) if occurrence >= 0 else ()
        if meeting and best and not style.unmatched and chance.random() < _MEETS:
            return chance.choice(best)
        if (not column.not_null and chance.random() < nulls) or column.hopeless:
            return None
        if style.unmatched and column.group is not None:
            return values.numbered(
                column.kind, 100 * self._chooser.number_of(table) + chance.randrange(20)
            ) or chance.choice(column.wide)
        roll = chance.random()
        if best and roll < style.hits:
            return chance.choice(best)
        if column.own and roll < style.hits + style.own:
            return chance.choice(column.own)
        if column.ends and roll > 1 - style.ends:
            return chance.choice(column.ends)
        if roll > 1 - style.ends - style.wide:
            return chance.choice(column.wide)
        return chance.choice(column.dense)

    def _point(self, table: TableModel, row: list[str | None], foreign: ForeignKey) -> bool:
        """Make a foreign key name a parent that is there, or NULL; False where neither can be."""
        if foreign.forward:
            return True
        mine = tuple(row[i] for i in foreign.columns)
        if None in mine:
            return True
        parents = [tuple(r[i] for i in foreign.parent_columns) for r in self._made.get(foreign.parent, ())]
        if foreign.parent == table.key:
            parents.append(tuple(row[i] for i in foreign.parent_columns))
        if mine in parents:
            return True
        if parents and not (self._style.unmatched and self._nullable(table, foreign)):
            for i, value in zip(foreign.columns, self._chooser.random.choice(parents), strict=True):
                row[i] = value
            return True
        if not self._nullable(table, foreign):
            return False
        for i in foreign.columns:
            if not table.columns[i].not_null:
                row[i] = None
        return True

    def _nullable(self, table: TableModel, foreign: ForeignKey) -> bool:
        return any(not table.columns[i].not_null for i in foreign.columns)

    def _distinguish(self, table: TableModel, row: list[str | None], unique: tuple[int, ...]) -> bool:
        """Make a unique key differ from those before; columns that are no foreign keys change first."""
        seen = self._seen.setdefault((table.key, unique), set())
        if None in (row[i] for i in unique) or tuple(row[i] for i in unique) not in seen:
            return True
        pointing = {i for f in table.foreign for i in f.columns}
        for i in sorted(unique, key=lambda i: (i in pointing, -i)):
            before = row[i]
            column = table.columns[i]
            options = [*(column.dense if i not in pointing else ()), *self._parents_of(table, i)]
            self._chooser.random.shuffle(options)
            if i not in pointing:
                self._fresh += 1
                options += [v for v in (values.numbered(column.kind, self._fresh),) if v is not None]
            for option in options:
                row[i] = option
                if tuple(row[j] for j in unique) not in seen:
                    return True
            row[i] = before
        return False

    def _parents_of(self, table: TableModel, position: int) -> list[str | None]:
        """Other parents that a one-column foreign key could name."""
        for foreign in table.foreign:
            if foreign.columns == (position,):
                return [r[foreign.parent_columns[0]] for r in self._made.get(foreign.parent, ())]
        return []
