"""Size of a B-tree that CREATE INDEX would build, from statistics alone.

Follows the bulk load: entries in key order, equal ones merged into posting lists of at most a tenth of a page, leaves
filled to 90 %, inner pages to 70 %, pivots cut after the first attribute that tells two pages apart. Sources:
`_bt_load`, `_bt_buildadd` (nbtsort.c), `_bt_dedup_save_htid` (nbtdedup.c), `_bt_truncate` (nbtutils.c).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, IndexColumn, Table
from optimizer.shadow.index_expressions import expression_statistics
from optimizer.shadow.index_groups import KeyValues, column_values, together, uniform
from optimizer.shadow.index_rows import Selection, selection
from optimizer.shadow.index_width import Attribute, attribute, deduplicates, entry_sizes
from optimizer.shadow.skeleton import BLOCK_BYTES

_LINE_POINTER_BYTES = 4
_HEAP_TID_BYTES = 6
#: Page without header, special space and the line pointers of the high key and of the entry to come.
_ROOM_BYTES = BLOCK_BYTES - 24 - 16 - 2 * _LINE_POINTER_BYTES
#: `BTGetTargetPageFreeSpace` at fillfactor 90, and BTREE_NONLEAF_FILLFACTOR 70.
_LEAF_FREE_BYTES = BLOCK_BYTES * 10 // 100
_INNER_FREE_BYTES = BLOCK_BYTES * 30 // 100
#: Largest posting list of a bulk load.
_POSTING_BYTES = (BLOCK_BYTES * 10 // 100) // 8 * 8 - _LINE_POINTER_BYTES
_MINUS_INFINITY_BYTES = 8 + _LINE_POINTER_BYTES


@dataclass(frozen=True, slots=True)
class IndexSize:
    """Size of a B-tree.

    Parameters:
        blocks: of 8 kB, metapage included.
        height: levels above the leaves.
        tuples: rows indexed (`reltuples`).
    """

    blocks: int
    height: int
    tuples: float

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.blocks * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class _Items:
    """Leaf items: how many, and of their sizes (line pointer included) the mean and the mean square."""

    count: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    #: Bytes of posting lists that a page's last item will not need (`truncextra`), on average.
    spare: float = 0.0

    def pages(self) -> float:
        """Leaves that hold them: the item that crosses the fill mark opens the next page."""
        if self.count <= 0:
            return 0.0
        limit = min(_ROOM_BYTES - _LEAF_FREE_BYTES + self.spare, _ROOM_BYTES - 8 - (self.mean - _LINE_POINTER_BYTES))
        variance = max(self.square - self.mean**2, 0.0)
        per_page = math.floor(limit / self.mean) if variance < 1 else limit / self.mean - self.square / 2 / self.mean**2
        return self.count / max(per_page, 1.0)


@dataclass(frozen=True, slots=True)
class _Key:
    """One key column: how it is stored, which values it has, and whether equal ones may be merged."""

    attribute: Attribute
    values: KeyValues
    deduplicates: bool


def estimate_index(
    candidate: IndexCandidate,
    table: Table,
    catalog: Catalog,
    *,
    rows: float | None = None,
    key_types: Sequence[str] | None = None,
) -> IndexSize:
    """Estimate the size of an index as CREATE INDEX would build it at the source.

    Parameters:
        candidate: a B-tree.
        table: its table, with statistics.
        catalog: the table's.
        rows: entries in the index, where the planner has estimated them (partial indexes: plan_rows of EXPLAIN SELECT
            FROM the table WHERE the predicate); None estimates them from the statistics.
        key_types: type of each key column as `format_type` prints it from `pg_attribute` of the created index; needed
            for expressions only, whose type is guessed without.
    """
    kept = selection(candidate.predicate, table)
    total = max(table.rows, 0.0)
    entries = max(rows if rows is not None else total * kept.share, 0.0)
    if entries < 1:
        return IndexSize(1, 0, entries)
    types: Sequence[str | None] = key_types or [None] * len(candidate.key_columns)
    keys = [_key(part, type_, table, kept) for part, type_ in zip(candidate.key_columns, types, strict=True)]
    covered = [_included(table.columns[name], kept) for name in candidate.include if name in table.columns]
    sizes = entry_sizes([*(k.attribute for k in keys), *covered])
    values = _key_values(candidate, table, catalog, keys)
    merge = not candidate.include and all(k.deduplicates for k in keys)
    leaves, items = _leaves(sizes, values[-1], entries, merge=merge)
    pivot = _pivot_bytes(keys, values, entries, items)
    blocks, height = _tree(leaves, pivot)
    return IndexSize(blocks, height, entries)


def height_of_blocks(blocks: int, key_bytes: float = 16) -> int:
    """Estimate a B-tree's height from its size.

    Parameters:
        blocks: of 8 kB, metapage included.
        key_bytes: mean size of the keys on inner pages.
    """
    pivot = 8 + key_bytes + _LINE_POINTER_BYTES
    leaves = max(blocks - 1, 1)
    total, height = _tree(leaves, pivot)
    while total > blocks and leaves > 1:
        leaves = max(leaves - (total - blocks), 1)
        total, height = _tree(leaves, pivot)
    return height


def _tree(leaves: float, pivot_bytes: float) -> tuple[int, int]:
    """Return (blocks, height) of a tree over that many leaves."""
    limit = _ROOM_BYTES - _INNER_FREE_BYTES
    fan_out = max(math.floor((limit - _MINUS_INFINITY_BYTES) / pivot_bytes) + 1, 2)
    level = max(math.ceil(leaves - 1e-9), 1)
    blocks, height = 1 + level, 0
    while level > 1:
        level = math.ceil(level / fan_out)
        blocks += level
        height += 1
    return blocks, height


def _leaves(sizes: Mapping[int, float], values: KeyValues, rows: float, *, merge: bool) -> tuple[float, float]:
    """Return (leaf pages, leaf items)."""
    if not merge or values.unique:
        plain = _items({size + _LINE_POINTER_BYTES: rows * share for size, share in sizes.items()})
        return plain.pages(), plain.count
    full: dict[int, float] = {}  # posting lists at their limit, which stand together
    other: dict[int, float] = {}
    spare = 0.0
    groups = tuple(values.groups(rows))
    scale = rows / max(sum(size * count for size, count in groups), 1e-9)
    for base, share in sizes.items():
        most = max((_POSTING_BYTES // 8 * 8 - base) // _HEAP_TID_BYTES, 1)
        for size, count in groups:
            count *= share * scale
            whole, rest = divmod(size, most)
            if whole:
                item = _posting(base, most)
                full[item] = full.get(item, 0.0) + count * whole
            if rest:
                item = _posting(base, int(rest))
                other[item] = other.get(item, 0.0) + count
                spare += count * (item - _LINE_POINTER_BYTES - base)
    small = _items(other)
    large = _items(full)
    small = _Items(small.count, small.mean, small.square, spare / small.count if small.count else 0.0)
    extra = large.mean - _LINE_POINTER_BYTES - min(sizes) if large.count else 0.0
    large = _Items(large.count, large.mean, large.square, extra)
    return small.pages() + large.pages(), small.count + large.count


def _posting(base: int, tids: int) -> int:
    """Bytes of a leaf item for `tids` equal entries, with its line pointer; a single one is no posting list."""
    size = base if tids == 1 else -(-(base + _HEAP_TID_BYTES * tids) // 8) * 8
    return size + _LINE_POINTER_BYTES


def _items(counts: Mapping[int, float]) -> _Items:
    count = sum(counts.values())
    if count <= 0:
        return _Items()
    mean = sum(size * number for size, number in counts.items()) / count
    return _Items(count, mean, sum(size * size * number for size, number in counts.items()) / count)


def _pivot_bytes(keys: Sequence[_Key], values: Sequence[KeyValues], rows: float, items: float) -> float:
    """Mean size of a pivot with its line pointer: as many attributes as tell neighbouring items apart."""
    total, equal_before = 0.0, 1.0
    for number, prefix in enumerate(values, 1):
        size = _mean(entry_sizes([k.attribute for k in keys[:number]]))
        equal = max(1 - prefix.distinct(rows) / items, 0.0) if items > 0 else 0.0
        total += size * max(equal_before - equal, 0.0)
        equal_before = min(equal, equal_before)
    whole = _mean(entry_sizes([k.attribute for k in keys]))
    return total + equal_before * (whole + 8) + _LINE_POINTER_BYTES


def _mean(sizes: Mapping[int, float]) -> float:
    return sum(size * share for size, share in sizes.items())


def _key_values(candidate: IndexCandidate, table: Table, catalog: Catalog, keys: Sequence[_Key]) -> list[KeyValues]:
    """Values of each prefix of the key; a prefix that holds a unique key's columns never repeats."""
    unique_keys = [frozenset(columns) for columns in table.unique_keys(not_null=True)]
    names = [part.column for part in candidate.key_columns]
    prefixes = []
    for number in range(1, len(keys) + 1):
        held = frozenset(name for name in names[:number] if name is not None)
        if any(columns <= held for columns in unique_keys):
            prefixes.append(KeyValues((), unique=True))
            continue
        parts = {position: key.values for position, key in enumerate(keys[:number])}
        for columns, most in _referenced(table, catalog, held):
            positions = [p for p in parts if names[p] in columns]
            if most < together([parts[p] for p in positions]).distinct(max(table.rows, 1.0)):
                parts = {p: v for p, v in parts.items() if p not in positions} | {positions[0]: uniform(most)}
        prefixes.append(together(list(parts.values())))
    return prefixes


