"""Inserts rows into `pg_statistic`, as superuser, with whatever text its values have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from optimizer.shadow.template.statistics_types import ValueType

#: Slots of a row.
SLOTS = 5
# STATISTIC_KIND_* in pg_statistic.h.
COMMON, HISTOGRAM, CORRELATION, ELEMENTS, ELEMENT_COUNTS, LENGTHS, BOUNDS = 1, 2, 3, 4, 5, 6, 7
#: Rows of one statement, and characters of their values.
_BATCH, _BATCH_CHARACTERS = 500, 4_000_000


@dataclass(frozen=True, slots=True)
class Column:
    """Where a column's statistics go; `values` is the type that ANALYZE sees."""

    relation: int
    number: int
    values: ValueType
    collation: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of `pg_statistic`.

    Parameters:
        kind, operator, collation, numbers: as there.
        text: the values; None where the kind has none.
        type, typmod: of one value.
        extra: how many more numbers than values there may be; nothing where they do not belong together.
    """

    kind: int
    operator: int
    collation: int
    numbers: Sequence[float] | None = None
    text: str | None = None
    type: int = 0
    typmod: int = -1
    extra: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `pg_statistic`."""

    column: Column
    inherited: bool
    null_frac: float
    width: int
    distinct: float
    slots: tuple[Slot, ...]

    @property
    def key(self) -> tuple[int, int, bool]:
        """What tells it from other rows."""
        return self.column.relation, self.column.number, self.inherited


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Put rows together that are sent in one statement."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(slot.text or "") for slot in row.slots)
        if len(batch) == _BATCH or size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def refused(rows: Sequence[Row], superuser: psycopg.Connection[Any]) -> list[Row]:
    """Insert rows, and return those that the server does not take, of which nothing is there."""
    try:
        written = _insert(rows, superuser)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:  # a value that this version's type does not take: all of them are refused
        middle = len(rows) // 2
        return [*refused(rows[:middle], superuser), *refused(rows[middle:], superuser)] if middle else list(rows)
    return [row for row in rows if row.key not in written]


def _insert(rows: Sequence[Row], superuser: psycopg.Connection[Any]) -> set[tuple[int, int, bool]]:
    """Insert rows whose numbers and values fit each other, which the planner would trust; return their keys."""
    return set(superuser.execute(_INSERT, [json.dumps([_plain(row) for row in rows])], prepare=True).fetchall())


def _plain(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "relation": row.column.relation,
        "number": row.column.number,
        "inherited": row.inherited,
        "nulls": row.null_frac,
        "width": row.width,
        "distinct": row.distinct,
    }
    filled = [*row.slots, *[Slot(0, 0, 0)] * (SLOTS - len(row.slots))]
    for place, slot in enumerate(filled, 1):
        found |= {
            f"kind{place}": slot.kind,
            f"operator{place}": slot.operator,
            f"collation{place}": slot.collation,
            f"numbers{place}": slot.numbers,
            f"text{place}": slot.text,
            f"type{place}": slot.type,
            f"typmod{place}": slot.typmod,
            f"counts{place}": [len(slot.numbers or ()) - extra for extra in slot.extra] or None,
            f"least{place}": 2 if slot.kind in (HISTOGRAM, BOUNDS) else 0,
        }
    return found


def _each(pattern: LiteralString, separator: LiteralString = ", ") -> LiteralString:
    """Repeat a piece of SQL for each slot, whose number stands for `#`."""
    places: tuple[LiteralString, ...] = ("1", "2", "3", "4", "5")
    return separator.join(pattern.replace("#", place) for place in places)


# The values have one dimension, and are as many as the numbers that the planner reads beside them.
_INSERT: Final[LiteralString] = f"""
INSERT INTO pg_catalog.pg_statistic
SELECT relation, number, inherited, nulls, width, "distinct", {_each("kind#")}, {_each("operator#")},
       {_each("collation#")}, {_each("numbers#")}, {_each("v#")}
  FROM (SELECT r.*, {_each("array_in(textout(text#), type#, typmod#) AS v#")}
          FROM json_to_recordset(%s::json) r(
               relation oid, number int2, inherited bool, nulls float4, width int4, "distinct" float4,
               {_each("kind# int2, operator# oid, collation# oid, numbers# float4[]")},
               {_each("text# text, type# oid, typmod# int4, counts# int4[], least# int4")}) OFFSET 0) s
 WHERE {
    _each(
        "(v# IS NULL OR cardinality(v#) >= least# AND coalesce(array_ndims(v#), 1) = 1"
        " AND cardinality(v#) = ANY (coalesce(counts#, ARRAY[cardinality(v#)])))",
        " AND ",
    )
}
RETURNING starelid::int8, staattnum, stainherit"""  # noqa: S608 - pieces of this file
