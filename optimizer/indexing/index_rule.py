"""What the B-tree rules share: from keys for one use of a table to candidates for the query."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import ClassVar

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, IndexColumn, Table
from optimizer.indexing.existing import served
from optimizer.indexing.keys import Keys
from optimizer.indexing.predicates import table_uses
from optimizer.indexing.table_use import TableUse
from optimizer.plan import Plan
from optimizer.query import Query
from optimizer.rule import IndexRule

#: Relations that can hold an index.
INDEXABLE_KINDS = frozenset({"table", "partitioned table", "materialized view"})
#: A table of fewer 8 kB blocks is always read whole.
MIN_PAGES = 2
#: A partitioned table has no blocks of its own; with fewer rows, its partitions have one each.
MIN_PARTITIONED_ROWS = 100
_MAX_KEY_COLUMNS = 8


class TableIndexRule(IndexRule):
    """A rule that looks at each use of a table by itself.

    Class attributes:
        limit: most candidates for one query.
    """

    limit: ClassVar[int]

    @abstractmethod
    def keys(self, use: TableUse) -> Iterable[Keys]:
        """Yield keys for one use of a table; what exists already is taken out later."""

    def propose(self, query: Query, catalog: Catalog, plan: Plan) -> Iterator[IndexCandidate]:
        """Yield the candidates, the most promising first, without those that an existing index serves."""
        wanted = [keys for use in table_uses(query, catalog) if worth_an_index(use.table) for keys in self.keys(use)]
        wanted.sort(key=lambda keys: -keys.score)  # stable: equals stay in the statement's order
        yield from islice(self._missing(wanted), self.limit)

    def _missing(self, wanted: Iterable[Keys]) -> Iterator[IndexCandidate]:
        seen: set[IndexCandidate] = set()
        for keys in wanted:
            candidate = _candidate(keys, self)
            if candidate not in seen and len(keys.parts) <= _MAX_KEY_COLUMNS:
                seen.add(candidate)
                if not served(candidate, keys.use.table, free=keys.free, ordered=keys.ordered):
                    yield _explained(candidate, keys)


def worth_an_index(table: Table) -> bool:
    """Say whether the planner would ever read an index of the table: it holds rows, enough of them, or nobody knows."""
    small = table.rows < MIN_PARTITIONED_ROWS if table.kind == "partitioned table" else table.pages < MIN_PAGES
    known_tiny = table.rows >= 0 and small
    return table.kind in INDEXABLE_KINDS and not known_tiny


def _candidate(keys: Keys, rule: IndexRule) -> IndexCandidate:
    table = keys.use.table
    return IndexCandidate(
        schema=table.schema,
        table=table.name,
        key_columns=keys.columns,
        include=keys.include,
        predicate=keys.predicate,
        rules=(rule.code,),
        source=rule.source,
    )


def _explained(candidate: IndexCandidate, keys: Keys) -> IndexCandidate:
    """Put a candidate into words: printing conditions takes longer than all the rest, and many are dropped before."""
    where = f" where {keys.predicate}" if keys.predicate else ""
    including = f", including {', '.join(keys.include)}" if keys.include else ""
    sentences = [f"{_name(part.column)} {part.serves}." for part in keys.parts]
    if keys.remark:
        sentences.append(keys.remark)
    title = f"Index {keys.use.table.name} by ({', '.join(map(_name, keys.columns))}){including}{where}"
    return replace(candidate, title=title, why=" ".join(sentences))


def _name(key: IndexColumn) -> str:
    text = key.expression
    text += " DESC" if key.descending else ""
    if key.nulls_first != key.descending:
        text += " NULLS FIRST" if key.nulls_first else " NULLS LAST"
    return text
