"""What the tests of jobs share: a data folder of their own, a source that can be made to stand still, a client."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psutil
import psycopg
import pytest
from http_server import serving
from production import make_production
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.app import create_app
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind
from optimizer.shadow.template.database import template_names

TINY = "CREATE TABLE t (a int)"
HOLD: LiteralString = "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"
CANARY = "c4n4ry-0f-th3-t3st"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data folder of this file's own: its store is killed."""
    folder = Path(tempfile.mkdtemp(prefix="pp-"))
    folder.chmod(0o711)
    yield folder
    Services.open(Settings(home=folder)).supervisor.stop_all()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """A connection string to a source, as it may be sent over HTTP."""
    parts = conninfo_to_dict(make_production(scratch_cluster, "cloned"))
    return make_conninfo(**{key: str(parts[key]) for key in ("host", "port", "user", "password", "dbname")})


@pytest.fixture(scope="module")
def services(home: Path, source: str) -> Iterator[Services]:
    hosts = (str(conninfo_to_dict(source)["host"]),)
    with Services.open(Settings(home=home, cluster_linger_s=10, allow_http_sources=hosts)) as services:
        yield services


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[httpx.Client]:
    with serving(create_app(services)) as client:
        yield client


@contextmanager
def held_up(source: str) -> Iterator[None]:
    """Nobody can read a table of the source for the length of the block, so a clone stands still in its midst."""
    with psycopg.connect(source) as connection:
        connection.execute(HOLD)
        yield


def add(client: httpx.Client, name: str, **request: str) -> str:
    response = client.post("/v1/shadows", json={"name": name, **request})
    assert response.status_code == 202, response.text
    job: str = response.json()["job"]
    assert response.headers["location"] == f"/v1/jobs/{job}"
    return job


def until(client: httpx.Client, job_id: str, reached: Callable[[dict[str, Any]], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached(job := client.get(f"/v1/jobs/{job_id}").raise_for_status().json()):
        assert time.monotonic() < deadline, job
        time.sleep(0.1)


def in_the_midst(job: dict[str, Any]) -> bool:
    return bool(job["state"] == "running" and job["progress"] > 0)


def children(job_id: str) -> list[psutil.Process]:
    """The processes that run a job."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(job_id in argument for argument in process.info["cmdline"] or ())
    ]


def strangers(source: str) -> list[str]:
    """What others than the test ask the source at this moment."""
    with psycopg.connect(source) as connection:
        rows = connection.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND query <> %s",
            [HOLD],
        )
        return [query for (query,) in rows]


def events(client: httpx.Client, job_id: str, last_seen: str | None = None) -> Iterator[dict[str, Any]]:
    headers = {} if last_seen is None else {"Last-Event-ID": last_seen}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if line == "" and event:
                yield event
                event = {}
            elif field:
                event[field] = json.loads(value) if field == "data" else value


def check_one_clone(services: Services, name: str) -> None:
    """The shadow is there once, and nothing half-made beside it."""
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    database = services.registry.get(name).database
    assert [found for found in template_names(cluster) if f"_{name}_" in found] == [database]
