"""`planproof serve` as a process: its workers, its signals, and whom it serves."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from command_line import planproof
from http_server import Service, eventually, service

from optimizer.settings import Settings

KEY = "0123456789abcdef0123456789abcdef"
BODY = b'{"left": "SELECT 1", "right": "SELECT 1", "schema": ""}'
HEAD = (
    b"POST /v1/equivalence HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@pytest.fixture
def home(settings: Settings) -> Path:
    return settings.home


def port_of(running: Service) -> int:
    return int(running.url.rsplit(":", 1)[1])


@contextmanager
def half_sent(running: Service) -> Iterator[socket.socket]:
    """A request that is under way: its body has begun."""
    with running.client() as client:
        client.get("/healthz").raise_for_status()
    with socket.create_connection(("127.0.0.1", port_of(running)), timeout=60) as connection:
        connection.sendall(HEAD % len(BODY) + BODY[:10])
        time.sleep(0.5)  # until the worker has it
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    """Everything that comes until the connection ends."""
    received = b""
    while more := connection.recv(65_536):
        received += more
    return received


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_address_is_logged_once_and_several_workers_share_it(home: Path) -> None:
    with service(home, "--workers", "2") as running:
        eventually(lambda: len(running.workers) == 2)
        with running.client() as client:
            for _ in range(5):
                assert client.get("/healthz").json() == {"status": "ok"}
        events = [line["event"] for line in running.lines]
        assert len([event for event in events if re.search("listening", event)]) == 1


def test_sigterm_lets_a_running_request_finish(home: Path) -> None:
    with service(home) as running, half_sent(running) as connection:
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: refused(port_of(running)))
        assert running.process.poll() is None
        connection.sendall(BODY[10:])
        answer = answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"proved"' in answer
        assert running.process.wait(180) == 0


def test_a_request_that_outlasts_the_grace_period_does_not_keep_the_service(home: Path) -> None:
    with service(home, "--grace", "1") as running, half_sent(running) as connection:
        running.process.send_signal(signal.SIGTERM)
        answer = answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"the service is stopping" in answer
        assert running.process.wait(180) == 0
        assert all(line["level"] != "error" or "grace" in str(line) for line in running.lines)


def test_a_second_interrupt_ends_it_at_once(home: Path) -> None:
    with service(home, "--grace", "600") as running, half_sent(running):
        workers = running.workers
        running.process.send_signal(signal.SIGINT)
        eventually(lambda: refused(port_of(running)))
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(180) == 130
        assert not any(worker.is_running() for worker in workers)


def test_a_worker_that_dies_is_replaced(home: Path) -> None:
    with service(home, "--workers", "2") as running, running.client() as client:
        client.get("/healthz").raise_for_status()
        eventually(lambda: len(running.workers) == 2)
        before = {worker.pid for worker in running.workers}
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len({worker.pid for worker in running.workers} - before) == 1)
        client.get("/healthz").raise_for_status()
        assert any("is replaced" in line["event"] and line["status"] == -9 for line in running.lines)


def test_sighup_puts_fresh_processes_in_place(home: Path) -> None:
    with service(home) as running, half_sent(running) as connection:
        (before,) = running.workers
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: any(worker.pid != before.pid for worker in running.workers))
        connection.sendall(BODY[10:])
        assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        with running.client() as client:
            client.get("/healthz").raise_for_status()
        eventually(lambda: not psutil.pid_exists(before.pid))
        assert running.process.poll() is None


def test_workers_do_not_outlive_the_service(home: Path) -> None:
    with service(home) as running:
        with running.client() as client:
            client.get("/healthz").raise_for_status()
        workers = running.workers
        running.process.kill()
        running.process.wait(180)
        eventually(lambda: not any(worker.is_running() for worker in workers))
        assert refused(port_of(running))


def test_other_machines_are_served_only_with_keys(home: Path) -> None:
    refusal = planproof("serve", "--host", "0.0.0.0", "--port", "0", home=home).failed(3)
    assert "set PLANPROOF_API_KEYS" in refusal
    with service(home, "--host", "0.0.0.0", API_KEYS=f'["{KEY}"]') as running:
        assert running.url.startswith("http://0.0.0.0:")
    with service(home, "--host", "0.0.0.0", "--allow-anonymous") as running:
        local = f"http://127.0.0.1:{port_of(running)}"
        with httpx.Client(base_url=local, transport=httpx.HTTPTransport(retries=3), timeout=60) as client:
            client.get("/v1/rules").raise_for_status()


@pytest.mark.parametrize(
    ("options", "variables", "complaint"),
    [
        ((), {"PLANPROOF_API_KEYS": '["short"]'}, "key 1 in PLANPROOF_API_KEYS is shorter"),
        ((), {"PLANPROOF_LOG_LEVEL": "loud"}, "PLANPROOF_LOG_LEVEL is wrong"),
        (("--host", "no.such.host.invalid"), {}, "cannot listen on no.such.host.invalid"),
        (
            (),
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "tracing over grpc is not supported",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    home: Path, options: tuple[str, ...], variables: dict[str, str], complaint: str
) -> None:
    assert complaint in planproof("serve", "--port", "0", *options, home=home, env=variables).failed(3)


def test_what_a_killed_service_leaves_is_swept_by_the_next(home: Path) -> None:
    before = set((home / "run").glob("serve-*"))
    with service(home) as running:
        (left,) = set((home / "run").glob("serve-*")) - before
        others = psutil.Process(running.process.pid).children()
        running.process.kill()
        running.process.wait(180)
        eventually(lambda: not any(process.is_running() for process in others))
        assert left.exists()
    with service(home):
        assert not left.exists()
