"""Mixed requests at twice what the service can take: what it answers, and what it holds meanwhile.

    python benchmarks/load_bench.py [--minutes 10] [--workers 1] [--factor 2] [--json FILE]

A real `planproof serve` on loopback, in a home of its own. First the capacity is measured by clients that wait for
their answers (requests that were really answered, 429 and 503 do not count); then `--factor` times that many are
offered each second, whether or not the former have been answered, at random moments. A process of its own asks /healthz
every 100 ms. Every two seconds the memory, open files, sessions, databases and disk of the service and its clusters are
counted. Aims: no other errors than 429 and 503 and those that bad requests deserve; memory flat after a warm-up; p99 of
/healthz below 100 ms. Exit status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import math
import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event as ProcessEvent
from pathlib import Path

import httpx
import request_mix
import served
from request_mix import BUSY, Request

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

#: Health that is no longer health, in milliseconds, at the 99th percentile.
HEALTH_AIM_MS = 100.0
#: Growth that counts as flat: of the last quarter's median over the first's after the warm-up.
GROWTH_AIM = 1.10
#: And what is too little to speak of, in bytes.
NOISE_BYTES = 30_000_000
WARM_UP_SHARE = 0.25
_CLIENTS = 8
_MOST_AT_ONCE = 1_000
_ANSWER_LIMIT_S = 150.0


@dataclass
class Answers:
    """What came back."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    unavailable: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    served: int = 0

    def note(self, request: Request, status: str, text: str, taken_s: float) -> None:
        """Count one answer."""
        self.wanted += 1
        self.statuses[request.kind][status] += 1
        number = int(status) if status.isdigit() else 0
        if number and number not in BUSY:
            self.served += 1
        if number == 200:
            self.milliseconds[request.kind].append(taken_s * 1000)
        if number == 503:
            self.unavailable[f"{request.kind}: {text[:300]}"] += 1
        if not request.deserved(number):
            self.faults.append(f"{request.kind}: {status}: {text[:300]}")


async def ask(client: httpx.AsyncClient, request: Request, answers: Answers) -> None:
    """Send one request and count what comes back."""
    begin = time.monotonic()
    try:
        answer = await client.request(
            request.method, request.path, content=request.body, headers={"Content-Type": "application/json"}
        )
        status, text = str(answer.status_code), answer.text
    except httpx.HTTPError as error:
        status, text = type(error).__name__, str(error)
    answers.note(request, status, text, time.monotonic() - begin)


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    return httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(_ANSWER_LIMIT_S, connect=30), limits=limits)


