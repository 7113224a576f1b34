"""Size of a hash index that CREATE INDEX would build, from statistics alone.

The number of buckets is chosen before the first entry, for the rows of the whole table, and steps by quarters of a
power of two; a bucket that gets more entries than its page holds chains overflow pages. Sources:
`_hash_init_metabuffer`, `_hash_spareindex`, `_hash_get_totalbuckets` (hashutil.c, hashpage.c), `_hash_doinsert`
(hashinsert.c).
"""

from __future__ import annotations

import math
from typing import Final

from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.index_groups import split_values
from optimizer.shadow.sizes.index_request import IndexRequest

#: An entry holds the hash code only: header 8, code aligned to 8, line pointer 4.
_ENTRY_BYTES: Final = 20
#: Page without header and special space of 16 bytes.
_PAGE_ENTRIES: Final = (BLOCK_BYTES - 24 - 16) // _ENTRY_BYTES
_DEFAULT_FILLFACTOR: Final = 75
_LEAST_PER_BUCKET: Final = 10
_MOST_BUCKETS: Final = 2**30
#: Up to that power of two the buckets double; beyond, they grow in four steps.
_SINGLE_STEP_POWER: Final = 9
_OVERFLOW_PER_BITMAP: Final = 4096 * 8
#: Equal entries from which on a value is taken by itself, not as noise around the mean.
_LARGE_GROUP: Final = 200
#: Standard deviation of a bucket's entries, in pages, from which on the last page is half full on average.
_WIDE_SPREAD: Final = 20


def hash_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of a hash index.

    Errors: `SqlError` for a fillfactor that is none.
    """
    fillfactor = request.whole_option("fillfactor", _DEFAULT_FILLFACTOR, 10, 100)
    per_bucket = max(BLOCK_BYTES * fillfactor // 100 // _ENTRY_BYTES, _LEAST_PER_BUCKET)
    key = request.keys()[0]
    entries = request.entries * (1 - key.null_share)
    buckets = _buckets(max(request.table_rows, entries) / per_bucket)
    overflow = _overflow_pages(request, entries, buckets) if entries >= 1 else 0
    bitmaps = 1 + overflow // _OVERFLOW_PER_BITMAP
    return IndexSize(1 + buckets + bitmaps + overflow, 0, entries)


def _buckets(wanted: float) -> int:
    if wanted <= 2:
        return 2
    number = min(int(wanted), _MOST_BUCKETS)
    power = math.ceil(math.log2(number))
    if power <= _SINGLE_STEP_POWER:
        return 1 << power
    half = 1 << (power - 1)
    return half + half // 4 * math.ceil((number - half) / (half // 4))


def _overflow_pages(request: IndexRequest, entries: float, buckets: int) -> int:
    """Pages beyond the first of each bucket.

    With a number of buckets that is no power of two, some have been split and take half as much as the others.
    """
    key = request.keys()[0]
    values = split_values(key.statistics, request.table_rows, type_name=key.type).present().together
    noise, mean, large = 0.0, 0.0, []
    for size, count in values.groups(entries):
        if size >= _LARGE_GROUP:
            large.append((size, count))
        else:
            mean += size * count
            noise += size * size * count
    below = 1 << (buckets.bit_length() - 1)
    split = buckets - below
    kinds = [(2 * split, 1 / (2 * below)), (below - split, 1 / below)]
    pages = sum(number * _beyond_first(mean * share, noise * share, 0.0) for number, share in kinds if number)
    for size, count in large:
        for number, share in kinds:
            base = _beyond_first(mean * share, noise * share, 0.0)
            pages += count * number * share * (_beyond_first(mean * share, noise * share, size) - base)
    return round(pages)


def _beyond_first(mean: float, variance: float, fixed: float) -> float:
    """Expected overflow pages of a bucket with `fixed` entries and a normal number of others."""
    deviation = math.sqrt(max(variance, 1e-9))
    if deviation > _WIDE_SPREAD * _PAGE_ENTRIES:
        return max((fixed + mean) / _PAGE_ENTRIES - 0.5, 0.0)
    expected, page = 0.0, 1
    while True:
        distance = (page * _PAGE_ENTRIES + 0.5 - fixed - mean) / deviation
        if distance > 6:
            return expected
        if distance < -6 and page * _PAGE_ENTRIES < fixed + mean - 7 * deviation - _PAGE_ENTRIES:
            whole = int((fixed + mean - 7 * deviation) // _PAGE_ENTRIES) - page
            expected, page = expected + whole, page + whole
            continue
        expected += 0.5 * math.erfc(distance / math.sqrt(2))
        page += 1
