"""The metapage of a BRIN index, of which the planner reads the range's size and the revmap's (`brinGetStats`).

Nothing else of a BRIN index's pages is read at plan time (`brincostestimate`, selfuncs.c).

Formats: `BrinMetaPageData`, `BrinSpecialSpace` (`access/brin_page.h`), `storage/bufpage.h`; the same in PostgreSQL 13
to 18 on little-endian machines with 8 kB blocks. Data checksums must be off.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from optimizer.shadow.pages.skeleton import metapage, metapage_content

_MAGIC: Final = 0xA8109CFA
_VERSION: Final = 1
_META: Final = 0xF091
_CONTENT: Final = struct.Struct("<IIII")  # magic, version, pages per range, last revmap page
_OPAQUE: Final = struct.Struct("<HHHH")  # padding, padding, flags, type
#: Ranges whose summary tuples one page of the revmap points at (REVMAP_PAGE_MAXITEMS).
RANGES_PER_REVMAP_PAGE: Final = 1360
#: BRIN_DEFAULT_PAGES_PER_RANGE
DEFAULT_PAGES_PER_RANGE: Final = 128


@dataclass(frozen=True, slots=True)
class BrinRanges:
    """What a BRIN index's metapage says.

    Parameters:
        pages_per_range: the storage parameter of that name.
        revmap_pages: blocks 1 to this one are the revmap (`lastRevmapPage`).
    """

    pages_per_range: int
    revmap_pages: int


def brin_metapage(ranges: BrinRanges) -> bytes:
    """Return block 0 of a BRIN index."""
    content = _CONTENT.pack(_MAGIC, _VERSION, ranges.pages_per_range, ranges.revmap_pages)
    return metapage(content, _OPAQUE.pack(0, 0, 0, _META))


def read_brin_metapage(page: bytes) -> BrinRanges:
    """Read block 0 of a BRIN index.

    Errors: `ValueError` when the page is none.
    """
    content, special = metapage_content(page, _CONTENT.size, _OPAQUE.size)
    magic, version, pages_per_range, last_revmap_page = _CONTENT.unpack(content)
    if (magic, version, _OPAQUE.unpack(special)[3]) != (_MAGIC, _VERSION, _META) or not pages_per_range:
        raise ValueError("not the metapage of a BRIN index")
    return BrinRanges(pages_per_range, last_revmap_page)
