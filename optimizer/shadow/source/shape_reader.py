"""Reads the physical shape of a source: file sizes, what planners read of metapages, and ends of B-trees.

No privilege beyond SELECT is needed. The height of a B-tree is in no catalog and `bt_metap` is for superusers, but the
planner charges each level 50 operators before the first row (`btcostestimate`, selfuncs.c): with the operator's cost at
1,000, the startup cost of an index scan tells the height exactly. The same EXPLAIN shows that reading one entry at
either end really is an index scan and so costs a few pages. `gin_reader` does likewise for GIN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from optimizer.errors import InputError
from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.pages.skeleton_brin import DEFAULT_PAGES_PER_RANGE, RANGES_PER_REVMAP_PAGE, BrinRanges
from optimizer.shadow.sizes.btree_size import height_of_blocks
from optimizer.shadow.source import shape_sql
from optimizer.shadow.source.gin_reader import find_gin, read_counters

_Asked = TypeVar("_Asked")
_Found = TypeVar("_Found")

#: `cpu_operator_cost` while heights are read, as `shape_sql.SETTINGS` has it.
_OPERATOR_COST = 1_000
#: DEFAULT_PAGE_CPU_MULTIPLIER, selfuncs.c.
_OPERATORS_PER_LEVEL = 50
_DESCENDING, _NULLS_FIRST = 1, 2  # INDOPTION_* in pg_index.h
#: B-trees read in one statement: a source may be far away.
_BATCH = 32
#: GIN indexes: each takes some 40 kB of text.
_GIN_BATCH = 8
_INDEX_SCANS = frozenset({"Index Scan", "Index Only Scan"})

NO_HEIGHT = "height of {} B-trees not readable: guessed from their size, which may move costs by one page"
NO_COUNTERS = "counters of {} GIN indexes not readable: their costs are those of new indexes of the same size"
NO_ENDS = "ends of {} B-trees not readable: the histogram's ends stand in, so predicates past them may be misjudged"


@dataclass(frozen=True, slots=True)
class _Btree:
    """One row of `shape_sql.BTREES`."""

    oid: int
    table: str
    keys: Sequence[str]
    collations: Sequence[str | None]
    less: Sequence[str]
    greater: Sequence[str]
    options: Sequence[int]
    predicate: str | None
    row_security: bool
    trusted: bool
    key_type: str
    statistics_table: str
    statistics_column: str
    schema: str
    key_bytes: int

    def ends_query(self, *, last: bool) -> str:
        """SELECT the first key of the index's first or last entry that is not NULL."""
        first = self.keys[0]
        where = f" AND ({self.predicate})" if self.predicate else ""
        return (  # every piece is what PostgreSQL itself printed, quoted; of a row, IS NOT NULL would ask each field
            f"SELECT {first} FROM ONLY {self.table} WHERE ({first}) IS DISTINCT FROM NULL{where}"  # noqa: S608
            f" ORDER BY {', '.join(self._order(last=last))} LIMIT 1"
        )

    def _order(self, *, last: bool) -> Iterator[str]:
        for key, collation, less, greater, option in zip(
            self.keys, self.collations, self.less, self.greater, self.options, strict=True
        ):
            descending = bool(option & _DESCENDING) != last
            nulls_first = bool(option & _NULLS_FIRST) != last
            collate = f" COLLATE {collation}" if collation else ""
            operator = greater if descending else less
            yield f"({key}){collate} USING OPERATOR({operator}) NULLS {'FIRST' if nulls_first else 'LAST'}"


