"""Makes a large source for `scale_bench.py`: thousands of tables with statistics and sparse files, and no rows.

What stands for production here is itself laid out as a hollow shadow is: its files have any size without taking room,
its B-trees have a height and two entries, and its statistics were written, not gathered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg

from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.pages.storage import FileLayout, Layout, apply_shape, bind_shape
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.sizes.btree_size import height_of_blocks

DATABASE = "large"
INDEXES_PER_TABLE = 5
#: Tables made in one transaction: each locks itself and its indexes.
_BATCH = 200
_ROW_BYTES = 120
#: Index of which column, its share of the table's size, whether it is the primary key, and its ends.
_INDEXES = (
    ("{}_pkey", "(id)", 0.09, ("1", "1000000")),
    ("{}_customer", "(customer_id)", 0.06, ("1", "100000")),
    ("{}_recent", "(status, created_at)", 0.10, ("lost", "paid")),
    ("{}_email", "(email)", 0.15, ("a@example.org", "z@example.org")),
    ("{}_dear", "(amount) WHERE status = 'new'", 0.02, None),
)
_STATISTICS = """
WITH bounds AS MATERIALIZED (
  SELECT array_agg(1 + p * 9999)::text AS ids, array_agg(1 + p * 999)::text AS customers,
         array_agg(round(p * 9.99, 2))::text AS amounts,
         array_agg(timestamptz '2024-01-01 00:00+00' + p * interval '1 day' ORDER BY p)::text AS times,
         array_agg(chr(97 + p / 4) || lpad(p::text, 6, '0') || '@example.org' ORDER BY p)::text AS emails
    FROM generate_series(0, 100) p)
