"""Which keys a GIN index would hold: how many of them, and what share of the rows each stands for, from statistics.

Arrays and tsvectors have statistics of their elements. For everything else the values that the statistics hold are
taken apart as the operator class would: a sample of some hundred rows. What it cannot show, how many rare keys there
are in the whole table, is extrapolated, and is the largest error of the sizes of GIN indexes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimizer.catalog import ColumnStatistics
from optimizer.shadow.sizes.gin_extract import EXTRACTORS, Document, Name, kind_of
from optimizer.shadow.sizes.index_distinct import ValueClass
from optimizer.shadow.sizes.index_groups import split_values
from optimizer.shadow.sizes.index_request import Key, mean_width

#: A document of that many bytes without samples: bytes a key, by what is taken apart (measured on English prose).
_BYTES_PER_KEY: Final = {"trigrams": 1.4, "words": 9.0, "json": 14.0, "json paths": 22.0, "array": 8.0, "pairs": 10.0}
_KEY_BYTES: Final = {"trigrams": 4.0, "words": 8.0, "json": 10.0, "json paths": 4.0, "array": 8.0, "pairs": 10.0}
#: Different keys of `n` keys in all, where nothing was sampled: Heaps' law with the constants of English prose.
_HEAPS_FACTOR, _HEAPS_POWER = 30.0, 0.5
#: Occurrences in the sample from which on a key's share is taken as seen.
_OFTEN: Final = 3
#: f1 * f3 / f2 ** 2 of keys that are all equally common, and of keys after Zipf's law.
_UNIFORM_RATIO, _ZIPF_RATIO = 2 / 3, 1.5
#: Values of either list that are taken apart.
_MOST_DOCUMENTS: Final = 200
#: Classes of keys that are kept apart.
_MOST_CLASSES: Final = 200


@dataclass(frozen=True, slots=True)
class GinKeys:
    """The keys of one column.

    Parameters:
        classes: how many keys there are with which share of the rows (those that are not NULL).
        key_bytes: mean size of a key as stored, with its header.
    """

    classes: tuple[ValueClass, ...]
    key_bytes: float

    @property
    def a_row(self) -> float:
        """Mean number of different keys of a row."""
        return sum(c.count * c.share for c in self.classes)


def gin_keys(key: Key, rows: float) -> GinKeys:
    """Estimate the keys that a GIN index holds of one column.

    Parameters:
        key: the index's key.
        rows: rows indexed in which it is not NULL.
    """
    kind = kind_of(key)
    if kind == "values":
        values = split_values(key.statistics, rows, type_name=key.type).present().together
        classes = (ValueClass(rows, 1 / rows),) if values.unique else values.classes
        return GinKeys(_capped(classes, rows), mean_width(key))
    statistics = key.statistics
    if statistics is not None and statistics.most_common_elems and kind in ("array", "words"):
        return _from_elements(kind, key, statistics, rows)
    documents = _documents(kind, key)
    if documents:
        return _from_documents(documents, rows)
    return _guessed(kind, key, rows)


def keys_a_row(key: Key) -> float:
    """Estimate the mean number of different keys of a value, as GIN's operator classes and GiST's take it apart."""
    return gin_keys(key, 1e5).a_row


def _documents(kind: str, key: Key) -> list[Document]:
    """The values that the statistics hold, taken apart; weights add up to one."""
    statistics = key.statistics
    if statistics is None:
        return []
    extract = EXTRACTORS[kind]
    common = list(zip(statistics.most_common_vals, statistics.most_common_freqs, strict=False))
    rest = max(1 - statistics.null_frac - sum(share for _, share in common), 0.0)
    values = statistics.histogram_bounds[:: -(-len(statistics.histogram_bounds) // _MOST_DOCUMENTS) or 1]
    common = common[:_MOST_DOCUMENTS]
    bounds = [(value, rest / len(values)) for value in values]
    found = [
        Document(extract(value), share, frequent)
        for values, frequent in ((common, True), (bounds, False))
        for value, share in values
    ]
    total = sum(d.weight for d in found)
    return [Document(d.keys, d.weight / total, d.frequent) for d in found] if total > 0 else []


def _from_documents(documents: Sequence[Document], rows: float) -> GinKeys:
    """Shares of frequent keys as they were seen; rare ones extrapolated, the parts of a document each by itself."""
    parts: dict[str, dict[Name, list[Document]]] = {}
    for document in documents:
        for name in document.keys:
            parts.setdefault(name.part, {}).setdefault(name, []).append(document)
    fresh = sum(1 for d in documents if not d.frequent)
    fresh_rows = rows * sum(d.weight for d in documents if not d.frequent)
    classes: list[ValueClass] = []
    widths = 0.0
    for part in parts.values():
        counts = Counter[int]()
        mass, rare_bytes = 0.0, 0.0
        for name, holders in part.items():
            share = sum(d.weight for d in holders)
            if len(holders) >= _OFTEN or any(d.frequent for d in holders):
                classes.append(ValueClass(1.0, share))
                widths += name.bytes
            else:
                counts[len(holders)] += 1
                mass += share
                rare_bytes += name.bytes
        rare = counts[1] + counts[2]
        if rare:
            thrice = sum(len(holders) == _OFTEN for holders in part.values())
            most = max(mass * rows, 1.0)
            number = _extrapolated(len(part), counts[1], counts[2], thrice, fresh_rows / max(fresh, 1))
            number = min(max(number, rare), most, _possible(part))
            classes.append(ValueClass(number, mass / number))
            widths += rare_bytes / rare * number
    total = sum(c.count for c in classes)
    return GinKeys(_merged(classes), widths / total if total else 4.0)


def _possible(part: Mapping[Name, list[Document]]) -> float:
    """Most keys that can be: trigrams of the characters that were seen."""
    if not all(name.part == "trigrams" for name in part):
        return math.inf
    characters = {c for name in part for c in name.text}
    return float(len(characters) ** 3)


def _extrapolated(seen: int, once: int, twice: int, thrice: int, growth: float) -> float:
    """Number of rare keys in a table that is `growth` times the sample.

    Two laws, weighed by how fast the numbers of keys seen once, twice and thrice fall: Chao's estimate for equally
    common keys, and growth by a power of the sample's size (Heaps) for keys after Zipf's law.
    """
    if growth <= 1:
        return float(once + twice)
    heaps = seen * (math.pow(growth, once / seen) - 1) + once + twice
    if twice == 0:
        return heaps
    chao = once + twice + once * once / (2 * twice)
    ratio = once * (thrice + 0.5) / (twice + 0.5) ** 2  # halves: few that were seen say little
    weight = min(max((ratio - _UNIFORM_RATIO) / (_ZIPF_RATIO - _UNIFORM_RATIO), 0.0), 1.0) / 2
    return math.exp((1 - weight) * math.log(chao) + weight * math.log(max(heaps, chao)))


def _from_elements(kind: str, key: Key, statistics: ColumnStatistics, rows: float) -> GinKeys:
    """From the statistics of elements: the common ones are known, the rest follows their fall by Zipf's law."""
    shares = statistics.most_common_elem_freqs[: len(statistics.most_common_elems)]
    known = [ValueClass(1.0, share) for share in shares if share > 0]
    held = sum(shares)
    documents = _documents(kind, key) if kind == "array" else []
    widths = [_element_bytes(kind, element, key) for element in statistics.most_common_elems]
    mean = sum(widths) / len(widths)
    a_row = statistics.elem_count_histogram[-1] if statistics.elem_count_histogram else _lexemes(statistics, mean)
    rest = max(a_row - held, 0.0)
    if rest * rows < 1:
        return GinKeys(_merged(known), mean)
    common = set(statistics.most_common_elems)
    once, twice, thrice = _rare(documents, common)
    number = _zipf_tail(sorted(shares, reverse=True), rest)
    if once:  # two laws that err to different sides
        fresh = sum(1 for d in documents if not d.frequent)
        growth = rows / max(fresh, 1)
        number = math.sqrt(number * _extrapolated(once + twice + thrice, once, twice, thrice, growth))
    least = rest / max(min(shares), 1 / rows)
    number = min(max(number, least), rest * rows)
    return GinKeys(_merged([*known, ValueClass(number, rest / number)]), mean)


