"""Jobs over HTTP with a real worker: done once, watched, cancelled, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from http_server import eventually, problem
from job_fixtures import (
    CANARY,
    TINY,
    add,
    children,
    client,
    events,
    held_up,
    home,
    in_the_midst,
    services,
    source,
    strangers,
    until,
)
from job_worker import finished, running_worker
from psycopg.conninfo import make_conninfo

from optimizer.services import Services

__all__ = ["client", "home", "services", "source"]  # fixtures


@pytest.fixture(scope="module", autouse=True)
def worker(home: Path) -> Iterator[None]:
    """A worker that does two jobs at once."""
    with running_worker(home, hasty=True):
        yield


def test_every_one_of_many_jobs_is_done_once(client: httpx.Client, services: Services, home: Path) -> None:
    names = [f"many-{number}" for number in range(8)]
    jobs = {name: add(client, name, schema=TINY) for name in names}
    with running_worker(home):  # beside the other one
        ended = {name: finished(client, job) for name, job in jobs.items()}
    assert {job["state"] for job in ended.values()} == {"done"}
    assert {job["attempt"] for job in ended.values()} == {1}, (home / "worker.log").read_text()[-6_000:]
    assert set(names) <= set(services.registry.names())
    for name in names:
        services.drop(name)


def test_of_two_jobs_for_one_name_the_first_wins(client: httpx.Client) -> None:
    first, second = (add(client, "wanted", schema=TINY) for _ in range(2))
    assert finished(client, first)["state"] == "done"
    lost = finished(client, second)
    assert lost["state"] == "failed"
    assert "there is a shadow named 'wanted' already" in lost["error"]["detail"]


def test_a_watcher_sees_a_job_to_its_end(client: httpx.Client, source: str) -> None:
    with held_up(source):
        job = add(client, "watched", **{"from": source})
        first = next(events(client, job))
        assert (first["event"], first["data"]["id"]) == ("progress", job)
        until(client, job, in_the_midst)
    again = list(events(client, job, last_seen=first["id"]))
    versions = [int(event["id"]) for event in again]
    assert versions == sorted(set(versions))
    assert versions[0] > int(first["id"])
    assert [event["event"] for event in again] == ["progress"] * (len(again) - 1) + ["end"]
    assert again[-1]["data"] == client.get(f"/v1/jobs/{job}").json()
    assert [event["event"] for event in events(client, job)] == ["end"]
    seen = {"Last-Event-ID": again[-1]["id"]}
    assert client.get(f"/v1/jobs/{job}/events", headers=seen).status_code == 204
    problem(client.get("/v1/jobs/unknown/events"), 404)


def test_a_running_job_is_cancelled(client: httpx.Client, services: Services, home: Path, source: str) -> None:
    with held_up(source):
        running = add(client, "cut-short", **{"from": source})
        until(client, running, in_the_midst)
        assert strangers(source)
        response = client.delete(f"/v1/jobs/{running}")
        assert (response.status_code, response.json()["cancel_requested"]) == (202, True)
        ended = finished(client, running)
        assert (ended["state"], ended["error"]) == ("cancelled", None)
        assert not children(running)
        eventually(lambda: not strangers(source))
        eventually(lambda: not (home / "jobs" / running).exists())
        after = client.delete(f"/v1/jobs/{running}")
        assert (after.status_code, after.json()) == (200, ended)
    assert "cut-short" not in services.registry.names()


def test_a_refresh_is_a_job(client: httpx.Client, services: Services, source: str) -> None:
    def refreshed() -> str:
        response = client.post("/v1/shadows/refreshed/refresh")
        assert response.status_code == 202
        job = finished(client, response.json()["job"])
        assert (job["kind"], job["shadow"], job["state"]) == ("shadow.refresh", "refreshed", "done")
        return services.registry.get("refreshed").revision

    assert finished(client, add(client, "refreshed", **{"from": source}))["state"] == "done"
    before = services.registry.get("refreshed").revision
    assert refreshed() == before, "nothing has changed"
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("CREATE TABLE newcomer (id integer)")
    try:
        assert refreshed() != before
    finally:
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("DROP TABLE newcomer")
    problem(client.post("/v1/shadows/unknown/refresh"), 404)


def test_a_source_that_refuses_the_login_is_not_asked_again(client: httpx.Client, source: str) -> None:
    wrong = {
        "password authentication failed": make_conninfo(source, password=CANARY),
        'database "nowhere" does not exist': make_conninfo(source, dbname="nowhere"),
    }
    for words, dsn in wrong.items():
        ended = finished(client, add(client, "refused", **{"from": dsn}))
        assert (ended["state"], ended["attempt"], ended["error"]["status"]) == ("failed", 1, 503)
        assert words in ended["error"]["detail"]
        assert CANARY not in json.dumps(ended)


def test_an_unreachable_source_is_tried_again_and_then_fails(client: httpx.Client, source: str) -> None:
    away = make_conninfo(source, port=1)
    ended = finished(client, add(client, "away", **{"from": away}))
    assert (ended["state"], ended["attempt"], ended["error"]["status"]) == ("failed", 3, 503)
