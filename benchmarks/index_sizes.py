"""Hypothetical B-trees on a hollow shadow against the same ones really built: their sizes, and the costs of plans.

    python benchmarks/index_sizes.py [--families kinds,tpch] [--target 100] [--no-hypopg]

Every index of `index_cases.py` is made on a hollow shadow of its source and really built there, in an embedded cluster.
Compared are the size, and for some queries that each index is for (equal to a value, in a range, past the end,
in order with a limit, keys alone, the inner side of a join) the cost and the nodes of the plan. Beside it, HypoPG's
size of the same index on Debian's PostgreSQL 15. Families that the size model was worked out on and those held out from
that are summed up apart. `--target 1000` gives ANALYZE ten times the rows, which shows the model by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypopg
import psycopg
from index_cases import FAMILIES, Family

from optimizer.catalog import IndexColumn, quote_identifier
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import HypotheticalIndex, PlanningSession
from optimizer.shadow.server.cluster import Cluster, ClusterKind

SOURCE, READER = "indexes", "index_reader"
#: Sizes below it differ by whole pages that nobody minds.
LEAST_BLOCKS = 10
_QUANTILES = (0.1, 0.5, 0.52, 1.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """One query with an index: the cost on the shadow, with the real index, and whether the plans have equal nodes."""

    kind: str
    shadow: float
    real: float
    alike: bool

    @property
    def error(self) -> float:
        """Relative error of the cost."""
        return abs(self.shadow - self.real) / self.real


@dataclass(frozen=True, slots=True)
class Outcome:
    """One index: estimated and real blocks, HypoPG's blocks if known, and the queries."""

    family: Family
    text: str
    estimated: int
    blocks: int
    hypopg: int | None
    planned: tuple[Planned, ...]

    @property
    def error(self) -> float:
        """Relative error in blocks."""
        return abs(self.estimated - self.blocks) / self.blocks


