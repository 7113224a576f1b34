"""Plans of a hollow shadow against its source's, node by node and cost by cost, over TPC-H.

    python benchmarks/hollow_fidelity.py [--scale 0.2]

The source is a TPC-H database in an embedded cluster of its own, first with its keys only, then with further indexes of
many kinds and with rows that came after the last ANALYZE, so that predicates reach past the histogram's ends, and at
last with hypothetical indexes against the same ones really built. The shadow's role may read and nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import tpch

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.cluster import Cluster, ClusterKind
from optimizer.shadow.port import PlanningSession

SOURCE, READER = "tpch", "tpch_reader"

#: Indexes that CREATE INDEX makes on the source for the second round.
INDEXES = (
    "CREATE INDEX ON lineitem (l_shipdate)",
    "CREATE INDEX ON lineitem (l_receiptdate DESC)",
    "CREATE INDEX ON lineitem (l_partkey, l_suppkey)",
    "CREATE INDEX ON lineitem (l_extendedprice) INCLUDE (l_discount)",
    "CREATE INDEX ON orders (o_orderdate, o_custkey)",
    "CREATE INDEX ON orders (o_custkey)",
    "CREATE INDEX ON orders (o_totalprice DESC NULLS LAST)",
    "CREATE INDEX ON orders (o_orderdate) WHERE o_orderstatus = 'O'",
    "CREATE INDEX ON customer (lower(c_name))",
    "CREATE INDEX ON customer (c_mktsegment, c_acctbal)",
    "CREATE INDEX ON part (p_name text_pattern_ops)",
    "CREATE INDEX ON part (p_brand, p_size)",
    "CREATE INDEX ON lineitem USING hash (l_shipmode)",
    "CREATE INDEX ON lineitem USING brin (l_commitdate)",
)
#: Rows newer than the statistics: the last two percent of all orders move past the end.
LATE_ROWS = (
    "UPDATE orders SET o_orderdate = o_orderdate + 3000, o_totalprice = o_totalprice + 600000"
    " WHERE o_orderkey % 50 = 0",
    "UPDATE lineitem SET l_shipdate = l_shipdate + 3000, l_receiptdate = l_receiptdate + 3000"
    " WHERE l_orderkey % 50 = 0",
)
PAST_THE_END = {
    "late orders": "SELECT * FROM orders WHERE o_orderdate > date '1999-01-01'",
    "latest orders": "SELECT * FROM orders WHERE o_orderdate > date '2006-01-01' ORDER BY o_orderdate LIMIT 10",
    "orders after all": "SELECT * FROM orders WHERE o_orderdate > date '2030-01-01'",
    "early orders": "SELECT * FROM orders WHERE o_orderdate < date '1992-01-02'",
    "late lines": "SELECT l_orderkey, l_quantity FROM lineitem WHERE l_shipdate >= date '2000-01-01'",
    "late receipts": "SELECT count(*) FROM lineitem WHERE l_receiptdate > date '2005-06-01'",
    "dear orders": "SELECT * FROM orders WHERE o_totalprice > 700000",
    "dear lines": "SELECT sum(l_discount) FROM lineitem WHERE l_extendedprice > 104000",
    "late order lines": "SELECT count(*) FROM orders JOIN lineitem ON l_orderkey = o_orderkey"
    " WHERE o_orderdate >= date '2003-01-01' AND l_shipdate > date '2003-06-01'",
    "late customers": "SELECT c_name, sum(o_totalprice) FROM customer JOIN orders ON o_custkey = c_custkey"
    " WHERE o_orderdate > date '2005-01-01' GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    "last keys": "SELECT * FROM lineitem WHERE l_orderkey > 1199000",
    "open orders": "SELECT * FROM orders WHERE o_orderstatus = 'O' AND o_orderdate > date '2004-01-01'",
    "name": "SELECT * FROM customer WHERE lower(c_name) > 'customer#000029999'",
    "segment": "SELECT * FROM customer WHERE c_mktsegment = 'BUILDING' AND c_acctbal > 9990",
    "prefix": "SELECT * FROM part WHERE p_name LIKE 'forest%'",
    "hash": "SELECT count(*) FROM lineitem WHERE l_shipmode = 'AIR'",
    "brin": "SELECT * FROM lineitem WHERE l_commitdate = date '1995-03-03'",
}


#: Compared as hypothetical and as real.
CANDIDATES = (
    ("lineitem", ("l_partkey",), ()),
    ("lineitem", ("l_shipdate",), ("l_extendedprice", "l_discount", "l_quantity")),
    ("lineitem", ("l_suppkey", "l_partkey"), ()),
    ("orders", ("o_custkey",), ("o_orderkey",)),
    ("orders", ("o_orderdate", "o_orderkey"), ()),
    ("customer", ("c_nationkey",), ()),
    ("part", ("p_brand", "p_container"), ("p_partkey",)),
    ("partsupp", ("ps_suppkey",), ()),
)

Planner = Callable[[str], Mapping[str, Any]]


def differences(left: Mapping[str, Any], right: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Yield every field in which two plans differ."""
    here = f"{place}/{left.get('Node Type')}"
    for field in sorted((left.keys() | right.keys()) - {"Plans"}):
        if left.get(field) != right.get(field):
            yield f"{here}: {field} {left.get(field)} on the source, {right.get(field)} on the shadow"
    if len(left.get("Plans", ())) == len(right.get("Plans", ())):
        for one, other in zip(left.get("Plans", ()), right.get("Plans", ()), strict=True):
            yield from differences(one, other, here)


