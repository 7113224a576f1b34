"""How many index entries are equal: sizes of the groups that deduplication merges, from column statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from optimizer.catalog import ColumnStatistics

#: `DEFAULT_NUM_DISTINCT` (selfuncs.h): distinct values of a column without statistics.
DEFAULT_DISTINCT = 200.0
#: Classes kept of one key; beyond it, classes of like size are merged.
_MOST_CLASSES = 48
_POISSON_BELOW = 24.0
#: Quadrature points of a standard normal, with weights.
_NORMAL = ((-1.75, 0.1), (-0.85, 0.25), (0.0, 0.3), (0.85, 0.25), (1.75, 0.1))


@dataclass(frozen=True, slots=True)
class ValueClass:
    """`count` possible values, each of which a row has with probability `share`."""

    count: float
    share: float


@dataclass(frozen=True, slots=True)
class KeyValues:
    """The values of one key column, or of several together; `distinct` rows at least are all different if `unique`."""

    classes: tuple[ValueClass, ...]
    unique: bool = False

    def distinct(self, rows: float) -> float:
        """Expected number of different values among `rows` rows."""
        if self.unique:
            return rows
        found = sum(c.count * -math.expm1(-rows * c.share) for c in self.classes)
        return min(max(found, 1.0), rows) if rows > 0 else 0.0

    def groups(self, rows: float) -> Iterator[tuple[float, float]]:
        """Yield (rows of a group, number of such groups); sizes are whole numbers, counts need not be."""
        if self.unique:
            yield 1.0, rows
            return
        for part in self.classes:
            yield from _group_sizes(part.count, rows * part.share)


def uniform(distinct: float) -> KeyValues:
    """Return the values of a key with that many values, all equally common."""
    return KeyValues((ValueClass(distinct, 1 / distinct),))


def column_values(statistics: ColumnStatistics | None, table_rows: float, *, type_name: str = "") -> KeyValues:
    """Return the values of one column.

    Parameters:
        statistics: None where there are none.
        table_rows: of the whole table.
        type_name: a boolean has two values even without statistics.
    """
    rows = max(table_rows, 1.0)
    if statistics is None:
        distinct = min(2.0 if type_name == "boolean" else DEFAULT_DISTINCT, rows)
        return uniform(distinct)
    n_distinct = statistics.n_distinct
    if n_distinct <= -1 and not statistics.null_frac:
        return KeyValues((), unique=True)
    distinct = n_distinct if n_distinct > 0 else -n_distinct * rows
    distinct = distinct or min(DEFAULT_DISTINCT, rows)
    common = statistics.most_common_freqs
    classes = [ValueClass(1.0, share) for share in common if share > 0]
    if statistics.null_frac > 0:
        classes.append(ValueClass(1.0, statistics.null_frac))
    rest = 1 - statistics.null_frac - sum(common)
    rest_distinct = distinct - len(common)
    if rest * rows >= 1 and rest_distinct >= 1:
        classes.append(_latent(rest, min(rest_distinct, rest * rows), rows))
    return KeyValues(tuple(classes)) if classes else uniform(1.0)


def together(parts: Sequence[KeyValues]) -> KeyValues:
    """Return the values of several columns together, taken as independent."""
    if any(p.unique for p in parts):
        return KeyValues((), unique=True)
    classes: tuple[ValueClass, ...] = ()
    for number, part in enumerate(parts):
        few = _merged(part.classes)
        found = [ValueClass(a.count * b.count, a.share * b.share) for a in classes for b in few] if number else few
        classes = _merged(found)
    return KeyValues(classes if parts else (ValueClass(1.0, 1.0),))


def _latent(rest: float, distinct: float, rows: float) -> ValueClass:
    """The class of the values beyond the most common ones.

    The values seen are those that some row has. With a Poisson number of rows each, lambda / (1 - exp(-lambda)) rows
    fall on each value seen; solving for lambda gives how many values there could be.
    """
    mean = rest * rows / distinct
    if mean <= 1.0 + 1e-9:
        return ValueClass(1e12, rest / 1e12)
    rate = mean
    for _ in range(30):
        rate = mean * -math.expm1(-rate)
    rate = max(rate, 1e-9)
    count = rest * rows / rate
    return ValueClass(count, rest / count)


def _merged(classes: Iterable[ValueClass]) -> tuple[ValueClass, ...]:
    """Merge classes of like share until few are left; the most common come first."""
    ordered = sorted(classes, key=lambda c: -c.share)
    if len(ordered) <= _MOST_CLASSES:
        return tuple(ordered)
    low, high = math.log(max(ordered[-1].share, 1e-300)), math.log(max(ordered[0].share, 1e-300))
    step = (high - low) / _MOST_CLASSES or 1.0
    buckets: dict[int, tuple[float, float]] = {}
    for part in ordered:
        key = int((math.log(max(part.share, 1e-300)) - low) / step)
        count, total = buckets.get(key, (0.0, 0.0))
        buckets[key] = (count + part.count, total + part.count * part.share)
    return tuple(ValueClass(count, total / count) for count, total in buckets.values() if count > 0)


def _group_sizes(count: float, rate: float) -> Iterator[tuple[float, float]]:
    """Sizes of `count` groups with `rate` rows each on average, empty ones left out."""
    if rate <= 0:
        return
    if rate >= _POISSON_BELOW:
        spread = math.sqrt(rate)
        for point, weight in _NORMAL:
            yield max(round(rate + point * spread), 1), count * weight
        return
    probability = math.exp(-rate)
    size = 0
    remaining = rate  # rows of one group still to be handed out
    while remaining > 1e-6 * rate and size < 200:
        size += 1
        probability *= rate / size
        remaining -= size * probability
        yield size, count * probability
