"""The command that a DBA runs at production: what it writes makes a shadow that plans as a live clone does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import planproof
from guarded_sources import DEBIAN, EMBEDDED, SECRET, fill, source_cluster
from psycopg.conninfo import conninfo_to_dict
from version_cases import QUERIES, SCHEMA

from optimizer.errors import InputError, PlanproofError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.carried import Carried
from optimizer.shadow.source.dump_script import dump_script
from optimizer.shadow.source.privileges import read_rights
from optimizer.shadow.source.redaction import read_words
from optimizer.shadow.source.shape_reader import read_shape

#: Indexes of `version_cases.SCHEMA`.
GIN = ("customer_trgm", "product_tags", "product_words", "product_title", "product_facts")
GUARDED_QUERIES = (
    "SELECT * FROM sales.customers WHERE email = 'zanzibar77@example.org'",
    "SELECT * FROM sales.customers WHERE lower(email) > 'zanzibar5990@example.org'",
    "SELECT * FROM sales.orders WHERE placed > '2025-05-10' ORDER BY placed LIMIT 5",
    "SELECT * FROM sales.orders WHERE placed > '2030-01-01'",
    "SELECT city, count(*) FROM sales.customers c JOIN sales.orders o ON o.customer_id = c.id GROUP BY 1",
    "SELECT * FROM sales.customers WHERE city = 'zanzibar city 3' AND email = 'zanzibar3@example.org'",
    "SELECT * FROM sales.logs WHERE at > '2024-10-01' AND line LIKE 'zanzibar line 1%'",
    "SELECT * FROM sales.totals WHERE orders > 3",
    "SELECT * FROM sales.secrets",
    'SELECT * FROM "Odd ""one"."A table" WHERE note LIKE \'zanzibar%\'',
)


@pytest.fixture(scope="module", params=[EMBEDDED, DEBIAN])
def source(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The source: the database `guarded` of all sorts, and `various` with types and statistics of all kinds."""
    with source_cluster(request.param) as cluster:
        fill(cluster)
        fill(cluster, SCHEMA, "various")
        cluster.ensure_role("reader")
        with cluster.connect() as admin:
            admin.execute("ALTER ROLE reader INHERIT; GRANT pg_read_all_data TO reader")
            admin.execute("ALTER DATABASE various SET random_page_cost = 1.75")
            admin.execute("ALTER DATABASE guarded SET search_path = sales, public")
        yield cluster


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services that plan with the embedded server, whatever the source is."""
    with Services.open(settings.model_copy(update={"planner": "embedded"})) as services:
        yield services


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(source: Cluster, tmp_path: Path) -> Run:
    """Runs a command with bash, as a DBA would, with the programs of the source's own version."""

    def run(script: str, database: str = "guarded", role: str | None = None) -> tuple[str, str]:
        known = conninfo_to_dict(source.conninfo(database, role) if role else source.conninfo(database))
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        environment = {names[key]: str(value) for key, value in known.items() if key in names}
        environment["PATH"] = f"{source.binaries.folder}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash"], input=script, text=True, capture_output=True, check=False, cwd=tmp_path, env=environment
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        assert done.stdout == "written: schema.sql and stats.sql\n"
        assert done.stderr == ""
        return (tmp_path / "schema.sql").read_text(), (tmp_path / "stats.sql").read_text()

    return run


def nodes_of(plan: Any) -> Iterator[Any]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def without_gin(plan: Any) -> Any:
    """A plan; of one that reads a GIN index, whose counters only a live clone reads, the nodes and rows."""
    nodes = list(nodes_of(plan))
    if not any(str(node.get("Index Name")) in GIN for node in nodes):
        return plan
    return [(node["Node Type"], node["Plan Rows"]) for node in nodes]


def plan(shadow: ShadowDatabase, query: str) -> Any:
    with shadow.session() as session:
        return session.explain(query).raw