def read_shape(
    connection: psycopg.Connection[Any],
    *,
    timeout_ms: int = 1_000,
    without_ends: Container[tuple[str, str]] = frozenset(),
) -> Shape:
    """Read the shape of the connection's database, in one transaction that writes nothing and is rolled back.

    Parameters:
        connection: of any role, outside a transaction. What the role may not read is said in the shape's notes.
        timeout_ms: limit for each look at some indexes.
        without_ends: indexes whose first and last entries are not to be read, as (schema, name).

    Errors: `InputError` when the source's blocks are not 8 kB or it is older than 13; `psycopg.Error`.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("read_shape needs a connection outside a transaction")
    notes: Counter[str] = Counter()
    with connection.transaction(force_rollback=True):
        connection.execute("SET TRANSACTION READ ONLY")
        version = _check_server(connection)
        connection.execute(shape_sql.SETTINGS)
        relations = {row[0]: RelationShape(*row[1:]) for row in _rows(connection, shape_sql.RELATIONS)}
        heights = _metapage_heights(connection, relations)
        btrees = [btree for row in _rows(connection, shape_sql.BTREES) if (btree := _Btree(*row)).oid in relations]
        connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(timeout_ms))
        for at in range(0, len(btrees), _BATCH):
            batch = btrees[at : at + _BATCH]
            filled = [b for b in batch if relations[b.oid].blocks > 1]
            _measure(connection, filled, relations, heights, notes, without_ends)
            for btree in batch:
                if relations[btree.oid].blocks <= 1:  # nothing but the metapage
                    relations[btree.oid] = replace(relations[btree.oid], height=0)
        _read_brin(connection, relations)
        _read_gin(connection, relations, notes)
    lines = tuple(note.format(count) for note, count in sorted(notes.items()) if count)
    return Shape(version, tuple(relations.values()), lines)


def _check_server(connection: psycopg.Connection[Any]) -> int:
    version = connection.info.server_version
    if version < 130000:
        raise InputError(f"the source is PostgreSQL {version // 10_000}: planproof reads 13 and later")
    ((block_size,),) = _rows(connection, "SELECT current_setting('block_size')::int")
    if block_size != 8192:
        raise InputError(f"the source's blocks have {block_size} bytes: a hollow shadow needs 8192, attach it instead")
    return version


def _metapage_heights(connection: psycopg.Connection[Any], relations: dict[int, RelationShape]) -> dict[int, int]:
    """Heights from pageinspect's `bt_metap`, where it is installed and may be called."""
    schema = _rows(connection, shape_sql.PAGEINSPECT)
    if not schema:
        return {}
    btrees = [oid for oid, r in relations.items() if r.method == "btree" and r.blocks]
    query = sql.SQL(
        "SELECT c.oid, m.fastlevel FROM pg_class c, LATERAL {}.bt_metap(c.oid::regclass::text) m WHERE c.oid = ANY(%s)"
    ).format(sql.SQL(schema[0][0]))
    try:
        with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
            return dict(cursor.execute(query, [btrees]).fetchall())
    except psycopg.Error:  # an older extension, or an index dropped meanwhile: EXPLAIN tells the heights, too
        return {}


