"""How a bulk load fills a B-tree's leaves.

Equal entries become posting lists of at most a tenth of a page. The entry that makes a page fuller than the fill mark
opens the next one; a posting list that is last on its page counts by its key only, since it will be cut there. Sources:
`_bt_load`, `_bt_buildadd` (nbtsort.c), `_bt_dedup_save_htid` (nbtdedup.c).
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.sizes.index_groups import KeyValues

LINE_POINTER_BYTES = 4
_HEAP_TID_BYTES = 6
#: Page without header, special space and the line pointers of the high key and of the entry to come.
ROOM_BYTES = BLOCK_BYTES - 24 - 16 - 2 * LINE_POINTER_BYTES
#: Largest posting list of a bulk load.
_POSTING_BYTES = (BLOCK_BYTES * 10 // 100) // 8 * 8 - LINE_POINTER_BYTES
#: Full posting lists of one value from which on they fill pages among themselves.
_LONG_RUN = 8
#: Items of that size on average fill pages unevenly: some pages are filled one by one to see how.
_LARGE_ITEM_BYTES = 200
_RANDOM = random.Random(1)  # noqa: S311 - no secret
_CHANCES = tuple(_RANDOM.random() for _ in range(350))


@dataclass(frozen=True, slots=True)
class Leaves:
    """The lowest level: pages, items on them, and the share of its bytes whose item is followed by one of equal key.

    `followed` is None where every entry is an item.
    """

    pages: float
    items: float
    followed: float | None = None


#: Items of one value, in bytes with line pointers: one that is no posting list, a posting list at the limit, how many
#: of these there are, and the posting list of what is left, 0 where nothing is.
_Group = tuple[int, int, int, int]


def plain_leaves(sizes: Mapping[int, float], rows: float, free: int) -> Leaves:
    """Fill leaves with an item for each row.

    Parameters:
        sizes: shares of entries by bytes.
        rows: to be indexed.
        free: bytes to be left free on each page.
    """
    items = {size + LINE_POINTER_BYTES: share for size, share in sizes.items()}
    return Leaves(rows / max(_items_per_page(items, free, 0.0), 1.0), rows)


def merged_leaves(forms: Sequence[tuple[Mapping[int, float], KeyValues]], rows: float, free: int) -> Leaves:
    """Fill leaves with posting lists.

    Parameters:
        forms: shares of entries by bytes, with the values of the rows that have them; all rows together.
        rows: to be indexed.
        free: bytes to be left free on each page.
    """
    counts: defaultdict[_Group, float] = defaultdict(float)
    total = 0.0
    for sizes, values in forms:
        groups = tuple(values.groups(rows))
        total += sum(size * count for size, count in groups)
        for base, share in sizes.items():
            most = max((_POSTING_BYTES // 8 * 8 - base) // _HEAP_TID_BYTES, 1)
            full, key = _posting(base, most), base + LINE_POINTER_BYTES
            for size, count in groups:
                whole, left = divmod(size, most)
                counts[key, full, whole, _posting(base, left) if left else 0] += count * share
    scale = rows / max(total, 1e-9)
    return _filled({group: count * scale for group, count in counts.items()}, free)


def _filled(counts: Mapping[_Group, float], free: int) -> Leaves:
    pages = items = size = followed = 0.0
    short: defaultdict[_Group, float] = defaultdict(float)
    for (key, full, whole, rest), count in counts.items():
        items += count * (whole + (rest > 0))
        size += count * (full * whole + rest)
        followed += count * full * (whole - (not rest))
        if whole >= _LONG_RUN:
            pages += count * whole / max(_items_per_page({full: 1.0}, free, full - key), 1.0)
            whole = 0  # what is left stands with the others
        if whole or rest:
            short[key, full, whole, rest] += count
    pages += _short_pages(short, free)
    return Leaves(pages, items, followed / size if size else 0.0)


def _short_pages(counts: Mapping[_Group, float], free: int) -> float:
    """Pages of groups none of which fills pages alone."""
    number: defaultdict[int, float] = defaultdict(float)
    spare = 0.0
    for (key, full, whole, rest), count in counts.items():
        number[full] += count * whole
        spare += count * whole * (full - key)
        if rest:
            number[rest] += count
            spare += count * (rest - key)
    items = sum(number.values())
    if items <= 0:
        return 0.0
    size = sum(item * count for item, count in number.items())
    if size / items < _LARGE_ITEM_BYTES:
        shares = {item: count / items for item, count in number.items()}
        return items / max(_items_per_page(shares, free, spare / items), 1.0)
    return size / _tried(counts, free)


def _items_per_page(shares: Mapping[int, float], free: int, spare: float) -> float:
    """Items that a page holds on average.

    Parameters:
        shares: shares of items by bytes, line pointer included.
        free: bytes to be left free.
        spare: bytes of a posting list that a page's last item will not need (`truncextra`), on average.
    """
    mean = sum(item * share for item, share in shares.items())
    square = sum(item * item * share for item, share in shares.items())
    limit = min(ROOM_BYTES - free + spare, ROOM_BYTES - 8 - (mean - LINE_POINTER_BYTES))
    if square - mean**2 < 1:
        return math.floor(limit / mean)
    return limit / mean - square / 2 / mean**2


def _tried(counts: Mapping[_Group, float], free: int) -> float:
    """Bytes on a page on average, by filling some with groups in random order, the same one each time."""
    groups = [(key, (full,) * whole + (rest,) * (rest > 0)) for key, full, whole, rest in counts]
    ends = tuple(accumulate(counts.values()))
    chosen = [groups[bisect(ends, chance * ends[-1], hi=len(groups) - 1)] for chance in _CHANCES]
    pages = filled = used = last = spare = on_page = 0
    for key, sizes in chosen:
        for item in sizes:
            left = ROOM_BYTES - used
            if left < item - LINE_POINTER_BYTES or (left + spare < free and on_page > 1):
                pages, filled = pages + 1, filled + used - last
                used, on_page = last, 1  # it opens the next page, and leaves only its key behind
            used, last, spare = used + item, item, item - key
            on_page += 1
    return filled / pages if filled else float(ROOM_BYTES - free)


def _posting(base: int, tids: int) -> int:
    """Bytes of an item for `tids` equal entries, with its line pointer; a single one is no posting list."""
    size = base if tids == 1 else -(-(base + _HEAP_TID_BYTES * tids) // 8) * 8
    return size + LINE_POINTER_BYTES
