"""Size of a GIN index that CREATE INDEX would build, and the counters of its metapage, from statistics.

An entry a key, with the compressed list of its rows; where that grows too long, the list becomes a tree of pages of its
own. Sources: `GinFormTuple` (ginentrypage.c), `ginCompressPostingList` (ginpostinglist.c), `createPostingTree`
(gindatapage.c), `ginBuildCallback` (gininsert.c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.pages.skeleton_gin import GinCounters, gin_metapage
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.gin_keys import GinKeys, gin_keys
from optimizer.shadow.sizes.index_request import IndexRequest

_LINE_POINTER_BYTES: Final = 4
#: Page without header and special space.
_ROOM_BYTES: Final = BLOCK_BYTES - 24 - 8
_TREE_ROOM_BYTES: Final = _ROOM_BYTES - 8
#: `GinMaxItemSize`: larger entries get a posting tree.
_LARGEST_ENTRY_BYTES: Final = 2_712
_HEADER_BYTES: Final = 8
_COLUMN_NUMBER_BYTES: Final = 2
#: A list's first row and its length.
_LIST_HEADER_BYTES: Final = 8
#: A tree's leaves hold lists of about that size each.
_SEGMENT_BYTES: Final = 256
_POSTING_ITEMS: Final = _TREE_ROOM_BYTES // 10
#: `maintenance_work_mem`'s default: a build inserts what it has gathered when that is full.
_BUILD_BYTES: Final = 64 * 1024 * 1024
_GATHERED_KEY_BYTES, _GATHERED_ROW_BYTES = 120.0, 9.0
#: Keys inserted in order leave pages half full; in random order, ln 2.
_ORDERED_FILL, _RANDOM_FILL = 0.5, math.log(2)
#: Tables of that many pages are built in parallel from 18 on, which inserts each key once.
_PARALLEL_PAGES: Final = 1_024
#: Row identifiers are numbered as if every page held 2,048 rows; deltas are stored 7 bits a byte.
_ROWS_PER_PAGE_BITS: Final = 11


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over all keys: entries, bytes of entries with their line pointers, pages of posting trees, rows in lists."""

    entries: float = 0.0
    bytes: float = 0.0
    tree_pages: float = 0.0
    postings: float = 0.0

    def plus(self, other: _Totals) -> _Totals:
        return _Totals(
            self.entries + other.entries,
            self.bytes + other.bytes,
            self.tree_pages + other.tree_pages,
            self.postings + other.postings,
        )


def gin_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of a GIN index without pending list, as after its build; its tuples are keys of rows."""
    keys = request.keys()
    totals = _Totals()
    for key in keys:
        rows = request.entries * (1 - key.null_share)
        if rows >= 1:
            extra = _COLUMN_NUMBER_BYTES if len(keys) > 1 else 0
            totals = totals.plus(_totals(gin_keys(key, rows), rows, _rows_per_page(request), extra))
    if totals.entries < 1:
        return IndexSize(2, 0, 0.0, gin_metapage(GinCounters(0, 2, 1, 0, 0)))
    fill = _fill(request, totals)
    leaves = max(math.ceil(totals.bytes / (_ROOM_BYTES * fill)), 1)
    inner = math.ceil(leaves * 32 / (_ROOM_BYTES * _ORDERED_FILL)) if leaves > 1 else 0
    entry_pages, data_pages = leaves + inner, round(totals.tree_pages)
    blocks = 1 + entry_pages + data_pages
    counters = GinCounters(0, blocks, entry_pages, data_pages, round(totals.entries))
    return IndexSize(blocks, 0, totals.postings, gin_metapage(counters))


def _totals(keys: GinKeys, rows: float, rows_per_page: float, extra: int) -> _Totals:
    totals = _Totals()
    key_bytes = _HEADER_BYTES + extra + keys.key_bytes
    for part in keys.classes:
        held = max(rows * part.share, 1.0)
        listed = (held - 1) * _bytes_a_row(min(part.share, 1.0), rows_per_page)
        entry = _aligned(_even(key_bytes) + _LIST_HEADER_BYTES + _even(listed), 8)
        pages = 0.0
        if entry > _LARGEST_ENTRY_BYTES:
            entry = _aligned(key_bytes, 8)
            pages = _tree_pages(listed * (1 + _LIST_HEADER_BYTES / _SEGMENT_BYTES))
        bytes_ = entry + _LINE_POINTER_BYTES
        totals = totals.plus(_Totals(part.count, part.count * bytes_, part.count * pages, part.count * held))
    return totals


def _tree_pages(listed: float) -> float:
    """Pages of one posting tree: full leaves, and inner pages where there are several."""
    level = math.ceil(listed / _TREE_ROOM_BYTES)
    pages = level
    while level > 1:
        level = -(-level // _POSTING_ITEMS)
        pages += level
    return float(pages)


def _bytes_a_row(share: float, rows_per_page: float) -> float:
    """Mean bytes of the distance between two rows that hold a key, if they are spread at random."""
    if share >= 1:
        return 1.0
    log_miss = math.log1p(-share) * rows_per_page  # of a page without such a row
    if log_miss > -1e-12:
        return 6.0
    same_page = 1 - -math.expm1(log_miss) / (share * rows_per_page)
    bytes_, reached = 1.0, max(same_page, 0.0)
    total = reached
    for bits in (14, 21, 28, 35, 42):
        within = max(-math.expm1(log_miss * (2 ** (bits - _ROWS_PER_PAGE_BITS) - 0.5)), reached)
        bytes_ += 1
        total += (within - reached) * bytes_
        reached = within
    return total + (1 - reached) * 6


def _fill(request: IndexRequest, totals: _Totals) -> float:
    """How full entry pages are: half after one pass in order, and further passes fill and split them again."""
    parallel = request.catalog.server_version_num >= 180000 and request.table.pages >= _PARALLEL_PAGES
    gathered = totals.postings * _GATHERED_ROW_BYTES + totals.entries * _GATHERED_KEY_BYTES
    passes = gathered / _BUILD_BYTES
    if parallel or passes <= 1:
        return _ORDERED_FILL
    return _RANDOM_FILL


def _rows_per_page(request: IndexRequest) -> float:
    return max(request.table_rows / max(request.table.pages, 1), 0.01)


def _even(length: float) -> float:
    return length + length % 2


def _aligned(length: float, to: int) -> int:
    return -(-math.ceil(length) // to) * to
