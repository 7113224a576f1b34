"""Width of index entries: how many bytes each attribute takes, as a distribution over the rows.

Averages are not enough, since every entry is rounded up to 8 bytes (MAXALIGN): the lengths of the values that the
statistics hold give the spread. Sources: `index_form_tuple` (indextuple.c), `heap_compute_data_size` (heaptuple.c),
`get_typavgwidth` (lsyscache.c), `NumericShort` (numeric.c).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from optimizer.catalog import Column, ColumnStatistics

#: Share of rows by bytes; None stands for NULL.
Widths = Mapping[int | None, float]

_MAX_SHORT_BYTES = 127
#: Different widths kept of one attribute, and of one entry while it is put together.
_MOST_WIDTHS = 24
_HEADER_BYTES, _HEADER_WITH_NULLS_BYTES = 8, 16
_TYPE = re.compile(r"^(?P<name>[^(\[]+)(\((?P<modifier>\d+)[^)]*\))?(?P<rest>[^\[]*)(?P<array>(\[\d*\])*)$")

# Bytes and alignment of the types of fixed length that B-trees take (pg_type: typlen, typalign).
_FIXED: Final = MappingProxyType(
    {
        "boolean": (1, 1),
        '"char"': (1, 1),
        "smallint": (2, 2),
        "integer": (4, 4),
        "oid": (4, 4),
        "real": (4, 4),
        "date": (4, 4),
        "tid": (6, 2),
        "macaddr": (6, 4),
        "macaddr8": (8, 4),
        "bigint": (8, 8),
        "double precision": (8, 8),
        "money": (8, 8),
        "timestamp without time zone": (8, 8),
        "timestamp with time zone": (8, 8),
        "time without time zone": (8, 8),
        "time with time zone": (12, 8),
        "pg_lsn": (8, 8),
        "xid8": (8, 8),
        "interval": (16, 8),
        "uuid": (16, 1),
    }
)

# Types whose operator class has no equalimage function, so that equal values may differ in bytes and are never
# deduplicated (pg_amproc.dat: B-tree support function 4). Arrays, ranges and composites are told by their form.
_NOT_DEDUPLICATED: Final = frozenset(
    {"numeric", "real", "double precision", "interval", "jsonb", "record", "tsvector", "tsquery", "citext", "hstore"}
)
#: Types of variable length without a schema in their names, hence of pg_catalog.
_BUILT_IN: Final = frozenset({"text", "character varying", "character", "numeric", "bytea", "inet", "cidr", "jsonb"})
_RANGES: Final = frozenset({"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"})


@dataclass(frozen=True, slots=True)
class Attribute:
    """How one attribute is stored in index entries.

    Parameters:
        widths: bytes of the values without alignment padding; NULL included.
        align: the type's alignment in bytes; values of variable length up to 127 bytes have none.
        fixed: whether the type has a fixed length.
    """

    widths: Widths
    align: int
    fixed: bool

    def present(self) -> Attribute:
        """The same where it is not NULL."""
        there = 1 - self.widths.get(None, 0.0)
        if there == 1 or there <= 0:
            return self
        widths: dict[int | None, float] = {w: share / there for w, share in self.widths.items() if w is not None}
        return Attribute(MappingProxyType(widths), self.align, self.fixed)


def attribute(type_name: str, column: Column | None, statistics: ColumnStatistics | None) -> Attribute:
    """Describe one attribute.

    Parameters:
        type_name: as `format_type` prints it.
        column: the plain column, None for an expression.
        statistics: of the column or expression; None where there are none.
    """
    null_share = statistics.null_frac if statistics is not None else 0.0
    common, rest, (align, fixed) = _stored_widths(type_name, column, statistics)
    shares: dict[int, float] = defaultdict(float, common)
    for width, share in rest.items():
        shares[width] += share
    return Attribute(_with_nulls(shares, null_share), align, fixed)


def split_attribute(
    type_name: str, column: Column | None, statistics: ColumnStatistics | None
) -> tuple[Attribute, Attribute, Attribute]:
    """Describe one attribute where it is NULL, where it is one of the most common values, and where it is another.

    Parameters as for `attribute`.
    """
    common, rest, (align, fixed) = _stored_widths(type_name, column, statistics)
    common, rest = common or rest, rest or common
    null = Attribute(_with_nulls({}, 1.0), align, fixed)
    return null, Attribute(_with_nulls(common, 0.0), align, fixed), Attribute(_with_nulls(rest, 0.0), align, fixed)


def _stored_widths(
    type_name: str, column: Column | None, statistics: ColumnStatistics | None
) -> tuple[Mapping[int, float], Mapping[int, float], tuple[int, bool]]:
    """Shares by width of the most common values and of the others, and the type's alignment and whether it is fixed."""
    if column is not None and column.type_kind == "enum":
        return {}, {4: 1.0}, (4, True)
    name, modifier, is_array = parse_type(type_name)
    if name in _FIXED and not is_array:
        length, align = _FIXED[name]
        return {}, {length: 1.0}, (align, True)
    return *_variable_widths(name, modifier, is_array, statistics), (4, False)


