"""Sizes of GiST, SP-GiST and bloom indexes that CREATE INDEX would build: rough, from key widths.

How full GiST's and SP-GiST's pages become depends on how the operator class splits the values at hand. The shares
below were measured with `benchmarks/index_methods.py`; so far as they miss, sizes miss. Sources: `gistbuild.c`,
`spgist_private.h`, `trgm_gist.c`, `tsgistidx.c`, `btree_utils_var.c`, `bloom.h`.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Final

from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.gin_keys import keys_a_row
from optimizer.shadow.sizes.index_request import IndexRequest, Key, mean_width
from optimizer.shadow.sizes.index_width import attribute, parse_type

_LINE_POINTER_BYTES: Final = 4
_GIST_ROOM_BYTES: Final = BLOCK_BYTES - 24 - 16
_SPGIST_ROOM_BYTES: Final = BLOCK_BYTES - 24 - 8
#: Built from sorted values, in one dimension (btree_gist, 18 and later) or along a curve (points, 14 and later), or by
#: insertion.
_SORTED_FILL, _CURVE_FILL, _INSERTED_FILL = 0.99, 0.667, 0.64
_SPGIST_FILL: Final = 0.7
_TEXT_LEVELS: Final = 4
#: Arrays of lexemes beyond that size (TOAST_INDEX_TARGET) are kept as signatures, of 124 bytes by default.
_LARGEST_ARRAY_BYTES: Final = 508
_SIGNATURE_BYTES: Final = 132
_BLOOM_HEADER_BYTES: Final = 6
_BLOOM_DEFAULT_BITS: Final = 80
_BLOOM_WORD_BITS: Final = 16
_BLOOM_MOST_BITS: Final = 4096
_GEOMETRIC: Final = {"point": 32, "box": 32, "polygon": 32, "circle": 32}
_POINT_BYTES: Final = 16
_BOX_BYTES: Final = 32
_RANGE_OVERHEAD_BYTES: Final = 6
_SCALARS: Final = {
    "int4range": 4,
    "daterange": 4,
    "int8range": 8,
    "tsrange": 8,
    "tstzrange": 8,
    "numrange": 8,
}


def gist_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of a GiST index; NULL keys are indexed."""
    keys = request.keys()
    entries = request.entries
    width = sum(_gist_bytes(key) * (1 - key.null_share) for key in keys)
    types = [attribute(request.table.columns[name].type, None, None) for name in request.candidate.include]
    width += sum(sum(share * (w or 0) for w, share in part.widths.items()) for part in types)
    nulls = 8 * min(sum(key.null_share for key in keys), 1.0)
    entry = _aligned(8 + nulls + width) + _LINE_POINTER_BYTES
    leaves = entries * entry / (_GIST_ROOM_BYTES * _gist_fill(request, keys))
    inner = leaves * (entry + 8) / (_GIST_ROOM_BYTES * _INSERTED_FILL)
    return IndexSize(max(math.ceil(leaves), 1) + (math.ceil(inner) if leaves > 1 else 0), 0, entries)


def spgist_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of an SP-GiST index; NULL keys are indexed."""
    key = request.keys()[0]
    entries = request.entries
    entry = _aligned(16 + _spgist_bytes(key) * (1 - key.null_share)) + _LINE_POINTER_BYTES
    leaves = entries * entry / (_SPGIST_ROOM_BYTES * _SPGIST_FILL)
    return IndexSize(3 + math.ceil(leaves), 0, entries)


def bloom_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of an index of the extension bloom: one signature a row.

    Errors: `SqlError` when `length` is out of bounds.
    """
    bits = request.whole_option("length", _BLOOM_DEFAULT_BITS, 1, _BLOOM_MOST_BITS)
    entry = _BLOOM_HEADER_BYTES + -(-bits // _BLOOM_WORD_BITS) * 2
    pages = math.ceil(request.entries / ((BLOCK_BYTES - 24 - 8) // entry))
    return IndexSize(1 + pages, 0, request.entries)


def _gist_fill(request: IndexRequest, keys: tuple[Key, ...]) -> float:
    version = request.catalog.server_version_num
    names = {parse_type(key.type)[0] for key in keys}
    if len(keys) == 1 and names == {"point"} and version >= 140000:
        return _CURVE_FILL
    plain = all(_is_scalar(key) for key in keys)
    return _SORTED_FILL if plain and version >= 180000 and len(keys) == 1 else _INSERTED_FILL


def _is_scalar(key: Key) -> bool:
    """Whether btree_gist's operator class for a scalar type is used."""
    name, _, is_array = parse_type(key.type)
    return not is_array and not key.opclass.endswith("trgm_ops") and _special_bytes(key, name) is None


def _gist_bytes(key: Key) -> float:
    """Bytes of a leaf's key."""
    name, _, is_array = parse_type(key.type)
    if key.opclass.endswith("trgm_ops"):
        return 5 + 3 * keys_a_row(key)
    special = _special_bytes(key, name)
    if special is not None:
        return special
    form = attribute(key.type, None, key.statistics)
    width = mean_width(key)
    if form.fixed and not is_array:
        return max(2 * width, 8)  # lower and upper bound, equal in a leaf
    return width + 8 if name in ("text", "character varying", "character", "bytea", "numeric") else width


def _special_bytes(key: Key, name: str) -> float | None:
    if name in _GEOMETRIC:
        return _GEOMETRIC[name]
    if name == "tsvector":
        array = 8 + 4 * keys_a_row(key)
        return array if array <= _LARGEST_ARRAY_BYTES else _SIGNATURE_BYTES
    if name in _SCALARS or name.endswith("range"):
        return _RANGE_OVERHEAD_BYTES + 2 * _SCALARS.get(name, 8)
    if name in ("inet", "cidr"):
        return 8
    return None


def _spgist_bytes(key: Key) -> float:
    """Bytes of a leaf's value; of texts, inner nodes hold what they have in common and tell apart."""
    name, _, _ = parse_type(key.type)
    if name == "point":
        return _POINT_BYTES
    if name == "box":
        return _BOX_BYTES
    if name == "polygon":
        return _BOX_BYTES
    if name in _SCALARS or name.endswith("range"):
        return _RANGE_OVERHEAD_BYTES + 2 * _SCALARS.get(name, 8)
    width = mean_width(key)
    return max(width - _told_apart(key), 1) if name in ("text", "character varying", "character") else width


def _told_apart(key: Key) -> float:
    """Characters at a text's beginning that inner nodes hold: those that all have, and those of some levels."""
    values = key.statistics.histogram_bounds if key.statistics is not None else ()
    if len(values) < 2:
        return _TEXT_LEVELS
    pairs = zip(values[0], values[-1], strict=False)  # in order, so all between them begin alike
    return _TEXT_LEVELS + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _aligned(length: float) -> int:
    return -(-math.ceil(length) // 8) * 8
