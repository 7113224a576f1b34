"""The keys of a B-tree to be built: how they are stored, and which rows have equal ones.

Rows are told apart by what the statistics know of them: NULLs, the most common values, and all others. They differ in
width as well as in number of equals: a NULL takes no room and is merged with all other NULLs, a rare text is long and
stands alone. Mixing up widths and groups would put both in the wrong place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, ColumnStatistics, IndexColumn, Table
from optimizer.shadow.sizes.index_distinct import DEFAULT_TARGET, ROWS_PER_TARGET, Sample, ValueClass, values_beyond
from optimizer.shadow.sizes.index_expressions import expression_statistics
from optimizer.shadow.sizes.index_groups import (
    ColumnValues,
    KeyValues,
    at_most,
    narrowed,
    split_values,
    together,
    uniform,
)
from optimizer.shadow.sizes.index_rows import Selection
from optimizer.shadow.sizes.index_width import Attribute, attribute, deduplicates, entry_sizes, split_attribute

#: Estimated numbers of distinct combinations of a table's columns, as extended statistics (ndistinct) hold them.
JointCounts = Mapping[frozenset[str], float]
#: Longest lists of the statistics of a large schema, which are cut short: they do not tell the target.
_SHORT_LISTS = 10
#: How much more combinations there may be than values of one column for it to determine the others.
_DETERMINED = 1.02
#: Keys of up to that many columns are split into NULLs and the rest, and shorter ones further.
_SPLIT_COLUMNS, _SPLIT_VALUES = 4, 2


@dataclass(frozen=True, slots=True)
class Stratum:
    """Some of the rows, by the form of their key: how it is stored, and the values' shares of all rows."""

    attribute: Attribute
    values: KeyValues


@dataclass(frozen=True, slots=True)
class Key:
    """One key column: how it is stored in all, which values it has, and whether equal ones may be merged.

    Parameters:
        distinct: values as ANALYZE estimated them; 0 where it did not.
        strata: disjoint; all rows together.
    """

    attribute: Attribute
    values: KeyValues
    deduplicates: bool
    distinct: float
    strata: tuple[Stratum, ...]


def statistics_target(table: Table) -> int:
    """The statistics target by which ANALYZE chose how many rows of the table to look at: its columns' highest."""
    known = [c.statistics for c in table.columns.values() if c.statistics is not None]
    longest = max((max(len(s.most_common_freqs), len(s.histogram_bounds) - 1) for s in known), default=0)
    return longest if longest > _SHORT_LISTS else DEFAULT_TARGET


def read_key(part: IndexColumn, type_name: str | None, table: Table, kept: Selection, target: int) -> Key:
    """Describe one key column.

    Parameters:
        part: of the candidate.
        type_name: as `format_type` prints it; None takes the column's, or guesses an expression's.
        table: with statistics.
        kept: what the index's predicate keeps.
        target: the table's statistics target.
    """
    column = table.columns.get(part.column) if part.column is not None else None
    if column is None:
        type_name, known = expression_statistics(part.expression, type_name, table, Selection())
        return _described(type_name, None, known, known, table.rows, target, _WHOLE)
    within = kept.statistics(column)
    limits = _Limits(constant=column.name in kept.constant, not_null=column.name in kept.not_null)
    return _described(type_name or column.type, column, column.statistics, within, table.rows, target, limits)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What an index's predicate says of one column."""

    constant: bool = False
    not_null: bool = False


_WHOLE = _Limits()


@lru_cache(maxsize=2048)
def _described(
    type_name: str,
    column: Column | None,
    known: ColumnStatistics | None,
    within: ColumnStatistics | None,
    rows: float,
    target: int,
    limits: _Limits,
) -> Key:
    """Describe a key; `known` are the statistics of all rows, `within` those of the rows that the predicate keeps."""
    values = split_values(known, rows, type_name=type_name, target=target)
    if limits.constant:
        values = ColumnValues(0.0, uniform(1.0).classes, ())
    elif limits.not_null:
        values = values.present()
    null, common, rest = split_attribute(type_name, column, known)
    strata = [
        Stratum(form, together([KeyValues(classes, values.unique and form is rest)]))
        for form, classes in (
            (null, (ValueClass(1.0, values.null_share),) if values.null_share > 0 else ()),
            (common, values.common),
            (rest, values.rest),
        )
        if classes or (values.unique and form is rest)
    ]
    distinct = known.n_distinct if known is not None else 0.0
    return Key(
        attribute(type_name, column, within),
        together([values.together]),
        deduplicates(type_name, column),
        distinct if distinct >= 0 else -distinct * max(rows, 1.0),
        tuple(strata),
    )