async def closed_loop(url: str, following: Callable[[], Request], seconds: float, answers: Answers) -> None:
    """A few clients, each of which waits for its answer."""
    end = time.monotonic() + seconds

    async def one(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            await ask(client, following(), answers)

    async with _client(url) as client:
        await asyncio.gather(*(one(client) for _ in range(_CLIENTS)))


async def open_loop(
    url: str, following: Callable[[], Request], seconds: float, rate: float, seed: int, answers: Answers
) -> int:
    """Requests at random moments, so many a second on average; returns how many could not even be sent."""
    chance = random.Random(seed)
    under_way: set[asyncio.Task[None]] = set()
    unsent = 0
    begin = due = time.monotonic()
    async with _client(url) as client:
        while due - begin < seconds:
            due += chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            request = following()
            if len(under_way) >= _MOST_AT_ONCE:
                unsent += 1
                continue
            task = asyncio.create_task(ask(client, request, answers))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return unsent


def probe_health(port: int, stop: ProcessEvent, results: multiprocessing.SimpleQueue[list[float]]) -> None:
    """Ask /healthz every 100 ms until told to stop, with a new connection each time as a monitor does."""
    taken = []
    while not stop.is_set():
        begin = time.monotonic()
        # Not httpx, whose own work would be part of what is measured.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/healthz")
            good = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            good = False
        finally:
            connection.close()
        spent = time.monotonic() - begin
        taken.append(spent * 1000 if good else float("inf"))
        stop.wait(max(0.0, 0.1 - spent))
    results.put(taken)


@contextlib.contextmanager
def health_probed(port: int) -> Iterator[list[float]]:
    """Probe /healthz from another process; the milliseconds are there after the block."""
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.SimpleQueue()
    process = context.Process(target=probe_health, args=(port, stop, results), daemon=True)
    process.start()
    taken: list[float] = []
    try:
        yield taken
        stop.set()
        taken += results.get()
    finally:
        stop.set()
        process.join(15)
        process.kill()


@contextlib.contextmanager
def watched(server: served.Server) -> Iterator[list[served.Look]]:
    """Count what is held every two seconds, and the disk every ten."""
    looks: list[served.Look] = []
    over = threading.Event()

    def watch() -> None:
        supervisor = Supervisor(server.settings)
        while not over.wait(2.0):
            looks.append(served.look(server, supervisor, disk=len(looks) % 5 == 0))
        supervisor.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join(30)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@dataclass(frozen=True, slots=True)
class Course:
    """How something that is counted went: medians of the first and the last quarter after the warm-up."""

    first: float
    last: float
    most: float
    slope_per_hour: float

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Course:
        """Sum up points of time in seconds and value."""
        settled = points[int(len(points) * WARM_UP_SHARE) :]
        if len(settled) < 4:
            return cls(*([float("nan")] * 4))
        quarter = len(settled) // 4
        values = [value for _, value in settled]
        slope = statistics.linear_regression([at for at, _ in settled], values).slope * 3600
        return cls(
            statistics.median(values[:quarter]), statistics.median(values[-quarter:]), max(v for _, v in points), slope
        )

    @property
    def flat(self) -> bool:
        """Whether it has not grown."""
        return self.last <= max(self.first * GROWTH_AIM, self.first + NOISE_BYTES)


def courses(looks: Sequence[served.Look]) -> dict[str, Course]:
    """Sum up everything that was counted."""
    found = {
        "service memory, MB": [(each.seconds, each.pss) for each in looks],
        "service open files": [(each.seconds, each.files) for each in looks],
        "home on disk, MB": [(each.seconds, each.disk) for each in looks if each.disk is not None],
    }
    for kind in ClusterKind:
        seen = [(each.seconds, each.clusters[kind]) for each in looks if kind in each.clusters]
        if seen:
            found[f"{kind} memory, MB"] = [(at, cluster.pss) for at, cluster in seen]
            for name in ("backends", "databases", "roles"):
                found[f"{kind} {name}"] = [(at, getattr(cluster, name)) for at, cluster in seen]
    return {name: Course.of([(at, float(value)) for at, value in points]) for name, points in found.items()}


def show(answers: Answers, health: Sequence[float], course: dict[str, Course], offered: float, seconds: float) -> bool:
    """Print the tables; returns whether all aims are met."""
    print(f"\noffered {offered:.1f}/s, answered {answers.served / seconds:.1f}/s (429 and 503 not counted)")
    for kind, statuses in sorted(answers.statuses.items()):
        taken = answers.milliseconds[kind]
        times = f"p50 {percentile(taken, 0.5):8.0f} ms  p99 {percentile(taken, 0.99):8.0f} ms" if taken else ""
        counts = "  ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        print(f"  {kind:<22}{counts:<50}{times}")
    print(f"\n{'':<26}{'first quarter':>14}{'last quarter':>14}{'most':>10}{'per hour':>12}")
    for name, each in course.items():
        if math.isnan(each.first):
            continue  # too short a run
        unit = 1e6 if name.endswith("MB") else 1
        values = (each.first / unit, each.last / unit, each.most / unit, each.slope_per_hour / unit)
        print("{:<26}{:>14,.0f}{:>14,.0f}{:>10,.0f}{:>+12,.0f}".format(name, *values))
    for what, texts in (("fault", Counter(answers.faults)), ("503", answers.unavailable)):
        for text, count in texts.most_common(10):
            print(f"{what} x{count}: {text}")
    grown = [name for name, each in course.items() if "memory" in name and not each.flat]
    p99 = percentile(health, 0.99)
    verdicts = (
        ("errors other than 429, 503 and deserved ones", str(len(answers.faults)), not answers.faults),
        ("memory that grew", ", ".join(grown) or "none", not grown),
        (f"health p99, ms (of {len(health)} probes)", f"{p99:.1f}", p99 < HEALTH_AIM_MS),
        ("health p50 / most, ms", f"{percentile(health, 0.5):.1f} / {max(health, default=0):.1f}", True),
    )
    print()
    for what, value, good in verdicts:
        print(f"{'ok    ' if good else 'MISSED'} {what}: {value}")
    return all(good for *_, good in verdicts)


def run(settings: Settings, minutes: float, workers: int, factor: float, seed: int) -> tuple[bool, dict[str, object]]:
    """Measure the capacity, offer more, and print what happened."""
    served.planproof("shadow", "add", served.SHADOW, "--schema", str(served.SCHEMA), settings=settings)
    with served.serving(settings, workers) as server:
        answers, seconds = Answers(), min(20.0, minutes * 20)
        asyncio.run(closed_loop(server.url, request_mix.requests(seed), 5, Answers()))
        begin = time.monotonic()
        asyncio.run(closed_loop(server.url, request_mix.requests(seed + 1), seconds, answers))
        capacity = answers.served / (time.monotonic() - begin)
        print(f"capacity: {capacity:.1f} answers/s with {_CLIENTS} clients that wait; faults: {len(answers.faults)}")
        rate = max(1.0, factor * capacity)
        loaded = Answers()
        with watched(server) as looks, health_probed(server.port) as health:
            begin = time.monotonic()
            source = request_mix.requests(seed + 2)
            unsent = asyncio.run(open_loop(server.url, source, minutes * 60, rate, seed, loaded))
            seconds = time.monotonic() - begin
        course = courses(looks)
        loaded.faults += answers.faults + ["could not be sent: too many under way"] * unsent
        good = show(loaded, health, course, rate, seconds)
        figures = {
            "capacity": capacity,
            "offered": rate,
            "answered": loaded.served / seconds,
            "faults": len(loaded.faults),
            "statuses": loaded.statuses,
            "health_p99_ms": percentile(health, 0.99),
            "courses": {name: [each.first, each.last, each.most] for name, each in course.items()},
        }
        return good, figures


def main() -> int:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of overload")
    parser.add_argument("--workers", type=int, default=1, help="server processes")
    parser.add_argument("--factor", type=float, default=2, help="times the capacity that is offered")
    parser.add_argument("--seed", type=int, default=1, help="of the requests and their moments")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    served.interruptible()
    with served.temporary_home(cluster_linger_s=10) as settings:
        good, figures = run(settings, options.minutes, options.workers, options.factor, options.seed)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
