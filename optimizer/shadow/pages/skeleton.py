"""Hand-made PostgreSQL pages: the least B-tree that the planner cannot tell from the source's, and a visibility map.

The planner reads two things from a B-tree's pages: its height, from the metapage (`_bt_getrootheight`), and its first
and last entries, from the leaf at each end (`get_actual_variable_range`, selfuncs.c). So a skeleton is: block 0 the
metapage, blocks 1 to height internal pages with one downlink each, block height + 1 the only leaf with at most two
entries. All later blocks stay zero, which PostgreSQL takes for new pages.

Formats: `storage/bufpage.h`, `access/nbtree.h`, `access/itup.h`, `access/visibilitymapdefs.h`; the same in PostgreSQL
13 to 18 on little-endian machines with 8 kB blocks. Data checksums must be off.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_BYTES = 8192
#: Blocks in one file of a relation (RELSEG_SIZE).
SEGMENT_BLOCKS = 131_072

_PAGE_HEADER = struct.Struct("<QHHHHHHI")  # lsn, checksum, flags, lower, upper, special, size|version, prune_xid
_LAYOUT_VERSION = BLOCK_BYTES | 4
_LINE_POINTER_BYTES = 4
_LP_NORMAL = 1
_OPAQUE = struct.Struct("<IIIHH")  # prev, next, level, flags, cycle id
_LEAF, _ROOT = 0x0001, 0x0002
#: magic, version, root, level, fast root, fast level
_METAPAGE = struct.Struct("<IIIIII")
_METAPAGE_MAGIC, _METAPAGE_VERSIONS = 0x053162, (3, 4)
_TUPLE_HEADER = struct.Struct("<HHHH")  # block (high, low), offset, info
_INDEX_ALT_TID_MASK = 0x2000
_INDEX_SIZE_MASK = 0x1FFF
_ALL_VISIBLE, _ALL_FROZEN = 0x01, 0x02


@dataclass(frozen=True, slots=True)
class Metapage:
    """What a B-tree's metapage says; `root` and `fast_root` are block numbers, 0 in an empty tree."""

    root: int
    level: int
    fast_root: int
    fast_level: int


def read_metapage(page: bytes) -> Metapage:
    """Read block 0 of a B-tree.

    Errors: `ValueError` when the page is none.
    """
    if len(page) != BLOCK_BYTES:
        raise ValueError(f"a page has {BLOCK_BYTES} bytes, not {len(page)}")
    magic, version, root, level, fast_root, fast_level = _METAPAGE.unpack_from(page, _PAGE_HEADER.size)
    if magic != _METAPAGE_MAGIC or version not in _METAPAGE_VERSIONS:
        raise ValueError("not the metapage of a B-tree")
    return Metapage(root, level, fast_root, fast_level)


def with_height(metapage: bytes, height: int) -> bytes:
    """Return the metapage that PostgreSQL wrote for an empty index, its root set to block 1 at level `height`.

    Errors: `ValueError` when the page is no metapage, or of a big-endian machine.
    """
    if sys.byteorder != "little":
        raise ValueError("B-tree pages can be written on little-endian machines only")
    read_metapage(metapage)
    page = bytearray(metapage)
    struct.pack_into("<IIII", page, _PAGE_HEADER.size + 8, 1, height, 1, height)
    return bytes(page)


def without_height(metapage: bytes) -> bytes:
    """Return a metapage as PostgreSQL wrote it for an empty index, whatever `with_height` made of it.

    Errors: `ValueError` when the page is none.
    """
    read_metapage(metapage)
    page = bytearray(metapage)
    struct.pack_into("<IIII", page, _PAGE_HEADER.size + 8, 0, 0, 0, 0)
    return bytes(page)


def skeleton(metapage: bytes, height: int, leaf: Sequence[bytes] = ()) -> bytes:
    """Return blocks 0 to height + 1 of a B-tree.

    Parameters:
        metapage: block 0 as CREATE INDEX wrote it over no rows.
        height: levels above the leaf, as `bt_metap` gives `fastlevel`.
        leaf: entries in index order, as `leaf_tuples` returns them.
    """
    pages = [with_height(metapage, height)]
    for block in range(1, height + 1):
        level = height - block + 1
        pages.append(btree_page([_downlink(block + 1)], level, _ROOT if block == 1 else 0))
    pages.append(
        btree_page([_pointing_at_block_0(t, n) for n, t in enumerate(leaf, 1)], 0, _LEAF | (not height) * _ROOT)
    )
    return b"".join(pages)


def metapage(content: bytes, special: bytes) -> bytes:
    """Return a metapage: `content` behind the page's header, `special` (a multiple of 8 bytes) at its end."""
    page = bytearray(BLOCK_BYTES)
    lower, upper = _PAGE_HEADER.size + len(content), BLOCK_BYTES - len(special)
    _PAGE_HEADER.pack_into(page, 0, 0, 0, 0, lower, upper, upper, _LAYOUT_VERSION, 0)
    page[_PAGE_HEADER.size : lower] = content
    page[upper:] = special
    return bytes(page)


