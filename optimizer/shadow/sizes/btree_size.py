"""Size of a B-tree that CREATE INDEX would build, from statistics alone.

Follows the bulk load: entries in key order, equal ones merged, leaves filled to 90 %, inner pages to 70 %, pivots cut
after the first attribute that tells two pages apart (`_bt_truncate`, nbtutils.c). `btree_keys.py` says which keys there
are, `btree_leaves.py` how they fill the leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, Table
from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.sizes.btree_keys import JointCounts, Key, prefix_values, read_key, statistics_target, stored
from optimizer.shadow.sizes.btree_leaves import LINE_POINTER_BYTES, ROOM_BYTES, Leaves, merged_leaves, plain_leaves
from optimizer.shadow.sizes.index_groups import KeyValues
from optimizer.shadow.sizes.index_rows import Selection, selection
from optimizer.shadow.sizes.index_width import Attribute, attribute, entry_sizes

#: BTREE_DEFAULT_FILLFACTOR, and what BTREE_NONLEAF_FILLFACTOR leaves.
_FILLFACTOR = 90
_INNER_FREE_BYTES = BLOCK_BYTES * 30 // 100
_MINUS_INFINITY_BYTES = 8 + LINE_POINTER_BYTES


@dataclass(frozen=True, slots=True)
class IndexSize:
    """Size of a B-tree.

    Parameters:
        blocks: of 8 kB, metapage included.
        height: levels above the leaves.
        tuples: rows indexed (`reltuples`).
        metapage: block 0 where the planner reads there what CREATE INDEX over no rows does not write; else empty.
    """

    blocks: int
    height: int
    tuples: float
    metapage: bytes = b""

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.blocks * BLOCK_BYTES


def estimate_index(
    candidate: IndexCandidate,
    table: Table,
    catalog: Catalog,
    *,
    rows: float | None = None,
    key_types: Sequence[str] | None = None,
    joint: JointCounts = MappingProxyType({}),
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
        joint: how many combinations of several of the table's columns there are, where extended statistics say.
    """
    kept = selection(candidate.predicate, table)
    total = max(table.rows, 0.0)
    entries = max(rows if rows is not None else total * kept.share, 0.0)
    if entries < 1:
        return IndexSize(1, 0, entries)
    types: Sequence[str | None] = key_types or [None] * len(candidate.key_columns)
    target = statistics_target(table)
    keys = [read_key(part, t, table, kept, target) for part, t in zip(candidate.key_columns, types, strict=True)]
    covered = [_included(table.columns[name], kept) for name in candidate.include if name in table.columns]
    prefixes = prefix_values(candidate, table, catalog, keys, joint, target)
    values, independent = prefixes[-1]
    forms = stored(keys, covered, values, independent=independent)
    merge = not candidate.include and all(k.deduplicates for k in keys)
    free = BLOCK_BYTES * (100 - _fillfactor(candidate)) // 100
    if merge and not values.unique:
        leaves = merged_leaves(forms, entries, free)
    else:
        leaves = plain_leaves(_all_sizes(forms), entries, free)
    pivot = _pivot_bytes(keys, [v for v, _ in prefixes], entries, leaves)
    blocks, height = _tree(leaves.pages, pivot)
    return IndexSize(blocks, height, entries)


def _fillfactor(candidate: IndexCandidate) -> int:
    text = dict(candidate.options).get("fillfactor", "")
    return min(max(int(text), 10), 100) if text.isdecimal() else _FILLFACTOR


def height_of_blocks(blocks: int, key_bytes: float = 16) -> int:
    """Estimate a B-tree's height from its size.

    Parameters:
        blocks: of 8 kB, metapage included.
        key_bytes: mean size of the keys on inner pages.
    """
    pivot = 8 + key_bytes + LINE_POINTER_BYTES
    leaves = max(blocks - 1, 1)
    total, height = _tree(leaves, pivot)
    while total > blocks and leaves > 1:
        leaves = max(leaves - (total - blocks), 1)
        total, height = _tree(leaves, pivot)
    return height


def _tree(leaves: float, pivot_bytes: float) -> tuple[int, int]:
    """Return (blocks, height) of a tree over that many leaves."""
    limit = ROOM_BYTES - _INNER_FREE_BYTES
    fan_out = max(math.floor((limit - _MINUS_INFINITY_BYTES) / pivot_bytes) + 1, 2)
    level = max(math.ceil(leaves - 1e-9), 1)
    blocks, height = 1 + level, 0
    while level > 1:
        level = math.ceil(level / fan_out)
        blocks += level
        height += 1
    return blocks, height


def _all_sizes(forms: Sequence[tuple[Mapping[int, float], KeyValues]]) -> dict[int, float]:
    """Shares of entries by size, all forms together."""
    if len(forms) == 1:
        return dict(forms[0][0])
    weights = [sum(part.count * part.share for part in values.classes) for _, values in forms]
    shares: dict[int, float] = {}
    for (sizes, _), weight in zip(forms, weights, strict=True):
        for size, share in sizes.items():
            shares[size] = shares.get(size, 0.0) + share * weight / max(sum(weights), 1e-9)
    return shares


def _pivot_bytes(keys: Sequence[Key], values: Sequence[KeyValues], rows: float, leaves: Leaves) -> float:
    """Mean size of a pivot with its line pointer: as many attributes as tell neighbouring items apart."""
    total, equal_before = 0.0, 1.0
    for number, prefix in enumerate(values, 1):
        size = _mean(entry_sizes([k.attribute for k in keys[:number]]))
        equal = max(1 - prefix.distinct(rows) / leaves.items, 0.0) if leaves.items > 0 else 0.0
        if number == len(values) and leaves.followed is not None:
            equal = leaves.followed
        total += size * max(equal_before - equal, 0.0)
        equal_before = min(equal, equal_before)
    whole = _mean(entry_sizes([k.attribute for k in keys]))
    return total + equal_before * (whole + 8) + LINE_POINTER_BYTES


def _mean(sizes: Mapping[int, float]) -> float:
    return sum(size * share for size, share in sizes.items())


def _included(column: Column, kept: Selection) -> Attribute:
    return attribute(column.type, column, kept.statistics(column))
