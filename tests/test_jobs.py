"""Jobs over HTTP with real workers, which are killed, as are the servers that they use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psutil
import psycopg
import pytest
from http_server import eventually, problem, service, serving
from job_worker import finished, running_worker, start_worker, stop_worker
from production import make_production
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import text

from api.app import create_app
from api.jobs import queue
from api.jobs.queue import Jobs
from api.schemas import JobModel
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.cluster import Cluster, ClusterKind
from optimizer.shadow.template import template_names

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


def kill_store(services: Services) -> None:
    data = services.supervisor.cluster(ClusterKind.STORE).home
    os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


def check_one_clone(services: Services, name: str) -> None:
    """The shadow is there once, and nothing half-made beside it."""
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    database = services.registry.get(name).database
    assert [found for found in template_names(cluster) if f"_{name}_" in found] == [database]


@pytest.mark.parametrize("killed", ["worker", "store", "worker and store"])
def test_a_killed_worker_or_store_loses_no_job(
    client: httpx.Client, services: Services, home: Path, source: str, killed: str
) -> None:
    name = killed.replace(" ", "-")
    worker = start_worker(home)
    try:
        with held_up(source):
            job = add(client, name, **{"from": source})
            until(client, job, in_the_midst)
            if "worker" in killed:
                stop_worker(worker, signal.SIGKILL)
            if "store" in killed:
                kill_store(services)
                assert client.get(f"/v1/jobs/{job}").json()["state"] == "running"
        if "worker" in killed:
            psutil.wait_procs(children(job), timeout=10)
            assert not children(job)
            worker = start_worker(home)
        ended = finished(client, job)
    finally:
        stop_worker(worker)
    assert (ended["state"], ended["error"], ended["progress"]) == ("done", None, 1.0)
    assert ended["attempt"] == (2 if "worker" in killed else 1)
    check_one_clone(services, name)


def test_a_worker_that_comes_back_too_late_changes_nothing(
    client: httpx.Client, services: Services, home: Path, source: str
) -> None:
    sleeping = start_worker(home)
    try:
        with ExitStack() as hold:
            hold.enter_context(held_up(source))
            job = add(client, "taken-over", **{"from": source})
            until(client, job, in_the_midst)
            sleeping.send_signal(signal.SIGSTOP)
            with running_worker(home):
                until(client, job, lambda job: job["attempt"] == 2)
                sleeping.send_signal(signal.SIGCONT)
                eventually(lambda: f"job {job} was taken over" in (home / "worker.log").read_text())
                assert client.get(f"/v1/jobs/{job}").json()["state"] in ("running", "queued")
                hold.close()
                ended = finished(client, job)
    finally:
        sleeping.send_signal(signal.SIGCONT)
        stop_worker(sleeping)
    assert (ended["state"], ended["error"]) == ("done", None)
    check_one_clone(services, "taken-over")


def test_a_stopped_worker_gives_its_job_back(client: httpx.Client, home: Path, source: str) -> None:
    with held_up(source):
        worker = start_worker(home, "--grace", "0.5")
        try:
            job = add(client, "given-back", **{"from": source})
            until(client, job, in_the_midst)
        finally:
            assert stop_worker(worker) == 0
        given_back = client.get(f"/v1/jobs/{job}").json()
        assert (given_back["state"], given_back["step"]) == ("queued", "waiting for another worker")
        assert not children(job)
    with running_worker(home):
        assert finished(client, job, timeout_s=30)["state"] == "done"


def test_cancelling(client: httpx.Client, services: Services, home: Path, source: str) -> None:
    waiting = add(client, "never", schema=TINY)
    response = client.delete(f"/v1/jobs/{waiting}")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert not (home / "jobs" / waiting).exists()
    with running_worker(home), held_up(source):
        running = add(client, "cut-short", **{"from": source})
        until(client, running, in_the_midst)
        assert strangers(source)
        response = client.delete(f"/v1/jobs/{running}")
        assert (response.status_code, response.json()["cancel_requested"]) == (202, True)
        ended = finished(client, running, timeout_s=15)
        assert (ended["state"], ended["error"]) == ("cancelled", None)
        assert not children(running)
        eventually(lambda: not strangers(source))
        assert not (home / "jobs" / running).exists()
        after = client.delete(f"/v1/jobs/{running}")
        assert (after.status_code, after.json()) == (200, ended)
    assert client.get(f"/v1/jobs/{waiting}").json()["attempt"] == 0
    assert not {"never", "cut-short"} & set(services.registry.names())
    for unknown in ("unknown", "%00", "a" * 32):
        problem(client.delete(f"/v1/jobs/{unknown}"), 404)


def test_a_watcher_sees_a_job_to_its_end(client: httpx.Client, home: Path, source: str) -> None:
    with running_worker(home):
        with held_up(source):
            job = add(client, "watched", **{"from": source})
            first = next(events(client, job))
            assert (first["event"], first["data"]["state"]) == ("progress", "queued")
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


def test_many_watchers_cost_one_query_and_are_freed(services: Services) -> None:
    with serving(app := create_app(services)) as client:
        jobs: Jobs = app.state.jobs
        job = add(client, "looked-at", schema=TINY)
        watching = [threading.Thread(target=lambda: list(events(client, job))) for _ in range(30)]
        for thread in watching:
            thread.start()
        eventually(lambda: len(jobs.watch._watchers) == len(watching))
        client.delete(f"/v1/jobs/{job}")
        for thread in watching:
            thread.join(10)
        other = add(client, "left-alone", schema=TINY)
        next(events(client, other))  # and the client is gone
        eventually(lambda: not jobs.watch._watchers)
        client.delete(f"/v1/jobs/{other}")


def test_every_one_of_many_jobs_is_done_once(client: httpx.Client, services: Services, home: Path) -> None:
    names = [f"many-{number}" for number in range(20)]
    jobs = {name: add(client, name, schema=TINY) for name in names}
    with running_worker(home), running_worker(home):
        ended = {name: finished(client, job, timeout_s=300) for name, job in jobs.items()}
    assert {job["state"] for job in ended.values()} == {"done"}
    assert {job["attempt"] for job in ended.values()} == {1}, (home / "worker.log").read_text()[-6_000:]
    assert set(names) <= set(services.registry.names())
    for name in names:
        services.drop(name)


def test_of_two_jobs_for_one_name_the_first_wins(client: httpx.Client, home: Path) -> None:
    first, second = (add(client, "wanted", schema=TINY) for _ in range(2))
    with running_worker(home, "--jobs", "2"):
        assert finished(client, first)["state"] == "done"
        lost = finished(client, second)
    assert lost["state"] == "failed"
    assert "there is a shadow named 'wanted' already" in lost["error"]["detail"]


def test_a_refresh_is_a_job(client: httpx.Client, services: Services, home: Path, source: str) -> None:
    with running_worker(home):
        assert finished(client, add(client, "refreshed", **{"from": source}))["state"] == "done"
        before = services.registry.get("refreshed").revision
        response = client.post("/v1/shadows/refreshed/refresh")
        assert response.status_code == 202
        job = finished(client, response.json()["job"])
    assert (job["kind"], job["shadow"], job["state"]) == ("shadow.refresh", "refreshed", "done")
    assert services.registry.get("refreshed").revision != before
    problem(client.post("/v1/shadows/unknown/refresh"), 404)


def test_a_job_that_kills_its_process_fails_in_the_end(client: httpx.Client, home: Path, source: str) -> None:
    with running_worker(home), held_up(source):
        job = add(client, "poison", **{"from": source})
        for attempt in (1, 2, 3):
            until(client, job, lambda job, attempt=attempt: in_the_midst(job) and job["attempt"] == attempt)  # type: ignore[misc]
            for process in children(job):
                process.kill()
        ended = finished(client, job)
    assert (ended["state"], ended["attempt"]) == ("failed", 3)
    assert "was killed" in ended["error"]["detail"]


def test_a_job_has_a_time_limit(client: httpx.Client, home: Path, source: str) -> None:
    with running_worker(home, env={"PLANPROOF_JOB_TIMEOUT_MS": "4000"}), held_up(source):
        ended = finished(client, add(client, "slow", **{"from": source}))
    assert (ended["state"], ended["error"]["status"]) == ("failed", 504)
    assert "PLANPROOF_JOB_TIMEOUT_MS" in ended["error"]["detail"]


def test_an_unreachable_source_is_tried_again_and_then_fails(client: httpx.Client, home: Path, source: str) -> None:
    wrong = make_conninfo(source, password=CANARY)
    with running_worker(home):
        ended = finished(client, add(client, "refused", **{"from": wrong}))
    assert (ended["state"], ended["attempt"], ended["error"]["status"]) == ("failed", 3, 503)
    assert "password authentication failed" in ended["error"]["detail"]
    assert CANARY not in json.dumps(ended)


def test_another_service_knows_the_jobs(client: httpx.Client, home: Path) -> None:
    known = client.get("/v1/jobs?limit=1000").json()
    for job in known:
        assert json.loads(JobModel.model_validate(job).model_dump_json(exclude_unset=True)) == job
    created = [job["created"] for job in known]
    assert created == sorted(created, reverse=True)
    with Services.open(Settings(home=home)) as services, serving(create_app(services)) as other:
        assert other.get("/v1/jobs?limit=1000").json() == known
        assert other.get(f"/v1/jobs/{known[0]['id']}").json() == known[0]
    problem(client.get("/v1/jobs?limit=0"), 422)


def test_too_many_waiting_jobs_are_refused(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING", 3)
    waiting = [add(client, "full", schema=TINY) for _ in range(3)]
    problem(client.post("/v1/shadows", json={"name": "full", "schema": TINY}), 429)
    monkeypatch.setattr(queue, "MAX_WAITING_BYTES", 1_000)
    client.delete(f"/v1/jobs/{waiting[0]}")
    problem(client.post("/v1/shadows", json={"name": "full", "schema": f"{TINY}; -- {'x' * 1_000}"}), 429)
    for job in waiting[1:]:
        client.delete(f"/v1/jobs/{job}")


def test_no_secret_is_left_anywhere(
    client: httpx.Client, services: Services, home: Path, source: str, scratch_cluster: Cluster
) -> None:
    with scratch_cluster.connect() as admin:
        admin.execute(f"CREATE ROLE reader LOGIN IN ROLE pg_read_all_data PASSWORD '{CANARY}'".encode())
    allowed = make_conninfo(source, user="reader", password=CANARY)
    with running_worker(home):
        waiting = add(client, "secret", **{"from": allowed})
        assert CANARY in (home / "jobs" / waiting / "request.json").read_text()
        assert (home / "jobs" / waiting / "request.json").stat().st_mode & 0o777 == 0o600
        ended = finished(client, waiting)
        assert (ended["state"], ended["error"]) == ("done", None)
    with services.supervisor.cluster(ClusterKind.STORE).connect() as admin:
        admin.execute("CHECKPOINT")
    holding = [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == [home / "shadows" / "secret" / "dsn"]


def test_optimizing_goes_on_while_the_store_is_away(home: Path) -> None:
    other = Path(tempfile.mkdtemp(prefix="pp-"))
    other.chmod(0o711)
    try:
        with Services.open(Settings(home=other, cluster_linger_s=60)) as keeper:
            cluster = keeper.supervisor.cluster(ClusterKind.STORE)
            cluster.ensure_role("jobs")
            with cluster.connect() as admin:
                admin.execute("CREATE DATABASE jobs OWNER jobs")
            settings = Settings(home=home, store_url=cluster.conninfo("jobs", "jobs"))  # type: ignore[arg-type]
            with Services.open(settings) as services, serving(create_app(services)) as client:
                job = add(client, "kept", schema=TINY)
                keeper.supervisor.stop(ClusterKind.STORE)
                for response in (
                    client.get(f"/v1/jobs/{job}"),
                    client.get("/v1/jobs"),
                    client.get(f"/v1/jobs/{job}/events"),
                    client.delete(f"/v1/jobs/{job}"),
                    client.post("/v1/shadows", json={"name": "kept", "schema": TINY}),
                ):
                    assert "the store of jobs cannot be reached" in problem(response, 503)
                query = {"sql": "SELECT DISTINCT a FROM t", "schema": TINY}
                assert client.post("/v1/optimize", json=query).status_code == 200
                for kind in (ClusterKind.HOLLOW, ClusterKind.SCRATCH):
                    services.supervisor.cluster(kind)
                assert client.get("/readyz").json() == {"status": "ok", "jobs": "unavailable"}
                keeper.supervisor.cluster(ClusterKind.STORE)
                time.sleep(2.1)  # for so long a store that was away is not asked again
                assert client.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    finally:
        Services.open(Settings(home=other)).supervisor.stop_all()
        shutil.rmtree(other, ignore_errors=True)


def test_one_command_is_a_whole_service(home: Path) -> None:
    with service(home) as served, served.client() as client:
        for name in ("with-worker", "with-another"):
            assert finished(client, add(client, name, schema=TINY))["state"] == "done"
            for process in psutil.Process(served.process.pid).children():
                if "api.cli worker" in " ".join(process.cmdline()):
                    process.kill()


def test_machines_that_share_a_store_run_their_own_jobs(
    home: Path, services: Services, scratch_cluster: Cluster
) -> None:
    scratch_cluster.ensure_role("shared_jobs")
    with scratch_cluster.connect() as admin:
        admin.execute("CREATE DATABASE shared_jobs OWNER shared_jobs")
    url = scratch_cluster.conninfo("shared_jobs", "shared_jobs")
    other = Path(tempfile.mkdtemp(prefix="pp-"))
    other.chmod(0o711)
    try:
        settings = [Settings(home=folder, store_url=url) for folder in (home, other)]  # type: ignore[arg-type]
        with (
            Services.open(settings[0]) as here,
            Services.open(settings[1]) as there,
            serving(create_app(here)) as client,
            serving(create_app(there)) as elsewhere,
        ):
            ours = add(client, "ours", schema=TINY)
            theirs = add(elsewhere, "theirs", schema=TINY)
            with running_worker(other, env={"PLANPROOF_STORE_URL": url}):
                assert finished(client, theirs)["state"] == "done"
            assert elsewhere.get(f"/v1/jobs/{ours}").json()["state"] == "queued"
            assert elsewhere.delete(f"/v1/jobs/{ours}").json()["state"] == "cancelled"
            assert there.registry.names() == ("theirs",)
    finally:
        Services.open(Settings(home=other)).supervisor.stop_all()
        shutil.rmtree(other, ignore_errors=True)


def test_old_jobs_are_forgotten(client: httpx.Client, services: Services, home: Path) -> None:
    job, kept = (add(client, "old", schema=TINY) for _ in range(2))
    for each in (job, kept):
        client.delete(f"/v1/jobs/{each}")
    orphan = home / "jobs" / "orphan"
    orphan.mkdir()
    os.utime(orphan, (0, 0))
    with Jobs(services.settings, services.supervisor).store.begin() as session:
        session.execute(
            text("UPDATE planproof_jobs SET ended = now() - interval '8 days' WHERE id = :id").bindparams(id=job)
        )
    with running_worker(home):
        eventually(lambda: client.get(f"/v1/jobs/{job}").status_code == 404 and not orphan.exists())
    problem(client.get(f"/v1/jobs/{job}"), 404)
    assert client.get(f"/v1/jobs/{kept}").json()["state"] == "cancelled"
