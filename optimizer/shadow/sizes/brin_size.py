"""Size of a BRIN index that CREATE INDEX would build, from the table's size and the operator classes alone.

One summary tuple a range of the table's pages, and a revmap of 6 bytes a range in front. Sources: `brin_form_tuple`
(brin_tuple.c), `brin_minmax.c`, `brin_minmax_multi.c`, `brin_bloom.c`, `brin_inclusion.c`.
"""

from __future__ import annotations

import math
from typing import Final

from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.pages.skeleton_brin import (
    DEFAULT_PAGES_PER_RANGE,
    RANGES_PER_REVMAP_PAGE,
    BrinRanges,
    brin_metapage,
)
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.index_request import IndexRequest, Key, mean_width
from optimizer.shadow.sizes.index_width import attribute

#: Page without header and special space.
_ROOM_BYTES: Final = BLOCK_BYTES - 24 - 8
_LINE_POINTER_BYTES: Final = 4
_MOST_PAGES_PER_RANGE: Final = 131_072
#: `SizeOfBrinTuple`: block number and info.
_HEADER_BYTES: Final = 5
_MAX_HEAP_TUPLES_PER_PAGE: Final = 291
_BLOOM_LEAST_DISTINCT: Final = 16.0
_BLOOM_HEADER_BYTES: Final = 20
_BLOOM_MOST_BYTES: Final = 8_136
_MULTI_HEADER_BYTES: Final = 24
_MULTI_DEFAULT_VALUES: Final = 32


def brin_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of a BRIN index; its tuples are ranges.

    Errors: `SqlError` for a storage parameter that is out of bounds.
    """
    per_range = request.whole_option("pages_per_range", DEFAULT_PAGES_PER_RANGE, 1, _MOST_PAGES_PER_RANGE)
    ranges = max(math.ceil(request.table.pages / per_range), 1)
    revmap = math.ceil(ranges / RANGES_PER_REVMAP_PAGE)
    rows_per_range = request.table_rows / ranges
    bytes_ = _tuple_bytes(request, per_range, rows_per_range)
    per_page = max(_ROOM_BYTES // (bytes_ + _LINE_POINTER_BYTES), 1)
    blocks = 1 + revmap + math.ceil(ranges / per_page)
    return IndexSize(blocks, 0, float(ranges), brin_metapage(BrinRanges(per_range, revmap)))


def _tuple_bytes(request: IndexRequest, per_range: int, rows_per_range: float) -> int:
    keys = request.keys()
    nulls = any(key.null_share > 0 for key in keys)
    header = _HEADER_BYTES + (-(-2 * len(keys) // 8) if nulls else 0)
    end = 0.0
    for key in keys:
        width, align, values = _stored(key, per_range, rows_per_range)
        for _ in range(values):
            end = -(-end // align) * align + width
        end += 2 if key.opclass.endswith("inclusion_ops") else 0  # two booleans beside the union
    return -(-(-(-header // 8) * 8 + math.ceil(end)) // 8) * 8


def _stored(key: Key, per_range: int, rows_per_range: float) -> tuple[float, int, int]:
    """Return what a summary holds of a key: (bytes of a value, its alignment, number of values)."""
    form = attribute(key.type, None, key.statistics)
    width = mean_width(key)
    align = form.align if form.fixed else 1
    distinct = _distinct(key, rows_per_range)
    if key.opclass.endswith("bloom_ops"):
        return _bloom_bytes(key, per_range), 1, 1
    if key.opclass.endswith("minmax_multi_ops"):
        most = _number(key, "values_per_range", _MULTI_DEFAULT_VALUES)
        return _MULTI_HEADER_BYTES + min(distinct, most) * width, 1, 1
    if key.opclass.endswith("inclusion_ops"):
        return width, align, 1
    return width, align, 2


def _bloom_bytes(key: Key, per_range: int) -> float:
    """`bloom_filter_size`: bits for the distinct values that a range of full pages could have."""
    most_rows = per_range * _MAX_HEAP_TUPLES_PER_PAGE
    wanted = _number(key, "n_distinct_per_range", -0.1)
    distinct = max(min(-wanted * most_rows if wanted < 0 else wanted or 0.1 * most_rows, most_rows), 0)
    distinct = max(distinct, _BLOOM_LEAST_DISTINCT)
    rate = min(max(_number(key, "false_positive_rate", 0.01), 0.0001), 0.25)
    bits = math.ceil(-distinct * math.log(rate) / math.log(2) ** 2)
    return min(_BLOOM_HEADER_BYTES + (bits + 7) // 8, _BLOOM_MOST_BYTES)


def _distinct(key: Key, rows_per_range: float) -> float:
    if key.statistics is None or key.statistics.n_distinct <= 0:
        return rows_per_range
    return min(key.statistics.n_distinct, rows_per_range)


def _number(key: Key, name: str, default: float) -> float:
    """A parameter of an operator class; the server has accepted it, so it is a number."""
    try:
        return float(key.options.get(name, default))
    except ValueError:
        return default
