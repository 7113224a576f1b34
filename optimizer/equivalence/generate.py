"""Small databases on which two queries differ if they can.

The order is that which refutes earliest: empty; one row; rows that satisfy every comparison of a query at once, with
mutations of single columns; a dense join domain; NULLs; duplicates; one table empty at a time; unmatched keys; groups
around every aggregate threshold; each constant and its neighbours; then random ones that grow. Rows satisfy keys and
foreign keys by construction; what a CHECK refuses the server leaves out. The same pair gets the same databases.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice

from optimizer.equivalence import values
from optimizer.equivalence.constants import ValueType
from optimizer.equivalence.hints import ColumnKey, TableKey, Threshold
from optimizer.equivalence.model import ColumnModel, Model, TableModel
from optimizer.equivalence.rows import Cells, Rows, Style

#: A zone with daylight saving time; `TimeZone` belongs to the session, so a query's meaning must not depend on it.
OTHER_ZONE = "America/New_York"
_LARGEST_GROUP = 40
_NULL_PARAMETER_EVERY = 7
#: Groups in which single values are far from the average.
_SPREAD = ((1, 100, 100), (100, 1, 1), (7,))
_MOST_GROUPED_ROWS = 150


@dataclass(frozen=True, slots=True)
class Database:
    """One generated database.

    Parameters:
        label: what it is about.
        rows: by table, parents first; cells in the order of the table's model.
        params: values of `$1`, `$2`, ...
        zone: the session's TimeZone.
    """

    label: str
    rows: Mapping[TableKey, tuple[Cells, ...]]
    params: Cells = ()
    zone: str = "UTC"

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(len(rows) for rows in self.rows.values())


_DENSE = Style()
_EXACT = Style(hits=1.0, own=0.0, aligned=True)
_NULLS = Style(nulls=0.5, hits=0.6)
_SOME_NULLS = Style(nulls=0.15)
_SWEEP = Style(nulls=0.05, hits=0.2, own=0.7)
_WIDE = Style(nulls=0.1, hits=0.3, own=0.2, wide=0.4)
_ENDS = Style(nulls=0.1, hits=0.2, own=0.2, wide=0.2, ends=0.2)
_UNMATCHED = Style(nulls=0.1, unmatched=True)


class Ahead(Iterator[Database]):
    """Databases, of which the next can be made while the present one is being run.

    Parameters:
        databases: makes one when it is asked for the next.
    """

    def __init__(self, databases: Iterator[Database]) -> None:
        self._databases = databases
        self._next: Database | None = None

    def __next__(self) -> Database:
        found, self._next = self._next, None
        return found if found is not None else next(self._databases)

    def look(self) -> None:
        """Make the next one, unless it is made or there is none."""
        if self._next is None:
            self._next = next(self._databases, None)


class Generator:
    """Makes databases for one pair of queries.

    Parameters:
        model: tables and values.
        seed: anything that identifies the pair.
        zoned: True when results may depend on the session's TimeZone.
    """

    def __init__(self, model: Model, seed: str, *, zoned: bool) -> None:
        self._model = model
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._zoned = zoned
        self._count = 0
        self._params: Cells = ()
        self._best: dict[tuple[ColumnKey, int], tuple[str, ...]] = {}
        self._best_bound: dict[tuple[ColumnKey, int], tuple[str, ...]] = {}
        #: Columns of each set that shares values, and for each column its FROM items with comparisons.
        self._groups: dict[int | None, list[ColumnModel]] = {}
        self._asking: dict[ColumnKey, list[int]] = {}
        for column in (c for t in model.tables for c in t.columns):
            self._groups.setdefault(column.group, []).append(column)
            self._asking[column.key] = _certain_first(column)
        references = model.hints.references
        self._usual = 8 if references <= 2 else 5 if references <= 4 else 4 if references <= 6 else 3

    def databases(self, count: int) -> Iterator[Database]:
        """Yield `count` databases."""
        return islice(chain(self._planned(), self._growing()), count)

    def _planned(self) -> Iterator[Database]:
        few, usual = min(3, self._usual), self._usual
        yield self._make("empty tables", 0, _DENSE)
        yield self._make("one row in each table", 1, _EXACT)
        yield self._make("rows that meet every condition", few, _EXACT)
        yield self._make("a dense join domain", usual, _DENSE)
        yield self._make("many NULLs", usual, _NULLS)
        yield self._make("duplicates", usual, _DENSE, doubled=True)
        yield self._make("constants and their neighbours", usual, _SWEEP)
        thresholds = self._around_thresholds()
        yield from islice(thresholds, 4)
        for table in self._model.tables[:6]:
            yield self._make(f"{table.qualified} empty", usual, _SOME_NULLS, empty=table.key)
        yield self._make("unmatched keys", usual, _UNMATCHED)
        yield self._make("NULLs and duplicates", usual, _NULLS, doubled=True)
        yield from islice(thresholds, 14)
        for style in (_SWEEP, _WIDE, _ENDS, _SWEEP, _ENDS, _SOME_NULLS):
            yield self._make("constants and their neighbours", usual + 2, style)

    def _growing(self) -> Iterator[Database]:
        styles = (_SOME_NULLS, _SWEEP, _WIDE, _DENSE, _NULLS, _EXACT, _UNMATCHED, _SWEEP, _WIDE, _ENDS)
        for turn in range(10_000):
            style = replace(styles[turn % len(styles)], nulls=self._random.choice((0.0, 0.1, 0.3)))
            most = self._usual + min(turn // 6, 6 if self._model.hints.references <= 4 else 1)
            yield self._make("random rows", most, style, doubled=turn % 5 == 4, uneven=True)

    def _make(
        self,
        label: str,
        count: int,
        style: Style,
        *,
        empty: TableKey | None = None,
        doubled: bool = False,
        uneven: bool = False,
    ) -> Database:
        self._start()
        made: dict[TableKey, list[list[str | None]]] = {}
        maker = Rows(self, made, style)
        for table in self._model.tables:
            made[table.key] = []
            if table.key == empty:
                continue
            wanted = self._random.randint(max(1, count // 2), count) if uneven else count
            for place in range(wanted):
                maker.add(table, place)
            if doubled:
                for row in list(made[table.key])[: max(1, wanted // 2)]:
                    maker.put(table, list(row))
        return self._finish(label, made)

    def _start(self) -> None:
        self._count += 1
        self._best_bound.clear()
        self._params = tuple(self._parameter(i, p) for i, p in enumerate(self._model.params))

    def _finish(self, label: str, made: Mapping[TableKey, list[list[str | None]]]) -> Database:
        self._settle(made)
        rows: dict[TableKey, tuple[Cells, ...]] = {}
        for key, table_rows in made.items():
            shuffled = [tuple(row) for row in table_rows]
            self._random.shuffle(shuffled)
            rows[key] = tuple(shuffled)
        zone = OTHER_ZONE if self._zoned and self._count % 2 == 0 else "UTC"
        return Database(label, rows, self._params, zone)

    def _settle(self, made: Mapping[TableKey, list[list[str | None]]]) -> None:
        """Let foreign keys that point to tables made later name a parent that is there, or NULL."""
        for table in self._model.tables:
            for foreign in (f for f in table.foreign if f.forward):
                parents = [tuple(row[i] for i in foreign.parent_columns) for row in made[foreign.parent]]
                optional = any(not table.columns[i].not_null for i in foreign.columns)
                for row in list(made[table.key]):
                    mine = tuple(row[i] for i in foreign.columns)
                    if None in mine or mine in parents:
                        continue
                    if not parents and not optional:
                        made[table.key].remove(row)
                        continue
                    chosen = self._random.choice(parents) if parents else (None,) * len(mine)
                    for i, value in zip(foreign.columns, chosen, strict=True):
                        row[i] = value

    def _parameter(self, place: int, pool: ColumnModel) -> str | None:
        if (self._count + place) % _NULL_PARAMETER_EVERY == 0:
            return None
        chosen = pool.dense if self._random.random() < 0.6 else pool.wide
        return self._random.choice(chosen) if chosen else None

    def _around_thresholds(self) -> Iterator[Database]:
        for threshold in self._model.hints.thresholds:
            sizes = sorted(
                {n for k in threshold.values if k <= _LARGEST_GROUP for n in (k - 1, k, k + 1, k + 2) if n > 0}
            )
            for key in threshold.tables[:3]:
                table = self._model.table(key)
                if table is None:
                    continue
                if sizes:
                    yield self._grouped(threshold, table, sizes)
                    yield self._grouped(threshold, table, sizes[: len(sizes) // 2 + 1][-2:-1])
                    yield self._grouped(threshold, table, sizes[-1:])
                if any(c[:2] == key for c in threshold.summed):
                    yield self._summed(threshold, table)

    def _grouped(self, threshold: Threshold, table: TableModel, sizes: list[int]) -> Database:
        """One group of rows in `table` for each size; one row a group in the other tables."""
        self._start()
        made: dict[TableKey, list[list[str | None]]] = {}
        maker = Rows(self, made, _EXACT)
        left = _MOST_GROUPED_ROWS
        for other in self._model.tables:
            made[other.key] = []
            for entity, size in enumerate(sizes):
                repeats = min(size, left) if other is table else 1
                left -= repeats if other is table else 0
                for _ in range(repeats):
                    maker.add(other, entity, entity=entity, fixed=threshold)
        return self._finish(f"groups of {', '.join(map(str, sizes))} rows", made)

    def _summed(self, threshold: Threshold, table: TableModel) -> Database:
        """Groups whose sum, average, minimum or maximum is at a constant and beside it."""
        self._start()
        made: dict[TableKey, list[list[str | None]]] = {}
        maker = Rows(self, made, _EXACT)
        parts = [part for k in threshold.values[:3] for part in _sums_around(k)] + list(_SPREAD)
        summed = {c for c in threshold.summed if c[:2] == table.key}
        for other in self._model.tables:
            made[other.key] = []
            for entity, terms in enumerate(parts):
                for term in terms if other is table else (0,):
                    given = (
                        {i: str(term) for i, c in enumerate(other.columns) if c.key in summed} if other is table else {}
                    )
                    maker.add(other, entity, entity=entity, fixed=threshold, given=given)
        return self._finish("sums at the constants", made)

    def best(self, column: ColumnModel, occurrence: int) -> tuple[str, ...]:
        """Values that satisfy most of a FROM item's comparisons on a column, parameters included."""
        known = self._best_bound if column.bound.get(occurrence) else self._best
        found = known.get((column.key, occurrence))
        if found is None:
            found = known[column.key, occurrence] = self._rank(column, occurrence)
        return found

    def _rank(self, column: ColumnModel, occurrence: int) -> tuple[str, ...]:
        constants = self._model.constants
        asked = list(column.asked.get(occurrence, ()))
        candidates = [v for hit in column.hits.get(occurrence, ()) for v in hit]
        for operator, number in column.bound.get(occurrence, ()):
            text = self._params[number - 1] if number <= len(self._params) else None
            if text is not None:
                asked.append((operator, (text,)))
                candidates += values.satisfying(column.kind, operator, [text], constants)
        if len(asked) > 1:
            candidates += column.own
        scores = {
            v: sum(values.holds(column.kind, operator, texts, v, constants) for operator, texts in asked)
            for v in dict.fromkeys(candidates)
        }
        most = max(scores.values(), default=0)
        return tuple(v for v, score in scores.items() if score == most)

    def entity(self, column: ColumnModel, number: int) -> str | None:
        """The value that all columns of a set share for one entity: one that satisfies, else a dense one."""
        group = [column] if column.group is None else self._groups[column.group]
        if number == 0 or number % 3 == 2:
            hits = [v for c in group for o in self._asking[c.key] for v in self.best(c, o)]
            if hits:
                # Every other database goes on from where the one before began: the first may not satisfy anything.
                return hits[(number + self._count // 2 * (self._count % 2)) % len(hits)]
        if number < len(column.dense):
            return column.dense[number]
        return values.numbered(column.kind, number + 1) or (
            column.dense[number % len(column.dense)] if column.dense else None
        )

    def holds(self, kind: ValueType, operator: str, bound: str, value: str) -> bool:
        """False when `value operator bound` is certainly false."""
        return values.holds(kind, operator, [bound], value, self._model.constants)

    def beyond(self, kind: ValueType, operator: str, bound: str) -> str | None:
        """A value for which `value operator bound` holds."""
        return next(iter(values.satisfying(kind, operator, [bound], self._model.constants)), None)

    @property
    def random(self) -> random.Random:
        """The source of all choices."""
        return self._random

    def number_of(self, table: TableModel) -> int:
        """The table's place, to make keys that match in no other."""
        return self._model.tables.index(table)


def _certain_first(column: ColumnModel) -> list[int]:
    """FROM items with comparisons on a column; first those where it stands alone, whose values surely satisfy."""
    return sorted({*column.hits, *column.bound}, key=lambda o: (o not in column.asked, o))


def _sums_around(k: int) -> tuple[tuple[int, ...], ...]:
    """Groups of one and two values whose sum, average or extreme is k, or one beside it."""
    return (k,), (k - 1, 1), (k - 1,), (k, 1), (k + 1,), (k, k), (k - 1, 2)