def _rare(documents: Sequence[Document], common: set[str]) -> tuple[int, int, int]:
    counts = Counter(name for d in documents if not d.frequent for name in d.keys if name.text not in common)
    times = Counter(counts.values())
    return times[1], times[2], times[3]


def _zipf_tail(shares: Sequence[float], rest: float) -> float:
    """Number of further keys that share `rest`, if shares go on to fall as they do in the list's second half."""
    last = len(shares)
    middle = max(last // 2, 1)
    if last < 8 or shares[-1] <= 0:
        return rest / max(shares[-1], 1e-9)
    power = min(max(math.log(shares[middle - 1] / shares[-1]) / math.log(last / middle), 0.1), 3.0)
    # The integral of shares[-1] * (r / last) ** -power from `last` on.
    if abs(power - 1) < 1e-6:
        return last * (math.exp(min(rest / (shares[-1] * last), 50)) - 1)
    reach = 1 + (1 - power) * rest / (shares[-1] * last)
    return last * (min(max(reach, 1e-12) ** (1 / (1 - power)), 1e12) - 1) if reach > 0 else 1e12


def _lexemes(statistics: ColumnStatistics, key_bytes: float) -> float:
    """Lexemes of a tsvector of average width: header, and of each lexeme an entry, its text, and its positions."""
    return max((statistics.avg_width - 8) / (4 + key_bytes - 1 + 5.5), 1.0)


def _element_bytes(kind: str, element: str, key: Key) -> float:
    if kind == "array" and not key.type.startswith(("text", "character", "citext")):
        return 8.0 if key.type.startswith(("bigint", "timestamp", "double")) else 16.0 if "uuid" in key.type else 4.0
    return 1.0 + len(element.encode())


def _guessed(kind: str, key: Key, rows: float) -> GinKeys:
    """Without any sample: from the average width, as if it were English prose."""
    width = key.statistics.avg_width if key.statistics is not None else 32
    a_row = max(width / _BYTES_PER_KEY[kind], 1.0)
    number = min(_HEAPS_FACTOR * (a_row * rows) ** _HEAPS_POWER, a_row * rows)
    number = max(min(number, 15_000.0) if kind == "trigrams" else number, a_row)
    harmonic = math.log(number) + 0.5772
    classes, rank = [], 1.0
    while rank < number:
        up_to = min(rank * 1.5 + 1, number)
        share = a_row * math.log(up_to / rank) / harmonic / (up_to - rank)
        classes.append(ValueClass(up_to - rank, min(share, 1.0)))
        rank = up_to
    return GinKeys(tuple(classes) or (ValueClass(1.0, 1.0),), _KEY_BYTES[kind])


def _capped(classes: Sequence[ValueClass], rows: float) -> tuple[ValueClass, ...]:
    """Values that exist at all: classes of `split_values` tell of possible ones."""
    found = []
    for part in classes:
        existing = part.count * -math.expm1(-rows * part.share)
        if existing > 0:
            found.append(ValueClass(existing, part.count * part.share / existing))
    return tuple(found)


def _merged(classes: Sequence[ValueClass]) -> tuple[ValueClass, ...]:
    """Keep the number of classes small: neighbours in share are taken together."""
    ordered = sorted(classes, key=lambda c: -c.share)
    return tuple(_taken_together(ordered)) if len(ordered) > _MOST_CLASSES else tuple(ordered)


def _taken_together(ordered: Sequence[ValueClass]) -> Iterator[ValueClass]:
    step = -(-len(ordered) // _MOST_CLASSES)
    for at in range(0, len(ordered), step):
        group = ordered[at : at + step]
        count = sum(c.count for c in group)
        yield ValueClass(count, sum(c.count * c.share for c in group) / count)
