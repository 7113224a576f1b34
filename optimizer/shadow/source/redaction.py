"""Keeps values of chosen columns out of what is taken from a source: statistics, and the ends of indexes.

What stays of a redacted column says nothing of single values: the share of NULLs, the number of distinct values, the
average width and the correlation with the physical order. The schema itself is not redacted: defaults, checks, bounds
of partitions, conditions of indexes and texts of views may name values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from optimizer.catalog import Catalog, Column, ColumnStatistics
from optimizer.errors import InputError
from optimizer.shadow.source.extended_statistics import ExtendedStatistics
from optimizer.shadow.source.redaction_sql import HIDDEN, UNKNOWN, hidden_columns

ALL, TEXT, _NONE = "all", "text", "none"
_KEPT: Final = frozenset({"null_frac", "avg_width", "n_distinct", "correlation"})
_PART: Final = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_COLUMN: Final = re.compile(rf"(?:({_PART})\.)?({_PART})\.({_PART})")
_WORDS: Final = re.compile(rf"\s*((?:{_PART}|\.)+)\s*(?:,|$)")


def read_words(text: str) -> tuple[str, ...]:
    """Read a list such as `users.email, public."Odd one".note`, `text` or `all`; `none` is an empty one.

    Errors: `InputError` for what is neither.
    """
    words, position = list[str](), 0
    if text.strip().lower() == _NONE:
        return ()
    while position < len(text):
        found = _WORDS.match(text, position)
        word = found.group(1) if found is not None else text[position:].strip()
        if found is None or not word.isprintable() or not (word.lower() in (ALL, TEXT) or _COLUMN.fullmatch(word)):
            raise InputError(
                f"{word!r:.80} names no column to redact: write table.column or schema.table.column, several with "
                "commas, or text, or all"
            )
        words.append(word.lower() if word.lower() in (ALL, TEXT) else word)
        position = found.end()
    return tuple(dict.fromkeys(words))


def redaction_clause(words: Sequence[str]) -> str:
    """Return the WITH clause that defines what these words hide, see `redaction_sql`.

    Parameters:
        words: as `read_words` returns them.
    """
    rows = []
    for word in words:
        if word not in (ALL, TEXT):
            found = _COLUMN.fullmatch(word)
            if found is None:
                raise ValueError(f"{word!r} was not read by read_words")
            parts = [word, *(None if part is None else _folded(part) for part in found.groups())]
            rows.append("(" + ", ".join(f"{sql.Literal(part).as_string()}::text" for part in parts) + ")")
    return hidden_columns(", ".join(rows), text=TEXT in words, everything=ALL in words)


@dataclass(frozen=True, slots=True)
class Redacted:
    """What a redaction hides of one source.

    Parameters:
        columns: as (schema, table, column), of tables and materialized views.
        indexes: those whose ends are not read, as (schema, name).
        statistics: extended statistics whose common values are left out, as (schema, name).
    """

    columns: frozenset[tuple[str, str, str]] = frozenset()
    indexes: frozenset[tuple[str, str]] = frozenset()
    statistics: frozenset[tuple[str, str]] = frozenset()

    def catalog(self, catalog: Catalog) -> Catalog:
        """Return the catalog without the hidden values."""
        tables = {
            place: replace(
                table, columns={name: self._column(*place, column) for name, column in table.columns.items()}
            )
            for place, table in catalog.tables.items()
        }
        return replace(catalog, tables=tables)

    def extended(self, found: Iterable[ExtendedStatistics]) -> tuple[ExtendedStatistics, ...]:
        """Return extended statistics without the hidden values."""
        return tuple(self._bare(one) if (one.schema, one.name) in self.statistics else one for one in found)

    @staticmethod
    def _bare(one: ExtendedStatistics) -> ExtendedStatistics:
        expressions = tuple({k: v for k, v in e.items() if k in _KEPT} for e in one.expression_statistics)
        return replace(one, mcv=(), expression_statistics=expressions)

    def _column(self, schema: str, table: str, column: Column) -> Column:
        if column.statistics is None or (schema, table, column.name) not in self.columns:
            return column
        known = column.statistics
        kept = ColumnStatistics(known.null_frac, known.avg_width, known.n_distinct, known.correlation)
        return replace(column, statistics=kept)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each kind of loss, with its effect."""
        lines = []
        if self.columns:
            lines.append(
                f"redacted: common values and histograms of {_listed([_name(*c) for c in self.columns])}: estimates of "
                "equality there are 1/n_distinct, those of ranges and LIKE are defaults"
            )
        if self.indexes:
            lines.append(
                f"redacted: first and last entries of {_listed([_name(*i) for i in self.indexes])}: the planner does "
                "not see how far these columns reach"
            )
        if self.statistics:
            lines.append(
                f"redacted: common values of the extended statistics {_listed([_name(*s) for s in self.statistics])}: "
                "frequent combinations are estimated like any other"
            )
        return tuple(lines)


def read_redacted(connection: psycopg.Connection[Any], words: Sequence[str]) -> Redacted:
    """Find out what a redaction hides of a source.

    Parameters:
        connection: to the source, with `search_path = pg_catalog`.
        words: as `read_words` returns them; none hides nothing.

    Errors: `InputError` for columns that the source does not have; `psycopg.Error`.
    """
    if not words:
        return Redacted()
    clause = redaction_clause(words)
    with connection.cursor(row_factory=tuple_row) as cursor:
        unknown = [word for (word,) in cursor.execute(f"{clause} {UNKNOWN}".encode())]
        if unknown:
            raise InputError(f"the source has no column {', '.join(unknown)}, which was to be redacted")
        rows = cursor.execute(f"{clause} {HIDDEN}".encode()).fetchall()
    return redacted_of(rows)


def redacted_of(rows: Sequence[Sequence[str]]) -> Redacted:
    """Put together what `redaction_sql.HIDDEN` found."""
    return Redacted(
        frozenset((schema, name, column) for kind, schema, name, column in rows if kind == "column"),
        frozenset((schema, name) for kind, schema, name, _ in rows if kind == "index"),
        frozenset((schema, name) for kind, schema, name, _ in rows if kind == "statistics"),
    )


def _folded(part: str) -> str:
    """An identifier as PostgreSQL reads it."""
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()


def _name(*parts: str) -> str:
    return ".".join(parts)


def _listed(names: Sequence[str], most: int = 6) -> str:
    every = sorted(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
