"""Turns for work: how many work, how many wait, and what the rest is told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI, Request
from http_server import eventually, problem, serving

from api import problems
from api.admission import Admission, while_connected
from api.errors import BusyError
from api.observed import Observed
from optimizer.clock import Deadline, stopped
from optimizer.errors import TimeLimitError


def test_turns_come_in_order_and_no_more_than_allowed_work() -> None:
    async def scenario() -> None:
        admission, order, working = Admission(2, 10), [], 0
        most = 0

        async def request(number: int) -> None:
            nonlocal working, most
            async with admission.slot(60_000):
                working += 1
                most = max(most, working)
                order.append(number)
                await asyncio.sleep(0.01)
                working -= 1

        await asyncio.gather(*(request(number) for number in range(8)))
        assert (order, most, admission.waiting) == (list(range(8)), 2, 0)

    asyncio.run(scenario())


def test_beyond_the_queue_the_answer_is_busy() -> None:
    async def scenario() -> None:
        admission, leave = Admission(1, 2), asyncio.Event()

        async def request() -> None:
            async with admission.slot(60_000):
                await leave.wait()

        tasks = [asyncio.create_task(request()) for _ in range(3)]
        await asyncio.sleep(0)
        assert admission.waiting == 2
        with pytest.raises(BusyError) as caught:
            await request()
        assert 1 <= caught.value.retry_after_s <= 60
        leave.set()
        await asyncio.gather(*tasks)
        await request()

    asyncio.run(scenario())


def test_waiting_uses_up_the_time_limit() -> None:
    async def scenario() -> None:
        admission, leave = Admission(1, 2), asyncio.Event()

        async def holder() -> None:
            async with admission.slot(60_000):
                await leave.wait()

        task = asyncio.create_task(holder())
        await asyncio.sleep(0)
        with pytest.raises(TimeLimitError, match="no turn came within 20 ms"):
            async with admission.slot(20):
                pass
        assert admission.waiting == 0
        asyncio.get_running_loop().call_later(0.05, leave.set)
        async with admission.slot(10_000) as left_ms:
            assert 0 < left_ms <= 9_960
        await task

    asyncio.run(scenario())


def test_a_waiter_that_goes_gives_its_place_back() -> None:
    async def scenario() -> None:
        admission, leave = Admission(1, 1), asyncio.Event()

        async def request() -> None:
            async with admission.slot(60_000):
                await leave.wait()

        first, second = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        assert admission.waiting == 0
        third = asyncio.create_task(request())
        await asyncio.sleep(0)
        assert admission.waiting == 1
        leave.set()
        await asyncio.gather(first, third)

    asyncio.run(scenario())


def test_stopped_work_sees_its_deadlines_pass_and_holds_its_turn_until_it_has_ended() -> None:
    async def scenario() -> None:
        admission, begun, ended = Admission(1, 1), threading.Event(), threading.Event()
        seen: list[bool] = []

        def work(left_ms: float) -> None:
            deadline = Deadline.after(left_ms)
            seen.append(deadline.passed or stopped())
            begun.set()
            while not deadline.passed:
                pass
            seen.append(stopped())
            ended.set()

        task = asyncio.create_task(admission.run(work, 60_000))
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        async with admission.slot(30_000):
            assert ended.is_set()
        assert seen == [False, True]
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def small_app(gate: threading.Event) -> FastAPI:
    """One route that works until the gate opens or it is stopped, with one turn and one place to wait."""
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Observed)
    app.state.admission = Admission(1, 1)
    app.state.stopped = 0

    def work(left_ms: float) -> None:
        deadline = Deadline.after(left_ms)
        while not gate.wait(0.01) and not deadline.passed:
            pass
        app.state.stopped += stopped()

    @app.post("/work")
    async def route(request: Request) -> dict[str, str]:
        await request.body()
        await while_connected(request, app.state.admission.run(work, 60_000))
        return {"status": "done"}

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def abandon(client: httpx.Client) -> socket.socket:
    """Send a request; its answer is never read."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    connection.sendall(b"POST /work HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    return connection


def test_too_many_requests_get_429_and_health_answers(gate: threading.Event) -> None:
    app = small_app(gate)
    admission = app.state.admission
    with serving(app) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/work")
        eventually(admission._turns.locked)
        second = pool.submit(client.post, "/work")
        eventually(lambda: admission.waiting == 1)
        third = client.post("/work")
        assert problem(third, 429) == "the service is busy: try again later"
        assert int(third.headers["retry-after"]) >= 1
        assert client.get("/healthz").json() == {"status": "ok"}
        gate.set()
        assert [answer.result().status_code for answer in (first, second)] == [200, 200]


def test_a_client_that_goes_frees_its_place_and_ends_its_work(gate: threading.Event) -> None:
    app = small_app(gate)
    admission = app.state.admission
    with serving(app) as client:
        working = abandon(client)
        eventually(admission._turns.locked)
        waiting = abandon(client)
        eventually(lambda: admission.waiting == 1)
        waiting.close()
        eventually(lambda: admission.waiting == 0)
        assert app.state.stopped == 0
        working.close()
        eventually(lambda: not admission._turns.locked())
        assert app.state.stopped == 1
        gate.set()
        assert client.post("/work").status_code == 200
