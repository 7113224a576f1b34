"""What `optimize` costs beside PostgreSQL's own work, over the 22 TPC-H queries.

    python benchmarks/optimize_overhead_bench.py [--scale 0.2] [--runs 3] [--profile FILE]

Total wall time of `optimize` divided by the time that PostgreSQL itself spends on the EXPLAIN statements (hollow
cluster) and on everything that verdicts run (scratch cluster). No report is cached. First the wall time is taken, as
the median of some runs; then the servers are told to log the duration of every statement (parse, bind and execute each
have their own) and the same calls are made once more for PostgreSQL's share. `other` is what the hollow cluster spends
on statements that are not EXPLAIN: making hypothetical indexes, showing and hiding them. It is not in the divisor.
"""

from __future__ import annotations

import argparse
import cProfile
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tpch

from optimizer.advice import Report
from optimizer.pipeline import Optimizer
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server import watchdog
from optimizer.shadow.server.cluster import ClusterKind

SOURCE, READER = "tpch", "tpch_reader"
LOGGED = (ClusterKind.HOLLOW, ClusterKind.SCRATCH)
_DURATION = re.compile(r"duration: ([0-9.]+) ms(?:  (?:(?:parse|bind|execute) [^:]*|statement): (EXPLAIN)?)?")


@dataclass(frozen=True, slots=True)
class Share:
    """What PostgreSQL spent on one call, in milliseconds."""

    explain: float
    gate: float
    other: float

    @property
    def counted(self) -> float:
        """The divisor."""
        return self.explain + self.gate


def logged_ms(log: Path, start: int) -> tuple[float, float]:
    """Sum the durations that a server has logged since `start`: of EXPLAIN statements, and of all others."""
    explain = other = 0.0
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        for line in file:
            found = _DURATION.search(line)
            if found and found[2]:
                explain += float(found[1])
            elif found:
                other += float(found[1])
    return explain, other


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[Optimizer, ShadowDatabase]]:
    """A new optimizer with sessions of its own, warmed up so that the gate knows the schema."""
    with Services.open(settings) as services:
        optimizer = Optimizer(services)
        try:
            shadow = services.shadow(SOURCE)
            optimizer.optimize(tpch.queries()["q17"], shadow)
            yield optimizer, shadow
        finally:
            optimizer.close()


def take_times(settings: Settings, runs: int, profile: Path | None) -> dict[str, tuple[float, Report]]:
    """Wall milliseconds of each query, and its report."""
    times: dict[str, tuple[float, Report]] = {}
    profiler = cProfile.Profile() if profile else None
    with opened(settings) as (optimizer, shadow):
        for name, sql in tpch.queries().items():
            taken = []
            for _ in range(runs):
                begin = time.perf_counter()
                report = optimizer.optimize(sql, shadow)
                taken.append(1000 * (time.perf_counter() - begin))
            times[name] = (statistics.median(taken), report)
        if profiler is not None and profile is not None:
            with profiler:
                for sql in tpch.queries().values():
                    optimizer.optimize(sql, shadow)
            profiler.dump_stats(profile)
    return times


def take_shares(settings: Settings) -> dict[str, Share]:
    """PostgreSQL's part of each query."""
    with Services.open(settings) as services:
        for kind in LOGGED:
            with services.supervisor.cluster(kind).connect() as admin:
                # For every role, in every session that begins from now on.
                admin.execute("ALTER ROLE ALL SET log_min_messages = 'log'")
                admin.execute("ALTER ROLE ALL SET log_min_duration_statement = 0")
                admin.execute("ALTER ROLE ALL SET log_parameter_max_length = 0")
        hollow, scratch = (services.supervisor.cluster(kind).home.parent / watchdog.LOG for kind in LOGGED)
    shares = {}
    with opened(settings) as (optimizer, shadow):
        for name, sql in tpch.queries().items():
            starts = hollow.stat().st_size, scratch.stat().st_size
            optimizer.optimize(sql, shadow)
            time.sleep(0.05)  # the servers' last lines
            explain, other = logged_ms(hollow, starts[0])
            shares[name] = Share(explain, sum(logged_ms(scratch, starts[1])), other)
    return shares


def fill(settings: Settings, scale: float) -> None:
    """Make the source and its hollow shadow."""
    with Services.open(settings) as services:
        source = services.supervisor.cluster(ClusterKind.STORE)
        source.ensure_role(READER)
        with source.connect() as admin:
            admin.execute(f"CREATE DATABASE {SOURCE} TEMPLATE template0".encode())
            admin.execute(f"GRANT pg_read_all_data TO {READER} WITH INHERIT TRUE".encode())
        with source.connect(SOURCE) as connection:
            tpch.fill(connection, scale)
        services.add_hollow(SOURCE, source.conninfo(SOURCE, READER))


def show(times: dict[str, tuple[float, Report]], shares: dict[str, Share]) -> None:
    """Print one line for each query, and the totals."""
    print(f"{'':<6}{'optimize':>9}{'EXPLAIN':>9}{'gate':>9}{'other':>9}{'ratio':>7}  plans  verdicts  advice")
    for name, (wall, report) in times.items():
        share = shares[name]
        advice = ", ".join(f"{a.kind} {'+'.join(a.rules)} x{1 / a.cost.ratio:.3g}" for a in report.advice if a.cost)
        verdicts = {a.sql for a in report.advice if a.equivalence is not None}
        verdicts |= {r.sql for r in report.rejected if r.reason in ("refuted", "unknown")}
        print(
            f"{name:<6}{wall:>9.1f}{share.explain:>9.1f}{share.gate:>9.1f}{share.other:>9.1f}"
            f"{wall / share.counted:>7.2f}{report.timings.explain_calls:>7}{len(verdicts):>10}  {advice or '-'}"
        )
    wall = sum(wall for wall, _ in times.values())
    explain, gate, other = (sum(getattr(s, part) for s in shares.values()) for part in ("explain", "gate", "other"))
    plans = sum(report.timings.explain_calls for _, report in times.values())
    found = sum(bool(report.advice) for _, report in times.values())
    print(
        f"{'total':<6}{wall:>9.1f}{explain:>9.1f}{gate:>9.1f}{other:>9.1f}{wall / (explain + gate):>7.2f}{plans:>7}"
        f"            advice for {found} of {len(times)}; times in ms"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.2, help="of TPC-H")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts")
    parser.add_argument("--profile", type=Path, help="where to write what cProfile says of one more run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        Path(folder).chmod(0o711)
        settings = Settings(home=Path(folder))
        try:
            fill(settings, options.scale)
            show(take_times(settings, options.runs, options.profile), take_shares(settings))
        finally:
            with Services.open(settings) as services:
                services.supervisor.stop_all()


if __name__ == "__main__":
    main()