def parse_type(type_name: str) -> tuple[str, int | None, bool]:
    """Split what `format_type` prints into the bare name, its first modifier, and whether it is an array."""
    match = _TYPE.match(type_name.strip())
    if match is None:
        return type_name, None, False
    modifier = int(match["modifier"]) if match["modifier"] else None
    return f"{match['name'].strip()}{match['rest']}".strip(), modifier, bool(match["array"])


def is_built_in(type_name: str) -> bool:
    """Say whether a type, as `format_type` prints it, is a scalar of PostgreSQL's own that B-trees take."""
    name, _modifier, is_array = parse_type(type_name)
    return not is_array and (name in _FIXED or name in _BUILT_IN)


def deduplicates(type_name: str, column: Column | None) -> bool:
    """Say whether a B-tree may merge equal values of this type into posting lists (`_bt_allequalimage`)."""
    name, _modifier, is_array = parse_type(type_name)
    if is_array or name in _NOT_DEDUPLICATED or name in _RANGES or name.endswith("multirange"):
        return False
    if name.rpartition(".")[2] in _NOT_DEDUPLICATED:  # an extension's type with its schema
        return False
    return column is None or (column.deterministic and column.type_kind not in ("composite", "range", "multirange"))


def entry_sizes(attributes: Sequence[Attribute]) -> dict[int, float]:
    """Return the shares of rows by size of their index entry: header, attributes, padding to 8 bytes."""
    # State: (end of the data so far, whether there was a NULL).
    states: dict[tuple[int, bool], float] = {(0, False): 1.0}
    for part in attributes:
        following: dict[tuple[int, bool], float] = defaultdict(float)
        for (end, nulls), share in states.items():
            for width, width_share in part.widths.items():
                if width is None:
                    following[end, True] += share * width_share
                else:
                    unaligned = not part.fixed and width <= _MAX_SHORT_BYTES
                    start = end if unaligned else _aligned(end, part.align)
                    following[start + width, nulls] += share * width_share
        states = _thinned(following)
    sizes: dict[int, float] = defaultdict(float)
    for (end, nulls), share in states.items():
        sizes[_aligned((_HEADER_WITH_NULLS_BYTES if nulls else _HEADER_BYTES) + end, 8)] += share
    return dict(sizes)


def _variable_widths(
    name: str, modifier: int | None, is_array: bool, statistics: ColumnStatistics | None
) -> tuple[Mapping[int, float], Mapping[int, float]]:
    if statistics is None:
        return {}, {_default_width(name, modifier): 1.0}
    measure = None if is_array else _MEASURES.get(name)
    if measure is None:
        return {}, {max(statistics.avg_width, 1): 1.0}
    common, rest = _sampled_widths(measure, statistics)
    total = sum(common.values()) + sum(rest.values())
    mean = sum(width * share for part in (common, rest) for width, share in part.items()) / total if total else 0.0
    # Values of more than 1 kB are left out of the lists, and compressed ones are shorter than they look.
    if not total or abs(mean - statistics.avg_width) > max(2.0, 0.25 * statistics.avg_width):
        return {}, {max(statistics.avg_width, 1): 1.0}
    return common, rest


