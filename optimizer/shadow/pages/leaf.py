"""The entries of a skeleton's leaf, in the bytes that PostgreSQL itself writes.

A temporary table with a column of the type of the index's first key gets its ends, an index with the same operator
class, collation and direction is built over it, and the leaves are read from the file, which is complete before the
transaction ends: CREATE INDEX writes past shared buffers (`_bt_load`, nbtsort.c). Then all is rolled back. Indexes
whose first keys are alike share one such table, however many they are. No expression, predicate, default or constraint
of the user's takes part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.shadow.pages.skeleton import BLOCK_BYTES, heap_tid, is_leaf, leaf_tuples

_SETTINGS: Final[LiteralString] = """
SET LOCAL search_path = pg_catalog;
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL timezone = 'UTC';
SET LOCAL client_min_messages = error;
SET LOCAL max_parallel_maintenance_workers = 0
"""

# One row an index: the first column of the table and of the index. Entries hold NULL in all further columns, so the
# bytes do not depend on those, but for there being any. A domain is taken as its base type, since its checks and NOT
# NULL would refuse the rows, and `name` columns are cstring inside an index, which no table column can be.
_DEFINITIONS: Final[LiteralString] = """
WITH RECURSIVE wanted AS (
  SELECT i.* FROM unnest(%(schemas)s::text[], %(names)s::text[]) w(schema, name)
    JOIN pg_namespace n ON n.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
    JOIN pg_index i ON i.indexrelid = c.oid
), base(indexrelid, type, typmod) AS (
  SELECT a.attrelid, CASE a.atttypid WHEN 'cstring'::regtype THEN 'name'::regtype ELSE a.atttypid END, a.atttypmod
    FROM wanted JOIN pg_attribute a ON a.attrelid = indexrelid AND a.attnum = 1
  UNION ALL
  SELECT b.indexrelid, t.typbasetype, CASE WHEN b.typmod = -1 THEN t.typtypmod ELSE b.typmod END
    FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd'
)
SELECT n.nspname, c.relname, format_type(b.type, b.typmod),
       concat((SELECT format(' COLLATE %%I.%%I', n.nspname, l.collname)
                 FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
                WHERE l.oid = w.indcollation[0]),
              (SELECT format(' %%I.%%I', n.nspname, o.opcname)
                 FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace
                WHERE o.oid = w.indclass[0]),
              CASE w.indoption[0]
                WHEN 1 THEN ' DESC NULLS LAST' WHEN 2 THEN ' NULLS FIRST' WHEN 3 THEN ' DESC' ELSE '' END),
       w.indnatts > 1
  FROM base b
  JOIN wanted w USING (indexrelid)
  JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
  JOIN pg_class c ON c.oid = indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
"""

_Place = tuple[str, str]
#: An index and its first and last entry.
_Ends = tuple[_Place, tuple[str, str]]
_Entries = dict[_Place, tuple[bytes, ...]]


def build_leaves(
    connection: psycopg.Connection[Any], data_folder: Path, ends: Mapping[tuple[str, str], tuple[str, str]]
) -> dict[tuple[str, str], tuple[bytes, ...]]:
    """Return the leaf entries of each index.

    Parameters:
        connection: of an unprivileged role that may make temporary tables, outside a transaction, to a database of an
            embedded cluster that holds the indexes.
        data_folder: the cluster's.
        ends: first and last entry by (schema, index name), as `RelationShape.ends`.

    Returns: entries by (schema, index name). An index is left out when it is missing or its type refuses a value.

    Errors: `psycopg.Error`, `OSError`.
    """
    if not ends:
        return {}
    leaves: _Entries = {}
    alike: defaultdict[tuple[str, str, bool], list[_Ends]] = defaultdict(list)
    places = {"schemas": [s for s, _ in ends], "names": [n for _, n in ends]}
    with connection.transaction(force_rollback=True):
        connection.execute(_SETTINGS)
        with connection.cursor(row_factory=tuple_row) as cursor:
            for schema, name, *definition in cursor.execute(_DEFINITIONS, places).fetchall():
                alike[tuple(definition)].append(((schema, name), ends[schema, name]))
        for (type_, key, several), wanted in alike.items():
            leaves |= _halving(connection, data_folder, (f"a1 {type_}", f"a1{key}", several), wanted)
    return leaves


def _halving(
    connection: psycopg.Connection[Any], data_folder: Path, definition: tuple[str, str, bool], wanted: Sequence[_Ends]
) -> _Entries:
    """Build the entries of many indexes; when a value is refused, find it by halving and leave its index out."""
    try:
        with connection.transaction(force_rollback=True):
            return _build(connection, data_folder, definition, wanted)
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded):
        if len(wanted) == 1:
            return {}
    middle = len(wanted) // 2
    return _halving(connection, data_folder, definition, wanted[:middle]) | _halving(
        connection, data_folder, definition, wanted[middle:]
    )


def _build(
    connection: psycopg.Connection[Any], data_folder: Path, definition: tuple[str, str, bool], wanted: Sequence[_Ends]
) -> _Entries:
    """Build one index over the ends of all `wanted`, and tell by the rows that its entries point at whose they are."""
    column, key, several = definition
    more = ", a2" if several else ""
    connection.execute(f"CREATE TEMPORARY TABLE side ({column}, a2 integer, owner integer)".encode())
    rows = [(value, owner) for owner, (_, pair) in enumerate(wanted) for value in dict.fromkeys(pair)]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO pg_temp.side (a1, owner) VALUES (%s, %s)", rows)
    # Deduplication would make one posting list of equal entries.
    connection.execute(f"CREATE INDEX leaf ON pg_temp.side ({key}{more}) WITH (deduplicate_items = off)".encode())
    with connection.cursor(row_factory=tuple_row) as cursor:
        owners: dict[str, int] = dict(cursor.execute("SELECT ctid::text, owner FROM pg_temp.side").fetchall())
        ((path,),) = cursor.execute("SELECT pg_relation_filepath('pg_temp.leaf')").fetchall()
    found: defaultdict[_Place, list[bytes]] = defaultdict(list)
    for entry in _entries(data_folder / path):
        block, offset = heap_tid(entry)
        found[wanted[owners[f"({block},{offset})"]][0]].append(entry)
    return {place: tuple(entries) for place, entries in found.items()}


def _entries(path: Path) -> Iterator[bytes]:
    """Read the entries of a new index in its order: CREATE INDEX writes leaves from left to right."""
    with path.open("rb") as file:
        file.seek(BLOCK_BYTES)
        while len(page := file.read(BLOCK_BYTES)) == BLOCK_BYTES:
            if is_leaf(page):
                yield from leaf_tuples(page)
