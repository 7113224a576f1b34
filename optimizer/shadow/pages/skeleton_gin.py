"""The metapage of a GIN index, whose counters the planner reads (`ginGetStats`, called by `gincostestimate`).

Nothing else of a GIN index's pages is read at plan time. The counters are those of the last build or VACUUM, except
the pending list's, which are always current. The planner trusts them while `total_pages` is at most the file's size and
more than a quarter of it, and scales them by that ratio; else it takes nine tenths of the pages for entry pages with
100 entries each.

Formats: `GinMetaPageData`, `GinPageOpaqueData` (`access/ginblock.h`), `storage/bufpage.h`; the same in PostgreSQL 13 to
18 on little-endian machines with 8 kB blocks. Data checksums must be off.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from optimizer.shadow.pages.skeleton import metapage, metapage_content

_INVALID_BLOCK: Final = 0xFFFFFFFF
_VERSION: Final = 2
_META: Final = 1 << 3
#: head, tail, tail's free bytes, pending pages, pending rows, total, entry and data pages, entries, version
_CONTENT: Final = struct.Struct("<IIIIqIII4xqi4x")
_OPAQUE: Final = struct.Struct("<IHH")  # right link, max offset, flags


@dataclass(frozen=True, slots=True)
class GinCounters:
    """What a GIN index's metapage counts.

    Parameters:
        pending_pages: pages of the pending list, which every scan reads first.
        total_pages: of the index when it was last built or vacuumed, metapage included.
        entry_pages, data_pages: of the entry tree, and of the posting trees.
        entries: different keys.
    """

    pending_pages: int
    total_pages: int
    entry_pages: int
    data_pages: int
    entries: int


def gin_metapage(counters: GinCounters) -> bytes:
    """Return block 0 of a GIN index; its pending list has no pages that could be read, only their number."""
    content = _CONTENT.pack(
        _INVALID_BLOCK,
        _INVALID_BLOCK,
        0,
        counters.pending_pages,
        0,
        counters.total_pages,
        counters.entry_pages,
        counters.data_pages,
        counters.entries,
        _VERSION,
    )
    return metapage(content, _OPAQUE.pack(_INVALID_BLOCK, 0, _META))


def read_gin_metapage(page: bytes) -> GinCounters:
    """Read block 0 of a GIN index.

    Errors: `ValueError` when the page is none.
    """
    content, special = metapage_content(page, _CONTENT.size, _OPAQUE.size)
    _head, _tail, _free, pending, _rows, total, entry, data, entries, version = _CONTENT.unpack(content)
    if _OPAQUE.unpack(special)[2] != _META or not 0 <= version <= _VERSION:
        raise ValueError("not the metapage of a GIN index")
    return GinCounters(pending, total, entry, data, entries)
