"""Estimated sizes of B-trees against really built ones.

    python benchmarks/index_sizes.py [--rows 500000] [--scale 0.1] [--target 100]

Builds every index below over generated columns of many shapes and over TPC-H in an embedded cluster, prints both sizes
and heights, and at the end the median and the 95th percentile of the relative error. Most of what is left is
ANALYZE's estimate of n_distinct, which decides how much deduplication saves; `--target 1000` shows the model by itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import tpch

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, IndexColumn
from optimizer.settings import Settings
from optimizer.shadow.btree_size import IndexSize, estimate_index
from optimizer.shadow.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.introspect import read_catalog

#: Columns of the generated table: serial, uniform, skewed, mostly NULL, wide, of many types.
GENERATED = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'elated');
CREATE TABLE g AS
SELECT i::bigint AS id,
       i AS serial,
       (random() * 1000)::int AS thousand,
       (random() * n / 3)::int AS few_each,
       (random() * n * 2)::int AS mostly_unique,
       floor(20000 * power(random(), 6))::int AS skewed,
       (ARRAY['new', 'paid', 'shipped', 'delivered', 'returned to sender'])[1 + floor(5 * power(random(), 3))::int]
         AS status,
       random() < 0.02 AS flag,
       CASE WHEN random() < 0.9 THEN NULL ELSE (random() * 100000)::int END AS rare,
       timestamptz '2024-01-01' + random() * interval '365 days' AS created,
       date '2020-01-01' + (random() * 1500)::int AS day,
       gen_random_uuid() AS uid,
       round((random() * 10000)::numeric, 2) AS price,
       random() AS real8,
       (i % 7)::smallint AS small,
       'user' || (random() * n / 5)::int || '@example.org' AS email,
       repeat(md5(random()::text), 1 + (random() * 3)::int) AS hash,
       md5((i / 3)::text) AS triple,
       (ARRAY['sad', 'ok', 'happy', 'elated'])[1 + i % 4]::mood AS mood,
       ('10.' || i % 200 || '.' || (random() * 200)::int || '.1')::inet AS address,
       lpad((i % 5000)::text, 5, '0')::char(8) AS code,
       CASE WHEN random() < 0.3 THEN NULL ELSE substr(md5(random()::text), 1, 1 + (random() * 20)::int) END AS word,
       interval '1 minute' * (random() * 10000)::int AS lasting,
       ARRAY[i % 10, i % 3] AS pair
  FROM (SELECT %(rows)s AS n) s, generate_series(1, n) i;
ALTER TABLE g ADD PRIMARY KEY (id);
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One index: its table, key columns (expressions in parentheses), included columns and predicate."""

    table: str
    keys: tuple[str, ...]
    include: tuple[str, ...] = ()
    predicate: str | None = None
    key_types: tuple[str, ...] | None = None

    def candidate(self) -> IndexCandidate:
        """The candidate that a rule would propose."""
        columns = tuple(IndexColumn(k, None if k.startswith("(") else k) for k in self.keys)
        return IndexCandidate("public", self.table, columns, include=self.include, predicate=self.predicate)


def _single(table: str, *columns: str) -> tuple[Case, ...]:
    return tuple(Case(table, (column,)) for column in columns)


