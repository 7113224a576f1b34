"""How many index entries are equal: sizes of the groups that deduplication merges, from column statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from optimizer.catalog import ColumnStatistics
from optimizer.shadow.sizes.index_distinct import DEFAULT_TARGET, ROWS_PER_TARGET, Sample, ValueClass, values_beyond

#: `DEFAULT_NUM_DISTINCT` (selfuncs.h): distinct values of a column without statistics.
DEFAULT_DISTINCT = 200.0
#: Classes kept of one key; beyond it, classes of like size are merged.
_MOST_CLASSES = 24
_POISSON_BELOW = 12.0
#: Quadrature points of a standard normal, with weights.
_NORMAL = ((-1.75, 0.1), (-0.85, 0.25), (0.0, 0.3), (0.85, 0.25), (1.75, 0.1))


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

    def groups(self, rows: float) -> Iterator[tuple[int, float]]:
        """Yield (rows of a group, number of such groups); sizes are whole numbers, counts need not be."""
        if self.unique:
            yield 1, rows
            return
        for part in self.classes:
            yield from _group_sizes(part.count, rows * part.share)


def uniform(distinct: float) -> KeyValues:
    """Return the values of a key with that many values, all equally common."""
    return KeyValues((ValueClass(distinct, 1 / distinct),))


@dataclass(frozen=True, slots=True)
class ColumnValues:
    """The values of one column: share of NULLs, its most common values one by one, and the others in classes."""

    null_share: float
    common: tuple[ValueClass, ...]
    rest: tuple[ValueClass, ...]
    unique: bool = False

    @property
    def together(self) -> KeyValues:
        """All of them."""
        null = (ValueClass(1.0, self.null_share),) if self.null_share > 0 else ()
        return KeyValues((*self.common, *null, *self.rest), self.unique)

    def present(self) -> ColumnValues:
        """The values of the rows that are not NULL."""
        if not 0 < self.null_share < 1:
            return self
        scale = 1 / (1 - self.null_share)
        common, rest = (tuple(ValueClass(c.count, c.share * scale) for c in part) for part in (self.common, self.rest))
        return ColumnValues(0.0, common, rest, self.unique)


def split_values(
    statistics: ColumnStatistics | None, table_rows: float, *, type_name: str = "", target: int = DEFAULT_TARGET
) -> ColumnValues:
    """Return the values of one column, apart by what the statistics know of them.

    Parameters:
        statistics: None where there are none.
        table_rows: of the whole table.
        type_name: a boolean has two values even without statistics.
        target: the statistics target that decided how many of the table's rows ANALYZE looked at.
    """
    rows = max(table_rows, 1.0)
    if statistics is None:
        distinct = min(2.0 if type_name == "boolean" else DEFAULT_DISTINCT, rows)
        return ColumnValues(0.0, (), uniform(distinct).classes)
    null_share, n_distinct = min(max(statistics.null_frac, 0.0), 1.0), statistics.n_distinct
    if n_distinct <= -1 and not null_share:
        return ColumnValues(0.0, (), (), unique=True)
    present = rows * (1 - null_share)
    shares = [share for share in statistics.most_common_freqs if share > 0]
    common = tuple(ValueClass(1.0, share) for share in shares)
    if present < 1:
        return ColumnValues(null_share, common, ())
    full = len(shares) >= max(len(statistics.histogram_bounds) - 1, 1)
    distinct = n_distinct if n_distinct > 0 else -n_distinct * rows
    sample = Sample(
        rows=present,
        sampled=min(present, ROWS_PER_TARGET * target * (1 - null_share)),
        distinct=distinct or min(DEFAULT_DISTINCT, present),
        listed=len(shares),
        listed_share=min(sum(shares) / (1 - null_share), 1.0),
        least_share=shares[-1] / (1 - null_share) if full and shares else 0.0,
        slope=_slope(shares),
    )
    rest = tuple(ValueClass(part.count, part.share * (1 - null_share)) for part in values_beyond(sample))
    if not (common or rest or null_share):
        rest = uniform(1.0).classes
    return ColumnValues(null_share, common, rest)


def _slope(shares: Sequence[float]) -> float:
    """Exponent by which a falling list of shares falls from a quarter of it to its end."""
    quarter = len(shares) // 4
    if quarter < 1:
        return 0.0
    return math.log(shares[quarter] / shares[-1]) / math.log(len(shares) / (quarter + 1))


def column_values(
    statistics: ColumnStatistics | None, table_rows: float, *, type_name: str = "", target: int = DEFAULT_TARGET
) -> KeyValues:
    """Return the values of one column; parameters as for `split_values`."""
    return split_values(statistics, table_rows, type_name=type_name, target=target).together


def at_most(values: KeyValues, possible: float) -> KeyValues:
    """Return the values, when there are no more than `possible` different ones: the rarer ones are fewer."""
    number = sum(part.count for part in values.classes)
    if values.unique or number <= possible:
        return values
    rare = sum(part.count for part in values.classes if part.share * possible < 1)
    scale = max(possible - (number - rare), 1.0) / max(rare, 1e-9)
    if scale >= 1:
        return values
    classes = [ValueClass(p.count * scale, p.share / scale) if p.share * possible < 1 else p for p in values.classes]
    return KeyValues(tuple(classes))


def narrowed(values: KeyValues, rows: float, distinct: float) -> KeyValues:
    """Return the values with fewer rare ones, so that `rows` rows have about `distinct` different ones."""
    if values.unique or values.distinct(rows) <= distinct:
        return values
    low, high = 1.0, sum(part.count for part in values.classes)
    for _ in range(24):
        middle = math.sqrt(low * high)
        if at_most(values, middle).distinct(rows) < distinct:
            low = middle
        else:
            high = middle
    return at_most(values, high)


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


def _group_sizes(count: float, rate: float) -> Iterator[tuple[int, float]]:
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
