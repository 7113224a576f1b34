"""Writes statistics into the catalog of a server before 18, which has no function that takes them.

What ANALYZE would have left is made from what pg_dump tells: in `pg_class` the sizes, in `pg_statistic` a row for each
column, with slots as `std_typanalyze`, `array_typanalyze`, `ts_typanalyze` and `range_typanalyze` fill them (analyze.c,
array_typanalyze.c, ts_typanalyze.c, rangetypes_typanalyze.c). It is written after the whole schema: CREATE INDEX over
an empty table sets its counts back.

The superuser writes, and evaluates nothing of a user's: see `statistics_types.py` for the one function that reads
values. Only relations of the template's owner are touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, LiteralString

import psycopg

from optimizer.errors import SqlError
from optimizer.shadow.template.statistics_calls import AttributeCall, RelationCall, read_call
from optimizer.shadow.template.statistics_rows import (
    BOUNDS,
    COMMON,
    CORRELATION,
    ELEMENT_COUNTS,
    ELEMENTS,
    HISTOGRAM,
    LENGTHS,
    SLOTS,
    Column,
    Row,
    Slot,
    batches,
    refused,
)
from optimizer.shadow.template.statistics_types import (
    DEFAULT_COLLATION,
    FLOAT8,
    FLOAT8_LESS,
    TEXT,
    TSVECTOR,
    ValueTypes,
)

#: Servers from this version on have functions of their own.
NATIVE_VERSION: Final = 180000
_SIZES: Final[LiteralString] = """
UPDATE pg_catalog.pg_class c SET relpages = w.pages, reltuples = w.rows, relallvisible = w.visible
  FROM unnest(%s::text[], %s::text[], %s::int4[], %s::float4[], %s::int4[]) w(schema, name, pages, rows, visible),
       pg_namespace n
 WHERE n.nspname = w.schema AND c.relnamespace = n.oid AND c.relname = w.name AND c.relowner = %s::regrole
"""
_PLACES: Final[LiteralString] = """
SELECT w.place, a.attrelid::int8, a.attnum::int4, a.atttypid::int8, a.atttypmod, a.attcollation::int8,
       CASE WHEN i.indkey[a.attnum - 1] = 0 THEN pg_get_indexdef(a.attrelid, a.attnum, false) END,
       i.indrelid::regclass::text
  FROM unnest(%s::int4[], %s::text[], %s::text[], %s::text[], %s::int4[]) w(place, schema, relation, name, number)
  JOIN pg_namespace n ON n.nspname = w.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation AND c.relowner = %s::regrole
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
   AND (a.attname = w.name OR a.attnum = w.number)
  LEFT JOIN pg_index i ON i.indexrelid = c.oid
