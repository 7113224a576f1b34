"""Large bodies, which are read on a thread, and the first start, while which the service answers already."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from http_server import eventually, problem, serving

from api.answers import MAX_INLINE_BYTES
from api.app import create_app
from optimizer.services import Services
from optimizer.settings import Settings

LARGE = f"-- {'é' * MAX_INLINE_BYTES}\n"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with Services.open(settings) as services, serving(create_app(services)) as client:
        yield client


def test_a_large_body_is_answered_as_a_small_one(client: httpx.Client) -> None:
    schema = "CREATE TABLE t (a int); " + LARGE
    large = client.post("/v1/optimize", json={"sql": "SELECT a FROM t", "schema": schema}).raise_for_status().json()
    plan = client.post("/v1/explain", json={"sql": "SELECT a FROM t", "schema": schema}).raise_for_status().json()
    assert large["baseline"]["total_cost"] == plan["total_cost"]
    assert large["query"]["tables"] == ["t"]


def test_a_large_body_is_refused_as_a_small_one(client: httpx.Client) -> None:
    for body in ({"sql": 1}, {"sql": "SELECT 1", "other": 1}, {"sql": "SELECT 1", "params": [[]] * 5}):
        small = client.post("/v1/optimize", json=body | {"schema": ""})
        large = client.post("/v1/optimize", json=body | {"schema": LARGE})
        assert problem(small, 422)
        assert [e["field"] for e in large.json()["errors"]][:1] == [e["field"] for e in small.json()["errors"]][:1]
    cut = json.dumps({"sql": LARGE}).encode()[:-1]
    assert "not JSON" in problem(client.post("/v1/optimize", content=cut, headers=JSON), 400)
    problem(client.post("/v1/optimize", content=LARGE.encode()), 415)


def test_a_service_that_starts_says_so() -> None:
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    try:
        with Services.open(Settings(home=home, cluster_linger_s=10)) as services:
            with serving(create_app(services)) as client:
                first = client.get("/readyz")
                assert client.get("/healthz").status_code == 200
                if first.status_code != 200:  # a fast machine may have started them by then
                    assert "are starting" in problem(first, 503)
                    assert int(first.headers["Retry-After"]) > 0
                eventually(lambda: client.get("/readyz").status_code == 200)
            services.supervisor.stop_all()
    finally:
        shutil.rmtree(home, ignore_errors=True)
