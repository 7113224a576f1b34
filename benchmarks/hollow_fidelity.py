"""Plans of a hollow shadow against its source's, node by node and cost by cost.

    python benchmarks/hollow_fidelity.py [--only tpch,tpcds,random,demo,zoo] [--scale 0.2] [--tpcds-scale 1]
        [--source-version 15]

The sources are databases in an embedded cluster of their own, whose reading role may read and nothing else:

    tpch   TPC-H with its keys only; then with further indexes of many kinds and with rows that came after the last
           ANALYZE, so that predicates reach past the histogram's ends; and hypothetical indexes against the same ones
           really built
    tpcds  TPC-DS: 99 queries over 24 tables, with primary and foreign keys and secondary indexes
    random random queries over small tables with random rows
    demo   the shop of `planproof demo`
    zoo    one table or group for each thing that planners look at (`fixtures/schemas/zoo.sql`)

Up to two differences of each query are printed. A cost that differs in its last digit alone, by 0.01, counts as
identical and is told. A source of another version, which this machine has, is planned for twice: by that version and by
the embedded one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psycopg
import tpcds
import tpch

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.ddl_pieces import cut
from optimizer.errors import SqlError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.source.introspect import read_catalog
from optimizer.shadow.template.clone_options import CloneOptions
from plugins.demo import shop

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import zoo
from fidelity import Outcome, Question, compare, hold_still, on_shadow, on_source, outline
from fuzz_oracle import random_rows, store
from fuzz_schema import EXTRA_DDL
from sql_fuzzer import SqlFuzzer

FIXTURES = Path(__file__).parents[1] / "fixtures"
READER = "fidelity_reader"

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
    planned_by_source = on_source(connection)
    for query, text in tpch.queries().items():
        real = planned_by_source(Question(query, text))
        alike += outline(real) == outline(planned[query])
        ratios.append(planned[query]["Total Cost"] / real["Total Cost"])
        if abs(ratios[-1] - 1) > 0.01:
            print(f"  {query}: cost {planned[query]['Total Cost']:.0f}, with the real index {real['Total Cost']:.0f}")
    for index in made.values():
        connection.execute(f"DROP INDEX {index.name}".encode())
    print(
        f"hypothetical indexes ({took:.1f} ms each): same nodes and indexes in {alike} of {len(ratios)} plans,"
        f" cost / real cost {min(ratios):.3f} to {max(ratios):.3f}"
    )


@dataclass(slots=True)
class Bench:
    """One run.

    Parameters:
        source: the cluster of the sources.
        planners: who plans for them: by a name for the table, services in a home of their own.
        table: by workload, plans that are identical, plans with the same nodes and indexes, all plans.
    """

    source: Cluster
    planners: Mapping[str, Services]
    table: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def make(self, name: str) -> None:
        """Make an empty database in a locale that every machine has."""
        with self.source.connect() as connection:
            # Before 15 the provider cannot be named, and is libc.
            provider = " LOCALE_PROVIDER libc" if connection.info.server_version >= 150000 else ""
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0{provider} LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'".encode()
            )

    def compare(
        self,
        database: str,
        workloads: Mapping[str, Iterable[Question]],
        *,
        shadow: str = "",
        reader: str = READER,
        role: str = "",
    ) -> None:
        """Clone a source, plan all queries on both sides, and print what differs.

        Parameters:
            workloads: queries by title.
            shadow: a name; empty is the database's.
            reader: who reads the source.
            role: whose rights and policies count; empty is the reader.
        """
        with self.source.connect(database) as connection:
            hold_still(connection)
        name, asked = shadow or database, {title: list(questions) for title, questions in workloads.items()}
        for planner, services in self.planners.items():
            began = time.perf_counter()
            record = services.add_hollow(name, self.source.conninfo(database, reader), options=CloneOptions(role=role))
            print(f"{name}: cloned in {time.perf_counter() - began:.2f} s", *record.not_cloned, sep="\n  ", flush=True)
            for title, questions in asked.items():
                with (
                    self.source.connect(database, role or reader) as connection,
                    services.shadow(name).session() as session,
                ):
                    self._tell(f"{title}{planner}", list(compare(on_source(connection), on_shadow(session), questions)))

    def _tell(self, title: str, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            for line in outcome.differences[:2]:
                print(f"  {outcome.question.name}: {line}")
        identical = sum(not outcome.differences for outcome in outcomes)
        rounding = sum(bool(o.rounding and not o.differences) for o in outcomes)
        self.table[title] = identical, sum(o.alike for o in outcomes), len(outcomes)
        ratios = sorted(o.cost_ratio for o in outcomes)
        print(
            f"{title}: identical {identical} of {len(outcomes)}, {rounding} of them but for a last digit;"
            f" cost / cost at the source {ratios[0]:.3f} to {ratios[-1]:.3f}, median {median(ratios):.3f}",
            flush=True,
        )


def from_texts(texts: Mapping[str, str]) -> Iterator[Question]:
    """Queries without parameters, by name."""
    return (Question(name, text) for name, text in texts.items())


def run_tpch(bench: Bench, scale: float) -> None:
    """TPC-H with its keys only; then with more indexes, and rows that the statistics don't know."""
    bench.make("tpch")
    with bench.source.connect("tpch") as connection:
        tpch.fill(connection, scale)
        bench.compare("tpch", {"TPC-H, keys only": from_texts(tpch.queries())})
        compare_hypothetical(connection, next(iter(bench.planners.values())), "tpch")
        for statement in INDEXES:
            connection.execute(statement)
        connection.execute("VACUUM ANALYZE")
        for statement in LATE_ROWS:
            connection.execute(statement)
    workloads = {
        "TPC-H, more indexes, late rows": from_texts(tpch.queries()),
        "predicates past the histogram's ends": from_texts(PAST_THE_END),
    }
    bench.compare("tpch", workloads, shadow="late-rows")


