"""Makes hypothetical B-trees over plain columns in one round trip.

Such an index has nothing of the user's in it that could be executed: no expression, no predicate, no operator class or
type but PostgreSQL's own. So the superuser may make it, in the transaction that swaps the table's storage, instead of
the owner between two others. The statement is built of quoted names alone, never of a candidate's expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, pq, sql

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, IndexColumn
from optimizer.shadow.pages.storage import lay_out_index, show_first_block
from optimizer.shadow.pool import SPARE, PlanningDatabase
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.index_width import is_built_in

_OK = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})


@dataclass(frozen=True, slots=True)
class PlainIndex:
    """An index to be made: its name is free, its table has a file of its own and no partitions.

    Parameters:
        table: row of the table in `pg_class`: oid, relfilenode, relpages, reltuples, relallvisible.
        leaf: its first and last entry; empty where they are not known.
    """

    candidate: IndexCandidate
    name: str
    size: IndexSize
    table: tuple[Any, ...]
    leaf: tuple[bytes, ...] = ()


def is_plain(candidate: IndexCandidate, catalog: Catalog) -> bool:
    """Say whether nothing of an index can run code of a user's."""
    table = catalog.tables.get((candidate.schema, candidate.table))
    if table is None or table.kind != "table" or candidate.method != "btree":
        return False
    if candidate.predicate is not None or candidate.options:
        return False
    if any(key.opclass or key.collation or key.opclass_options for key in candidate.key_columns):
        return False
    columns = [table.columns.get(name) for name in (*_names(candidate.key_columns), *candidate.include)]
    return all(column is not None and _is_own(column) for column in columns)


def make_plain(cluster: Cluster, database: PlanningDatabase, indexes: Sequence[PlainIndex]) -> list[int]:
    """Make indexes in one transaction, with their sizes; they are visible at once.

    Parameters:
        cluster: the hollow cluster.
        database: a leased one, whose superuser connection is outside a transaction.
        indexes: of any tables.

    Returns: the OID of each.

    Errors: `psycopg.Error`, and then none was made; `ShadowUnavailableError`.
    """
    tables = {index.table[0]: index.table for index in indexes}
    oids = ", ".join(str(int(oid)) for oid in tables)
    changed = [
        f"({int(oid)}::oid, {int(file)}::oid, {int(pages)}, {float(rows)!r}, {int(visible)}, -1)"
        for oid, file, pages, rows, visible in tables.values()
    ]
    changed += [
        f"({_literal(_qualified(index.candidate.schema, index.name))}::regclass::oid, NULL, {int(index.size.blocks)},"
        f" {float(index.size.tuples)!r}, NULL, {place})"
        for place, index in enumerate(indexes)
    ]
    script = (
        "BEGIN",
        "UPDATE pg_class SET relfilenode = (SELECT s.relfilenode FROM pg_class s"  # noqa: S608 - numbers and quoted names
        f" WHERE s.oid = {_literal(SPARE)}::regclass) WHERE oid IN ({oids})",
        *map(_statement, indexes),
        "UPDATE pg_class c SET relfilenode = coalesce(w.file, c.relfilenode), relpages = w.pages,"  # noqa: S608 - as above
        " reltuples = w.tuples, relallvisible = coalesce(w.visible, 0)"
        f" FROM (VALUES {', '.join(changed)}) w(oid, file, pages, tuples, visible, place) WHERE c.oid = w.oid"
        " RETURNING w.place, c.oid::int8, c.relfilenode::int8",
        "COMMIT",
    )
    rows = _run(database.superuser, "; ".join(script))
    made = sorted((place, oid, file) for place, oid, file in rows if place >= 0)
    for index, (_, _, relfilenode) in zip(indexes, made, strict=True):
        if index.leaf:
            show_first_block(cluster, database.oid, index.table[1])
        lay_out_index(cluster, database.oid, relfilenode, index.size, index.leaf)
    return [oid for _, oid, _ in made]


def _is_own(column: Column) -> bool:
    """Whether a column's type, and with it its operator class and collation, is PostgreSQL's own, or an enum."""
    return column.type_kind == "enum" or (column.type_kind == "base" and is_built_in(column.type))


def _names(keys: Iterable[IndexColumn]) -> list[str]:
    return [key.column or "" for key in keys]


def _statement(index: PlainIndex) -> str:
    candidate = index.candidate
    keys = ", ".join(map(_key, candidate.key_columns))
    include = f" INCLUDE ({', '.join(map(_quoted, candidate.include))})" if candidate.include else ""
    table = _qualified(candidate.schema, candidate.table)
    return f"CREATE INDEX {_quoted(index.name)} ON {table} ({keys}){include}"


def _key(key: IndexColumn) -> str:
    order = "DESC" if key.descending else "ASC"
    return f"{_quoted(key.column or '')} {order} NULLS {'FIRST' if key.nulls_first else 'LAST'}"


def _qualified(schema: str, name: str) -> str:
    return f"{_quoted(schema)}.{_quoted(name)}"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


def _run(superuser: psycopg.Connection[Any], script: str) -> list[tuple[int, ...]]:
    """Run a script in one message and return its rows, of three numbers each."""
    low = superuser.pgconn
    low.send_query(script.encode())
    rows: pq.abc.PGresult | None = None
    failed: pq.abc.PGresult | None = None
    while low.flush():
        pass
    while (result := low.get_result()) is not None:
        if result.status not in _OK:
            failed = failed or result
        elif result.status == pq.ExecStatus.TUPLES_OK:
            rows = result
    if failed is not None:
        low.exec_(b"ROLLBACK")
        raise errors.error_from_result(failed)
    if rows is None:
        raise psycopg.InternalError("the script returned no rows")
    return [tuple(int(rows.get_value(row, column) or 0) for column in range(3)) for row in range(rows.ntuples)]
