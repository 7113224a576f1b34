"""The store: made, upgraded, refused, and found again after its server was killed."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from procrastinate.schema import SchemaManager
from psycopg import sql
from sqlalchemy import create_engine, select, text
from sqlalchemy.engine import Engine

from api.jobs.queue import Jobs
from api.jobs.records import MAX_STARTS, End, Order, Records
from api.jobs.requests import Requests
from api.jobs.tasks import ADD_SHADOW
from api.settings import read_settings
from optimizer.errors import InputError, StoreUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.store.migrate import VERSION_TABLE, migrate
from optimizer.store.models import Base, Job, QueueMigration
from optimizer.store.store import DATABASE, ROLE, Store

#: A migration in the midst of what procrastinate ships, as if an older version of it had been here last.
OLD_QUEUE = "03.02.00_50_post_batch_defer_jobs.sql"


@pytest.fixture(scope="module")
def cluster(supervisor: Supervisor) -> Cluster:
    cluster = supervisor.cluster(ClusterKind.STORE)
    cluster.ensure_role("owner_of_stores")
    return cluster


@pytest.fixture
def url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A connection string to an empty database that an unprivileged login owns."""
    name = f"store_{abs(hash(request.node.name)) % 10**9}"
    with cluster.connect() as admin:
        names = sql.Identifier(name), sql.Identifier("owner_of_stores")
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
    yield cluster.conninfo(name, "owner_of_stores")
    with cluster.connect() as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def store(settings: Settings, supervisor: Supervisor, url: str) -> Iterator[Store]:
    """A store in that database; nothing is made yet."""
    store = Store(settings.model_copy(update={"store_url": _secret(url)}), supervisor)
    yield store
    store.close()


def _secret(url: str) -> object:
    return Settings(store_url=url).store_url  # type: ignore[arg-type]


@pytest.fixture
def again(settings: Settings, supervisor: Supervisor, url: str) -> Iterator[Store]:
    """The same store, as another process opens it."""
    store = Store(settings.model_copy(update={"store_url": _secret(url)}), supervisor)
    yield store
    store.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    yield engine
    engine.dispose()


def shipped() -> list[Path]:
    return sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))


def test_the_tables_are_those_of_the_models(store: Store, engine: Engine) -> None:
    store.prepare()

    def ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "table" or (str(name).startswith("planproof_") and name != VERSION_TABLE)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": ours})
        assert compare_metadata(context, Base.metadata) == []
        assert set(connection.scalars(select(QueueMigration.name))) == {file.name for file in shipped()}


def test_an_older_store_is_upgraded_and_keeps_what_it_holds(store: Store, engine: Engine) -> None:
    with engine.begin() as connection:
        # What an older version left: our first revision, and an older queue with a job in it.
        migrate(connection, "0001", queue=OLD_QUEUE)
        connection.execute(text("INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('q', 'kept')"))
    store.prepare()
    with store.begin() as session:
        assert session.scalars(select(Job)).all() == []
        assert set(session.scalars(select(QueueMigration.name))) == {file.name for file in shipped()}
        assert session.scalar(text("SELECT task_name FROM procrastinate_jobs")) == "kept"
        fetched = session.execute(text("SELECT task_name FROM procrastinate_fetch_job_v2(NULL, NULL)"))
        assert fetched.scalar() == "kept"


def test_a_newer_store_is_refused(store: Store, again: Store, engine: Engine) -> None:
    store.prepare()
    with engine.begin() as connection:
        connection.execute(text("UPDATE planproof_revision SET version_num = '9999'"))
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"newer planproof .revision 9999; this one knows up to 0002"):
            again.prepare()


def test_a_newer_queue_is_refused(store: Store, again: Store, engine: Engine) -> None:
    store.prepare()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO planproof_queue_migrations (name) VALUES ('99.00.00_01_later.sql')"))
    with pytest.raises(StoreUnavailableError, match=r"newer planproof .99\.00\.00_01_later"):
        again.prepare()


