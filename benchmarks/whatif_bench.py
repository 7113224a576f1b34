"""Time of one what-if, and of going from one set of hypothetical indexes to another: hollow shadow against HypoPG.

    python benchmarks/whatif_bench.py [--scale 0.1] [--runs 300]

A what-if is: make a hypothetical index, EXPLAIN a cheap query with it, undo it. A step in the search of a configuration
is: hide k indexes, show k others, EXPLAIN; HypoPG drops and makes them, in one statement each, since the version that
Debian has cannot hide. Both sides hold TPC-H with the same statistics, and take turns in one process. Beside them the
time of EXPLAIN alone, which is the floor. HypoPG runs in Debian's PostgreSQL 15; without it, ours are printed alone.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hypopg
import psycopg
import tpch

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.hollow import HollowSession
from optimizer.shadow.port import HypotheticalIndex
from optimizer.shadow.server.cluster import ClusterKind

SOURCE, READER = "tpch", "tpch_reader"
QUERY = "SELECT o_orderdate FROM orders WHERE o_custkey = 4711"
WANTED = IndexCandidate("public", "orders", (IndexColumn("o_custkey", "o_custkey"),))
SIZES = (1, 10, 50)
WARM_UP = 20

Step = Callable[[], Any]


def configurations() -> list[IndexCandidate]:
    """A hundred different indexes over the tables that a search would look at."""
    columns = {
        "orders": ("o_custkey", "o_orderdate", "o_totalprice", "o_orderstatus", "o_clerk", "o_orderpriority"),
        "lineitem": (
            "l_partkey",
            "l_suppkey",
            "l_shipdate",
            "l_commitdate",
            "l_receiptdate",
            "l_quantity",
            "l_discount",
        ),
        "customer": ("c_nationkey", "c_acctbal", "c_mktsegment", "c_phone"),
    }
    pairs = [(table, pair) for table, names in columns.items() for pair in itertools.permutations(names, 2)]
    triples = [(table, some) for table, names in columns.items() for some in itertools.permutations(names, 3)]
    return [
        IndexCandidate("public", table, tuple(IndexColumn(name, name) for name in names))
        for table, names in (pairs + triples)[:100]
    ]


class Hypopg:
    """The other side."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def what_if(self) -> None:
        """Make one index, EXPLAIN, drop it."""
        ((oid,),) = self._connection.execute(
            "SELECT indexrelid FROM hypopg_create_index(%s)", [WANTED.ddl(concurrently=False)]
        ).fetchall()
        self.explain()
        self._connection.execute("SELECT hypopg_drop_index(%s)", [oid])

    def step(self, candidates: Sequence[IndexCandidate]) -> None:
        """Drop all, make these, EXPLAIN."""
        self._connection.execute("SELECT hypopg_reset()")
        texts = [candidate.ddl(concurrently=False) for candidate in candidates]
        self._connection.execute("SELECT count(*) FROM unnest(%s::text[]) t, LATERAL hypopg_create_index(t)", [texts])
        self.explain()

    def reset(self) -> None:
        """Drop all."""
        self._connection.execute("SELECT hypopg_reset()")

    def explain(self) -> None:
        """EXPLAIN and read the plan."""
        self._connection.execute(f"EXPLAIN (FORMAT JSON) {QUERY}".encode()).fetchall()


def what_if(session: HollowSession) -> None:
    """Make one index, EXPLAIN, drop it."""
    made = session.create([WANTED])
    plan = session.explain(QUERY, using=made.values())
    session.drop(made.values())
    if WANTED.name not in plan.indexes:
        raise RuntimeError("the hypothetical index was not used")