def _referenced(table: Table, catalog: Catalog, held: frozenset[str]) -> Iterator[tuple[frozenset[str], float]]:
    """Yield foreign keys of several columns among `held`, with the rows that they can point at."""
    for constraint in table.constraints:
        columns = frozenset(constraint.columns)
        if constraint.kind == "foreign key" and len(columns) > 1 and columns <= held:
            target = catalog.table(constraint.referenced_table or "", constraint.referenced_schema)
            if target is not None and target.rows >= 1:
                yield columns, target.rows


def _included(column: Column, kept: Selection) -> Attribute:
    return attribute(column.type, column, kept.statistics(column))


def _key(part: IndexColumn, type_name: str | None, table: Table, kept: Selection) -> _Key:
    column = table.columns.get(part.column) if part.column is not None else None
    if column is not None:
        type_name = type_name or column.type
        statistics = kept.statistics(column)
        constant = column.name in kept.constant
        values = uniform(1.0) if constant else column_values(statistics, table.rows, type_name=column.type)
        return _Key(attribute(type_name, column, statistics), values, deduplicates(type_name, column))
    type_name, statistics = expression_statistics(part.expression, type_name, table, kept)
    values = column_values(statistics, table.rows, type_name=type_name)
    return _Key(attribute(type_name, None, statistics), values, deduplicates(type_name, None))
