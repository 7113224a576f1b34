"""How PostgreSQL stores multivariate statistics: read from its bytes and written to them, with everything checked.

A source's bytes never reach a server of ours: they are read here, and written anew with the numbers that the columns
have there. `pg_mcv_list` holds values of any type, so its bytes are not read at all; our own server makes the list from
the values' text, and only the frequencies of what it made are set here (`extended_restore.py`).

Formats: `statext_ndistinct_serialize` (mvdistinct.c), `statext_dependencies_serialize` (dependencies.c) and
`statext_mcv_serialize` (mcv.c), the same in PostgreSQL 13 to 18.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Most columns and expressions that one statistics object has (STATS_MAX_DIMENSIONS).
MAX_DIMENSIONS = 8
#: Most entries of an MCV list (STATS_MCVLIST_MAX_ITEMS).
MAX_ITEMS = 10_000
#: Combinations of 8 dimensions; for dependencies each of their columns may be the determined one.
_MAX_COMBINATIONS = MAX_DIMENSIONS * 2**MAX_DIMENSIONS
_NDISTINCT, _DEPENDENCIES, _MCV = 0xA352BFA4, 0xB4549A2C, 0xE1A651C2
_BASIC_TYPE = 1
_DEPENDENCY = re.compile(r"^(-?\d+(?:, -?\d+)*) => (-?\d+)$")

#: A number that PostgreSQL found for a combination of columns, given by their numbers; expressions have negative ones.
Combination = tuple[tuple[int, ...], float]


class MalformedError(ValueError):
    """Statistics that PostgreSQL would not have written."""


def read_ndistinct(data: bytes) -> tuple[Combination, ...]:
    """Read the numbers of distinct combinations out of a `pg_ndistinct`, of a machine of either byte order.

    Errors: `MalformedError`.
    """
    order, count, rest = _header(data, _NDISTINCT)
    return _checked(_combinations(rest, count, f"{order}di"), most=math.inf)


def read_dependencies(data: bytes) -> tuple[Combination, ...]:
    """Read the degrees of functional dependencies, 0 to 1, out of a `pg_dependencies`; the last column is determined.

    Errors: `MalformedError`.
    """
    order, count, rest = _header(data, _DEPENDENCIES)
    return _checked(_combinations(rest, count, f"{order}dh"), most=1.0)


def parse_ndistinct(text: str) -> tuple[Combination, ...]:
    """Read what `pg_stats_ext.n_distinct` shows: `{"1, 2": 40}`.

    Errors: `MalformedError`.
    """
    found = [(tuple(map(int, key.split(", "))), value) for key, value in _object(text) if _is_numbers(key)]
    return _checked(found, most=math.inf)


def parse_dependencies(text: str) -> tuple[Combination, ...]:
    """Read what `pg_stats_ext.dependencies` shows: `{"1 => 2": 1.000000}`, six digits of each degree.

    Errors: `MalformedError`.
    """
    found = []
    for key, value in _object(text):
        match = _DEPENDENCY.match(key)
        if match is None:
            raise MalformedError("a dependency without columns")
        found.append(((*map(int, match[1].split(", ")), int(match[2])), value))
    return _checked(found, most=1.0)


def renumbered(found: Iterable[Combination], numbers: Mapping[int, int]) -> tuple[Combination, ...]:
    """Give the columns other numbers; dropped columns leave gaps at a source that its clone does not have.

    Errors: `MalformedError` for a number that the statistics object does not have.
    """
    try:
        return tuple((tuple(numbers[number] for number in columns), value) for columns, value in found)
    except KeyError:
        raise MalformedError("a column that the statistics are not about") from None


def ndistinct_bytes(found: Sequence[Combination]) -> bytes:
    """Return a `pg_ndistinct` of this machine."""
    parts = [struct.pack(f"=di{len(columns)}h", value, len(columns), *columns) for columns, value in found]
    return struct.pack("=III", _NDISTINCT, _BASIC_TYPE, len(found)) + b"".join(parts)


def dependencies_bytes(found: Sequence[Combination]) -> bytes:
    """Return a `pg_dependencies` of this machine."""
    parts = [struct.pack(f"=dh{len(columns)}h", value, len(columns), *columns) for columns, value in found]
    return struct.pack("=III", _DEPENDENCIES, _BASIC_TYPE, len(found)) + b"".join(parts)


def with_frequencies(data: bytes, order: Sequence[int], frequencies: Sequence[tuple[float, float]]) -> bytes:
    """Set the frequencies of a `pg_mcv_list` that a server of ours made, and the order of its items.

    Parameters:
        data: the list.
        order: for each item wanted, its place in the list.
        frequencies: for each item wanted, how often it occurs, and how often it would if columns were independent.

    Errors: `MalformedError` when the list is not what `statext_mcv_serialize` writes.
    """
    try:
        magic, kind, count, dimensions = struct.unpack_from("=IIIh", data)
        size = dimensions + 16 + 2 * dimensions
        head = len(data) - count * size
        if (magic, kind) != (_MCV, _BASIC_TYPE) or sorted(order) != list(range(count)) or head < 0:
            raise MalformedError("an MCV list of another form")
        items = []
        for place, (frequency, base) in zip(order, frequencies, strict=True):
            item = bytearray(data[head + place * size : head + (place + 1) * size])
            struct.pack_into("=dd", item, dimensions, frequency, base)
            items.append(bytes(item))
    except struct.error:
        raise MalformedError("an MCV list that is cut off") from None
    return data[:head] + b"".join(items)


def _header(data: bytes, magic: int) -> tuple[str, int, bytes]:
    for order in "<>":
        if len(data) >= 12 and struct.unpack_from(f"{order}II", data) == (magic, _BASIC_TYPE):
            (count,) = struct.unpack_from(f"{order}I", data, 8)
            if not 0 < count <= _MAX_COMBINATIONS:
                break
            return order, count, data[12:]
    raise MalformedError("statistics of another form")


def _combinations(data: bytes, count: int, head: str) -> list[Combination]:
    found = []
    at = 0
    try:
        for _ in range(count):
            value, columns = struct.unpack_from(head, data, at)
            if not 2 <= columns <= MAX_DIMENSIONS:
                raise MalformedError("a combination of too many columns")
            at += struct.calcsize(head)
            found.append((struct.unpack_from(f"{head[0]}{columns}h", data, at), value))
            at += 2 * columns
    except struct.error:
        raise MalformedError("statistics that are cut off") from None
    if at != len(data):
        raise MalformedError("statistics with something behind them")
    return found


def _object(text: str) -> Iterator[tuple[str, float]]:
    try:
        found = json.loads(text)
        yield from ((str(key), float(value)) for key, value in found.items())
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise MalformedError("statistics of another form") from None


def _is_numbers(key: str) -> bool:
    if re.fullmatch(r"-?\d{1,5}(, -?\d{1,5}){1,7}", key) is None:
        raise MalformedError("a combination without columns")
    return True


def _checked(found: Sequence[Combination], *, most: float) -> tuple[Combination, ...]:
    for columns, value in found:
        if not (0 <= value <= most and math.isfinite(value)):
            raise MalformedError("a number that cannot be")
        if not 2 <= len(set(columns)) == len(columns) <= MAX_DIMENSIONS:
            raise MalformedError("a combination that repeats a column")
    if not 0 < len(found) <= _MAX_COMBINATIONS:
        raise MalformedError("no combination, or too many")
    return tuple(found)
