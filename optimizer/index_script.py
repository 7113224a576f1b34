"""The statements that build an index on production without keeping writers waiting, partitioned tables included.

CREATE INDEX CONCURRENTLY is refused for partitioned tables. The way around, by PostgreSQL's documentation of CREATE
INDEX and ALTER INDEX: an index on the parent only, which is made at once and stays invalid; an index built
concurrently on each partition; each attached to the parent's, which becomes valid with the last. Foreign tables cannot
have indexes, and a parent with one would stay invalid: there the partitions' indexes come first, and CREATE INDEX on
the parent, which then finds nothing left to build, attaches them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Table, quote_identifier
from optimizer.shadow.whatif.admission import free_name, relation_names

_PARTITIONED = "partitioned table"
_FOREIGN = "foreign table"


def index_script(candidate: IndexCandidate, catalog: Catalog, name: str | None = None) -> tuple[str, ...]:
    """Return the statements that build an index, in order, each to be run by itself outside a transaction.

    Parameters:
        candidate: the index.
        catalog: of the database; tells partitions and names that are taken.
        name: of the index; None for its own.
    """
    name = name or candidate.name
    table = catalog.tables.get((candidate.schema, candidate.table))
    if table is None or table.kind != _PARTITIONED:
        return (candidate.ddl(name),)
    names = _Names(catalog, (candidate.schema, name))
    if _has_foreign(table, catalog):
        leaves = _leaves(table, catalog)
        made = (_on(candidate, leaf) for leaf in leaves)
        return (*(part.ddl(names.take(part)) for part in made), candidate.ddl(name, concurrently=False))
    return tuple(_attached(candidate, table, name, names))


def index_rollback(candidate: IndexCandidate, catalog: Catalog, name: str | None = None) -> str:
    """Return the statement that undoes `index_script`; a partitioned table's index takes its partitions' along."""
    table = catalog.tables.get((candidate.schema, candidate.table))
    if table is None or table.kind != _PARTITIONED:
        return candidate.rollback(name)
    return f"DROP INDEX {_qualified(candidate.schema, name or candidate.name)}"


class _Names:
    """Hands out names that nothing has."""

    def __init__(self, catalog: Catalog, first: tuple[str, str]) -> None:
        self.catalog = catalog
        self._taken: dict[str, set[str]] = {}
        self._of(first[0]).add(first[1])

    def take(self, candidate: IndexCandidate) -> str:
        name = free_name(candidate, self._of(candidate.schema))
        self._of(candidate.schema).add(name)
        return name

    def _of(self, schema: str) -> set[str]:
        if schema not in self._taken:
            self._taken[schema] = relation_names(schema, self.catalog)
        return self._taken[schema]


def _attached(candidate: IndexCandidate, table: Table, name: str, names: _Names) -> Iterator[str]:
    """The index on `table` only, then for each partition its own, attached when it is complete."""
    yield candidate.ddl(name, concurrently=False, only=True)
    for partition in names.catalog.partitions(table):
        part = _on(candidate, partition)
        own = names.take(part)
        if partition.kind == _PARTITIONED:
            yield from _attached(part, partition, own, names)
        else:
            yield part.ddl(own)
        parent, child = _qualified(candidate.schema, name), _qualified(part.schema, own)
        yield f"ALTER INDEX {parent} ATTACH PARTITION {child}"


def _on(candidate: IndexCandidate, partition: Table) -> IndexCandidate:
    return replace(candidate, schema=partition.schema, table=partition.name)


def _leaves(table: Table, catalog: Catalog) -> Iterator[Table]:
    for partition in catalog.partitions(table):
        if partition.kind == _PARTITIONED:
            yield from _leaves(partition, catalog)
        elif partition.kind != _FOREIGN:
            yield partition


def _has_foreign(table: Table, catalog: Catalog) -> bool:
    return any(
        partition.kind == _FOREIGN or (partition.kind == _PARTITIONED and _has_foreign(partition, catalog))
        for partition in catalog.partitions(table)
    )


def _qualified(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"
