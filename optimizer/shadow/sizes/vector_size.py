"""Sizes of pgvector's indexes that CREATE INDEX would build, from the vectors' dimensions.

HNSW holds an element tuple and a neighbor tuple a vector; IVFFlat an index tuple a vector, in lists with pages of their
own. Sources: `hnsw.h`, `CreateGraphPages` (hnswbuild.c), `ivfflat.h`, `InsertTuples` (ivfbuild.c) of pgvector 0.8.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from typing import Final

from optimizer.shadow.pages.skeleton import BLOCK_BYTES, metapage
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.index_request import IndexRequest

#: Page without header and special space.
_ROOM_BYTES: Final = BLOCK_BYTES - 24 - 8
_LINE_POINTER_BYTES: Final = 4
_HNSW_DEFAULT_M: Final = 16
_ELEMENT_HEADER_BYTES: Final = 72
_NEIGHBOR_HEADER_BYTES: Final = 4
_TID_BYTES: Final = 6
_IVFFLAT_DEFAULT_LISTS: Final = 100
_IVFFLAT_MOST_LISTS: Final = 32_768
_LIST_HEADER_BYTES: Final = 8
#: Lists differ in length: standard deviation over mean, as measured; long ones end on a half full page on average.
_LIST_SPREAD: Final = 0.3
_MANY_PAGES: Final = 100
_INDEX_TUPLE_BYTES: Final = 8
_TYPE: Final = re.compile(r"(?:.*\.)?\"?(?P<name>vector|halfvec|bit|sparsevec)\"?\((?P<dimensions>\d+)\)")
# magic, version, dimensions, lists; and the special space: no next page, unused, page type.
_IVFFLAT_METAPAGE: Final = struct.Struct("<IIHH")
_IVFFLAT_MAGIC: Final = 0x14FF1A7
_IVFFLAT_SPECIAL: Final = struct.pack("<IHH", 0xFFFFFFFF, 0, 0xFF84)


def hnsw_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of an HNSW index.

    Errors: `SqlError` for an `m` that is out of bounds.
    """
    m = request.whole_option("m", _HNSW_DEFAULT_M, 2, 100)
    vector, _ = _vector(request)
    entries = _entries(request)
    element = _aligned(_ELEMENT_HEADER_BYTES + vector) + _LINE_POINTER_BYTES
    pages, level, share = 0.0, 0, 1 - 1 / m  # a vector is on level l or above with probability m ** -l
    while entries * share >= 0.5 and level < 20:
        neighbors = _aligned(_NEIGHBOR_HEADER_BYTES + (level + 2) * m * _TID_BYTES) + _LINE_POINTER_BYTES
        pages += entries * share * _pages_each(element, neighbors)
        level, share = level + 1, share / m
    return IndexSize(1 + max(math.ceil(pages), 1), 0, entries)


def ivfflat_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of an IVFFlat index, of which the planner reads the number of lists.

    Errors: `SqlError` when `lists` is out of bounds.
    """
    lists = request.whole_option("lists", _IVFFLAT_DEFAULT_LISTS, 1, _IVFFLAT_MOST_LISTS)
    vector, dimensions = _vector(request)
    entries = _entries(request)
    entry = _aligned(_INDEX_TUPLE_BYTES + _short(vector)) + _LINE_POINTER_BYTES
    centers = _aligned(_LIST_HEADER_BYTES + vector) + _LINE_POINTER_BYTES
    in_lists = lists * _pages_of_list(entries / lists, max(_ROOM_BYTES // entry, 1))
    blocks = 1 + math.ceil(lists / max(_ROOM_BYTES // centers, 1)) + math.ceil(in_lists)
    content = _IVFFLAT_METAPAGE.pack(_IVFFLAT_MAGIC, 1, min(dimensions, 65_535), lists)
    return IndexSize(blocks, 0, entries, metapage(content, _IVFFLAT_SPECIAL))


def with_one_list(options: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return storage parameters with a single list: CREATE INDEX writes up to two pages a list, rows or not."""
    return (*((name, value) for name, value in options if name != "lists"), ("lists", "1"))


def _pages_each(element: int, neighbors: int) -> float:
    """Pages that one vector takes: both tuples stay on one page where they fit one."""
    if element + neighbors <= _ROOM_BYTES:
        return 1 / (_ROOM_BYTES // (element + neighbors))
    return 1.0 + neighbors / _ROOM_BYTES


def _pages_of_list(entries: float, per_page: int) -> float:
    """Mean pages of a list: whole ones, one at the least, for a normal number of entries."""
    if entries > _MANY_PAGES * per_page:
        return entries / per_page + 0.5
    spread = max(entries * _LIST_SPREAD, 1e-9)
    further = (math.erfc((page * per_page + 0.5 - entries) / spread / math.sqrt(2)) / 2 for page in range(1, 400))
    return 1 + sum(further)


def _entries(request: IndexRequest) -> float:
    return request.entries * (1 - request.keys()[0].null_share)


def _vector(request: IndexRequest) -> tuple[int, int]:
    """Return (bytes of a vector with its header, dimensions)."""
    key = request.keys()[0]
    types = (*(request.key_types or ())[:1], key.type, key.part.expression.rpartition("::")[2].rstrip(")") + ")")
    for type_ in types:
        match = _TYPE.fullmatch(type_)
        if match is not None and match["name"] != "sparsevec":
            dimensions = int(match["dimensions"])
            each = {"vector": 32, "halfvec": 16, "bit": 1}[match["name"]]
            return 8 + -(-dimensions * each // 8), dimensions
    width = key.statistics.avg_width if key.statistics is not None else 32
    return width, 0


def _short(vector: int) -> int:
    """Values of up to 126 bytes have a header of one byte in an index tuple."""
    return vector - 3 if vector - 3 <= 127 else vector


def _aligned(length: int) -> int:
    return -(-length // 8) * 8
