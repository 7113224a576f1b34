"""How a clone is made, as HTTP requests ask for it: kept with the shadow, and done again by a refresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import problem
from job_fixtures import client, home, services, source
from job_worker import finished, running_worker

__all__ = ["client", "home", "services", "source"]  # fixtures


@pytest.fixture(scope="module", autouse=True)
def worker(home: Path) -> Iterator[None]:
    """A worker."""
    with running_worker(home, hasty=True):
        yield


def asked(client: httpx.Client, name: str, source: str, **options: Any) -> Any:
    """Ask for a clone and wait for it."""
    answer = client.post("/v1/shadows", json={"name": name, "from": source, **options})
    return finished(client, answer.raise_for_status().json()["job"])


def shown(client: httpx.Client, name: str) -> Any:
    return client.get(f"/v1/shadows/{name}").raise_for_status().json()


def test_a_redaction_is_asked_for_kept_and_ended(client: httpx.Client, source: str) -> None:
    job = asked(client, "bare", source, redact_statistics=["text"], only_readable=True)
    assert job["state"] == "done", job
    view = shown(client, "bare")
    assert (view["redact_statistics"], view["only_readable"], view["role"]) == (["text"], True, "")
    assert any(line.startswith("redacted: ") for line in view["not_cloned"])
    for body, words in ((None, ["text"]), ({"redact_statistics": ["none"]}, [])):
        answer = client.post("/v1/shadows/bare/refresh", json=body) if body else client.post("/v1/shadows/bare/refresh")
        assert finished(client, answer.raise_for_status().json()["job"])["state"] == "done"
        view = shown(client, "bare")
        assert view["redact_statistics"] == words
        assert view["only_readable"] is True
        assert any(line.startswith("redacted: ") for line in view["not_cloned"]) is bool(words)
    client.delete("/v1/shadows/bare").raise_for_status()


def test_a_column_that_is_not_there_fails_the_job(client: httpx.Client, source: str) -> None:
    job = asked(client, "wrong", source, redact_statistics=["nowhere.at_all"])
    assert job["state"] == "failed"
    assert "no column nowhere.at_all" in job["error"]["detail"]
    assert job["attempt"] == 1


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"schema": "CREATE TABLE t (a int)", "redact_statistics": ["all"]}, "go with from"),
        ({"from": "postgresql://u@127.0.0.1/d", "redact_statistics": ["column"]}, "names no column to redact"),
        ({"from": "postgresql://u@127.0.0.1/d", "redact_statistics": "all"}, "redact_statistics"),
        ({"from": "postgresql://u@127.0.0.1/d", "only_readable": "yes"}, "only_readable"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(client: httpx.Client, body: dict[str, Any], detail: str) -> None:
    found = problem(client.post("/v1/shadows", json={"name": "wrong", **body}), 422)
    assert detail in str(found)
