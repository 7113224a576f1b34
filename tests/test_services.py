"""Shadows from files and throw-away ones, and what survives when the embedded server's data are lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from production import make_production

from optimizer import services as services_module
from optimizer.ddl import read_script
from optimizer.errors import InputError, SqlError, UnknownShadowError
from optimizer.hooks import Plugins
from optimizer.index_ddl import parse_index_ddl
from optimizer.measurement import Executes
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind

SHOP = (Path(__file__).parents[1] / "fixtures/schemas/shop.sql").read_text()


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def dumps(scratch_cluster: Cluster) -> tuple[str, str]:
    """Schema and statistics of a database with rows, as pg_dump writes them."""
    make_production(scratch_cluster, "dumped")
    schema = scratch_cluster.run("pg_dump", "--schema-only", "--no-owner", dbname="dumped").stdout.decode()
    return schema, scratch_cluster.run("pg_dump", "--statistics-only", dbname="dumped").stdout.decode()


def test_a_schema_with_rows(services: Services) -> None:
    record = services.add_files("shop-with-rows", SHOP, origin="shop.sql")
    assert (record.kind, record.origin, record.server_version) == ("files", "shop.sql", "")
    shadow = services.shadow("shop-with-rows")
    orders = shadow.catalog().tables["public", "orders"]
    assert orders.rows == 6
    assert orders.columns["user_id"].statistics is not None
    with shadow.session() as session:
        assert session.explain("SELECT * FROM orders WHERE user_id = 1").cost.plan_rows == 3
        candidate = parse_index_ddl("CREATE INDEX ON reviews (stars)", shadow.catalog())
        made = session.create([candidate])
        assert made[candidate].storage_bytes == 16384
        assert session.explain("SELECT * FROM reviews WHERE stars = 5", using=made.values()).cost.total_cost > 0
    services.drop("shop-with-rows")
    with pytest.raises(UnknownShadowError):
        services.shadow("shop-with-rows")


def test_rows_can_be_measured_and_hollow_ones_cannot(services: Services, dumps: tuple[str, str]) -> None:
    with services.throwaway(SHOP).session() as session:
        assert isinstance(session, Executes)
        assert session.execution_ms("SELECT count(*) FROM orders WHERE user_id = $1", parameters=[1]) >= 0
        with pytest.raises(SqlError, match="read-only"):
            session.execution_ms("DELETE FROM orders")
        with pytest.raises(SqlError, match="division by zero"):
            session.execution_ms("SELECT 1 / (id - 1) FROM orders")
        assert session.explain("SELECT count(*) FROM orders").cost.total_cost > 0
    with services.throwaway(*dumps).session() as session:
        assert not isinstance(session, Executes)


def test_the_ddl_of_a_schema_with_rows_has_none(services: Services) -> None:
    script = read_script(services.throwaway(SHOP).ddl(), max_bytes=1_000_000)
    kinds = {item.kind for item in script.items}  # type: ignore[union-attr]
    assert "CREATE TABLE" in kinds and "CREATE TYPE" in kinds
    assert "INSERT" not in kinds


def test_a_schema_with_statistics(services: Services, dumps: tuple[str, str]) -> None:
    schema, statistics = dumps
    shadow = services.throwaway(schema, statistics)
    assert shadow.catalog().tables["public", "orders"].rows == 60000
    with shadow.session() as session:
        assert session.explain("SELECT * FROM orders WHERE user_id = 5").cost.total_cost < 1500
        plan = session.explain("SELECT * FROM orders WHERE placed_at < '2024-01-02'")
        assert plan.indexes == {"orders_placed_at_idx"}
        assert session.explain("SELECT count(*) FROM orders").cost.total_cost > 1000
    assert not any("statistics" in line for line in shadow.info.not_cloned)


def test_a_schema_alone_says_that_plans_are_of_empty_tables(services: Services, dumps: tuple[str, str]) -> None:
    shadow = services.throwaway(dumps[0])
    assert any("nearly empty tables" in line for line in shadow.info.not_cloned)


def test_what_a_schema_file_loses_is_told(services: Services) -> None:
    shadow = services.throwaway("CREATE EXTENSION postgis; CREATE TABLE t (id integer);")
    assert any("postgis is not available" in line for line in shadow.info.not_cloned)


def test_the_same_text_finds_the_same_shadow(services: Services) -> None:
    one = services.throwaway("CREATE TABLE same (id integer);")
    two = services.throwaway("CREATE TABLE same (id integer);")
    assert one is two
    assert services.throwaway("CREATE TABLE other (id integer);").info.revision != one.info.revision


def test_errors_in_a_schema_have_a_place(services: Services) -> None:
    with pytest.raises(SqlError, match="nope") as caught:
        services.throwaway("CREATE TABLE t (id integer);\nCREATE TABLE u (id nope);")
    assert (caught.value.line, caught.value.column) == (2, 20)
    with pytest.raises(SqlError, match="nowhere"):
        services.throwaway(
            "CREATE TABLE t (id integer);",
            "SELECT * FROM pg_catalog.pg_restore_relation_stats("
            "'version', '180000'::integer, 'schemaname', 'public', 'relname', 'nowhere', 'relpages', '7'::integer);",
        )


def test_old_throwaways_make_room(services: Services, hollow_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "MAX_THROWAWAYS", 2)
    first = services.throwaway("CREATE TABLE room0 (id integer);")
    for number in (1, 2, 3):
        with services.throwaway(f"CREATE TABLE room{number} (id integer);").session() as session:
            session.explain(f"SELECT * FROM room{number}")
    with hollow_cluster.connect() as admin:
        names = admin.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'throwaway%'").fetchone()
    assert names == (2,)
    assert first is not services.throwaway("CREATE TABLE room0 (id integer);")


def test_files_cannot_be_refreshed(services: Services) -> None:
    services.add_files("fixed", "CREATE TABLE t (id integer);", origin="t.sql")
    with pytest.raises(InputError, match=r"made from t\.sql"):
        services.refresh("fixed")
    services.drop("fixed")


def test_a_kind_without_plugin_is_one_clear_error(settings: Settings, services: Services) -> None:
    services.add_files("foreign", "CREATE TABLE t (id integer);")
    bare = Services(settings, services.supervisor, Plugins(entries=()))
    with pytest.raises(InputError, match="no plugin opens shadows of the kind 'files'"):
        bare.shadow("foreign")
    services.drop("foreign")


def test_a_damaged_shadow_can_be_dropped(services: Services, hollow_cluster: Cluster) -> None:
    record = services.add_files("torn", "CREATE TABLE t (id integer);")
    (record.folder.parent / "record.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        services.shadow("torn")
    services.drop("torn")
    with hollow_cluster.connect() as admin:
        assert admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [record.database]).fetchone() is None
    services.add_files("torn", "CREATE TABLE t (id integer);")
    services.drop("torn")


def test_a_lost_cluster_is_made_again(dumps: tuple[str, str]) -> None:
    # Not tmp_path: as root, the account that the server runs as may not pass through its folders.
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    settings = Settings(home=home, cluster_linger_s=5)
    query = "SELECT * FROM orders WHERE user_id = 5"
    with Services.open(settings) as services:
        services.add_files("kept", *dumps)
        services.add_files("rows", SHOP)
        with services.shadow("kept").session() as session:
            before = session.explain(query).raw
        services.supervisor.stop(ClusterKind.HOLLOW)
        shutil.rmtree(settings.clusters / "hollow" / "data")
        with services.shadow("kept").session() as session:
            assert session.explain(query).raw == before
        with services.shadow("rows").session() as session:
            assert session.explain("SELECT * FROM orders").cost.plan_rows == 6
        services.supervisor.stop_all()
    shutil.rmtree(home, ignore_errors=True)  # a watchdog may just be looking
