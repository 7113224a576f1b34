"""Which index candidates may be sent to a server at all, and under which name."""

from __future__ import annotations

from collections.abc import Container

from optimizer.candidate import MAX_NAME_BYTES, IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import InputError
from optimizer.index_ddl import index_statement

#: INDEX_MAX_KEYS; included columns count, too.
MAX_COLUMNS = 32
_INDEXABLE = ("table", "partitioned table", "materialized view")


def unfit(candidate: IndexCandidate, catalog: Catalog) -> str:
    """Say why a candidate must not be sent; nothing when it may.

    The expressions and the predicate of a candidate are SQL that may come from anywhere: with the rest they must be
    one CREATE INDEX and no more.
    """
    table = catalog.tables.get((candidate.schema, candidate.table))
    if table is None:
        return f"no table {candidate.schema}.{candidate.table} is known"
    if table.kind not in _INDEXABLE:
        return f"a {table.kind} cannot have an index"
    if len(candidate.key_columns) + len(candidate.include) > MAX_COLUMNS:
        return f"an index can have {MAX_COLUMNS} columns at most"
    try:
        index_statement(candidate.ddl(concurrently=False))
    except InputError as error:
        return f"with its parts, {error.args[0]}"
    return ""


def free_name(candidate: IndexCandidate, taken: Container[str]) -> str:
    """The candidate's name, with a number behind it where that is taken, as PostgreSQL chooses names."""
    name, number = candidate.name, 0
    while name in taken:
        number += 1
        stem = candidate.name.encode()[: MAX_NAME_BYTES - len(str(number))].decode(errors="ignore")
        name = f"{stem}{number}"
    return name


def relation_names(schema: str, catalog: Catalog) -> set[str]:
    """Names of the catalog's relations and indexes in one schema."""
    names = {name for place, name in catalog.tables if place == schema}
    return names | {i.name for t in catalog.tables.values() for i in t.indexes if i.schema == schema}