def alternate(runs: int, steps: Mapping[str, Step]) -> dict[str, list[float]]:
    """Run the steps in turn and return the times of each, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(WARM_UP + runs):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if run >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def show(title: str, times: Mapping[str, Sequence[float]]) -> None:
    """Print 10th percentiles, medians, 95th percentiles and, where HypoPG is there, the ratios of the first two.

    The 10th percentile is what remains when nobody else uses the machine.
    """
    parts = []
    for name, taken in times.items():
        low, high = (sorted(taken)[int(share * len(taken))] for share in (0.1, 0.95))
        parts.append(f"{name} {low:.3f} / {statistics.median(taken):.3f} / {high:.3f} ms")
    if "HypoPG" in times:
        ours, theirs = times["hollow"], times["HypoPG"]
        quiet = sorted(ours)[len(ours) // 10] / sorted(theirs)[len(theirs) // 10]
        parts.append(f"ratio {quiet:.2f} / {statistics.median(ours) / statistics.median(theirs):.2f}")
    print(f"{title:<32} {', '.join(parts)}", flush=True)


def compare(session: HollowSession, other: Hypopg | None, runs: int) -> None:
    """Print all figures."""

    def pair(ours: Step, theirs: Callable[[Hypopg], Any]) -> dict[str, Step]:
        return {"hollow": ours} | ({"HypoPG": lambda: theirs(other)} if other is not None else {})

    show("EXPLAIN alone", alternate(runs, pair(lambda: session.explain(QUERY), Hypopg.explain)))
    show("one what-if", alternate(runs, pair(lambda: what_if(session), Hypopg.what_if)))
    began = time.perf_counter()
    candidates = configurations()
    made = session.create(candidates)
    took = 1000 * (time.perf_counter() - began)
    print(f"{len(made)} indexes made and held: {took / len(made):.2f} ms each")
    for size in SIZES:
        sets = itertools.cycle([candidates[:size], candidates[size : 2 * size]])
        mine, yours = itertools.tee(sets)
        steps = pair(
            partial(_show_next, session, made, mine),
            partial(_make_next, yours),
        )
        show(f"{size} hidden, {size} shown, EXPLAIN", alternate(runs, steps))
        if other is not None:
            other.reset()


def _show_next(
    session: HollowSession,
    made: Mapping[IndexCandidate, HypotheticalIndex],
    sets: Iterator[Sequence[IndexCandidate]],
) -> None:
    session.explain(QUERY, using=[made[candidate] for candidate in next(sets)])


def _make_next(sets: Iterator[Sequence[IndexCandidate]], other: Hypopg) -> None:
    other.step(next(sets))


@contextlib.contextmanager
def hypopg_side(scale: float) -> Iterator[Hypopg | None]:
    """Fill the other server, where there is one."""
    if not hypopg.installed():
        print("HypoPG on PostgreSQL 15 is not installed (postgresql-15-hypopg): our times alone")
        yield None
        return
    with hypopg.server() as dsn, hypopg.connect(dsn) as connection:
        tpch.fill(connection, scale)
        yield Hypopg(connection)


def run(services: Services, scale: float, runs: int) -> None:
    """Fill source and shadow, and compare."""
    source = services.supervisor.cluster(ClusterKind.STORE)
    source.ensure_role(READER)
    with source.connect() as connection:
        connection.execute(f"CREATE DATABASE {SOURCE} TEMPLATE template0".encode())
        connection.execute(f"GRANT pg_read_all_data TO {READER} WITH INHERIT TRUE".encode())
    with source.connect(SOURCE) as connection:
        tpch.fill(connection, scale)
    services.add_hollow(SOURCE, source.conninfo(SOURCE, READER))
    with hypopg_side(scale) as other, services.shadow(SOURCE).session() as session:
        if not isinstance(session, HollowSession):
            raise TypeError("the shadow is not hollow")
        print(f"load average {os.getloadavg()[0]:.2f}; times: 10th percentile / median / 95th percentile")
        compare(session, other, runs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1, help="of TPC-H")
    parser.add_argument("--runs", type=int, default=300, help="of each step")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o711)
        with Services.open(Settings(home=home, cluster_linger_s=10)) as services:
            try:
                run(services, options.scale, options.runs)
            finally:
                services.supervisor.stop_all()


if __name__ == "__main__":
    main()
