"""Runs `planproof worker` as users do, for a test's data folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from command_line import COMMAND

ENDED = ("done", "failed", "cancelled")


def start_worker(
    home: Path, *options: str, env: dict[str, str] | None = None, hasty: bool = False
) -> subprocess.Popen[bytes]:
    """Start a worker, perhaps one that waits less; its log goes to `home/worker.log`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PLANPROOF_", "PG"))}
    clean |= {"PLANPROOF_HOME": str(home), "PLANPROOF_CLUSTER_LINGER_S": "10"} | (env or {})
    home.mkdir(exist_ok=True)
    program = (sys.executable, str(Path(__file__).parent / "hasty_worker.py")) if hasty else (COMMAND,)
    with (home / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [*program, "worker", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean
        )


def stop_worker(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Send a signal to a worker and wait until it is gone. Returns its exit status."""
    with suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_worker(
    home: Path, *options: str, env: dict[str, str] | None = None, hasty: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a worker running for the length of a block."""
    process = start_worker(home, *options, env=env, hasty=hasty)
    try:
        yield process
    finally:
        stop_worker(process)


def finished(client: httpx.Client, job_id: str, *, timeout_s: float = 90) -> dict[str, Any]:
    """Wait until a job has ended, and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        job = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ENDED:
            return dict(job)
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