@pytest.mark.parametrize(("database", "queries"), [("guarded", GUARDED_QUERIES), ("various", QUERIES)])
def test_plans_are_those_of_a_live_clone(
    services: Services, source: Cluster, run: Run, database: str, queries: tuple[str, ...]
) -> None:
    live = services.add_hollow("live", source.conninfo(database, "reader"))
    files = services.add_files("files", *run(dump_script(), database, "reader"))
    try:
        assert files.settings == live.settings
        assert files.server_version == live.server_version
        with services.shadow("live").session() as first, services.shadow("files").session() as second:
            for query in queries:
                assert without_gin(second.explain(query).raw) == without_gin(first.explain(query).raw), query
        # What a live clone cannot carry is told here, too; it alone reads the counters of GIN indexes.
        missing = [line for line in live.not_cloned if line not in files.not_cloned and not line.startswith("version:")]
        more = [line for line in files.not_cloned if line not in live.not_cloned and not line.startswith("version:")]
        assert missing == []
        assert [line for line in more if not line.startswith("counters of ")] == []
    finally:
        services.drop("live")
        services.drop("files")


def test_page_costs_of_a_tablespace_are_carried(source: Cluster, run: Run) -> None:
    with source.connect() as admin:
        admin.execute("ALTER TABLESPACE pg_default SET (random_page_cost = 1.25)")
        try:
            _, statistics = run(dump_script(), "guarded", "reader")
        finally:
            admin.execute("ALTER TABLESPACE pg_default RESET (random_page_cost)")
    carried = Carried.from_text(statistics)
    assert carried is not None
    assert carried.settings["random_page_cost"] == "1.25"


def test_collations_and_leakproof_functions_are_carried(services: Services, source: Cluster, run: Run) -> None:
    with source.connect() as admin:
        admin.execute("CREATE DATABASE worded")
        admin.execute("GRANT CONNECT ON DATABASE worded TO reader")
    try:
        with source.connect("worded") as admin:
            # One of ICU where the server has it, which the planning server has not.
            ((collation,),) = admin.execute(
                "SELECT quote_ident(collname) FROM pg_collation WHERE collname = 'de-x-icu' OR collprovider = 'c'"
                " AND collname NOT IN ('C', 'POSIX', 'ucs_basic') ORDER BY collname <> 'de-x-icu', 1 LIMIT 1"
            ).fetchall()
            admin.execute(f"CREATE TABLE words (word text COLLATE {collation})".encode())
            admin.execute(
                "CREATE FUNCTION plain(text) RETURNS boolean LANGUAGE sql IMMUTABLE LEAKPROOF RETURN $1 > 'a'"
            )
        files = services.add_files("worded", *run(dump_script(), "worded", "reader"))
        live = services.add_hollow("live", source.conninfo("worded", "reader"))
        with services.shadow("worded").session() as session:
            assert session.explain("SELECT * FROM words WHERE plain(word)").root.type == "Seq Scan"
            assert session.explain("SELECT FROM pg_proc WHERE proname = 'plain' AND proleakproof").root.type
        more = [line for line in files.not_cloned if line not in live.not_cloned]
        assert [line for line in more if not line.startswith("version:")] == []
        carried = Carried.from_text(run(dump_script(), "worded", "reader")[1])
        assert carried is not None
        assert [one.name for one in carried.additions.collations if one.columns] == [collation.strip('"')]
        assert [one.name for one in carried.additions.leakproof] == ["plain"]
    finally:
        for name in ("worded", "live"):
            services.drop(name)
        with source.connect() as admin:
            admin.execute("DROP DATABASE worded WITH (FORCE)")