"""


def write_statistics(
    calls: Sequence[str], owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]
) -> list[str]:
    """Write what calls of `pg_restore_*_stats` state.

    Parameters:
        calls: the statements.
        owner: the connection of the role that owns the relations; it describes expressions of indexes.
        superuser: to the same database, with `search_path = pg_catalog`.

    Returns: a line for each kind of thing that could not be written.

    Errors: `psycopg.OperationalError` when the server goes away.
    """
    unknown = 0
    sizes: dict[tuple[str, str], RelationCall] = {}
    columns: dict[tuple[str, str, str | int, bool], AttributeCall] = {}
    for text in calls:
        try:
            call = read_call(text)
        except SqlError:
            unknown += 1
            continue
        if isinstance(call, RelationCall):
            sizes[call.schema, call.relation] = call
        else:
            key = (call.schema, call.relation, call.column, call.inherited)
            columns[key] = columns[key].with_more(call) if key in columns else call
    _write_sizes(tuple(sizes.values()), owner.info.user, superuser)
    problems = write_columns(tuple(columns.values()), owner, superuser)
    notes = [f"statistics of {_listed(places)}: {problem}" for problem, places in sorted(problems.items())]
    return [*notes, f"statistics: {unknown} calls are of a form that is not known here"] if unknown else notes


def write_columns(
    calls: Sequence[AttributeCall], owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]
) -> dict[str, list[str]]:
    """Write what some calls state of columns; arguments and errors as for `write_statistics`.

    Returns: which columns, in words, have each problem.
    """
    problems: defaultdict[str, list[str]] = defaultdict(list)
    rows: dict[tuple[int, int, bool], tuple[Row, AttributeCall]] = {}
    found = _Places(owner, superuser)
    for call, column in found.of(calls):
        if column is None:
            problems[_MISSING].append(call.place)
            continue
        slots = tuple(_slots(call, column, found.types))
        readable = tuple(slot for slot in slots if slot.text is None or found.types.of(slot.type).readable)
        if readable != slots:
            problems[_USERS_TYPE].append(call.place)
        row = Row(column, call.inherited, call.null_frac, call.avg_width, call.n_distinct, readable[:SLOTS])
        rows[row.key] = row, call
    for batch in batches([row for row, _ in rows.values()]):
        for row in refused(batch, superuser):
            problems[_REFUSED].append(rows[row.key][1].place)
            refused([replace(row, slots=tuple(slot for slot in row.slots if slot.text is None))], superuser)
    return problems


def _listed(places: Sequence[str]) -> str:
    named = ", ".join(places[:_NAMED])
    return named if len(places) <= _NAMED else f"{named} and {len(places) - _NAMED} more columns"


#: Columns that a line names.
_NAMED = 3
_MISSING = "not on the shadow"
_USERS_TYPE = (
    "values of composite types, of ranges of the schema's own, and of domains in an array are not read here: estimates "
    "for them are defaults"
)
_REFUSED = "the planner's version refuses the values: estimates for them are defaults"


def _write_sizes(sizes: Sequence[RelationCall], role: str, superuser: psycopg.Connection[Any]) -> None:
    columns = [
        [size.schema for size in sizes],
        [size.relation for size in sizes],
        [size.pages for size in sizes],
        [size.rows for size in sizes],
        [size.all_visible for size in sizes],
    ]
    superuser.execute(_SIZES, [*columns, _quoted(role)])


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'


class _Places:
    """Finds columns in the catalog, with the types that ANALYZE sees."""

    def __init__(self, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]) -> None:
        self._owner = owner
        self._superuser = superuser
        self.types = ValueTypes(superuser)

    def of(self, calls: Sequence[AttributeCall]) -> Iterator[tuple[AttributeCall, Column | None]]:
        """Yield each call with its column, or with None where the shadow has none."""
        arguments = [
            list(range(len(calls))),
            [call.schema for call in calls],
            [call.relation for call in calls],
            [call.column if isinstance(call.column, str) else None for call in calls],
            [call.column if isinstance(call.column, int) else None for call in calls],
            _quoted(self._owner.info.user),
        ]
        rows = {row[0]: row[1:] for row in self._superuser.execute(_PLACES, arguments)}
        for place, call in enumerate(calls):
            row = rows.get(place)
            yield call, self._column(*row) if row is not None else None

    def _column(
        self, relation: int, number: int, oid: int, typmod: int, collation: int, expression: str | None, table: str
    ) -> Column | None:
        if expression is not None:
            described = self._described(expression, table)
            if described is None:
                return None
            oid, typmod = described
        return Column(relation, number, self.types.of(oid, typmod), collation)

    def _described(self, expression: str, table: str) -> tuple[int, int] | None:
        """Return the type of an index's expression: the index's own column may be of its operator class's type.

        The statement is parsed as the owner, and never run.
        """
        low = self._owner.pgconn
        query = f"SELECT {expression} FROM ONLY {table}"  # noqa: S608 - as PostgreSQL itself printed it
        with self._owner.transaction(force_rollback=True):
            self._owner.execute("SET LOCAL search_path = pg_catalog")
            prepared = low.prepare(b"", query.encode())
            described = low.describe_prepared(b"")
        if prepared.error_message or described.error_message or described.nfields != 1:
            return None
        return described.ftype(0), described.fmod(0)


def _slots(call: AttributeCall, column: Column, types: ValueTypes) -> Iterator[Slot]:
    """Yield the slots that ANALYZE would have filled."""
    values, numbers, own = call.values, call.numbers, column.values
    collation = DEFAULT_COLLATION if own.oid == TSVECTOR else column.collation
    if "most_common_vals" in values and "most_common_freqs" in numbers and own.equal:
        shares = numbers["most_common_freqs"]
        yield Slot(COMMON, own.equal, collation, shares, values["most_common_vals"], own.oid, own.typmod, (0,))
    if "histogram_bounds" in values and own.less:
        yield Slot(HISTOGRAM, own.less, collation, None, values["histogram_bounds"], own.oid, own.typmod)
    if "correlation" in numbers and own.less:
        yield Slot(CORRELATION, own.less, collation, numbers["correlation"])
    element = types.of(TEXT if own.oid == TSVECTOR else own.element) if own.element or own.oid == TSVECTOR else None
    if element is not None and element.equal and not element.is_range:
        if "most_common_elems" in values and "most_common_elem_freqs" in numbers:
            shares = numbers["most_common_elem_freqs"]
            text = values["most_common_elems"]
            # Behind the elements' shares: the least, the greatest, and for arrays that of NULLs.
            yield Slot(ELEMENTS, element.equal, collation, shares, text, element.oid, own.typmod, (2, 3))
        if len(numbers.get("elem_count_histogram", ())) > 1:
            yield Slot(ELEMENT_COUNTS, element.equal, collation, numbers["elem_count_histogram"])
    bounds = own if own.is_range else types.of(own.element) if own.element else own
    if bounds.is_range:
        if "range_length_histogram" in values and "range_empty_frac" in numbers:
            empty = numbers["range_empty_frac"]
            yield Slot(LENGTHS, FLOAT8_LESS, 0, empty, values["range_length_histogram"], FLOAT8)
        if "range_bounds_histogram" in values:
            yield Slot(BOUNDS, 0, 0, None, values["range_bounds_histogram"], bounds.oid, bounds.typmod)
