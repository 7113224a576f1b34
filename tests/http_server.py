"""Serves on real sockets: an application in a thread of the test process, or `planproof serve` as a process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from command_line import COMMAND
from fastapi import FastAPI


@contextmanager
def serving(app: FastAPI, **config: Any) -> Iterator[httpx.Client]:
    """Yield a client of the running application; `config` is uvicorn's."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, **{"log_level": "critical"} | config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            assert time.monotonic() < deadline, "the application takes too long to start"
            time.sleep(0.02)
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=120) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


def problem(response: httpx.Response, status: int) -> str:
    """Check that an error is a problem of RFC 9457 that leaks nothing. Returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    for leak in ("Traceback", ".py", "psycopg", "/work/", "/tmp/"):
        assert leak not in response.text
    return str(body["detail"])


@dataclass
class Service:
    """A `planproof serve` process.

    Parameters:
        process: the one that was started; it has others below it.
        url: where it listens.
        log: the file that holds its standard error.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The events of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    @property
    def workers(self) -> list[psutil.Process]:
        """Its HTTP processes."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if "api.serving" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def client(self, **more: Any) -> httpx.Client:
        """A client that waits for the service to come up."""
        return httpx.Client(base_url=self.url, transport=httpx.HTTPTransport(retries=3), timeout=180, **more)


@contextmanager
def service(home: Path, *options: str, **variables: str) -> Iterator[Service]:
    """Run `planproof serve` on a free port.

    Parameters:
        home: its data folder.
        options: of the command.
        variables: settings, without their prefix PLANPROOF_, and OpenTelemetry's.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PLANPROOF_", "OTEL_", "PG"))}
    named = {name if name.startswith("OTEL_") else f"PLANPROOF_{name}": value for name, value in variables.items()}
    environment = clean | {"PLANPROOF_HOME": str(home), "PLANPROOF_CLUSTER_LINGER_S": "10"} | named
    with tempfile.TemporaryDirectory(prefix="pp-log-") as folder:
        log = Path(folder) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen([COMMAND, "serve", "--port", "0", *options], stderr=stderr, env=environment)
        try:
            yield Service(process, _address(process, log), log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(180)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    eventually(lambda: re.search(r"listening on (http://[^\"\s]+)", log.read_text()) or process.poll() is not None)
    found = re.search(r"listening on (http://[^\"\s]+)", log.read_text())
    assert found is not None, log.read_text()
    return found[1]


def eventually(happened: Callable[[], object], timeout_s: float = 180) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
