"""The queue: what waits, who knows of it, how much may wait, and what is left of a job in the end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from http_server import eventually, problem, serving
from job_fixtures import CANARY, TINY, add, client, events, home, services, source
from job_worker import finished, running_worker
from psycopg.conninfo import make_conninfo
from sqlalchemy import text

from api.app import create_app
from api.jobs import queue
from api.jobs.queue import Jobs
from api.schemas import JobModel
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind

__all__ = ["client", "home", "services", "source"]  # fixtures


def test_a_waiting_job_is_cancelled(client: httpx.Client, services: Services, home: Path) -> None:
    waiting = add(client, "never", schema=TINY)
    response = client.delete(f"/v1/jobs/{waiting}")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert not (home / "jobs" / waiting).exists()
    assert client.get(f"/v1/jobs/{waiting}").json()["attempt"] == 0
    assert "never" not in services.registry.names()
    for unknown in ("unknown", "%00", "a" * 32):
        problem(client.delete(f"/v1/jobs/{unknown}"), 404)


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
    with running_worker(home, hasty=True):
        waiting = add(client, "secret", **{"from": allowed})
        assert CANARY in (home / "jobs" / waiting / "request.json").read_text()
        assert (home / "jobs" / waiting / "request.json").stat().st_mode & 0o777 == 0o600
        ended = finished(client, waiting)
        assert (ended["state"], ended["error"]) == ("done", None)
    with services.supervisor.cluster(ClusterKind.STORE).connect() as admin:
        admin.execute("CHECKPOINT")
    holding = [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == [home / "shadows" / "secret" / "dsn"]


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
            with running_worker(other, hasty=True, env={"PLANPROOF_STORE_URL": url}):
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
    with running_worker(home, hasty=True):
        eventually(lambda: client.get(f"/v1/jobs/{job}").status_code == 404 and not orphan.exists())
    problem(client.get(f"/v1/jobs/{job}"), 404)
    assert client.get(f"/v1/jobs/{kept}").json()["state"] == "cancelled"
