"""The entries of a skeleton's leaf, in the bytes that PostgreSQL itself writes.

A temporary table with columns of the index's own types gets two rows (the first key column's ends, NULL elsewhere), an
index with the same operator classes, collations and directions is built over it, and its leaf is read from the file,
which is complete before the transaction ends: CREATE INDEX writes past shared buffers (`_bt_load`, nbtsort.c). Then all
is rolled back. No expression, predicate, default or constraint of the user's takes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.shadow.skeleton import BLOCK_BYTES, leaf_tuples

#: Entries by (schema, index name).
Leaves = Mapping[tuple[str, str], tuple[bytes, ...]]

_SETTINGS: Final[LiteralString] = """
SET LOCAL search_path = pg_catalog;
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL timezone = 'UTC';
SET LOCAL client_min_messages = error;
SET LOCAL max_parallel_maintenance_workers = 0
"""

# One row an index: the table's column list and the index's. Domains are taken as their base types, since their checks
# and NOT NULL would refuse the rows, and `name` columns are cstring inside an index, which no table column can be.
_DEFINITIONS: Final[LiteralString] = """
WITH RECURSIVE wanted AS (
  SELECT i.* FROM unnest(%(schemas)s::text[], %(names)s::text[]) w(schema, name)
    JOIN pg_namespace n ON n.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
    JOIN pg_index i ON i.indexrelid = c.oid
), base(indexrelid, attnum, type, typmod) AS (
  SELECT a.attrelid, a.attnum, CASE a.atttypid WHEN 'cstring'::regtype THEN 'name'::regtype ELSE a.atttypid END,
         a.atttypmod
    FROM wanted JOIN pg_attribute a ON a.attrelid = indexrelid
  UNION ALL
  SELECT b.indexrelid, b.attnum, t.typbasetype, CASE WHEN b.typmod = -1 THEN t.typtypmod ELSE b.typmod END
    FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd'
), part AS (
  SELECT b.indexrelid, b.attnum, format_type(b.type, b.typmod) AS type,
         b.attnum <= w.indnkeyatts AS is_key,
         (SELECT format(' COLLATE %%I.%%I', n.nspname, l.collname)
            FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
           WHERE l.oid = w.indcollation[b.attnum - 1]) AS collate_clause,
         (SELECT format(' %%I.%%I', n.nspname, o.opcname)
            FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace
           WHERE o.oid = w.indclass[b.attnum - 1]) AS opclass,
         CASE w.indoption[b.attnum - 1]
           WHEN 1 THEN ' DESC NULLS LAST' WHEN 2 THEN ' NULLS FIRST' WHEN 3 THEN ' DESC' ELSE '' END AS direction
    FROM base b
    JOIN wanted w USING (indexrelid)
    JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
)
SELECT n.nspname, c.relname,
       string_agg(format('a%%s %%s', attnum, type), ', ' ORDER BY attnum),
       string_agg(concat('a', attnum, collate_clause, opclass, direction), ', ' ORDER BY attnum) FILTER (WHERE is_key),
       string_agg(concat('a', attnum), ', ' ORDER BY attnum) FILTER (WHERE NOT is_key)
  FROM part
  JOIN pg_class c ON c.oid = indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 GROUP BY 1, 2
"""


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
    leaves: dict[tuple[str, str], tuple[bytes, ...]] = {}
    places = {"schemas": [s for s, _ in ends], "names": [n for _, n in ends]}
    with connection.transaction(force_rollback=True):
        connection.execute(_SETTINGS)
        with connection.cursor(row_factory=tuple_row) as cursor:
            definitions = cursor.execute(_DEFINITIONS, places).fetchall()
        for schema, name, columns, keys, include in definitions:
            try:
                with connection.transaction(force_rollback=True):
                    leaf = _build_leaf(connection, data_folder, columns, keys, include, ends[schema, name])
            except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded):
                continue
            leaves[schema, name] = leaf
    return leaves


def _build_leaf(
    connection: psycopg.Connection[Any],
    data_folder: Path,
    columns: str,
    keys: str,
    include: str | None,
    ends: tuple[str, str],
) -> tuple[bytes, ...]:
    covering = f" INCLUDE ({include})" if include else ""
    # Deduplication would make one posting list of two equal entries.
    index = f"CREATE INDEX leaf ON pg_temp.side ({keys}){covering} WITH (deduplicate_items = off)"
    connection.execute(f"CREATE TEMPORARY TABLE side ({columns})".encode())
    for value in dict.fromkeys(ends):
        connection.execute("INSERT INTO pg_temp.side (a1) VALUES (%s)", [value])
    connection.execute(index.encode())
    ((path,),) = connection.execute("SELECT pg_relation_filepath('pg_temp.leaf')").fetchall()
    with (data_folder / path).open("rb") as file:
        file.seek(BLOCK_BYTES)
        return leaf_tuples(file.read(BLOCK_BYTES))