def test_the_shape_is_what_the_live_clone_reads(source: Cluster, run: Run) -> None:
    for role in (None, "reader"):
        _, statistics = run(dump_script(), "guarded", role)
        carried = Carried.from_text(statistics)
        assert carried is not None
        with psycopg.connect(source.conninfo("guarded", *([role] if role else [])), autocommit=True) as connection:
            live = read_shape(connection)
            # As a superuser, nobody looks into an index over a function that somebody made.
            ours = [r for r in carried.shape.relations if role or r.name != "customers_row"]
            assert ours == [r for r in live.relations if role or r.name != "customers_row"]
            assert carried.shape.notes == live.notes or role is None
            connection.execute("SET search_path = pg_catalog")
            assert carried.rights == read_rights(connection)
        assert carried.search_path == ("sales", "public")


@pytest.mark.parametrize("source", [EMBEDDED], indirect=True)
def test_plans_are_the_sources(services: Services, source: Cluster, run: Run) -> None:
    """Between equal versions: a shadow from files is planned by the embedded PostgreSQL."""
    services.add_files("files", *run(dump_script()))
    with source.connect("guarded") as connection, services.shadow("files").session() as session:
        for query in GUARDED_QUERIES:
            row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
            assert row is not None
            assert session.explain(query).raw == row[0][0]["Plan"], query
    services.drop("files")


def test_redacted_values_are_not_written(services: Services, run: Run) -> None:
    schema, statistics = run(dump_script(read_words("text")))
    assert SECRET not in statistics.replace("'zanzibar owner 1'", "").lower()  # which is the policy's
    record = services.add_files("bare", schema, statistics)
    assert any(line.startswith("redacted: common values and histograms of ") for line in record.not_cloned)
    assert plan(services.shadow("bare"), "SELECT DISTINCT city FROM sales.customers")["Plan Rows"] == 40
    services.drop("bare")


def test_a_column_that_does_not_exist_ends_the_script(run: Run) -> None:
    with pytest.raises(AssertionError, match=r"planproof: there is no column customers\.nothing"):
        run(dump_script(read_words("customers.nothing")))


def test_the_policies_of_a_role_count(services: Services, run: Run) -> None:
    with pytest.raises(AssertionError, match="planproof: there is no role nobody-knows"):
        run(dump_script(role="nobody-knows"))
    schema, statistics = run(dump_script(role="reader"))
    record = services.add_files("seen", schema, statistics)
    assert any("the role reader, to whom policies apply on 1 tables" in line for line in record.not_cloned)
    assert any(line.startswith("settings: planner settings and search path are") for line in record.not_cloned)
    assert "Filter" in plan(services.shadow("seen"), "SELECT * FROM sales.secrets")
    services.drop("seen")


def test_the_commands_as_the_documentation_has_them(settings: Settings, run: Run, tmp_path: Path) -> None:
    script = planproof("shadow", "script", "--redact-statistics", "customers.born", home=settings.home)
    assert script.status == 0
    run(script.stdout)
    files = ("--schema", tmp_path / "schema.sql", "--stats", tmp_path / "stats.sql")
    added = planproof("shadow", "add", "carried", *files, "--json", home=settings.home)
    assert added.status == 0, added.stderr
    assert added.json["kind"] == "files"
    query = "SELECT * FROM orders WHERE placed = '2024-05-05'"  # the path was carried over, too
    explained = planproof("explain", "--shadow", "carried", "--json", home=settings.home, stdin=query)
    assert explained.json["plan"]["Plan Rows"] == 40
    assert planproof("shadow", "drop", "carried", home=settings.home).status == 0
    assert planproof("shadow", "script", "--redact-statistics", "city", home=settings.home).failed(3)


SMALL = """\
-- planproof: {"source": {"version": 1, "server_version": "15.14", "server_version_num": 150014, "database": "d", \
"block_size": 8192, "role": "r", "own": true, "reader": "r", "direct": false, "ranges": false, "tables": 1, \
"search_path": ["public"], "provider": "c", "collate": "C.UTF-8", "ctype": "C.UTF-8", "encoding": "UTF8", \
"redacted": [], "settings": {"work_mem": "8MB"}}}
-- planproof: {"relation": {"oid": 1, "schema": "public", "name": "t", "kind": "table", "blocks": 1000, "rows": 90000, \
"pages": 1000, "all_visible": 0, "method": null, "height": null, "key_bytes": null}}
SELECT pg_catalog.pg_restore_relation_stats('version', 150014, 'schemaname', 'public', 'relname', 't', 'relpages', \
'1000'::integer, 'reltuples', '90000'::real, 'relallvisible', '0'::integer);
-- planproof: {"end": true}
"""
TABLE = "CREATE TABLE public.t (a integer, b text);\n"