def _sampled_widths(
    measure: Callable[[str], int], statistics: ColumnStatistics
) -> tuple[dict[int, float], dict[int, float]]:
    """Shares by width: common values weigh what they weigh, histogram bounds share the rest alike."""
    common: dict[int, float] = defaultdict(float)
    rest: dict[int, float] = defaultdict(float)
    for value, share in zip(statistics.most_common_vals, statistics.most_common_freqs, strict=False):
        common[_with_header(measure(value))] += share
    left = max(1 - statistics.null_frac - sum(statistics.most_common_freqs), 0.0)
    for value in statistics.histogram_bounds if left > 0 else ():
        rest[_with_header(measure(value))] += left / len(statistics.histogram_bounds)
    return common, rest


def _with_header(data_bytes: int) -> int:
    return data_bytes + 1 if data_bytes + 1 <= _MAX_SHORT_BYTES else data_bytes + 4


def _text_bytes(value: str) -> int:
    return len(value.encode())


def _numeric_bytes(value: str) -> int:
    """Bytes of a numeric without the varlena header: a short header and base-10000 digits without outer zeros."""
    whole, _point, fraction = value.lstrip("+-").partition(".")
    if not whole.isdigit():  # NaN, Infinity
        return 2
    padded = whole.zfill(-(-len(whole) // 4) * 4) + fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    digits = [padded[i : i + 4] for i in range(0, len(padded), 4)]
    while digits and digits[0] == "0000":
        digits.pop(0)
    while digits and digits[-1] == "0000":
        digits.pop()
    return 2 + 2 * len(digits)


def _bytea_bytes(value: str) -> int:
    return (len(value) - 2) // 2 if value.startswith("\\x") else len(value)


_MEASURES: Final[Mapping[str, Callable[[str], int]]] = MappingProxyType(
    {
        "text": _text_bytes,
        "character varying": _text_bytes,
        "character": _text_bytes,
        "citext": _text_bytes,
        "numeric": _numeric_bytes,
        "bytea": _bytea_bytes,
    }
)


def _default_width(name: str, modifier: int | None) -> int:
    """The planner's guess without statistics."""
    if name in ("character", "character varying") and modifier is not None:
        length = modifier + 4
        if name == "character" or length <= 32:
            return length
        return 32 + (min(length, 1000) - 32) // 2
    return 32


def _with_nulls(widths: Mapping[int, float], null_share: float) -> Widths:
    shares: dict[int | None, float] = {}
    total = sum(widths.values())
    if null_share < 1 and total > 0:
        shares.update((width, share / total * (1 - null_share)) for width, share in _limited(widths))
    if null_share > 0:
        shares[None] = null_share
    return MappingProxyType(shares)


def _limited(widths: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    """Keep at most `_MOST_WIDTHS` widths: neighbours are merged into their rounded mean."""
    known = sorted(widths.items())
    step = math.ceil(len(known) / _MOST_WIDTHS) or 1
    for at in range(0, len(known), step):
        group = known[at : at + step]
        share = sum(s for _, s in group)
        if share > 0:
            yield round(sum(w * s for w, s in group) / share), share


def _thinned(states: Mapping[tuple[int, bool], float]) -> dict[tuple[int, bool], float]:
    """Bound the number of states of one entry: beyond it, ends are merged in steps of 8 bytes, the padding's grain."""
    if len(states) <= 4 * _MOST_WIDTHS:
        return dict(states)
    merged: dict[tuple[int, bool], float] = defaultdict(float)
    sums: dict[tuple[int, bool], float] = defaultdict(float)
    for (end, nulls), share in states.items():
        merged[end // 8, nulls] += share
        sums[end // 8, nulls] += share * end
    return {(round(sums[key] / share), key[1]): share for key, share in merged.items() if share > 0}


def _aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align