def prefix_values(
    candidate: IndexCandidate,
    table: Table,
    catalog: Catalog,
    keys: Sequence[Key],
    joint: JointCounts,
    target: int,
) -> list[tuple[KeyValues, bool]]:
    """Values of each prefix of the key, and whether its columns were taken as independent.

    A prefix that holds a unique key's columns never repeats; a foreign key has no more values than its target has rows;
    extended statistics say how many combinations there are.
    """
    unique_keys = [frozenset(columns) for columns in table.unique_keys(not_null=True)]
    names = [part.column for part in candidate.key_columns]
    prefixes = []
    for number in range(1, len(keys) + 1):
        held = frozenset(name for name in names[:number] if name is not None)
        if any(columns <= held for columns in unique_keys):
            prefixes.append((KeyValues((), unique=True), False))
            continue
        parts = {position: key.values for position, key in enumerate(keys[:number])}
        independent = True
        for columns, values in (
            *_referenced(table, catalog, held, names, parts),
            *_counted(held, names, keys, joint, max(table.rows, 1.0), target),
        ):
            positions = [p for p in parts if names[p] in columns]
            if {names[p] for p in positions} == columns:
                parts = {p: v for p, v in parts.items() if p not in positions} | {positions[0]: values}
                independent = False
        prefixes.append((together(list(parts.values())), independent))
    return prefixes


def _referenced(
    table: Table, catalog: Catalog, held: frozenset[str], names: Sequence[str | None], parts: Mapping[int, KeyValues]
) -> Iterator[tuple[frozenset[str], KeyValues]]:
    """Yield foreign keys among `held` that can point at fewer rows than their columns seem to have values."""
    for constraint in table.constraints:
        columns = frozenset(constraint.columns)
        if constraint.kind != "foreign key" or not columns <= held:
            continue
        target = catalog.table(constraint.referenced_table or "", constraint.referenced_schema)
        if target is None or target.rows < 1:
            continue
        known = together([v for p, v in parts.items() if names[p] in columns])
        if target.rows < known.distinct(max(table.rows, 1.0)):
            yield columns, at_most(known, target.rows) if len(columns) == 1 else uniform(target.rows)


def _counted(
    held: frozenset[str],
    names: Sequence[str | None],
    keys: Sequence[Key],
    joint: JointCounts,
    rows: float,
    target: int,
) -> Iterator[tuple[frozenset[str], KeyValues]]:
    """Yield the largest set among `held` whose combinations are counted."""
    found = max((columns for columns in joint if columns <= held), key=len, default=frozenset[str]())
    if len(found) < 2:
        return
    number = joint[found]
    among = [key for name, key in zip(names, keys, strict=True) if name in found]
    most = max(among, key=lambda key: key.distinct)
    if number <= most.distinct * _DETERMINED:
        yield found, most.values
        return
    # Counted in ANALYZE's sample by the same estimator as the values of one column.
    sample = Sample(rows, min(rows, ROWS_PER_TARGET * target), min(number, rows), 0, 0.0, 0.0)
    real = KeyValues(values_beyond(sample)).distinct(rows)
    yield found, narrowed(together([key.values for key in among]), rows, real)


def stored(
    keys: Sequence[Key], covered: Sequence[Attribute], values: KeyValues, *, independent: bool
) -> list[tuple[dict[int, float], KeyValues]]:
    """Entry sizes (shares by bytes) of the rows of each form, with the values that they have.

    Parameters:
        keys: of the index.
        covered: included columns.
        values: of the whole key.
        independent: False where the values are not those of the columns put together; then they have one form.
    """
    if not independent or values.unique or len(keys) > _SPLIT_COLUMNS:
        return [(entry_sizes([*(k.attribute for k in keys), *covered]), values)]
    forms = []
    for combination in product(*(_strata(key, fine=len(keys) <= _SPLIT_VALUES) for key in keys)):
        sizes = entry_sizes([*(s.attribute for s in combination), *covered])
        forms.append((sizes, together([s.values for s in combination])))
    return forms


def _strata(key: Key, *, fine: bool) -> Sequence[Stratum]:
    """The key's strata; unless `fine`, only NULLs and all others."""
    if fine or len(key.strata) < 3:
        return key.strata
    null, common, rest = key.strata
    present = KeyValues((*common.values.classes, *rest.values.classes))
    return null, Stratum(key.attribute.present(), present)