def _measure(
    connection: psycopg.Connection[Any],
    btrees: Sequence[_Btree],
    relations: dict[int, RelationShape],
    heights: dict[int, int],
    notes: Counter[str],
    without_ends: Container[tuple[str, str]],
) -> None:
    """Add heights and ends to the shapes of some B-trees that are not empty."""
    # Planning runs functions, too: those that a predicate calls with constants.
    scans = _halving(connection, [b for b in btrees if b.trusted], _index_scans)
    # The planner never asks a partial index for its ends.
    wanted = [b for b in btrees if b.predicate is None and (b.schema, relations[b.oid].name) not in without_ends]
    readable = [b for b in wanted if b.oid in scans and b.trusted and not b.row_security]
    found = _halving(connection, readable, _entries)
    for btree in btrees:
        relation = relations[btree.oid]
        height = heights.get(btree.oid)
        scan = scans.get(btree.oid)
        if height is None and scan is not None and scan["Index Name"] == relation.name:
            height = int(scan["Startup Cost"] // (_OPERATOR_COST * _OPERATORS_PER_LEVEL)) - 1
        if height is None:
            height, certain = guessed_height(relation.blocks, btree.key_bytes)
            notes[NO_HEIGHT] += not certain
        relations[btree.oid] = replace(relation, height=height)
    for btree in wanted:
        if btree.oid not in found:
            notes[NO_ENDS] += 1
        ends = found[btree.oid] if btree.oid in found else _statistics_ends(connection, btree)
        relations[btree.oid] = replace(relations[btree.oid], ends=ends)


def guessed_height(blocks: int, key_bytes: int) -> tuple[int, bool]:
    """Return the height of a B-tree of that size, and whether keys of half or twice the width come to the same."""
    height = height_of_blocks(blocks, key_bytes)
    return height, {height_of_blocks(blocks, key_bytes * factor) for factor in (0.5, 2.0)} == {height}


def _read_brin(connection: psycopg.Connection[Any], relations: dict[int, RelationShape]) -> None:
    """Add what the metapages of BRIN indexes say: the revmap covers the table as it is."""
    for oid, table, pages_per_range in _rows(connection, shape_sql.BRIN):
        if oid in relations and table in relations:
            ranges = brin_ranges(relations[table].blocks, pages_per_range)
            relations[oid] = replace(relations[oid], brin=ranges)


def brin_ranges(table_blocks: int, pages_per_range: int | None) -> BrinRanges:
    """What a BRIN index's metapage says; None stands for the default number of pages."""
    size = pages_per_range or DEFAULT_PAGES_PER_RANGE
    last_range = max(0, table_blocks - 1) // size
    return BrinRanges(size, last_range // RANGES_PER_REVMAP_PAGE + 1)


def _read_gin(connection: psycopg.Connection[Any], relations: dict[int, RelationShape], notes: Counter[str]) -> None:
    """Add the counters of GIN indexes. Comes last: it changes settings of the transaction."""
    indexes = [index for index in find_gin(connection) if index.oid in relations]
    for at in range(0, len(indexes), _GIN_BATCH):
        for oid, counters in _halving(connection, indexes[at : at + _GIN_BATCH], read_counters).items():
            relations[oid] = replace(relations[oid], gin=counters)
    # An index without entries has two pages, and its counters are those that it is made with.
    notes[NO_COUNTERS] = sum(r.method == "gin" and r.gin is None and r.blocks > 2 for r in relations.values())


def _halving(
    connection: psycopg.Connection[Any],
    indexes: Sequence[_Asked],
    read: Callable[[psycopg.Connection[Any], Sequence[_Asked]], dict[int, _Found]],
) -> dict[int, _Found]:
    """Read many indexes in one statement; when it fails, find the culprits by halving and leave them out.

    Statements fail for want of the SELECT privilege, at the time limit, or at somebody's lock.
    """
    if not indexes:
        return {}
    try:
        # Rolled back, so that no lock stays: of a large schema they would fill the server's table of locks.
        with connection.transaction(force_rollback=True):
            return read(connection, indexes)
    except psycopg.Error:
        if len(indexes) == 1 or connection.closed:
            return {}
    middle = len(indexes) // 2
    return _halving(connection, indexes[:middle], read) | _halving(connection, indexes[middle:], read)


def _ends_statement(btrees: Sequence[_Btree]) -> str:
    """SELECT the first and the last entry of each B-tree, as columns."""
    return "SELECT " + ", ".join(f"({b.ends_query(last=last)})" for b in btrees for last in (False, True))


def _index_scans(connection: psycopg.Connection[Any], btrees: Sequence[_Btree]) -> dict[int, dict[str, Any]]:
    """EXPLAIN the reading of both ends; return the scan of the first, of those B-trees that take a scan for each."""
    ((explained,),) = _rows(connection, f"EXPLAIN (FORMAT JSON) {_ends_statement(btrees)}")
    parts = explained[0]["Plan"].get("Plans", ())
    if len(parts) != 2 * len(btrees):
        return {}
    scans = [_index_scan(part) for part in parts]
    pairs = zip(btrees, scans[::2], scans[1::2], strict=True)
    return {b.oid: first for b, first, last in pairs if first is not None and last is not None}


def _index_scan(node: dict[str, Any]) -> dict[str, Any] | None:
    """The index scan below a LIMIT, None if PostgreSQL would find the entry in any other way."""
    if node["Node Type"] == "Limit":
        node = node["Plans"][0]
    return node if node["Node Type"] in _INDEX_SCANS and "Filter" not in node else None


def _entries(connection: psycopg.Connection[Any], btrees: Sequence[_Btree]) -> dict[int, tuple[str, str] | None]:
    """Read both ends in the text form of their types; None for B-trees that hold NULLs only."""
    encoding = connection.info.encoding
    with connection.cursor() as cursor:
        cursor.execute(_ends_statement(btrees).encode(encoding))
        result = cursor.pgresult
        if result is None:
            return {}
        values = [result.get_value(0, column) for column in range(2 * len(btrees))]
    texts = [None if value is None else value.decode(encoding) for value in values]
    pairs = zip(btrees, texts[::2], texts[1::2], strict=True)
    return {b.oid: None if first is None or last is None else (first, last) for b, first, last in pairs}


def _statistics_ends(connection: psycopg.Connection[Any], btree: _Btree) -> tuple[str, str] | None:
    """The least and greatest value that the statistics hold, in index order; None where there are none."""
    place = [btree.schema, btree.statistics_table, btree.statistics_column]
    rows = _rows(connection, shape_sql.STATISTICS, place)
    lists = [values for row in rows for values in row if values is not None]
    if not lists:
        return None
    collate = f" COLLATE {btree.collations[0]}" if btree.collations[0] else ""
    order = f"{collate} USING OPERATOR({btree.less[0]})".replace("%", "%%")
    values = " || ".join([f"%s::{btree.key_type.replace('%', '%%')}[]"] * len(lists))
    array = f"ARRAY(SELECT v FROM unnest({values}) v ORDER BY v{order})"  # noqa: S608
    query = f"SELECT a[1]::text, a[cardinality(a)]::text FROM (SELECT {array} a) s"  # noqa: S608
    try:
        with connection.transaction():
            ((first, last),) = _rows(connection, query, lists)
    except psycopg.Error:  # a value that its type no longer accepts
        return None
    return (last, first) if btree.options[0] & _DESCENDING else (first, last)


def _rows(
    connection: psycopg.Connection[Any], query: LiteralString | str, parameters: Sequence[Any] | None = None
) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(connection.info.encoding), parameters).fetchall()
