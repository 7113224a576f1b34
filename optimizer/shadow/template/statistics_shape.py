"""The shape of a database that is known by its statistics alone: sizes are those that they state."""

from __future__ import annotations

from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Index
from optimizer.errors import InputError
from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.pages.skeleton_brin import read_brin_metapage
from optimizer.shadow.pages.skeleton_gin import read_gin_metapage
from optimizer.shadow.sizes.btree_size import IndexSize, height_of_blocks
from optimizer.shadow.sizes.index_request import IndexRequest
from optimizer.shadow.whatif.index_methods import METHODS, index_size

#: Blocks of all relations together. A file stands for each GB of them, and a few words of SQL can state any number.
MAX_BLOCKS: Final = 2**30

_RELATIONS: Final[LiteralString] = """
    SELECT n.nspname::text, c.relname::text,
           CASE c.relkind WHEN 'i' THEN 'index' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
           c.relpages, c.reltuples, c.relallvisible, m.amname::text
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_am m ON m.oid = c.relam AND c.relkind = 'i'
     WHERE c.relkind IN ('r', 'm', 'i') AND c.relpersistence <> 't'
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
     ORDER BY 1, 2"""
_BTREE = "btree"
_ALIGNMENT = 8
_UNKNOWN_KEY_BYTES = 16


def shape_from_statistics(connection: psycopg.Connection[Any], catalog: Catalog) -> Shape:
    """Read the shape that a database without rows would have, by its `pg_class`.

    Indexes without statistics of their own get the size that their table's statistics give them; the ends of B-trees
    stay those of the histograms.

    Parameters:
        connection: to the database, of any role.
        catalog: of the same database.

    Errors: `psycopg.Error`; `InputError` for sizes beyond all reason.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_RELATIONS).fetchall()
    indexes = {(i.schema, i.name): i for table in catalog.tables.values() for i in table.indexes}
    relations = []
    for schema, name, kind, pages, tuples, visible, method in rows:
        blocks, height = pages, None
        index = indexes.get((schema, name))
        # CREATE INDEX itself records the few pages of an empty index of another method, and of BRIN its one range.
        unstated = pages == 0 or (method != _BTREE and tuples <= 1)
        size = _estimated(index, catalog) if unstated and index is not None and method in METHODS else None
        if size is not None:
            blocks = size.blocks
        if method == _BTREE:
            blocks = max(blocks, 1)
            height = size.height if size is not None else height_of_blocks(blocks, _key_bytes(index, catalog))
        gin = read_gin_metapage(size.metapage) if size is not None and method == "gin" else None
        brin = read_brin_metapage(size.metapage) if size is not None and method == "brin" else None
        relations.append(
            RelationShape(schema, name, kind, blocks, tuples, pages, visible, method, height, gin=gin, brin=brin)
        )
    check_blocks(sum(relation.blocks for relation in relations))
    return Shape(catalog.server_version_num, tuple(relations))


def check_blocks(total: float) -> None:
    """Refuse sizes beyond all reason.

    Parameters:
        total: blocks of all relations of a shadow that is made from files.

    Errors: `InputError`.
    """
    if not total <= MAX_BLOCKS:  # an absurd number of rows may even be none
        raise InputError(
            f"the statistics state sizes of {total * BLOCK_BYTES / 2**40:.0f} TB, and a shadow made from files may "
            f"have {MAX_BLOCKS * BLOCK_BYTES >> 40}: state less"
        )


def _estimated(index: Index, catalog: Catalog) -> IndexSize:
    same = IndexCandidate(
        schema=index.schema,
        table=index.table,
        key_columns=index.key_columns,
        include=index.include,
        predicate=index.predicate,
        method=index.method,
        options=index.options,
    )
    table = catalog.tables[(index.schema, index.table)]
    return index_size(IndexRequest(same, table, catalog))


def _key_bytes(index: Index | None, catalog: Catalog) -> int:
    """Bytes of an index's key by the statistics of its columns, rounded up as index entries are."""
    if index is None:
        return _UNKNOWN_KEY_BYTES
    columns = catalog.tables[(index.schema, index.table)].columns
    total = 0
    for key in index.key_columns:
        column = columns.get(key.column) if key.column is not None else None
        statistics = column.statistics if column is not None else None
        total += statistics.avg_width if statistics is not None else _UNKNOWN_KEY_BYTES
    return -(-total // _ALIGNMENT) * _ALIGNMENT