def test_a_small_file(services: Services) -> None:
    record = services.add_files("small", TABLE, SMALL)
    assert record.settings["work_mem"] == "8MB"
    assert plan(services.shadow("small"), "SELECT * FROM t")["Plan Rows"] == 90_000
    services.drop("small")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('-- planproof: {"end": true}\n', "", "cut off"),
        ('"version": 1', '"version": 2', "another version of planproof"),
        ('"server_version_num": 150014', '"server_version_num": 120014', "13 and later"),
        ('"block_size": 8192', '"block_size": 32768', "32768 bytes"),
        ('"blocks": 1000', '"blocks": -1', r"line 2: relation\.blocks"),
        ('"blocks": 1000', '"blocks": 4294967296', "state sizes of 32 TB"),
        ('"blocks": 1000', '"blocks": "1000"', r"line 2: relation\.blocks"),
        ('"rows": 90000', '"rows": NaN', "line 2"),
        ('"kind": "table"', '"kind": "view"', r"line 2: relation\.kind"),
        ('"height": null', '"height": 2000', r"line 2: relation\.height"),
        ('"collate": "C.UTF-8"', '"collate": "../../etc/x"', r"line 1: source\.collate"),
        ('"work_mem": "8MB"', '"work mem; x": "8MB"', r"line 1: source\.settings"),
        ('"redacted": []', '"redacted": [], "more": 1', r"line 1: source\.more"),
        ('{"relation": ', '{"relation": [', "line 2"),
        (
            '-- planproof: {"relation"',
            '-- planproof: {"data": [1, false, "\\\\\\\\x00", "zz"]}\n-- planproof: {"relation"',
            "",
        ),
        ('-- planproof: {"relation"', '-- planproof: {"objects": 7}\n-- planproof: {"relation"', "line 2: objects"),
    ],
)
def test_damaged_files_are_refused(services: Services, old: str, new: str, message: str) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    if not message:
        services.add_files("damaged", TABLE, text)  # about a statistics object that is not there
        services.drop("damaged")
        return
    with pytest.raises(InputError, match=message) as caught:
        services.add_files("damaged", TABLE, text)
    assert "\n" not in str(caught.value)
    assert "damaged" not in services.registry.names()


def test_settings_of_a_file_are_the_planners_only(services: Services) -> None:
    """Whoever wrote the file cannot have a superuser's setting made the default of a database."""
    text = SMALL.replace('"work_mem": "8MB"', '"session_preload_libraries": "evil", "role": "planproof"')
    record = services.add_files("settings", TABLE, text)
    assert not {"session_preload_libraries", "role"} & record.settings.keys()
    services.drop("settings")


@pytest.mark.parametrize(
    "schema",
    ["CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n", "CREATE TABLE t (a int);\nCOPY t FROM stdin;\n1\n\\.\n"],
)
def test_rows_do_not_go_with_the_statistics_of_a_server(services: Services, schema: str) -> None:
    with pytest.raises(PlanproofError, match=r"has rows \(line 2\).*--schema-only"):
        services.add_files("rows", schema, SMALL)


def test_a_script_names_no_role_that_breaks_it() -> None:
    with pytest.raises(InputError, match="holds characters"):
        dump_script(role="a\nPLANPROOF\nrm -rf /")
    assert "\n'; DROP" not in dump_script(role="x'; DROP TABLE t; --")
    assert "'x''; DROP TABLE t; --'" in dump_script(role="x'; DROP TABLE t; --")
