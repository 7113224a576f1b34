"""What a size model gets to know of an index, and what all of them make of it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, ColumnStatistics, IndexColumn, Table
from optimizer.errors import SqlError
from optimizer.shadow.sizes.index_expressions import expression_statistics
from optimizer.shadow.sizes.index_rows import Selection, selection
from optimizer.shadow.sizes.index_width import attribute

_MOST_VALUES = 1e15
#: One, and what rounding may add.
_WHOLE = 1.001


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an index.

    Parameters:
        type: of the column or expression, as `format_type` prints it.
        opclass: name of the operator class, without schema; empty where it is the type's default and not known.
        options: parameters of the operator class.
        statistics: of the column, within the predicate; None where there are none.
    """

    part: IndexColumn
    type: str
    opclass: str
    options: dict[str, str]
    statistics: ColumnStatistics | None

    @property
    def null_share(self) -> float:
        """Share of rows in which the key is NULL."""
        return self.statistics.null_frac if self.statistics is not None else 0.0


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """An index whose size is to be estimated.

    Parameters:
        candidate: the index.
        table: its table, with statistics.
        catalog: the table's.
        rows: rows that a partial index keeps, where the planner has estimated them; None estimates them from the
            statistics.
        key_types: type of each of the index's key attributes as `format_type` prints it, where the index exists. For
            methods that store other things than values, this is the type of what is stored.
        opclasses: name of each key's operator class, where the index exists.
        joint: how many combinations of several of the table's columns there are, where extended statistics say.
    """

    candidate: IndexCandidate
    table: Table
    catalog: Catalog
    rows: float | None = None
    key_types: Sequence[str] | None = None
    opclasses: Sequence[str] | None = None
    joint: Mapping[frozenset[str], float] = field(default_factory=dict)

    @property
    def kept(self) -> Selection:
        """What the predicate keeps."""
        return selection(self.candidate.predicate, self.table)

    @property
    def table_rows(self) -> float:
        """Rows of the table."""
        return max(self.table.rows, 0.0)

    @property
    def entries(self) -> float:
        """Rows of the table that the predicate keeps."""
        return max(self.rows if self.rows is not None else self.table_rows * self.kept.share, 0.0)

    def keys(self) -> tuple[Key, ...]:
        """The index's keys with what is known of them."""
        kept = self.kept
        found = []
        for number, part in enumerate(self.candidate.key_columns):
            column = self.table.columns.get(part.column) if part.column is not None else None
            if column is not None:
                type_, statistics = column.type, kept.statistics(column)
            else:
                type_, statistics = expression_statistics(part.expression, None, self.table, kept)
            opclass = self.opclasses[number] if self.opclasses is not None else (part.opclass or "")
            known = statistics if statistics is not None and _is_sane(statistics) else None
            found.append(Key(part, type_, opclass.rpartition(".")[2], dict(part.opclass_options), known))
        return tuple(found)

    def whole_option(self, name: str, default: int, least: int, most: int) -> int:
        """Return a storage parameter that is a whole number.

        Errors: `SqlError` when it is none, or out of bounds.
        """
        text = dict(self.candidate.options).get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise SqlError(f"the storage parameter {name} is {text!r}: it must be a whole number") from None
        if not least <= value <= most:
            raise SqlError(f"the storage parameter {name} is {value}: it must be between {least} and {most}")
        return value


def _is_sane(statistics: ColumnStatistics) -> bool:
    """Whether numbers are what ANALYZE could have found: those in a file may be anything."""
    shares = (statistics.null_frac, *statistics.most_common_freqs, *statistics.most_common_elem_freqs)
    counts = (abs(statistics.n_distinct), *statistics.elem_count_histogram)
    return all(0 <= share <= _WHOLE for share in shares) and all(0 <= count < _MOST_VALUES for count in counts)


def mean_width(key: Key) -> float:
    """Return the mean bytes of a key's values that are not NULL, headers included."""
    widths = attribute(key.type, None, key.statistics).widths
    shares = [(width, share) for width, share in widths.items() if width is not None]
    total = sum(share for _, share in shares)
    return sum(width * share for width, share in shares) / total if total else 0.0
