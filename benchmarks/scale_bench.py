"""Clones of large sources: seconds by step, memory, disk, refreshes, first and following what-ifs, growth.

    python benchmarks/scale_bench.py [--tables 100 1000] [--total 100GB] [--what-ifs 2000]
    python benchmarks/scale_bench.py --tables 100 1000 10000 --total 100TB

Each table has five indexes, statistics of all columns, and files of the stated size without rows (`scale_source.py`).
`--what-ifs` makes, explains and undoes that many hypothetical indexes on the smallest shadow, then looks at what has
grown; afterwards 1 to 8 threads do the same at once. Figures are of this machine; what travels is their growth.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import multiprocessing
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import scale_source

from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.pages.laid_out import disk_bytes
from optimizer.shadow.server.cluster import ClusterKind
from optimizer.shadow.template.database import template_facts

SHADOW = "large"
COLUMNS = ("created_at", "amount", "note", "status", "customer_id, created_at")
_UNITS = {"GB": 10**9, "TB": 10**12}
_SAMPLE_S = 0.5


@dataclass(slots=True)
class Figures:
    """What was measured of one source.

    Parameters:
        steps: seconds of the clone by step.
        planproof_mb, servers_mb: peak memory of this process, and of all processes of the hollow server together.
        template_bytes, copy_bytes: disk that the template takes with its laid-out files, and one planning database.
        refreshes: what each found, and its seconds.
        whatifs_ms: the first one of a new process, opening included, then the median of those that follow.
        grown, throughput: lines.
    """

    source_bytes: int
    steps: dict[str, float] = field(default_factory=dict)
    planproof_mb: float = 0.0
    servers_mb: float = 0.0
    template_bytes: int = 0
    copy_bytes: int = 0
    refreshes: list[tuple[str, str, float]] = field(default_factory=list)
    whatifs_ms: tuple[float, float] = (0.0, 0.0)
    lines: list[str] = field(default_factory=list)


def measure(home: str, dsn: str, figures: Figures, what_ifs: int) -> Figures:
    """Clone the source into a home of this process's own, and look at it from all sides."""
    settings = Settings(home=Path(home), cluster_linger_s=10)
    with Services.open(settings) as services, servers_memory(settings, figures):
        clone(services, dsn, figures)
        disk(services, figures)
        refresh(services, dsn, figures)
        if what_ifs:
            grow(services, what_ifs, figures)
            side_by_side(services, figures)
        services.supervisor.stop_all()
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    figures.planproof_mb = int(peak) / 1024
    return figures


def clone(services: Services, dsn: str, figures: Figures) -> None:
    """Clone, and time the steps; then the first what-ifs."""
    services.supervisor.cluster(ClusterKind.HOLLOW)
    last = [("", time.monotonic())]

    def progress(step: str, _share: float) -> None:
        name, since = last[0]
        if step != name:
            figures.steps[name] = time.monotonic() - since
            last[0] = (step, time.monotonic())

    services.add_hollow(SHADOW, dsn, progress)
    figures.steps.pop("")
    start = time.monotonic()
    what_if(services, 0)
    first = time.monotonic() - start
    figures.whatifs_ms = (1000 * first, statistics.median(what_if(services, number) for number in range(1, 40)))


def what_if(services: Services, number: int) -> float:
    """Make one index, explain a query with it, undo it; return the milliseconds."""
    shadow = services.shadow(SHADOW)
    columns = COLUMNS[number % len(COLUMNS)]
    table = f"t{1 + number % 50}"
    candidate = parse_index_ddl(f"CREATE INDEX ON {table} ({columns})", shadow.catalog())
    start = time.monotonic()
    with shadow.session() as session:
        made = session.create([candidate])
        session.explain(f"SELECT * FROM {table} WHERE {columns.split(',')[0]} IS NULL", using=made.values())
    return 1000 * (time.monotonic() - start)


def disk(services: Services, figures: Figures) -> None:
    """Bytes on disk, as the file system counts them; of a copy, what it does not share."""
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    oid = template_facts(cluster, services.registry.get(SHADOW).database)["oid"]
    with services.shadow(SHADOW).session() as session:
        copy = cluster.home / "base" / str(session._database.oid)  # type: ignore[attr-defined]
    figures.template_bytes = used(cluster.home / "base" / str(oid)) + disk_bytes(cluster, oid)
    figures.copy_bytes = used(copy, links=1)


def used(folder: Path, links: int | None = None) -> int:
    """Bytes on disk of the files in a folder, or of those with that many links."""
    with os.scandir(folder) as entries:
        states = [entry.stat() for entry in entries]
    return sum(state.st_blocks * 512 for state in states if links is None or state.st_nlink == links)


def refresh(services: Services, dsn: str, figures: Figures) -> None:
    """Refresh after nothing, after some new statistics, and after a change of the schema."""
    for changed, statements in (
        ("nothing", ()),
        ("statistics of 10 tables", scale_source.changes(10)),
        ("one new table", ("CREATE TABLE later (id integer)",)),
    ):
        with psycopg.connect(dsn, autocommit=True) as source:
            for statement in statements:
                source.execute(statement.encode())
        start = time.monotonic()
        record = services.refresh(SHADOW)
        figures.refreshes.append((changed, record.changes if statements else "unchanged", time.monotonic() - start))