def run_tpcds(bench: Bench, scale: float) -> None:
    """TPC-DS."""
    bench.make("tpcds")
    with bench.source.connect("tpcds") as connection:
        connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
        tpcds.fill(connection, scale)
    bench.compare("tpcds", {"TPC-DS": from_texts(tpcds.queries())})


def run_demo(bench: Bench) -> None:
    """The demo's shop, which is in the embedded store."""
    services = next(iter(bench.planners.values()))
    with shop.open_shop(
        services, scale=1.0, reset=False, before_filling=lambda: None, progress=lambda _told, _share: None
    ):
        bench.compare(shop.DATABASE, {"demo": (Question(q.name, q.sql) for q in shop.queries())}, shadow="demo")


def run_zoo(bench: Bench) -> None:
    """The zoo."""
    zoo.make(bench.source, "zoo", rows=50_000)
    bench.compare("zoo", {"zoo": zoo.questions()}, reader=zoo.READER, role=zoo.ROLE)


def run_random(bench: Bench, count: int) -> None:
    """Random queries over random rows; those that the source itself refuses are left out."""
    bench.make("random")
    with bench.source.connect("random") as connection:
        for piece in cut((FIXTURES / "schemas" / "shop.sql").read_text() + EXTRA_DDL):
            connection.execute(piece.text.encode())
        catalog = read_catalog(connection)
        store(connection, catalog, random_rows(catalog, random.Random(1), 3_000))
        connection.execute("VACUUM (ANALYZE)")
        fuzzer, source = SqlFuzzer(random.Random(1)), on_source(connection)
        asked: list[Question] = []
        while len(asked) < count:
            question = Question(f"random {len(asked)}", fuzzer.statement().sql)
            with suppress(SqlError):
                source(question)
                asked.append(question)
    bench.compare("random", {"random queries": asked})


@contextmanager
def opened(version: int | None) -> Iterator[Bench]:
    """Homes of their own for a source and for whoever plans for it.

    Parameters:
        version: of the source, a PostgreSQL of this machine; None is the embedded one.
    """
    planners: dict[str, Literal["source", "embedded"]] = {"": "source"}
    if version is not None:
        planners = {f" (by {version})": "source", " (by the embedded)": "embedded"}
    with ExitStack() as stack:
        made: dict[str, Services] = {}
        for name, planner in planners.items():
            settings = Settings(home=_home(stack), cluster_linger_s=10, planner=planner)
            made[name] = stack.enter_context(Services.open(settings))
            stack.callback(made[name].supervisor.stop_all)
        if version is None:
            source = made[""].supervisor.cluster(ClusterKind.STORE)
        else:
            supervisor = Supervisor(Settings(home=_home(stack), cluster_linger_s=10))
            stack.callback(supervisor.close)
            stack.callback(supervisor.stop_all)
            source = supervisor.cluster(ClusterKind.HOLLOW, version)
        source.ensure_role(READER)
        with source.connect() as connection:
            connection.execute(f"ALTER ROLE {READER} INHERIT".encode())
            connection.execute(f"GRANT pg_read_all_data TO {READER}".encode())
        yield Bench(source, made)


def _home(stack: ExitStack) -> Path:
    # A watchdog may still be taking its leave when the folder goes.
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True))
    Path(folder).chmod(0o711)
    return Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="rounds, with commas between them")
    parser.add_argument("--scale", type=float, default=0.2, help="of TPC-H")
    parser.add_argument("--tpcds-scale", type=float, default=1.0, help="of TPC-DS; 1 takes 3 GB of disk for a while")
    parser.add_argument("--queries", type=int, default=1_000, help="random ones")
    parser.add_argument("--source-version", type=int, help="of PostgreSQL, such as 15; not for demo and zoo")
    options = parser.parse_args(arguments)
    rounds: dict[str, Callable[[Bench], None]] = {
        "tpch": lambda bench: run_tpch(bench, options.scale),
        "tpcds": lambda bench: run_tpcds(bench, options.tpcds_scale),
        "random": lambda bench: run_random(bench, options.queries),
        "demo": run_demo,
        "zoo": run_zoo,
    }
    if options.source_version is not None:  # they need what only the embedded server has
        del rounds["demo"], rounds["zoo"]
    chosen = options.only.split(",") if options.only else list(rounds)
    if unknown := set(chosen) - rounds.keys():
        parser.error(f"no such round: {', '.join(sorted(unknown))}; there are {', '.join(rounds)}")
    with opened(options.source_version) as bench:
        for name in chosen:
            rounds[name](bench)
        print(f"{'':56}{'identical':>12}{'same nodes and indexes':>26}")
        for title, (identical, alike, asked) in bench.table.items():
            print(f"{title:56}{f'{identical} of {asked}':>12}{f'{alike} of {asked}':>26}")


if __name__ == "__main__":
    main()