SELECT count(pg_restore_relation_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n,
          'relpages', (%(blocks)s::int8[])[n]::int4, 'reltuples', (%(rows)s::float4[])[n],
          'relallvisible', (%(blocks)s::int8[])[n]::int4)),
       count(pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n, 'attname', 'id',
          'inherited', false, 'null_frac', 0::float4, 'avg_width', 8, 'n_distinct', -1::float4,
          'histogram_bounds', ids, 'correlation', 1::float4)),
       count(pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n, 'attname',
          'customer_id', 'inherited', false, 'null_frac', 0.01::float4, 'avg_width', 4, 'n_distinct', 90000::float4,
          'histogram_bounds', customers, 'correlation', 0.1::float4)),
       count(pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n, 'attname',
          'status', 'inherited', false, 'null_frac', 0::float4, 'avg_width', 5, 'n_distinct', 3::float4,
          'most_common_vals', '{paid,new,lost}'::text, 'most_common_freqs', '{0.9,0.07,0.03}'::float4[],
          'correlation', 0.8::float4)),
       count(pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n, 'attname',
          'email', 'inherited', false, 'null_frac', 0::float4, 'avg_width', 20, 'n_distinct', -1::float4,
          'histogram_bounds', emails, 'correlation', 0.01::float4)),
       count(pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n, 'attname',
          'amount', 'inherited', false, 'null_frac', 0.1::float4, 'avg_width', 6, 'n_distinct', 50000::float4,
          'histogram_bounds', amounts, 'correlation', 0.02::float4)),
       count(pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', 't' || n, 'attname',
          'created_at', 'inherited', false, 'null_frac', 0::float4, 'avg_width', 8, 'n_distinct', -0.9::float4,
          'histogram_bounds', times, 'correlation', 1::float4))
  FROM bounds, generate_series(%(first)s::int, %(last)s) n
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a source is.

    Parameters:
        tables: their number; each has `INDEXES_PER_TABLE` indexes.
        total_bytes: of all tables and indexes together. Tables are of unequal size, as real ones are.
    """

    tables: int
    total_bytes: int

    def table_blocks(self) -> list[int]:
        """Blocks of each table: one in ten holds most of what there is."""
        weights = [40 if n % 10 == 0 else 1 + n % 7 for n in range(self.tables)]
        with_indexes = 8192 * (1 + sum(share for _, _, share, _ in _INDEXES))
        return [max(1, round(self.total_bytes * w / sum(weights) / with_indexes)) for w in weights]


def make_source(supervisor: Supervisor, size: Size) -> tuple[Cluster, int]:
    """Make the database `large` in a cluster of its own; return that and the bytes of all relations' files.

    The cluster is stopped while the files are written, so that no page of them is in a buffer.
    """
    cluster = supervisor.cluster(ClusterKind.SCRATCH)
    blocks = size.table_blocks()
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
        ((oid,),) = admin.execute("SELECT oid::int8 FROM pg_database WHERE datname = %s", [DATABASE]).fetchall()
    with cluster.connect(DATABASE) as connection:
        for first in range(0, size.tables, _BATCH):
            last = min(first + _BATCH, size.tables)
            connection.execute("".join(_table(n) for n in range(first + 1, last + 1)).encode())
            rows = [float(b * 8192 // _ROW_BYTES) for b in blocks]
            connection.execute(_STATISTICS.encode(), {"blocks": blocks, "rows": rows, "first": first + 1, "last": last})
        layout = _layout(cluster, connection, blocks)
    supervisor.stop(ClusterKind.SCRATCH)
    apply_shape(cluster, oid, layout)
    return supervisor.cluster(ClusterKind.SCRATCH), sum(file.blocks for file in layout.files) * 8192


def changes(tables: int) -> list[str]:
    """SQL that changes the statistics of some tables, as ANALYZE does after rows have come."""
    return [
        "SELECT pg_restore_attribute_stats('version', 180000, 'schemaname', 'public', 'relname', "
        f"'t{number}', 'attname', 'status', 'inherited', false, 'null_frac', 0::float4, 'avg_width', 5,"
        " 'n_distinct', 3::float4, 'most_common_vals', '{paid,new,lost}'::text,"
        " 'most_common_freqs', '{0.8,0.15,0.05}'::float4[])"
        for number in range(1, tables + 1)
    ]


def _table(number: int) -> str:
    name = f"t{number}"
    parent = f" REFERENCES t{number - 1}" if number > 1 else ""
    indexes = "".join(
        f"CREATE INDEX {index.format(name)} ON {name} {keys};" for index, keys, _, _ in _INDEXES if "pkey" not in index
    )
    return (
        f"CREATE TABLE {name} (id bigint PRIMARY KEY{parent}, customer_id integer, email text NOT NULL,"
        " status text NOT NULL DEFAULT 'new', amount numeric(10,2), created_at timestamptz NOT NULL, note text,"
        f" extra jsonb);{indexes}"
    )


def _layout(cluster: Cluster, connection: psycopg.Connection[tuple[object, ...]], blocks: list[int]) -> Layout:
    """Bind the shape; the entries of the first table's indexes serve for all, since their types are the same."""
    relations = list(_relations(blocks))
    shape = Shape(connection.info.server_version, tuple(relations))
    ends = {f"t1{index.removeprefix('{}')}": found for index, _, _, found in _INDEXES}
    first = replace(shape, relations=tuple(replace(r, ends=ends.get(r.name)) for r in relations))
    bound = bind_shape(cluster, connection, first)
    entries: dict[int, tuple[bytes, ...]] = {}
    files: list[FileLayout] = []
    for place, file in enumerate(bound.files):
        kind = place % (1 + INDEXES_PER_TABLE)
        entries.setdefault(kind, file.leaf)
        files.append(replace(file, leaf=entries[kind], visible=kind == 0))
    return replace(bound, files=tuple(files))


def _relations(blocks: list[int]) -> Iterator[RelationShape]:
    for number, size in enumerate(blocks, 1):
        name = f"t{number}"
        yield RelationShape("public", name, "table", size, float(size * 8192 // _ROW_BYTES), size, size)
        for index, _, share, _ in _INDEXES:
            pages = max(2, round(size * share))
            height = height_of_blocks(pages, 16)
            yield RelationShape("public", index.format(name), "index", pages, 0.0, pages, 0, "btree", height)