def grow(services: Services, count: int, figures: Figures) -> None:
    """Do many what-ifs, and tell what has grown: catalogs, files, memory, time."""
    before = footprint(services)
    spent = [what_if(services, number) for number in range(count)]
    after = footprint(services)
    part = min(1000, count // 2)
    first, last = statistics.median(spent[:part]), statistics.median(spent[-part:])
    figures.lines.append(
        f"{count} what-ifs: catalogs {before[0] / 1e6:.1f} -> {after[0] / 1e6:.1f} MB, files {before[1]} -> {after[1]},"
        f" private memory of the two backends {before[2]} -> {after[2]} kB, "
        f"median of the last {part} / of the first: {last / first:.2f} ({first:.1f} ms)"
    )


def footprint(services: Services) -> tuple[int, int, int]:
    """Bytes of catalogs, files in the folder, kilobytes of both backends' own memory."""
    with services.shadow(SHADOW).session() as session:
        database: Any = session._database  # type: ignore[attr-defined]
        folder = services.supervisor.cluster(ClusterKind.HOLLOW).home / "base" / str(database.oid)
        ((catalogs,),) = database.superuser.execute(
            "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class"
            " WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'"
        ).fetchall()
        planner = session._explainer.connection.connection  # type: ignore[attr-defined]
        processes = (database.superuser.info.backend_pid, planner.info.backend_pid)
        memory = sum(
            int(re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0])
            for process in processes
        )
        return catalogs, sum(1 for _ in folder.iterdir()), memory


def side_by_side(services: Services, figures: Figures) -> None:
    """What-ifs a second by 1 to 8 threads on one shadow."""
    rates = {}
    for threads in (1, 2, 4, 8):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda number: what_if(services, number), range(4 * threads)))  # planning databases are made
            start = time.monotonic()
            list(pool.map(lambda number: what_if(services, number), range(400)))
            rates[threads] = 400 / (time.monotonic() - start)
    text = ", ".join(f"{threads}: {rate / rates[1]:.2f}" for threads, rate in rates.items())
    figures.lines.append(f"what-ifs a second by threads, to those of one ({rates[1]:.0f}/s): {text}")


@contextlib.contextmanager
def servers_memory(settings: Settings, figures: Figures) -> Iterator[None]:
    """Watch the memory of the hollow server's processes, pages that they share counted once."""
    data = str(settings.clusters.resolve() / "hollow" / "data")
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_S):
            total = 0
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if str((process / "cwd").readlink()) == data:
                        (share,) = re.findall(r"\nPss:\s+(\d+)", (process / "smaps_rollup").read_text())
                        total += int(share)
            figures.servers_mb = max(figures.servers_mb, total / 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run(tables: int, total: int, what_ifs: int) -> Figures:
    """Make a source, and measure its clone in a process of its own."""
    with contextlib.ExitStack() as stack:
        homes = [
            stack.enter_context(tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True)) for _ in "12"
        ]
        for home in homes:
            Path(home).chmod(0o711)
        source = stack.enter_context(Services.open(Settings(home=Path(homes[0]), cluster_linger_s=10)))
        stack.callback(source.supervisor.stop_all)
        cluster, size = scale_source.make_source(source.supervisor, scale_source.Size(tables, total))
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            dsn = cluster.conninfo(scale_source.DATABASE)
            return process.submit(measure, homes[1], dsn, Figures(size), what_ifs).result()


def show(tables: int, figures: Figures, load: float) -> None:
    """Print the figures of one source."""
    seconds = sum(figures.steps.values())
    size = figures.source_bytes
    print(
        f"\n{tables} tables, {tables * scale_source.INDEXES_PER_TABLE} indexes, {size / 1e12:.3g} TB (load {load:.1f})"
    )
    print(f"  clone {seconds:.1f} s: " + ", ".join(f"{step} {took:.1f}" for step, took in figures.steps.items()))
    print(f"  peak memory: planproof {figures.planproof_mb:.0f} MB, servers {figures.servers_mb:.0f} MB")
    print(
        f"  on disk: template {figures.template_bytes / 1e6:.0f} MB, each planning database "
        f"{figures.copy_bytes / 1e6:.0f} MB: {figures.template_bytes / size:.4%} and {figures.copy_bytes / size:.4%}"
    )
    for changed, found, took in figures.refreshes:
        print(f"  refresh after {changed}: {took:.1f} s ({found})")
    print(f"  what-if: the first {figures.whatifs_ms[0]:.0f} ms, then {figures.whatifs_ms[1]:.1f} ms")
    for line in figures.lines:
        print(f"  {line}")


def growth(found: dict[int, Figures]) -> None:
    """Print how the clone's time grows: 1 is linear."""
    sizes = sorted(found)
    for less, more in itertools.pairwise(sizes):
        ratio = sum(found[more].steps.values()) / sum(found[less].steps.values())
        exponent = math.log(ratio) / math.log(more / less)
        print(f"clone, {less} -> {more} tables: {ratio:.1f} times the seconds, exponent {exponent:.2f}")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--total", default="100GB", help="of all files together, such as 100GB or 100TB")
    parser.add_argument("--what-ifs", type=int, default=2000, help="on the first source; 0 for none")
    arguments = parser.parse_args()
    total = int(float(arguments.total[:-2]) * _UNITS[arguments.total[-2:].upper()])
    found = {}
    for place, tables in enumerate(arguments.tables):
        load = os.getloadavg()[0]
        found[tables] = run(tables, total, arguments.what_ifs if place == 0 else 0)
        show(tables, found[tables], load)
    growth(found)


if __name__ == "__main__":
    main()