def compare(title: str, source: Planner, shadow: Planner, texts: Mapping[str, str]) -> int:
    """Plan all queries on both sides, print what differs, and return how many are identical."""
    identical = 0
    for name, text in texts.items():
        found = list(differences(source(text), shadow(text)))
        identical += not found
        for line in found[:3]:
            print(f"  {name}: {line}")
    print(f"{title}: identical {identical} of {len(texts)}", flush=True)
    return identical


def on_source(connection: psycopg.Connection[Any]) -> Planner:
    """Plan with the source itself."""

    def plan(text: str) -> Mapping[str, Any]:
        (row,) = connection.execute(f"EXPLAIN (FORMAT JSON) {text}".encode()).fetchall()
        found: Mapping[str, Any] = row[0][0]["Plan"]
        return found

    return plan


def on_shadow(session: PlanningSession) -> Planner:
    """Plan with a shadow."""
    return lambda text: session.explain(text).raw


def compare_hypothetical(connection: psycopg.Connection[Any], services: Services, name: str) -> None:
    """Give the shadow hypothetical indexes, build the same ones on the source, and compare."""
    candidates = [
        IndexCandidate("public", table, tuple(IndexColumn(k, k) for k in keys), include=include)
        for table, keys, include in CANDIDATES
    ]
    with services.shadow(name).session() as session:
        began = time.perf_counter()
        made = session.create(candidates)
        took = 1000 * (time.perf_counter() - began) / len(made)
        for index in made.values():
            connection.execute(index.candidate.ddl(index.name, concurrently=False).encode())
        planned = {q: session.explain(text, using=made.values()).raw for q, text in tpch.queries().items()}
    alike, ratios = 0, list[float]()
    for query, text in tpch.queries().items():
        real = on_source(connection)(text)
        alike += _outline(real) == _outline(planned[query])
        ratios.append(planned[query]["Total Cost"] / real["Total Cost"])
        if abs(ratios[-1] - 1) > 0.01:
            print(f"  {query}: cost {planned[query]['Total Cost']:.0f}, with the real index {real['Total Cost']:.0f}")
    for index in made.values():
        connection.execute(f"DROP INDEX {index.name}".encode())
    print(
        f"hypothetical indexes ({took:.1f} ms each): same nodes and indexes in {alike} of {len(ratios)} plans,"
        f" cost / real cost {min(ratios):.3f} to {max(ratios):.3f}"
    )


def _outline(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    fields = tuple(plan.get(f) for f in ("Node Type", "Index Name", "Relation Name", "Join Type"))
    return (*fields, *(_outline(child) for child in plan.get("Plans", ())))


def clone(services: Services, source: Cluster, name: str) -> None:
    """Add a hollow shadow of the source and print how long it took and what it lacks."""
    began = time.perf_counter()
    record = services.add_hollow(name, source.conninfo(SOURCE, READER))
    print(f"{name}: cloned in {time.perf_counter() - began:.2f} s", *record.not_cloned, sep="\n  ", flush=True)


def run(services: Services, scale: float) -> None:
    """Fill the source and compare: keys only, then with more indexes and rows that the statistics don't know."""
    source = services.supervisor.cluster(ClusterKind.STORE)
    source.ensure_role(READER)
    with source.connect() as connection:
        connection.execute(
            f"CREATE DATABASE {SOURCE} TEMPLATE template0"
            " LOCALE_PROVIDER libc LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'".encode()
        )
        connection.execute(f"GRANT pg_read_all_data TO {READER} WITH INHERIT TRUE".encode())
    with source.connect(SOURCE) as connection:
        tpch.fill(connection, scale)
        clone(services, source, "keys-only")
        with services.shadow("keys-only").session() as session:
            compare("TPC-H, keys only", on_source(connection), on_shadow(session), tpch.queries())
        compare_hypothetical(connection, services, "keys-only")
        for statement in INDEXES:
            connection.execute(statement)
        connection.execute("VACUUM ANALYZE")
        for statement in LATE_ROWS:
            connection.execute(statement)
        clone(services, source, "late-rows")
        with services.shadow("late-rows").session() as session:
            compare("TPC-H, more indexes, late rows", on_source(connection), on_shadow(session), tpch.queries())
            compare("predicates past the histogram's ends", on_source(connection), on_shadow(session), PAST_THE_END)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all rounds in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        with Services.open(Settings(home=home, cluster_linger_s=10)) as services:
            try:
                run(services, options.scale)
            finally:
                services.supervisor.stop_all()


if __name__ == "__main__":
    main()