def measure(
    connection: psycopg.Connection[Any],
    session: PlanningSession,
    family: Family,
    made: Mapping[str, HypotheticalIndex],
    other: psycopg.Connection[Any] | None,
) -> Iterator[Outcome]:
    """Build each index of a family, look at it, plan with it, and drop it."""
    for text, index in made.items():
        connection.execute(index.candidate.ddl(index.name, concurrently=False).encode())
        name = f"{family.name}.{quote_identifier(index.name)}"
        ((blocks,),) = connection.execute("SELECT pg_relation_size(%s::regclass) / 8192", [name]).fetchall()
        restore_counts(connection, family)
        planned = tuple(plan_both(connection, session, index))
        connection.execute(f"DROP INDEX {name}".encode())
        yield Outcome(family, text, index.storage_bytes // 8192, blocks, size_by_hypopg(other, index), planned)


def remember_counts(connection: psycopg.Connection[Any]) -> None:
    """Keep what the tables' statistics say of their rows.

    CREATE INDEX counts the rows anew where ANALYZE had estimated them, and plans change by that a little. The shadow
    cannot know, and it would hide its own errors.
    """
    connection.execute(
        "CREATE TABLE public.counts AS SELECT c.oid, relpages, reltuples, relallvisible FROM pg_class c"
        " WHERE relkind = 'r' AND relnamespace >= 16384"
    )


def restore_counts(connection: psycopg.Connection[Any], family: Family) -> None:
    """Put them back."""
    connection.execute(
        "UPDATE pg_class c SET relpages = k.relpages, reltuples = k.reltuples, relallvisible = k.relallvisible"
        " FROM public.counts k WHERE k.oid = c.oid AND c.relnamespace = %s::regnamespace"
        " AND (c.reltuples, c.relpages) IS DISTINCT FROM (k.reltuples, k.relpages)",
        [family.name],
    )


def plan_both(
    connection: psycopg.Connection[Any], session: PlanningSession, index: HypotheticalIndex
) -> Iterator[Planned]:
    """Plan the index's queries on both sides."""
    for kind, query in queries(connection, index).items():
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
        real: Mapping[str, Any] = row[0][0]["Plan"] if row is not None else {}
        shadow = session.explain(query, using=[index]).raw
        yield Planned(kind, shadow["Total Cost"], real["Total Cost"], outline(shadow) == outline(real))


def outline(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    """The nodes of a plan, with what they read."""
    fields = tuple(plan.get(f) for f in ("Node Type", "Index Name", "Relation Name", "Join Type", "Scan Direction"))
    return (*fields, *(outline(child) for child in plan.get("Plans", ())))


def queries(connection: psycopg.Connection[Any], index: HypotheticalIndex) -> dict[str, str]:
    """Queries for an index, with values of its first key that the table has; the real index exists."""
    candidate = index.candidate
    table = f"{quote_identifier(candidate.schema)}.{quote_identifier(candidate.table)}"
    keys = [_sql(key) for key in candidate.key_columns]
    first, where = keys[0], f"({candidate.predicate})" if candidate.predicate else "true"
    order = ", ".join(_ordered(key) for key in candidate.key_columns)
    ((number, type_),) = connection.execute(
        f"SELECT count({first}), min(pg_typeof({first})::text) FROM {table} WHERE {where}".encode()
    ).fetchall()
    if not number:
        return {}
    values = []
    for quantile in _QUANTILES:
        offset = min(int(number * quantile), number - 1)
        row = connection.execute(
            f"SELECT quote_literal(k::text) FROM (SELECT {first} AS k FROM {table} WHERE {where} AND ({first})"
            f" IS NOT NULL ORDER BY 1 OFFSET {offset} LIMIT 1) s".encode()
        ).fetchone()
        values.append(f"{row[0]}::{type_}" if row is not None else "NULL")
    few, low, high, last = values
    return {
        "equal": f"SELECT * FROM {table} WHERE {where} AND {first} = {low}",
        "range": f"SELECT * FROM {table} WHERE {where} AND {first} >= {low} AND {first} < {high}",
        "below": f"SELECT count(*) FROM {table} WHERE {where} AND {first} < {few}",
        "past the end": f"SELECT * FROM {table} WHERE {where} AND {first} > {last}",
        "first ten": f"SELECT * FROM {table} WHERE {where} ORDER BY {order} LIMIT 10",
        "keys alone": f"SELECT {', '.join(keys)} FROM {table} WHERE {where} AND {first} = {few}",
        "join": f"SELECT 1 FROM (VALUES ({few}), ({low}), ({last})) v(k) JOIN {table} ON k = {first} AND {where}",
    }


def _sql(key: IndexColumn) -> str:
    return key.expression if key.column is not None else f"({key.expression})"


def _ordered(key: IndexColumn) -> str:
    nulls = "FIRST" if key.nulls_first else "LAST"
    return f"{_sql(key)} {'DESC' if key.descending else 'ASC'} NULLS {nulls}"


def size_by_hypopg(other: psycopg.Connection[Any] | None, index: HypotheticalIndex) -> int | None:
    """Blocks of the same index by HypoPG's estimate."""
    if other is None:
        return None
    ((size,),) = other.execute(
        "SELECT hypopg_relation_size(indexrelid) FROM hypopg_create_index(%s)",
        [index.candidate.ddl(concurrently=False)],
    ).fetchall()
    other.execute("SELECT hypopg_reset()")
    return int(size) // 8192


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a line an index whose size or cost is off, then the totals."""
    print(f"{'indexes that are off by 5 % in size or cost':64} {'estimated':>9} {'real':>9} {'size':>6}  cost")
    for o in outcomes:
        worst = max(o.planned, key=lambda p: p.error, default=None)
        if o.error > 0.05 or (worst is not None and worst.error > 0.05):
            cost = f"{worst.shadow / worst.real:.3f} {worst.kind}" if worst is not None else ""
            name = f"{o.family.name}.{o.text}"[:64]
            print(f"{name:64} {o.estimated:>9,} {o.blocks:>9,} {o.estimated / o.blocks:>6.2f}  {cost}")
    print_sizes("all", outcomes)
    print_sizes("worked out on", [o for o in outcomes if not o.family.held_out])
    print_sizes("held out", [o for o in outcomes if o.family.held_out])
    factors = [o.hypopg / o.blocks for o in outcomes if o.hypopg and o.blocks >= LEAST_BLOCKS]
    if factors:
        far = max(max(f, 1 / f) for f in factors)
        errors = _figures([abs(f - 1) for f in factors])
        print(f"HypoPG, the same: median factor {statistics.median(factors):.2f}, farthest {far:.1f}; error {errors}")
    print_costs("all", outcomes)
    print_costs("worked out on", [o for o in outcomes if not o.family.held_out])
    print_costs("held out", [o for o in outcomes if o.family.held_out])


def print_sizes(title: str, outcomes: Sequence[Outcome]) -> None:
    """Print how far sizes are off."""
    if outcomes:
        print(f"size, {title}: {len(outcomes)} indexes, error {_figures([o.error for o in outcomes])}")


def print_costs(title: str, outcomes: Iterable[Outcome]) -> None:
    """Print how far costs are off, by query and by the worst query of each index."""
    groups = [o.planned for o in outcomes if o.planned]
    plans = [p for group in groups for p in group]
    if plans:
        print(
            f"cost, {title}: {len(plans)} plans, error {_figures([p.error for p in plans])};"
            f" of each index's worst {_figures([max(p.error for p in group) for group in groups])};"
            f" same nodes in {sum(p.alike for p in plans)}"
        )


def _figures(errors: Sequence[float]) -> str:
    ordered = sorted(errors)
    high = ordered[min(round(0.95 * len(ordered)), len(ordered) - 1)]
    return f"median {statistics.median(ordered):.2%}, p95 {high:.1%}, worst {ordered[-1]:.1%}"


@contextlib.contextmanager
def hypopg_side(families: Sequence[Family], wanted: bool, target: int) -> Iterator[psycopg.Connection[Any] | None]:
    """Fill the other server, where there is one."""
    if not wanted or not hypopg.installed():
        print("HypoPG on PostgreSQL 15 is left out" + ("" if not wanted else ": postgresql-15-hypopg is not installed"))
        yield None
        return
    with hypopg.server() as dsn, hypopg.connect(dsn) as connection:
        _fill(connection, families, target)
        connection.execute("SET search_path = public")
        yield connection


def _fill(connection: psycopg.Connection[Any], families: Sequence[Family], target: int) -> None:
    connection.execute(f"SET default_statistics_target = {target}".encode())
    for family in families:
        family.make(connection)


def run(services: Services, source: Cluster, families: Sequence[Family], target: int, *, with_hypopg: bool) -> None:
    """Fill source, shadow and the other server, and print the outcome of all indexes."""
    source.ensure_role(READER)
    with source.connect() as connection:
        connection.execute(
            f"CREATE DATABASE {SOURCE} TEMPLATE template0"
            " LOCALE_PROVIDER libc LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'".encode()
        )
        connection.execute(f"GRANT pg_read_all_data TO {READER} WITH INHERIT TRUE".encode())
    with source.connect(SOURCE) as connection:
        connection.execute("SET maintenance_work_mem = '256MB'")
        _fill(connection, families, target)
        services.add_hollow(SOURCE, source.conninfo(SOURCE, READER))
        remember_counts(connection)
    shadow = services.shadow(SOURCE)
    outcomes: list[Outcome] = []
    with (
        source.connect(SOURCE) as connection,
        hypopg_side(families, with_hypopg, target) as other,
        shadow.session() as session,
    ):
        connection.execute("SET maintenance_work_mem = '256MB'")
        for family in families:
            texts = [_qualified(family, index) for index in family.indexes]
            candidates = {text: parse_index_ddl(text, shadow.catalog()) for text in texts}
            made = session.create(candidates.values())
            indexes = {text.partition(".")[2]: made[candidate] for text, candidate in candidates.items()}
            outcomes += measure(connection, session, family, indexes, other)
    print_outcomes(outcomes)


def _qualified(family: Family, index: str) -> str:
    return f"CREATE INDEX ON {family.name}.{index}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(f.name for f in FAMILIES), help="separated by commas")
    parser.add_argument("--target", type=int, default=100, help="default_statistics_target")
    parser.add_argument("--no-hypopg", action="store_true", help="leave HypoPG out")
    options = parser.parse_args(arguments)
    chosen = [family for family in FAMILIES if family.name in options.families.split(",")]
    with tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o711)
        with Services.open(Settings(home=home, cluster_linger_s=10)) as services:
            try:
                source = services.supervisor.cluster(ClusterKind.STORE)
                run(services, source, chosen, options.target, with_hypopg=not options.no_hypopg)
            finally:
                services.supervisor.stop_all()


if __name__ == "__main__":
    main()