CASES = (
    *_single("g", "id", "serial", "thousand", "few_each", "mostly_unique", "skewed", "status", "flag", "rare"),
    *_single("g", "created", "day", "uid", "price", "real8", "small", "email", "hash", "triple", "mood", "address"),
    *_single("g", "code", "word", "lasting", "pair"),
    Case("g", ("status", "created")),
    Case("g", ("status", "day")),
    Case("g", ("small", "mood", "flag")),
    Case("g", ("thousand", "small")),
    Case("g", ("rare", "id")),
    Case("g", ("email", "created")),
    Case("g", ("word", "rare")),
    Case("g", ("small", "serial", "flag")),
    Case("g", ("thousand",), ("price", "status")),
    Case("g", ("email",), ("id",)),
    Case("g", ("created",), predicate="status = 'returned to sender'"),
    Case("g", ("rare",), predicate="rare IS NOT NULL"),
    Case("g", ("id",), predicate="flag"),
    Case("g", ("(lower(email))",), key_types=("text",)),
    Case("g", ("((created AT TIME ZONE 'UTC')::date)",), key_types=("date",)),
    *_single("lineitem", "l_shipdate", "l_partkey", "l_suppkey", "l_extendedprice", "l_shipmode", "l_comment"),
    *_single("lineitem", "l_orderkey", "l_quantity", "l_returnflag"),
    Case("lineitem", ("l_partkey", "l_suppkey")),
    Case("lineitem", ("l_shipdate", "l_discount", "l_quantity")),
    Case("lineitem", ("l_shipdate", "l_receiptdate")),
    Case("lineitem", ("l_orderkey", "l_linenumber")),
    Case("lineitem", ("l_suppkey",), ("l_extendedprice", "l_discount")),
    *_single("orders", "o_custkey", "o_orderdate", "o_clerk", "o_comment", "o_orderpriority"),
    Case("orders", ("o_custkey", "o_orderdate")),
    Case("orders", ("o_orderdate",), predicate="o_orderstatus = 'P'"),
    *_single("customer", "c_name", "c_mktsegment", "c_acctbal", "c_phone"),
    *_single("part", "p_type", "p_name", "p_brand"),
    Case("part", ("p_brand", "p_container", "p_size")),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case with its estimated and its real size; `ms` is what the estimate took."""

    case: Case
    estimated: IndexSize
    blocks: int
    height: int
    ms: float

    @property
    def error(self) -> float:
        """Relative error in blocks."""
        return abs(self.estimated.blocks - self.blocks) / self.blocks


def measure(connection: psycopg.Connection[Any], catalog: Catalog) -> Iterator[Outcome]:
    """Build each index, look at it and drop it."""
    connection.execute("CREATE EXTENSION IF NOT EXISTS pageinspect")
    connection.execute("SET maintenance_work_mem = '256MB'")
    for case in CASES:
        candidate = case.candidate()
        began = time.perf_counter()
        estimated = estimate_index(candidate, catalog.tables["public", case.table], catalog, key_types=case.key_types)
        took = 1000 * (time.perf_counter() - began)
        connection.execute(candidate.ddl("measured", concurrently=False).encode())
        row = connection.execute(
            "SELECT pg_relation_size('measured') / 8192, (SELECT fastlevel FROM bt_metap('measured'))"
        ).fetchone()
        connection.execute("DROP INDEX measured")
        if row is None:
            raise RuntimeError("a query without FROM returned no row")
        yield Outcome(case, estimated, row[0], row[1], took)


def run(cluster: Cluster, rows: int, scale: float, target: int) -> None:
    """Fill a database and print the outcome of all cases."""
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE index_sizes")
    with cluster.connect("index_sizes") as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(GENERATED.replace("%(rows)s", str(rows)).encode())
        tpch.fill(connection, scale)
        connection.execute(f"SET default_statistics_target = {target}".encode())
        connection.execute("ANALYZE")
        catalog = read_catalog(connection)
        outcomes = list(measure(connection, catalog))
    print_outcomes(outcomes)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a line an index, then the totals."""
    print(f"{'index':52} {'estimated':>10} {'real':>10} {'ratio':>6} height")
    for outcome in outcomes:
        case = outcome.case
        name = f"{case.table} ({', '.join(case.keys)})"
        name += f" INCLUDE ({', '.join(case.include)})" if case.include else ""
        name += f" WHERE {case.predicate}" if case.predicate else ""
        ratio = outcome.estimated.blocks / outcome.blocks
        heights = str(outcome.height)
        heights += "" if outcome.estimated.height == outcome.height else f" (estimated {outcome.estimated.height})"
        print(f"{name[:52]:52} {outcome.estimated.blocks:>10,} {outcome.blocks:>10,} {ratio:>6.2f} {heights}")
    errors = sorted(o.error for o in outcomes)
    high = errors[min(round(0.95 * len(errors)), len(errors) - 1)]
    right = sum(o.estimated.height == o.height for o in outcomes)
    print(
        f"{len(errors)} indexes: median error {statistics.median(errors):.1%}, p95 {high:.1%}, worst {errors[-1]:.1%};"
        f" height right for {right}; {statistics.median(o.ms for o in outcomes):.2f} ms an estimate,"
        f" at most {max(o.ms for o in outcomes):.2f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="of the generated table")
    parser.add_argument("--scale", type=float, default=0.1, help="of TPC-H")
    parser.add_argument("--target", type=int, default=100, help="default_statistics_target")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        supervisor = Supervisor(Settings(home=home, cluster_linger_s=10))
        try:
            run(supervisor.cluster(ClusterKind.STORE), options.rows, options.scale, options.target)
        finally:
            supervisor.stop_all()
            supervisor.close()


if __name__ == "__main__":
    main()