def test_somebody_elses_queue_is_left_alone(store: Store, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE procrastinate_jobs (id int)"))
    with pytest.raises(StoreUnavailableError, match="a database of its own"):
        store.prepare()
    with engine.connect() as connection:
        tables = "SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.scalar(text(tables)) == ["procrastinate_jobs"]


def test_many_may_open_it_at_once(settings: Settings, supervisor: Supervisor, url: str) -> None:
    named = settings.model_copy(update={"store_url": _secret(url)})
    stores = [Store(named, supervisor) for _ in range(6)]
    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(Store.prepare, stores))
    for store in stores:
        store.close()


def test_one_that_is_not_there_is_said_to_be_so(settings: Settings, supervisor: Supervisor) -> None:
    nowhere = _secret("host=127.0.0.1 port=1 password=hunter2")
    store = Store(settings.model_copy(update={"store_url": nowhere}), supervisor)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError) as caught:
            store.prepare()
        assert "hunter2" not in str(caught.value)
    assert store.state == "unavailable"


def test_what_is_no_connection_string_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANPROOF_STORE_URL", "host 'hunter2")
    with pytest.raises(InputError, match=r"PLANPROOF_STORE_URL is wrong: .*write postgresql://") as caught:
        read_settings()
    assert "hunter2" not in str(caught.value)


def test_the_embedded_store_belongs_to_an_unprivileged_role_and_outlives_a_kill() -> None:
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    supervisor = Supervisor(settings := Settings(home=home, cluster_linger_s=10))
    try:
        store = Store(settings, supervisor)
        assert store.state == "unused"
        jobs = Jobs(settings, supervisor)
        job_id = jobs.add(ADD_SHADOW, "kept", {"name": "kept", "schema": ""})
        cluster = supervisor.cluster(ClusterKind.STORE)
        with cluster.connect(DATABASE, ROLE) as connection:
            role = connection.execute("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user")
            assert role.fetchone() == (False, False)
        os.kill(int((cluster.home / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        assert jobs.get(job_id)["state"] == "queued"
        assert supervisor.cluster(ClusterKind.STORE).generation != cluster.generation
        store.prepare()
        assert store.state == "ok"
        jobs.close()
        store.close()
    finally:
        supervisor.stop_all()
        supervisor.close()
        shutil.rmtree(home, ignore_errors=True)


def test_a_data_folder_has_one_queue_whoever_names_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        names = set(threads.map(lambda _: Requests(tmp_path / "home").queue(), range(64)))
    assert len(names) == 1
    assert [path.name for path in (tmp_path / "home" / "jobs").iterdir()] == ["queue"]


def test_who_lost_a_job_cannot_write_about_it(settings: Settings, supervisor: Supervisor, url: str) -> None:
    jobs = Jobs(settings.model_copy(update={"store_url": _secret(url)}), supervisor)
    job_id = jobs.add(ADD_SHADOW, "contested", {"name": "contested", "schema": ""})
    records = Records(jobs.store)
    first = records.claim(job_id)
    assert first is not None
    assert records.pulse(first, ("working", 0.5)) is Order.GO_ON
    second = records.claim(job_id)
    assert second is not None
    assert records.pulse(first, None) is Order.STOP
    assert not records.end(first, End("failed", error={"detail": "too late"}))
    assert (jobs.get(job_id)["state"], jobs.get(job_id)["attempt"]) == ("running", 2)
    jobs.cancel(job_id)
    assert records.pulse(second, ("working", 0.7)) is Order.CANCEL
    assert records.end(second, End("cancelled"))
    assert jobs.get(job_id)["state"] == "cancelled"
    assert records.claim(job_id) is None
    jobs.close()


def test_a_job_that_ends_its_worker_each_time_fails(settings: Settings, supervisor: Supervisor, url: str) -> None:
    jobs = Jobs(settings.model_copy(update={"store_url": _secret(url)}), supervisor)
    job_id = jobs.add(ADD_SHADOW, "poison", {"name": "poison", "schema": ""})
    records = Records(jobs.store)
    for _ in range(MAX_STARTS):
        assert records.claim(job_id) is not None  # and then the worker is gone
    assert records.claim(job_id) is None
    job = jobs.get(job_id)
    assert (job["state"], job["error"]["status"]) == ("failed", 500)
    assert "given up" in job["error"]["detail"]
    jobs.close()
