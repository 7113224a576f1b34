"""Candidates: what rules and plugins propose, before anything has been validated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from optimizer.catalog import Index, IndexColumn, quote_identifier

#: PostgreSQL's limit on a name (NAMEDATALEN - 1).
MAX_NAME_BYTES = 63
#: Methods whose storage parameters have no say in which queries an index serves.
_ALIKE_WHATEVER_OPTIONS = frozenset({"btree", "hash"})
#: Values of storage parameters that need no quotes.
_BARE_VALUE = re.compile(r"[0-9]+(\.[0-9]+)?|on|off|true|false|auto")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The same query in another form, proposed by one rule or a chain of them.

    Parameters:
        sql: the whole rewritten statement.
        rules: codes of the rules that led here, in order.
        title, why: one line and a few sentences for people.
        source: `rule`, `llm` or `plugin`.
    """

    sql: str
    rules: tuple[str, ...]
    title: str
    why: str
    source: str = "rule"


@dataclass(frozen=True, slots=True)
class IndexCandidate:
    """A proposed index. Equal candidates are one index; rules and words don't count.

    Parameters:
        schema, table: the table's names as stored.
        key_columns: key parts in order.
        method: access method.
        include: columns stored but not searched.
        predicate: WHERE of a partial index, as SQL.
        options: storage parameters as names and values, such as ("pages_per_range", "32"); sorted by name.
    """

    schema: str
    table: str
    key_columns: tuple[IndexColumn, ...]
    method: str = "btree"
    include: tuple[str, ...] = ()
    predicate: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    rules: tuple[str, ...] = field(default=(), compare=False)
    title: str = field(default="", compare=False)
    why: str = field(default="", compare=False)
    source: str = field(default="rule", compare=False)

    @property
    def name(self) -> str:
        """A name by PostgreSQL's convention: table, columns, `idx`; at most 63 bytes, cut as PostgreSQL cuts."""
        parts = [k.column if k.column is not None else "expr" for k in self.key_columns]
        parts += ["incl"] if self.include else []
        parts += ["part"] if self.predicate else []
        return _fit(self.table, "_".join(parts), "idx")

    def ddl(self, name: str | None = None, *, concurrently: bool = True, only: bool = False) -> str:
        """Return the CREATE INDEX statement, without a final semicolon.

        Parameters:
            name: of the index; None for its own.
            concurrently: build it without keeping writers waiting.
            only: of a partitioned table, not of its partitions.
        """
        keys = ", ".join(_key_sql(k) for k in self.key_columns)
        include = f" INCLUDE ({', '.join(quote_identifier(c) for c in self.include)})" if self.include else ""
        storage = f" WITH ({_options_sql(self.options)})" if self.options else ""
        where = f" WHERE {self.predicate}" if self.predicate else ""
        using = f" USING {quote_identifier(self.method)}"
        return (
            f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}{quote_identifier(name or self.name)}"
            f" ON {'ONLY ' if only else ''}{quote_identifier(self.schema)}.{quote_identifier(self.table)}{using}"
            f" ({keys}){include}{storage}{where}"
        )

    def rollback(self, name: str | None = None) -> str:
        """Return the DROP INDEX statement that undoes `ddl`."""
        return f"DROP INDEX CONCURRENTLY {quote_identifier(self.schema)}.{quote_identifier(name or self.name)}"

    def subsumed_by(self, existing: Index | IndexCandidate) -> bool:
        """Say whether `existing` already serves what this index would: same method, keys a prefix, nothing missing.

        A partial index serves only queries that imply its predicate, and holds fewer rows than a full one does, so the
        predicates must be equal. Storage parameters of B-trees and hash indexes only say how they are filled; those of
        other methods decide what an index can tell, so they must be equal, too.
        """
        if existing.method != self.method or (existing.schema, existing.table) != (self.schema, self.table):
            return False
        if isinstance(existing, Index) and not existing.valid:
            return False
        if existing.predicate != self.predicate:
            return False
        if self.method not in _ALIKE_WHATEVER_OPTIONS and existing.options != self.options:
            return False
        keys = existing.key_columns[: len(self.key_columns)]
        if len(keys) != len(self.key_columns) or not all(map(_same_key, keys, self.key_columns)):
            return False
        covered = {k.column for k in existing.key_columns if k.column is not None} | set(existing.include)
        return covered.issuperset(self.include)


#: A set of indexes that stand together.
Configuration = frozenset[IndexCandidate]

Candidate = Rewrite | IndexCandidate


def without_subsumed(candidates: Iterable[IndexCandidate], existing: Iterable[Index]) -> tuple[IndexCandidate, ...]:
    """Drop candidates that an existing index serves, and repeats; the order of first appearance stays."""
    have = tuple(existing)
    unique = dict.fromkeys(candidates)
    return tuple(c for c in unique if not any(c.subsumed_by(index) for index in have))


def _same_key(left: IndexColumn, right: IndexColumn) -> bool:
    return (
        left.expression,
        left.descending,
        left.nulls_first,
        left.opclass,
        left.opclass_options,
        left.collation,
    ) == (
        right.expression,
        right.descending,
        right.nulls_first,
        right.opclass,
        right.opclass_options,
        right.collation,
    )


def _key_sql(key: IndexColumn) -> str:
    text = key.expression if key.column is not None else f"({key.expression})"
    text += f" COLLATE {quote_identifier(key.collation)}" if key.collation else ""
    text += f" {key.opclass}" if key.opclass else ""
    text += f" ({_options_sql(key.opclass_options)})" if key.opclass_options else ""
    text += " DESC" if key.descending else ""
    if key.nulls_first != key.descending:  # DESC implies NULLS FIRST, ASC implies NULLS LAST
        text += " NULLS FIRST" if key.nulls_first else " NULLS LAST"
    return text


def _options_sql(options: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{quote_identifier(name)} = {_option_value(value)}" for name, value in options)


def _option_value(value: str) -> str:
    return value if _BARE_VALUE.fullmatch(value) else "'" + value.replace("'", "''") + "'"


def _fit(table: str, columns: str, label: str) -> str:
    """Shorten the longer of table and columns until the name fits (`makeObjectName`, indexcmds.c)."""
    table_bytes, column_bytes = table.encode(), columns.encode()
    available = MAX_NAME_BYTES - len(label) - 2
    while len(table_bytes) + len(column_bytes) > available:
        if len(table_bytes) > len(column_bytes):
            table_bytes = table_bytes[:-1]
        else:
            column_bytes = column_bytes[:-1]
    return f"{table_bytes.decode(errors='ignore')}_{column_bytes.decode(errors='ignore')}_{label}"
