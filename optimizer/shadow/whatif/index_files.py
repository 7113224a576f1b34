"""The files of hypothetical indexes: found in the catalog after CREATE INDEX, then made to look as at the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, pq, sql

from optimizer.shadow.pages.storage import lay_out_file, lay_out_index
from optimizer.shadow.pool import PRIVATE_SCHEMA, PlanningDatabase
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.btree_size import IndexSize

#: CREATE INDEX writes the pages of this method past shared buffers, so they may be changed in the file.
_BTREE = "btree"
_MAX_PAGES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Part:
    """One index that CREATE INDEX made.

    Parameters:
        root: schema and name of the statement's own index, which for a partitioned table has no storage.
        relfilenode: 0 for those without storage.
        table: schema and name.
        key_types, opclasses: of each key: the type of what is stored, and the operator class's name.
    """

    root: tuple[str, str]
    name: str
    oid: int
    relfilenode: int
    table: tuple[str, str]
    key_types: tuple[str, ...]
    opclasses: tuple[str, ...]
    method: str


def find_parts(superuser: psycopg.Connection[Any], names: Sequence[tuple[str, str]]) -> list[Part]:
    """Find the indexes of these schemas and names, and for partitioned ones those of the partitions."""
    rows = superuser.execute(
        """
        SELECT w.schema, w.name, c.relname::text, c.oid::int8, coalesce(pg_relation_filenode(c.oid), 0)::int8,
               n.nspname::text, t.relname::text,
               ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attnum BETWEEN 1 AND i.indnkeyatts ORDER BY a.attnum),
               ARRAY(SELECT o.opcname::text
                       FROM unnest(i.indclass::oid[]) WITH ORDINALITY u(class, place)
                       JOIN pg_opclass o ON o.oid = u.class
                      WHERE u.place <= i.indnkeyatts ORDER BY u.place),
               m.amname::text
          FROM unnest(%s::text[], %s::text[]) w(schema, name)
          JOIN pg_namespace rn ON rn.nspname = w.schema
          JOIN pg_class r ON r.relnamespace = rn.oid AND r.relname = w.name
          JOIN LATERAL (SELECT r.oid UNION SELECT relid FROM pg_partition_tree(r.oid)) tree(oid) ON true
          JOIN pg_class c ON c.oid = tree.oid
          JOIN pg_am m ON m.oid = c.relam
          JOIN pg_index i ON i.indexrelid = c.oid
          JOIN pg_class t ON t.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace
         ORDER BY c.oid""",
        [[schema for schema, _ in names], [name for _, name in names]],
        prepare=True,
    ).fetchall()
    return [
        Part((schema, root), name, oid, file, (table_schema, table), tuple(types), tuple(opclasses), method)
        for schema, root, name, oid, file, table_schema, table, types, opclasses, method in rows
    ]


def lay_out(cluster: Cluster, database: PlanningDatabase, sized: Sequence[tuple[Part, IndexSize]]) -> None:
    """Make new indexes look like indexes of that size; nobody may have planned with them yet.

    Errors: `psycopg.Error`; `ShadowUnavailableError`.
    """
    _set_sizes(database.superuser, sized)
    for part, size in sized:
        if part.method == _BTREE:
            lay_out_index(cluster, database.oid, part.relfilenode, size)
        elif not size.metapage:
            lay_out_file(cluster, database.oid, part.relfilenode, size.blocks)
    patched = [(part, size) for part, size in sized if size.metapage]
    if patched:
        _replace_files(cluster, database, patched)


def drop(superuser: psycopg.Connection[Any], command: sql.Composed) -> None:
    """Run a DROP past psycopg, which would take it for a reason to forget all that it has prepared.

    Errors: `psycopg.Error`.
    """
    result = superuser.pgconn.exec_(command.as_bytes(superuser))
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(result)


def _set_sizes(superuser: psycopg.Connection[Any], sized: Sequence[tuple[Part, IndexSize]]) -> None:
    superuser.execute(
        """
        UPDATE pg_catalog.pg_class c SET relpages = w.pages, reltuples = w.tuples
          FROM unnest(%s::oid[], %s::int4[], %s::float4[]) w(oid, pages, tuples) WHERE c.oid = w.oid""",
        [
            [part.oid for part, _ in sized],
            [min(size.blocks, _MAX_PAGES) for _, size in sized],
            [size.tuples for _, size in sized],
        ],
        prepare=True,
    )


def _replace_files(cluster: Cluster, database: PlanningDatabase, patched: Sequence[tuple[Part, IndexSize]]) -> None:
    """Give indexes new files with hand-made metapages, since those of the old ones are in shared buffers.

    A new file comes with an empty table, which takes the old one, with all of its buffers, along when it is dropped.
    This works in every version and needs no extension.
    """
    superuser = database.superuser
    names = [f"stand_in_{part.oid}" for part, _ in patched]
    tables = [sql.Identifier(PRIVATE_SCHEMA, name) for name in names]
    superuser.execute(sql.SQL("; ").join(sql.SQL("CREATE TABLE {} ()").format(table) for table in tables))
    found = superuser.execute(
        "SELECT c.relname::text, c.oid::int8, c.relfilenode::int8 FROM pg_class c"
        " WHERE c.relnamespace = %s::regnamespace AND c.relname = ANY(%s)",
        [PRIVATE_SCHEMA, names],
        prepare=True,
    ).fetchall()
    stand_ins = {name: (oid, file) for name, oid, file in found}
    files: list[tuple[int, int]] = []  # (relation, its new file)
    for name, (part, size) in zip(names, patched, strict=True):
        oid, file = stand_ins[name]
        lay_out_file(cluster, database.oid, file, size.blocks, size.metapage)
        files += [(part.oid, file), (oid, part.relfilenode)]
    superuser.execute(
        "UPDATE pg_catalog.pg_class c SET relfilenode = w.file"
        " FROM unnest(%s::oid[], %s::oid[]) w(oid, file) WHERE c.oid = w.oid",
        [list(column) for column in zip(*files, strict=True)],
        prepare=True,
    )
    drop(superuser, sql.SQL("DROP TABLE {}").format(sql.SQL(", ").join(tables)))
