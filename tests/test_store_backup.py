"""`planproof store`: a dump of the store, put back into an empty one, holds the same jobs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import COMMAND, planproof

from api.jobs.queue import Jobs
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="pb-"))
    home.chmod(0o711)
    settings = Settings(home=home, cluster_linger_s=10)
    yield settings
    supervisor = Supervisor(settings)
    supervisor.stop_all()
    supervisor.close()
    shutil.rmtree(home, ignore_errors=True)


def _jobs(settings: Settings) -> list[dict[str, object]]:
    supervisor = Supervisor(settings)
    jobs = Jobs(settings, supervisor)
    try:
        return jobs.list(100)
    finally:
        jobs.close()
        supervisor.close()


def _add(settings: Settings, *subjects: str) -> None:
    supervisor = Supervisor(settings)
    jobs = Jobs(settings, supervisor)
    for subject in subjects:
        jobs.add("shadow.add", subject, {"name": subject, "schema": "CREATE TABLE t (id int)"})
    jobs.close()
    supervisor.close()


def test_a_restored_store_holds_the_jobs_that_were_dumped(settings: Settings, tmp_path: Path) -> None:
    _add(settings, "one", "two", "three")
    before = _jobs(settings)
    assert {job["shadow"] for job in before} == {"one", "two", "three"}
    file = tmp_path / "store.dump"
    assert planproof("store", "dump", file, home=settings.home).status == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]

    # Lost altogether: the cluster is made anew, under another password.
    supervisor = Supervisor(settings)
    supervisor.stop(ClusterKind.STORE)
    supervisor.close()
    shutil.rmtree(settings.clusters / ClusterKind.STORE / "data")
    (settings.clusters / ClusterKind.STORE / "secret.json").unlink()
    assert _jobs(settings) == []
    restored = planproof("store", "restore", file, home=settings.home)
    assert restored.status == 0, restored.stderr
    assert _jobs(settings) == before

    # What came after the dump is gone after a restore, and new jobs find a working queue.
    _add(settings, "late")
    assert planproof("store", "restore", file, home=settings.home).status == 0
    assert _jobs(settings) == before
    _add(settings, "later")
    assert len(_jobs(settings)) == 4


def test_a_dump_may_come_and_go_by_the_standard_streams(settings: Settings) -> None:
    _add(settings, "streamed")
    before = _jobs(settings)
    command = [COMMAND, "store"]
    environment = {"PATH": "/usr/bin:/bin", "PLANPROOF_HOME": str(settings.home), "PLANPROOF_CLUSTER_LINGER_S": "10"}
    dumped = subprocess.run([*command, "dump", "-"], env=environment, capture_output=True, check=True, timeout=120)
    assert dumped.stdout.startswith(b"PGDMP")
    _add(settings, "late")
    subprocess.run([*command, "restore", "-"], env=environment, input=dumped.stdout, check=True, timeout=120)
    assert _jobs(settings) == before


def test_a_store_in_use_is_not_replaced(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "store.dump"
    assert planproof("store", "dump", file, home=settings.home).status == 0
    supervisor = Supervisor(settings)
    jobs = Jobs(settings, supervisor)
    before = jobs.list(100)
    message = planproof("store", "restore", file, home=settings.home).failed(3)
    assert "stop the service and its workers first" in message
    assert jobs.list(100) == before
    jobs.close()
    supervisor.close()


def test_a_damaged_dump_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "store.dump"
    _add(settings, "kept")
    assert planproof("store", "dump", file, home=settings.home).status == 0
    before = _jobs(settings)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    assert "pg_restore failed" in planproof("store", "restore", file, home=settings.home).failed(4)
    assert _jobs(settings) == before


@pytest.mark.parametrize("command", ["dump", "restore"])
def test_files_that_cannot_be_used_are_named(command: str, settings: Settings, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "store.dump"
    assert str(missing) in planproof("store", command, missing, home=settings.home).failed(3)


def test_a_file_of_another_kind_is_refused(settings: Settings, tmp_path: Path) -> None:
    other = tmp_path / "dump.sql"
    other.write_text("DROP TABLE planproof_jobs;")
    assert "no dump of a store" in planproof("store", "restore", other, home=settings.home).failed(3)


def test_no_password_is_told_when_the_store_is_away(settings: Settings, tmp_path: Path) -> None:
    url = {"PLANPROOF_STORE_URL": "postgresql://someone:hush-hush@127.0.0.1:1/jobs"}
    outcome = planproof("store", "dump", tmp_path / "store.dump", home=settings.home, env=url)
    assert outcome.status == 4
    assert "hush-hush" not in outcome.stderr
    assert list(tmp_path.iterdir()) == []
