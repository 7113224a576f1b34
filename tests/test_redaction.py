"""Values that are redacted leave no trace in any file of a shadow; what stays still plans."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from guarded_sources import DEBIAN, EMBEDDED, SECRET, fill, source_cluster

from optimizer.errors import InputError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind
from optimizer.shadow.source.redaction import Redacted, read_redacted, read_words
from optimizer.shadow.template.clone_options import CloneOptions

#: Parts of values, as columns, partitions, generated columns, indexes and views hold them.
TRACES = (f"{SECRET} city", f"{SECRET}1", f"{SECRET} line", f"{SECRET.upper()} CITY")


@pytest.fixture(scope="module", params=[EMBEDDED, DEBIAN])
def source(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The source."""
    with source_cluster(request.param) as cluster:
        fill(cluster)
        yield cluster


@pytest.fixture
def services() -> Iterator[Services]:
    """Services in a home of their own: whatever another test wrote there would be found."""
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    with Services.open(Settings(home=home, cluster_linger_s=10, planner="embedded")) as services:
        yield services
        services.supervisor.stop_all()
    shutil.rmtree(home, ignore_errors=True)


def hidden(source: Cluster, words: str) -> Redacted:
    with psycopg.connect(source.conninfo("guarded"), autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        return read_redacted(connection, read_words(words))


def rows_at(source: Cluster, query: str) -> float:
    """How many rows the source itself expects."""
    with psycopg.connect(source.conninfo("guarded")) as connection:
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
    assert row is not None
    return float(row[0][0]["Plan"]["Plan Rows"])


def statistics_with(services: Services, name: str, text: str) -> int:
    """Columns and extended statistics of a shadow's template that hold a text."""
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    with cluster.connect(services.registry.get(name).database) as connection:
        row = connection.execute(
            "SELECT count(*) FROM (SELECT s::text FROM pg_statistic s UNION ALL"
            " SELECT m.values::text FROM pg_statistic_ext_data d, pg_mcv_list_items(d.stxdmcv) m) t(held)"
            " WHERE held LIKE %s",
            [f"%{text}%"],
        ).fetchone()
    assert row is not None
    return int(row[0])


def files_with(home: Path, text: str) -> list[str]:
    """Files below a folder that hold a text: of the database, its log, its WAL, the registry."""
    found = []
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_blocks:
            with path.open("rb") as file:
                if text.encode() in file.read(64_000_000):
                    found.append(str(path.relative_to(home)))
    return found


@pytest.mark.parametrize("words", ["all", "text"])
def test_no_file_holds_a_redacted_value(services: Services, source: Cluster, words: str) -> None:
    options = CloneOptions(redact_statistics=read_words(words))
    record = services.add_hollow("bare", source.conninfo("guarded"), options=options)
    with services.shadow("bare").session() as session:
        session.explain("SELECT * FROM sales.customers WHERE email > 'x' AND city = 'y'")
    services.refresh("bare")
    # Long values are compressed in files.
    assert statistics_with(services, "bare", SECRET) == statistics_with(services, "bare", SECRET.upper()) == 0
    services.supervisor.stop_all()  # what was in memory is in the files now
    # The policy's own constant, "zanzibar owner 1", is schema, which is not redacted.
    for text in (*TRACES, f"{SECRET} tag", f"{SECRET} fact"):
        assert files_with(services.settings.home, text) == []
    assert any(line.startswith("redacted: common values and histograms of ") for line in record.not_cloned)
    assert any(line.startswith("redacted: first and last entries of ") for line in record.not_cloned)


def test_without_redaction_the_values_are_there(services: Services, source: Cluster) -> None:
    """The test above could find them."""
    services.add_hollow("whole", source.conninfo("guarded"))
    assert statistics_with(services, "whole", SECRET) > 10
    services.supervisor.stop_all()
    home = services.settings.home
    for text in TRACES:
        found = files_with(home, text)
        assert any(file.startswith("shadows/") for file in found), text


def test_what_stays_still_plans(services: Services, source: Cluster) -> None:
    options = CloneOptions(redact_statistics=("sales.customers.city",))
    services.add_hollow("bare", source.conninfo("guarded"), options=options)
    with services.shadow("bare").session() as session:
        for query in (
            "SELECT * FROM sales.customers WHERE city = 'zanzibar city 3'",  # all cities are equally common
            "SELECT DISTINCT city FROM sales.customers",
            "SELECT * FROM sales.customers WHERE born < '1950-02-08'",
            "SELECT * FROM sales.orders WHERE placed = '2024-03-03'",
        ):
            assert session.explain(query).cost.plan_rows == rows_at(source, query), query
    column = services.shadow("bare").catalog().tables["sales", "customers"].columns["city"]
    assert column.statistics is not None
    assert column.statistics.n_distinct == 40
    assert column.statistics.most_common_vals == column.statistics.histogram_bounds == ()


def test_a_refresh_remembers_and_may_change_it(services: Services, source: Cluster) -> None:
    dsn = source.conninfo("guarded")
    services.add_hollow("bare", dsn, options=CloneOptions(redact_statistics=("text",)))
    assert services.registry.get("bare").options.redact_statistics == ("text",)
    assert any(line.startswith("redacted") for line in services.refresh("bare").not_cloned)
    changed = services.registry.get("bare").options.changed(redact_statistics=["none"])
    record = services.refresh("bare", options=changed)
    assert not any(line.startswith("redacted") for line in record.not_cloned)
    with services.shadow("bare").session() as session:
        rows = session.explain("SELECT * FROM sales.customers WHERE city LIKE 'zanzibar city 1%'").cost.plan_rows
    assert rows == pytest.approx(1650, abs=60)


@pytest.mark.parametrize(
    ("words", "columns", "indexes"),
    [
        # The same values: foreign key, view and materialized view, index, expression.
        (
            "customers.email",
            {"customers.email", "orders.email", "totals.name", "totals.orders"},
            {"customers_email_key", "customers_lower", "customers_row"},
        ),
        # A generated column follows; an expression over the whole row follows any column.
        (
            "sales.Customers.city",
            {"customers.city", "customers.upper_city"},
            {"customers_city", "customers_row"},
        ),
        ("customers.born", {"customers.born"}, {"customers_born", "customers_row"}),
        # Both ways between a partition and its parent.
        ("logs_24.line", {"logs.line", "logs_24.line"}, set()),
        ("logs.line", {"logs.line", "logs_24.line"}, set()),
        ('"Odd ""one"."A table"."The ""key"" of it"', {'A table.The "key" of it'}, {"A table_pkey"}),
        (
            "text",
            {
                "customers.email",
                "customers.city",
                "customers.upper_city",
                "customers.tags",
                "customers.facts",
                "orders.email",
                "logs.line",
                "logs_24.line",
                "totals.name",
                "A table.note",
                "secrets.owner",
            },
            {"customers_email_key", "customers_lower", "customers_row", "customers_city"},
        ),
    ],
)
def test_what_a_redaction_covers(source: Cluster, words: str, columns: set[str], indexes: set[str]) -> None:
    found = hidden(source, words)
    assert {f"{table}.{column}" for _, table, column in found.columns} == columns
    assert {name for _, name in found.indexes} == indexes
    about_places = {"sales.places"} if columns & {"customers.email", "customers.city"} else set()
    assert {".".join(place) for place in found.statistics} == about_places


def test_all_covers_every_column(source: Cluster) -> None:
    found = hidden(source, "all")
    with psycopg.connect(source.conninfo("guarded")) as connection:
        query = "SELECT schemaname, tablename, attname FROM pg_stats WHERE schemaname IN ('sales', 'Odd \"one')"
        described = set(connection.execute(query).fetchall())
    tables = {(schema, table) for schema, table, _ in found.columns}
    assert {place for place in described if place[:2] in tables} <= found.columns
    assert {place[:2] for place in described} - tables <= found.indexes


def test_a_column_that_does_not_exist_is_an_error(services: Services, source: Cluster) -> None:
    options = CloneOptions(redact_statistics=("customers.city", "customers.nothing", "sales.nowhere.city"))
    with pytest.raises(InputError, match=r"no column customers\.nothing, sales\.nowhere\.city, which was"):
        services.add_hollow("bare", source.conninfo("guarded"), options=options)
    assert services.registry.names() == ()


@pytest.mark.parametrize("text", ["city", "a.b.c.d", "customers.city;", "a.b c.d", '"a.b', "a.b\n'", 'a."b\nc"'])
def test_what_names_no_column_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no column to redact"):
        read_words(text)


def test_words_are_read_once_each() -> None:
    assert read_words(' Text , users.email,users.email, "a,b"."c.d" ') == ("text", "users.email", '"a,b"."c.d"')
    assert read_words("none") == ()
