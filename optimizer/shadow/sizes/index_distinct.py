"""How many values a column really has, and how common they are, behind what ANALYZE's sample made of it.

ANALYZE multiplies up the distinct values of its sample by the estimator Duj1 of Haas and Stokes
(`compute_scalar_stats`, analyze.c), which is right for values that are all equally common, in groups of one size. Real
groups vary, and the estimate is then too low: by a sixth for values drawn at random, several times for values by Zipf's
law. The size of a deduplicated index follows from the groups, so the estimator is turned round here: which population
would have made ANALYZE say what it said?

What it may look like: where the list of most common values ends by itself, ANALYZE found none further that stands out,
and all others are taken as equally common. Where the list is full, shares go on falling from its last value: by a power
of the rank where those on the list do so, and else as those of a scattered (log-normal) population, of which the list
is the flat top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

#: Rows sampled for each unit of the statistics target (`std_typanalyze`), and the target where nothing tells of it.
ROWS_PER_TARGET = 300
DEFAULT_TARGET = 100
#: Classes into which the values beyond the most common ones are cut.
_CLASSES = 10
#: Values beyond which a class counts as having no two rows alike.
_BOUNDLESS = 1e13
#: Largest exponent of a power law, and standard deviation of a log-normal population.
_STEEPEST, _WIDEST = 2.5, 4.0
#: Exponent of the listed values themselves from which on the others are taken to follow a power law, too.
_POWER_LAW = 0.3
#: Where a normal distribution is looked at, from the most common values on.
_POINTS = tuple(2.6 - 0.4 * number for number in range(14))
#: Bisections of the exponent, and of the logarithm of a number of values.
_HALVINGS, _STEPS = 7, 14


@dataclass(frozen=True, slots=True)
class ValueClass:
    """`count` possible values, each of which a row has with probability `share`."""

    count: float
    share: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What ANALYZE saw of one column.

    Parameters:
        rows: of the table, NULLs left out.
        sampled: of these, how many were in the sample.
        distinct: values, as ANALYZE estimated them.
        listed: how many most common values it names.
        listed_share: share of these in all rows that are not NULL.
        least_share: share of the last of them; 0 when the list ended by itself.
        slope: exponent by which the shares fall towards the list's end.
    """

    rows: float
    sampled: float
    distinct: float
    listed: int
    listed_share: float
    least_share: float
    slope: float = 0.0


_Population = Callable[[float, int, float, float], tuple[ValueClass, ...]]


@lru_cache(maxsize=4096)
def values_beyond(sample: Sample) -> tuple[ValueClass, ...]:
    """Return the values that are not listed, in classes of like share; shares are of the rows that are not NULL."""
    rest = 1 - sample.listed_share
    if rest * sample.rows < 1 or sample.distinct - sample.listed < 1:
        return ()
    if sample.distinct >= sample.rows - 0.5:
        return (ValueClass(_BOUNDLESS, rest / _BOUNDLESS),)
    if not sample.least_share:
        return _matching(sample, _falling, 0.0)
    population, most = (_falling, _STEEPEST) if sample.slope >= _POWER_LAW else (_scattered, _WIDEST)
    found, low, high = _matching(sample, population, 0.0), 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = _matching(sample, population, middle)
        possible = _analyzed(sample, tried) > 0.99 * sample.distinct
        if possible and _head(tried) < sample.least_share:
            low, found = middle, tried
        else:
            high = middle
    return found


def _head(classes: Sequence[ValueClass]) -> float:
    """Share of the most common value."""
    number = 0.0
    for part in classes:
        number += part.count
        if number >= 1:
            return part.share
    return 0.0


def _matching(sample: Sample, population: _Population, skew: float) -> tuple[ValueClass, ...]:
    """The classes of so many values that ANALYZE would have estimated what it did."""
    low, high = math.log(max(sample.distinct - sample.listed, 1.0) / 4), math.log(_BOUNDLESS)
    classes: tuple[ValueClass, ...] = ()
    for _ in range(_STEPS):
        middle = (low + high) / 2
        classes = population(math.exp(middle), sample.listed, 1 - sample.listed_share, skew)
        if _analyzed(sample, classes) < sample.distinct:
            low = middle
        else:
            high = middle
    return classes


def _falling(count: float, listed: int, rest: float, exponent: float) -> tuple[ValueClass, ...]:
    """`count` values of together `rest`, whose shares fall by a power of their rank, which counts from `listed`."""
    if exponent == 0 or count < 2:
        return (ValueClass(count, rest / count),)
    first = listed + 1.0
    step = (1 + (count - 1) / (first + 1)) ** (1 / _CLASSES)
    ends = [(first + 1) * step**number for number in range(_CLASSES + 1)]
    weights = [_integral(low, high, exponent) for low, high in pairwise(ends)]
    head = math.pow(first, -exponent)
    scale = rest / (sum(weights) + head)
    classes = (
        ValueClass(high - low, scale * weight / (high - low))
        for (low, high), weight in zip(pairwise(ends), weights, strict=True)
    )
    return ValueClass(1.0, scale * head), *classes


def _integral(low: float, high: float, exponent: float) -> float:
    if abs(exponent - 1) < 1e-6:
        return math.log(high / low)
    return (math.pow(high, 1 - exponent) - math.pow(low, 1 - exponent)) / (1 - exponent)


def _scattered(count: float, listed: int, rest: float, deviation: float) -> tuple[ValueClass, ...]:
    """`count` values of together `rest`, the logarithms of whose shares are normally distributed."""
    if deviation == 0:
        return (ValueClass(count, rest / count),)
    weights = [(math.exp(-point * point / 2), math.exp(deviation * point)) for point in _POINTS]
    total = sum(weight for weight, _ in weights)
    scale = rest / sum(count * weight / total * share for weight, share in weights)
    return tuple(ValueClass(count * weight / total, scale * share) for weight, share in weights)


def _analyzed(sample: Sample, classes: Sequence[ValueClass]) -> float:
    """What ANALYZE would estimate of such a column (`compute_scalar_stats`)."""
    n = sample.sampled
    values = once = 0.0  # in the sample: all that are seen, and those seen once only
    for part in classes:
        rate = n * part.share
        values += part.count * -math.expm1(-rate)
        once += part.count * rate * math.exp(-rate)
    values += sample.listed
    return min(max(n * values / (n - once + once * n / sample.rows), values), sample.rows)
