"""No job is lost, done twice or left half-done when workers, their children or the store are killed or away."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from http_server import eventually, problem, service, serving
from job_fixtures import (
    TINY,
    add,
    check_one_clone,
    children,
    client,
    held_up,
    home,
    in_the_midst,
    services,
    source,
    until,
)
from job_worker import finished, running_worker, start_worker, stop_worker

from api.app import create_app
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind

__all__ = ["client", "home", "services", "source"]  # fixtures


def kill_store(services: Services) -> None:
    data = services.supervisor.cluster(ClusterKind.STORE).home
    os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


@pytest.mark.parametrize("killed", ["worker", "store", "worker and store"])
def test_a_killed_worker_or_store_loses_no_job(
    client: httpx.Client, services: Services, home: Path, source: str, killed: str
) -> None:
    name = killed.replace(" ", "-")
    worker = start_worker(home, hasty=True)
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
            worker = start_worker(home, hasty=True)
        ended = finished(client, job)
    finally:
        stop_worker(worker)
    assert (ended["state"], ended["error"], ended["progress"]) == ("done", None, 1.0)
    assert ended["attempt"] == (2 if "worker" in killed else 1)
    check_one_clone(services, name)


def test_a_worker_that_comes_back_too_late_changes_nothing(
    client: httpx.Client, services: Services, home: Path, source: str
) -> None:
    sleeping = start_worker(home, hasty=True)
    try:
        with ExitStack() as hold:
            hold.enter_context(held_up(source))
            job = add(client, "taken-over", **{"from": source})
            until(client, job, in_the_midst)
            sleeping.send_signal(signal.SIGSTOP)
            with running_worker(home, hasty=True):
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
    with running_worker(home, hasty=True):
        assert finished(client, job, timeout_s=30)["state"] == "done"


def test_a_job_that_kills_its_process_fails_in_the_end(client: httpx.Client, home: Path, source: str) -> None:
    with running_worker(home, hasty=True), held_up(source):
        job = add(client, "poison", **{"from": source})
        for attempt in (1, 2, 3):
            until(client, job, lambda job, attempt=attempt: in_the_midst(job) and job["attempt"] == attempt)  # type: ignore[misc]
            for process in children(job):
                process.kill()
        ended = finished(client, job)
    assert (ended["state"], ended["attempt"]) == ("failed", 3)
    assert "was killed" in ended["error"]["detail"]


def test_a_job_has_a_time_limit(client: httpx.Client, home: Path, source: str) -> None:
    with running_worker(home, hasty=True, env={"PLANPROOF_JOB_TIMEOUT_MS": "4000"}), held_up(source):
        ended = finished(client, add(client, "slow", **{"from": source}))
    assert (ended["state"], ended["error"]["status"]) == ("failed", 504)
    assert "PLANPROOF_JOB_TIMEOUT_MS" in ended["error"]["detail"]


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
