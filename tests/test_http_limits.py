"""Clients that send too much, too deep, too slowly, or too often."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from fastapi import FastAPI
from http_server import eventually, problem, serving

from api import problems, protocol
from api.app import create_app
from api.body_limit import BodyLimit
from api.protocol import MAX_HEAD_BYTES, TimedProtocol
from optimizer.services import Services
from optimizer.settings import Settings

JSON = {"content-type": "application/json"}
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def echo_app(**limits: float) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BodyLimit, **{"max_bytes": 1_000_000} | limits)  # type: ignore[arg-type]
    problems.install(app)

    @app.post("/")
    async def echo(body: dict[str, str]) -> dict[str, int]:
        return {"length": len(body)}

    return app


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    with closing(socket.create_connection((client.base_url.host, client.base_url.port or 80), 30)) as connection:
        yield connection


def received(connection: socket.socket) -> bytes:
    """Everything until the server ends the connection."""
    answer = b""
    try:
        while more := connection.recv(65_536):
            answer += more
    except ConnectionResetError:
        pass
    return answer


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    small = settings.model_copy(update={"max_sql_bytes": 10_000, "max_schema_bytes": 50_000})
    with Services.open(small) as services, serving(create_app(services), http=TimedProtocol) as client:
        yield client


def test_a_body_that_stops_arriving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo_app(grace_s=0.3), http=TimedProtocol) as client, connected(client) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"took too long to arrive" in answer


def test_a_body_that_trickles_is_given_up() -> None:
    with serving(echo_app(grace_s=0.5), http=TimedProtocol) as client, connected(client) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n{")
        began, answer = time.monotonic(), b""
        connection.settimeout(0.05)
        while not answer and time.monotonic() < began + 30:
            try:
                connection.sendall(b" ")
                answer = connection.recv(65_536)
            except TimeoutError:
                pass
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_head_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
    with serving(echo_app(), http=TimedProtocol) as client:
        for beginning in (b"", b"POST / HTTP/1.1\r\nHost: local"):
            with connected(client) as connection:
                connection.sendall(beginning)
                assert received(connection) == b""
        with connected(client) as connection:  # each byte in time, the whole never
            connection.settimeout(0.05)
            for _ in range(200):
                try:
                    connection.sendall(b"X")
                    if connection.recv(100) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            else:
                pytest.fail("the connection was never cut off")


def test_a_connection_may_send_one_request_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts from each request's beginning, and not while the server works or nothing is sent."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.5)
    app = echo_app()

    @app.get("/slow")
    def slow() -> str:
        time.sleep(1)
        return "done"

    with serving(app, http=TimedProtocol) as client:
        for _ in range(3):
            assert client.get("/slow").json() == "done"
            time.sleep(0.6)


def test_a_long_head_is_no_request() -> None:
    with serving(echo_app(), http=TimedProtocol, h11_max_incomplete_event_size=MAX_HEAD_BYTES) as client:
        response = client.get("/", headers={"X-Long": "x" * 20 * MAX_HEAD_BYTES})
        assert "its headers are too long" in problem(response, 400)
        assert response.headers["connection"] == "close"
        assert client.post("/", json={}).status_code == 200


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 tls?\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_answered_with_a_problem(sent: bytes) -> None:
    with serving(echo_app(), http=TimedProtocol) as client, connected(client) as connection:
        connection.sendall(sent)
        head, _, body = received(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400


def test_too_many_connections_are_told_so() -> None:
    with serving(echo_app(), http=TimedProtocol, limit_concurrency=3) as client:
        held = [socket.create_connection((client.base_url.host, client.base_url.port or 80)) for _ in range(3)]
        try:
            time.sleep(0.2)
            response = client.post("/", json={})
            assert "too many connections" in problem(response, 503)
            assert response.headers["retry-after"]
            assert response.headers["connection"] == "close"
        finally:
            for connection in held:
                connection.close()

        def served() -> bool:
            return client.post("/", json={}).status_code == 200

        eventually(served)


def test_what_all_bodies_hold_together_is_limited() -> None:
    with serving(echo_app(max_held=500_000), http=TimedProtocol) as client:
        body = json.dumps({"a": "x" * 400_000}).encode()
        with connected(client) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:300_000])
            time.sleep(0.5)
            assert "too much is being sent" in problem(client.post("/", content=body, headers=JSON), 503)
            assert client.post("/", json={"a": "small"}).status_code == 200
            connection.sendall(body[300_000:])
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert client.post("/", content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (b"[" * 50_000, {400}),
        (b'{"a":' * 20_000, {400}),
        (b"[" * 50_000 + b"]" * 50_000, {400, 422}),
        (b'{"sql": "SELECT 1", "params": ' + b"[" * 900 + b"]" * 900 + b"}", {400, 422}),
        (b'{"sql": "SELECT 1", "params": [' + b"9" * 5_000 + b"]}", {400, 422}),
        (b'{"sql": "SELECT 1", "params": [1e999, NaN, -Infinity]}', {400, 404, 422}),
        (b'{"sql": "SELECT 1", "sql": "SELECT 2"}', {404}),
        (b'{"sql": "' + b"\\u0041" * 15_000 + b'"}', {413}),
        (b'{"sql": "SELECT 1", "schema": "' + b" " * 60_000 + b'"}', {413}),
        (b'{"sql": "SELECT 1", "schema": "' + b" " * 200_000 + b'"}', {413}),
        (b'{"sql": "SELECT 1", "params": [' + b"1," * 5_000 + b"1]}", {422}),
        (b'{"sql": "SELECT 1", "x' + b"x" * 50_000 + b'": 1}', {422}),
        (b"\xef\xbb\xbf{}", {400, 422}),
        (b"{}\x00", {400}),
    ],
)
def test_hostile_json(client: httpx.Client, content: bytes, statuses: set[int]) -> None:
    response = client.post("/v1/optimize", content=content, headers=JSON)
    assert response.status_code in statuses, response.text[:500]
    problem(response, response.status_code)
    assert len(response.content) < 5_000


def test_many_fields_that_are_wrong_are_not_all_repeated(client: httpx.Client) -> None:
    response = client.post("/v1/optimize", json={f"field{number}": 1 for number in range(2_000)})
    problem(response, 422)
    assert len(response.json()["errors"]) == 20
