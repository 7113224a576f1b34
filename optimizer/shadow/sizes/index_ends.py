"""First and last entry of a hypothetical B-tree, from the column's statistics.

For a value in the outermost bin of a histogram, or beyond it, the planner asks an index for the column's real ends
(`get_actual_variable_range`, selfuncs.c), and plans other row counts than without one. What a real index would answer
is not known here; as long as the table has not grown since ANALYZE looked at it, the ends that ANALYZE saw stand in for
them. Where it has grown they are stale, and the index is left without entries: the planner then keeps the histogram.

Entries are encoded here for types of PostgreSQL's own; formats: `access/itup.h`, `varatt.h`, numeric.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg import pq

from optimizer.catalog import Column, Table
from optimizer.shadow.sizes.index_width import parse_type

#: Growth in pages that ANALYZE itself would not have noticed.
_GROWN: Final = 1.01
_LONGEST: Final = 100
_HAS_NULLS, _HAS_VARIABLE_WIDTH = 0x8000, 0x4000
# TYPE is one of ours; `character` without a length would mean one character. The column here decides, whatever the
# catalog of the source says: an entry of another type would be misread.
_ENDS: Final = """
    SELECT a[1], a[cardinality(a)]
      FROM (SELECT ARRAY(SELECT v FROM unnest($1::TYPE[]) v ORDER BY v)) s(a)
     WHERE EXISTS (SELECT FROM pg_attribute t
                    WHERE t.attrelid = $2::oid AND t.attname = $3::name AND t.atttypid = 'TYPE'::regtype
                      AND t.attcollation IN (0, 'pg_catalog."default"'::regcollation))"""
_NUMERIC_SHORT, _NUMERIC_NEGATIVE = 0x8000, 0x4000


def column_ends(superuser: psycopg.Connection[Any], table: int, column: Column) -> tuple[bytes, bytes] | None:
    """Return a column's least and greatest value by its statistics, as an index entry stores them.

    Parameters:
        superuser: for the type's own order; only values of PostgreSQL's own types are read there.
        table: OID of the column's table there.
        column: with statistics.

    Returns: None where the statistics hold no values, the type is not encoded here, or the order is not the database's.

    Errors: `psycopg.Error`.
    """
    name, _modifier, is_array = parse_type(column.type)
    known = column.statistics
    if known is None or is_array or name not in _ENCODED or column.type_kind != "base" or column.collation is not None:
        return None
    values = [*known.most_common_vals, *known.histogram_bounds]
    if not known.histogram_bounds or not values:
        return None
    found = superuser.pgconn.exec_params(
        _ENDS.replace("TYPE", "bpchar" if name == "character" else name).encode(),
        [_array(values), str(table).encode(), column.name.encode()],
        result_format=1,
    )
    if found.status != pq.ExecStatus.TUPLES_OK or not found.ntuples:
        return None
    first, last = (_ENCODED[name](found.get_value(0, place) or b"") for place in (0, 1))
    return (first, last) if first is not None and last is not None else None


def leaf_of(ends: tuple[bytes, bytes], column: Column, attributes: int, *, descending: bool) -> tuple[bytes, bytes]:
    """Return the first and the last entry of an index whose first key is that column; its other attributes are NULL.

    Parameters:
        ends: as `column_ends` returns them.
        attributes: of the index, included ones too.
        descending: of the first key.
    """
    first, last = reversed(ends) if descending else ends
    variable = parse_type(column.type)[0] in _VARIABLE
    return _entry(first, attributes, variable), _entry(last, attributes, variable)


def has_grown(table: Table, analyzed_pages: int) -> bool:
    """Say whether a table has more pages than when its statistics were gathered."""
    return table.pages > analyzed_pages * _GROWN + 1


def _entry(data: bytes, attributes: int, variable: bool) -> bytes:
    info = _HAS_VARIABLE_WIDTH if variable else 0
    head = b""
    if attributes > 1:
        info |= _HAS_NULLS
        head = b"\x01".ljust(8, b"\0")  # a bit for each attribute: only the first is there
    body = head + data
    size = 8 + -(-len(body) // 8) * 8
    return struct.pack("<HHHH", 0, 0, 1, info | size) + body.ljust(size - 8, b"\0")


def _array(values: list[str]) -> bytes:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return ("{" + ",".join(f'"{value}"' for value in quoted) + "}").encode()


def _reversed(value: bytes) -> bytes:
    return value[::-1]


def _same(value: bytes) -> bytes:
    return value


def _short(value: bytes) -> bytes | None:
    """A value of variable length behind a header of one byte; longer ones are left out."""
    return bytes([(len(value) + 1) << 1 | 1]) + value if len(value) <= _LONGEST else None


def _numeric(value: bytes) -> bytes | None:
    """What `numeric_send` gave, as `NumericShort` stores it; None for what does not fit, for NaN and infinity."""
    count, weight, sign, scale = struct.unpack_from(">HhHH", value)
    if sign not in (0, _NUMERIC_NEGATIVE) or not -64 <= weight <= 63 or scale > 63:
        return None
    header = _NUMERIC_SHORT | (0x2000 if sign else 0) | scale << 7 | (0x40 if weight < 0 else 0) | weight & 0x3F
    digits = struct.unpack_from(f">{count}h", value, 8)
    return _short(struct.pack(f"<H{count}h", header, *digits))


def _interval(value: bytes) -> bytes:
    """Microseconds, days and months, each by itself."""
    return value[7::-1] + value[11:7:-1] + value[15:11:-1]


def _network(value: bytes) -> bytes | None:
    """Family, bits and address; what is sent between them tells inet from cidr, and the address's length."""
    return _short(value[:2] + value[4:])


#: By the name that `format_type` prints: from what the type sends to what is stored on a little-endian machine.
_FIXED: Final[Mapping[str, Callable[[bytes], bytes | None]]] = MappingProxyType(
    dict.fromkeys(
        (
            "smallint",
            "integer",
            "bigint",
            "date",
            "double precision",
            "real",
            "timestamp with time zone",
            "timestamp without time zone",
        ),
        _reversed,
    )
    | {"uuid": _same, "boolean": _same, "interval": _interval}
)
_VARIABLE: Final[Mapping[str, Callable[[bytes], bytes | None]]] = MappingProxyType(
    dict.fromkeys(("text", "character varying", "character"), _short) | {"numeric": _numeric, "inet": _network}
)
_ENCODED: Final = MappingProxyType({**_FIXED, **_VARIABLE})