def metapage_content(page: bytes, content_bytes: int, special_bytes: int) -> tuple[bytes, bytes]:
    """Return (content, special space) of a metapage.

    Errors: `ValueError` when the page has no special space of that size.
    """
    if len(page) != BLOCK_BYTES or _PAGE_HEADER.unpack_from(page)[5] != BLOCK_BYTES - special_bytes:
        raise ValueError("not a metapage of that access method")
    return bytes(page[_PAGE_HEADER.size :][:content_bytes]), bytes(page[BLOCK_BYTES - special_bytes :])


def btree_page(tuples: Sequence[bytes], level: int, flags: int) -> bytes:
    """Return a B-tree page without neighbours that holds `tuples` in that order.

    Errors: `ValueError` when they do not fit.
    """
    special = BLOCK_BYTES - _OPAQUE.size
    lower = _PAGE_HEADER.size + _LINE_POINTER_BYTES * len(tuples)
    upper = special - sum(_aligned(len(t)) for t in tuples)
    if upper < lower:
        raise ValueError("the entries do not fit a page")
    page = bytearray(BLOCK_BYTES)
    _PAGE_HEADER.pack_into(page, 0, 0, 0, 0, lower, upper, special, _LAYOUT_VERSION, 0)
    at = special
    for number, entry in enumerate(tuples):
        at -= _aligned(len(entry))
        page[at : at + len(entry)] = entry
        line_pointer = at | _LP_NORMAL << 15 | len(entry) << 17
        struct.pack_into("<I", page, _PAGE_HEADER.size + _LINE_POINTER_BYTES * number, line_pointer)
    _OPAQUE.pack_into(page, special, 0, 0, level, flags, 0)
    return bytes(page)


def is_leaf(page: bytes) -> bool:
    """Whether a page of a B-tree, other than its metapage, is a leaf."""
    (special,) = struct.unpack_from("<H", page, 16)
    return bool(_OPAQUE.unpack_from(page, special)[3] & _LEAF)


def leaf_tuples(page: bytes) -> tuple[bytes, ...]:
    """Return the entries of a leaf in index order.

    Errors: `ValueError` when the page is no leaf, or holds a posting list.
    """
    if not is_leaf(page):
        raise ValueError("not a leaf of a B-tree")
    lower, _upper, special = struct.unpack_from("<HHH", page, 12)
    next_ = _OPAQUE.unpack_from(page, special)[1]
    # A page with a right neighbour begins with its high key, which is no entry.
    first = _PAGE_HEADER.size + (_LINE_POINTER_BYTES if next_ else 0)
    entries = []
    for offset in range(first, lower, _LINE_POINTER_BYTES):
        line_pointer = int.from_bytes(page[offset : offset + _LINE_POINTER_BYTES], "little")
        at, length = line_pointer & 0x7FFF, line_pointer >> 17
        entries.append(bytes(page[at : at + length]))
    if any(_TUPLE_HEADER.unpack_from(entry)[3] & _INDEX_ALT_TID_MASK for entry in entries):
        raise ValueError("the leaf holds a posting list")
    return tuple(entries)


def heap_tid(entry: bytes) -> tuple[int, int]:
    """Return the block and the offset of the row that a leaf's entry points at."""
    high, low, offset, _info = _TUPLE_HEADER.unpack_from(entry)
    return high << 16 | low, offset


def visibility_map() -> bytes:
    """Return a `_vm` fork of one page that marks heap block 0 all-visible and all-frozen, and no other block.

    With it, a probe of an index's end never looks at the heap page, which holds no rows.
    """
    page = bytearray(BLOCK_BYTES)
    _PAGE_HEADER.pack_into(page, 0, 0, 0, 0, _PAGE_HEADER.size, BLOCK_BYTES, BLOCK_BYTES, _LAYOUT_VERSION, 0)
    page[_PAGE_HEADER.size] = _ALL_VISIBLE | _ALL_FROZEN
    return bytes(page)


def segments(blocks: int) -> tuple[int, ...]:
    """Return the sizes, in bytes, of the files that hold a relation of that many blocks: full ones, then the rest.

    PostgreSQL looks for a next file only after a full one, which may then be missing, so none is made empty.
    """
    full, rest = divmod(blocks, SEGMENT_BLOCKS)
    sizes = (SEGMENT_BLOCKS * BLOCK_BYTES,) * full
    return sizes if full and not rest else (*sizes, rest * BLOCK_BYTES)


def _downlink(child: int) -> bytes:
    """A pivot tuple of an internal page: minus infinity, no key attributes."""
    return _TUPLE_HEADER.pack(child >> 16, child & 0xFFFF, 0, _TUPLE_HEADER.size | _INDEX_ALT_TID_MASK)


def _pointing_at_block_0(entry: bytes, offset: int) -> bytes:
    info = _TUPLE_HEADER.unpack_from(entry)[3]
    if info & _INDEX_SIZE_MASK != len(entry):
        raise ValueError("the entry's length is not the one it states")
    return _TUPLE_HEADER.pack(0, 0, offset, info) + entry[_TUPLE_HEADER.size :]


def _aligned(length: int) -> int:
    return (length + 7) & ~7
