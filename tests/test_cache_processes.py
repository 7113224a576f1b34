"""Several service processes that share a Redis, and what may happen to it and to them in the middle of work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import httpx
import pytest
from asking import ANSWERED, REWRITTEN, SCHEMA, ask, at_once, computations, is_cached
from http_server import Service, eventually, service
from redis_server import RedisServer, programs

from optimizer.services import Services
from optimizer.settings import Settings

PASSWORD = "battery-horse"


@pytest.fixture(scope="module")
def home(settings: Settings) -> Iterator[Settings]:
    """The data folder with a shadow for these tests."""
    with Services.open(settings) as services:
        services.add_files("cached", SCHEMA)
        yield settings
        services.drop("cached")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer([*programs().values()][-1], PASSWORD)  # the machine's own where there is one
    server.start()
    yield server
    server.close()


@contextmanager
def both(settings: Settings, server: RedisServer, **variables: str) -> Iterator[tuple[Service, Service]]:
    """Two services over one data folder and one Redis, both warm."""
    with ExitStack() as stack:
        start = partial(service, settings.home, REDIS_URL=server.url, **variables)
        yield stack.enter_context(start()), stack.enter_context(start())


@pytest.fixture(scope="module")
def pair(home: Settings, server: RedisServer) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with both(home, server) as (left, right), left.client() as first, right.client() as second:
        yield first, second


def test_what_one_process_found_the_other_gives(pair: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = pair
    before = computations(second)
    found = ask(first, REWRITTEN.format("05-01"))
    again = [ask(second, REWRITTEN.format("05-01")) for _ in range(2)]
    assert not found.pop("cached")
    assert [report.pop("cached") for report in again] == [True, True]
    assert again == [found, found]
    assert computations(second) == before
    figures = second.get("/metrics").text
    assert 'planproof_cache_lookups_total{result="redis"} 1.0' in figures
    assert 'planproof_cache_lookups_total{result="memory"} 1.0' in figures


@pytest.mark.parametrize("day", ["05-02", "05-03", "05-04"])
def test_fifty_in_two_processes_cost_one_computation(pair: tuple[httpx.Client, httpx.Client], day: str) -> None:
    before = sum(map(computations, pair))
    calls: list[Callable[[], dict[str, object]]] = [partial(ask, client, REWRITTEN.format(day)) for client in pair * 25]
    reports = at_once(calls)
    assert sum(map(computations, pair)) - before == 1
    assert sorted(bool(report.pop("cached")) for report in reports) == [False] + [True] * 49
    assert all(report == reports[0] for report in reports)


def test_redis_may_die_in_the_middle(pair: tuple[httpx.Client, httpx.Client], server: RedisServer) -> None:
    sql = REWRITTEN.format("05-05")
    with ThreadPoolExecutor(2) as pool, server.client() as redis:
        asked = [pool.submit(ask, client, sql) for client in pair]
        eventually(lambda: redis.keys("planproof:turn:*"))
        server.kill()
        assert all(ANSWERED in str(each.result()) for each in asked)
    assert all(is_cached(client, sql) for client in pair)  # each has its own now
    assert not is_cached(pair[0], REWRITTEN.format("05-06"))
    server.start()

    def shared() -> bool:
        # Queries that nobody has asked before, until one process finds what the other has kept.
        sql = f"SELECT id FROM books WHERE id = {next(numbers)}"
        ask(pair[0], sql)
        return is_cached(pair[1], sql)

    numbers = iter(range(100, 1_000))
    eventually(shared)


def test_redis_may_hang_in_the_middle(pair: tuple[httpx.Client, httpx.Client], server: RedisServer) -> None:
    sql = REWRITTEN.format("05-07")
    with ThreadPoolExecutor(2) as pool, server.client() as redis:
        asked = [pool.submit(ask, client, sql) for client in pair]
        eventually(lambda: redis.keys("planproof:turn:*"))
        server.freeze()
        try:
            assert all(ANSWERED in str(each.result()) for each in asked)
            assert all(is_cached(client, sql) for client in pair)
        finally:
            server.thaw()


def test_a_killed_process_loses_nothing(home: Settings, server: RedisServer) -> None:
    sql = REWRITTEN.format("05-08")
    with (
        both(home, server) as (left, right),
        left.client() as first,
        right.client() as second,
        server.client() as redis,
    ):
        ask(first, "SELECT 1 AS warm")
        ask(second, "SELECT 1 AS warm")
        eventually(lambda: not redis.keys("planproof:turn:*"))  # a slow machine may leave one to run out
        lost = threading.Thread(target=partial(pytest.raises, httpx.TransportError, ask, first, sql))
        lost.start()
        eventually(lambda: redis.keys("planproof:turn:*"))
        (worker,) = left.workers
        worker.suspend()
        (turn,) = redis.keys("planproof:turn:*")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, second, sql)
            eventually(lambda: 'planproof_http_work{state="running"} 0.0' in second.get("/metrics").text)
            assert not asked.done()  # it waits for the other process
            worker.send_signal(signal.SIGKILL)
            redis.pexpire(turn, 50)  # or ten seconds later
            report = asked.result()
        lost.join()
        assert ANSWERED in str(report)
        assert not report["cached"]
        assert not redis.keys("planproof:turn:*")


def test_nobody_waits_for_what_is_not_kept(home: Settings, server: RedisServer) -> None:
    with both(home, server, VERIFY_TIMEOUT_MS="1") as (left, right), left.client() as first, right.client() as second:
        reports = at_once([partial(ask, client, REWRITTEN.format("05-09")) for client in (first, second)])
        assert [report["cached"] for report in reports] == [False, False]
        assert {report["rejected"][0]["reason"] for report in reports} == {"unknown"}


def test_a_wrong_password_is_logged_without_it(home: Settings, server: RedisServer) -> None:
    wrong = server.url.replace(PASSWORD, "staple-correct")
    with service(home.home, REDIS_URL=wrong) as running, running.client() as client:
        for cached in (False, True):
            assert is_cached(client, REWRITTEN.format("05-10")) == cached
        log = running.log.read_text()
    assert "AuthenticationError" in log
    assert "staple" not in log
