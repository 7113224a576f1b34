"""Access methods in detail: pages, parameters, refusals, what stays behind, and when an index is of no use."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from many_kinds import make_many_kinds
from production import source_plan

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import SqlError
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.pages.skeleton_brin import BrinRanges, brin_metapage, read_brin_metapage
from optimizer.shadow.pages.skeleton_gin import GinCounters, gin_metapage, read_gin_metapage
from optimizer.shadow.port import PlanningSession, ShadowDatabase
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.index_request import IndexRequest
from optimizer.shadow.whatif.index_methods import METHODS, index_size

TAGS = "SELECT * FROM things WHERE tags @> ARRAY['xyz']"
#: Where a page may differ from PostgreSQL's own: the log position and the checksum in its header.
_PAGE_BODY = slice(10, None)


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """Connection string of a database with rows."""
    return make_many_kinds(scratch_cluster, "many_details")


@pytest.fixture(scope="module")
def shadow(services: Services, source: str) -> Iterator[ShadowDatabase]:
    """A hollow shadow of it."""
    services.add_hollow("details", source)
    yield services.shadow("details")
    services.drop("details")


@pytest.fixture
def session(shadow: ShadowDatabase) -> Iterator[PlanningSession]:
    """A planning session in it."""
    with shadow.session() as session:
        yield session


@pytest.fixture(scope="module")
def catalog(shadow: ShadowDatabase) -> Catalog:
    """The source's."""
    return shadow.catalog()


def candidate(catalog: Catalog, index: str) -> IndexCandidate:
    """Read `table USING method (...) ...`."""
    return parse_index_ddl(f"CREATE INDEX ON {index}", catalog)


def first_page(cluster: Cluster, database: str, index: str) -> bytes:
    """Block 0 of an index, as PostgreSQL wrote it."""
    with cluster.connect(database) as connection:
        connection.execute("CHECKPOINT")
        ((path,),) = connection.execute("SELECT pg_relation_filepath(%s::regclass)", [index]).fetchall()
    with (cluster.home / str(path)).open("rb") as file:
        return file.read(8192)


def test_hand_made_metapages_are_postgresqls_own(scratch_cluster: Cluster, source: str) -> None:
    with scratch_cluster.connect("many_details") as connection:
        connection.execute("CREATE INDEX real_gin ON things USING gin (tags)")
        connection.execute("CREATE INDEX real_brin ON things USING brin (id) WITH (pages_per_range = 3)")
    try:
        gin, brin = (first_page(scratch_cluster, "many_details", f"real_{kind}") for kind in ("gin", "brin"))
    finally:
        with scratch_cluster.connect("many_details") as connection:
            connection.execute("DROP INDEX real_gin, real_brin")
    counters = read_gin_metapage(gin)
    assert counters.entries > 1000
    assert gin_metapage(counters)[_PAGE_BODY] == gin[_PAGE_BODY]
    ranges = read_brin_metapage(brin)
    assert ranges == BrinRanges(3, 1)
    assert brin_metapage(ranges)[_PAGE_BODY] == brin[_PAGE_BODY]
    with pytest.raises(ValueError, match="BRIN"):
        read_brin_metapage(gin)
    with pytest.raises(ValueError, match="GIN"):
        read_gin_metapage(brin)


def test_an_ivfflat_metapage_is_pgvectors_own(
    scratch_cluster: Cluster, source: str, catalog: Catalog, shadow: ShadowDatabase
) -> None:
    wanted = candidate(catalog, "items USING ivfflat (embedding vector_l2_ops) WITH (lists = 9)")
    with scratch_cluster.connect("many_details") as connection:
        connection.execute(wanted.ddl("real_ivf", concurrently=False).encode())
    try:
        page = first_page(scratch_cluster, "many_details", "real_ivf")
    finally:
        with scratch_cluster.connect("many_details") as connection:
            connection.execute("DROP INDEX real_ivf")
    size = index_size(IndexRequest(wanted, catalog.tables["public", "items"], catalog))
    assert size.metapage[_PAGE_BODY] == page[_PAGE_BODY]


def test_counters_survive_a_round_trip() -> None:
    counters = GinCounters(pending_pages=7, total_pages=100, entry_pages=80, data_pages=12, entries=5000)
    assert read_gin_metapage(gin_metapage(counters)) == counters


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("things USING gin (thousand, doc jsonb_ops, place)", "place|point.* no default operator class.*gin"),
        ("things USING gin (tags) INCLUDE (id)", "gin.* does not support included columns"),
        ("things (place)", "point has no default operator class.*btree"),
        (f"things ({', '.join(['id'] * 33)})", "32 columns at most"),
        ("things USING hash (id, thousand)", "hash.* does not support multicolumn"),
        ("things USING gin (tags DESC)", "does not support ASC/DESC"),
        ("things USING brin (id) WITH (pages_per_range = 0)", "0 out of bounds|must be between 1 and"),
        ("things USING brin (id) WITH (nonsense = 1)", "unrecognized parameter"),
        ("things USING gist (title gist_trgm_ops (siglen = 0))", "out of bounds"),
        ("things USING gist (title gist_trgm_ops (nonsense = 1))", "unrecognized parameter"),
        ("items USING hnsw (embedding vector_l2_ops) WITH (m = 1000)", "out of bounds"),
        ("items USING hnsw (embedding vector_l2_ops) WITH (m = 90, ef_construction = 10)", "ef_construction"),
        ("items USING ivfflat (embedding vector_l2_ops) WITH (lists = 99999)", "must be between 1 and 32768"),
        ("items USING ivfflat (embedding vector_l2_ops) WITH (lists = many)", "whole number"),
        ("items USING hnsw (unsized vector_l2_ops)", "does not have dimensions"),
        ("items USING hnsw (embedding no_ops)", 'operator class "no_ops" does not exist'),
        ("things USING nonsense (id)", "nonsense cannot be hypothetical"),
    ],
)
def test_what_the_server_would_refuse_is_refused_in_one_line(
    session: PlanningSession, catalog: Catalog, index: str, reason: str
) -> None:
    wanted = candidate(catalog, index)
    made = session.create([wanted])
    assert wanted not in made
    assert "\n" not in session.refused[wanted]
    assert re.search(reason, session.refused[wanted]), session.refused[wanted]


def test_an_enormous_number_of_lists_takes_no_disk(
    session: PlanningSession, catalog: Catalog, hollow_cluster: Cluster
) -> None:
    def used() -> int:
        return sum(path.stat().st_blocks * 512 for path in (hollow_cluster.home / "base").rglob("*") if path.is_file())

    before = used()
    wanted = candidate(catalog, "items USING ivfflat (embedding vector_l2_ops) WITH (lists = 32768)")
    made = session.create([wanted])  # CREATE INDEX itself would write a page a list
    assert made[wanted].storage_bytes > 32768 * 8192
    assert used() - before < 8 * 2**20


def test_an_index_that_the_planner_would_not_use_is_not_used(
    session: PlanningSession, source: str, catalog: Catalog
) -> None:
    cases = (
        ("things USING gin (doc)", "SELECT * FROM things WHERE doc ? 'kind'"),
        ("things USING brin (scattered)", "SELECT * FROM things WHERE scattered < '2024-01-12'"),
        ("things USING hash (thousand)", "SELECT * FROM things WHERE thousand > 7"),
        ("things USING gin (title gin_trgm_ops)", "SELECT * FROM things WHERE title LIKE '%a%'"),
    )
    for index, query in cases:
        made = session.create([candidate(catalog, index)])
        after = session.explain(query, using=made.values())
        real = source_plan(source, query, f"CREATE INDEX ON {index}")
        assert after.root.type == real["Node Type"] == "Seq Scan", index
        assert after.cost.total_cost == real["Total Cost"]


def test_correlation_decides_what_brin_is_worth(session: PlanningSession, catalog: Catalog) -> None:
    costs = {}
    for column in ("created", "scattered"):
        made = session.create([candidate(catalog, f"things USING brin ({column}) WITH (pages_per_range = 4)")])
        query = f"SELECT * FROM things WHERE {column} BETWEEN '2024-01-05' AND '2024-01-05 03:00'"
        costs[column] = session.explain(query, using=made.values()).cost.total_cost
    assert costs["created"] < costs["scattered"] / 5


def test_parameters_decide_costs(session: PlanningSession, catalog: Catalog) -> None:
    query = "SELECT * FROM things WHERE created BETWEEN '2024-01-05' AND '2024-01-05 03:00'"
    wide, fine = (
        candidate(catalog, f"things USING brin (created) WITH (pages_per_range = {number})") for number in (256, 2)
    )
    made = session.create([wide, fine])
    coarse, precise = (session.explain(query, using=[made[c]]).cost.total_cost for c in (wide, fine))
    assert precise < coarse
    assert made[fine].storage_bytes > made[wide].storage_bytes


def test_many_methods_are_shown_and_hidden_together(session: PlanningSession, catalog: Catalog) -> None:
    texts = ("things USING gin (tags)", "things USING brin (created)", "things USING hash (email)", "things (thousand)")
    wanted = [candidate(catalog, text) for text in texts]
    made = session.create(wanted)
    alone = session.explain(TAGS).cost
    assert session.explain(TAGS, using=[made[wanted[0]]]).indexes == {made[wanted[0]].name}
    assert session.explain(TAGS, using=[made[c] for c in wanted[1:]]).cost == alone
    assert session.explain(TAGS, using=made.values()).indexes == {made[wanted[0]].name}
    assert session.explain(TAGS).cost == alone


def test_nothing_is_left_behind(shadow: ShadowDatabase, hollow_cluster: Cluster, catalog: Catalog) -> None:
    indexes = ("things USING gin (tags)", "things USING brin (id)", "items USING ivfflat (embedding vector_l2_ops)")

    def files() -> set[str]:
        return {str(path) for path in (hollow_cluster.home / "base").rglob("*") if path.is_file()}

    with shadow.session() as session:  # made now, if there was none
        session.explain(TAGS)
    with hollow_cluster.connect() as admin:
        admin.execute("CHECKPOINT")
    before = files()
    for _ in range(3):
        with shadow.session() as session:
            made = session.create([candidate(catalog, index) for index in indexes])
            session.explain(TAGS, using=made.values())
    with hollow_cluster.connect() as admin:
        admin.execute("CHECKPOINT")  # files of dropped relations stay, empty, until then
    assert {f for f in files() - before if not f.endswith(("_fsm", "_vm"))} == set()


def test_equal_candidates_are_those_with_equal_parameters(catalog: Catalog) -> None:
    plain = candidate(catalog, "things USING brin (id)")
    fine = candidate(catalog, "things USING brin (id) WITH (pages_per_range = 4)")
    again = candidate(catalog, "things USING brin (id) WITH (PAGES_PER_RANGE='4')")
    assert fine == again
    assert plain != fine
    assert not fine.subsumed_by(plain)
    assert not plain.subsumed_by(fine)
    assert fine.subsumed_by(again)
    full = candidate(catalog, "things (id) WITH (fillfactor = 70)")
    assert candidate(catalog, "things (id)").subsumed_by(full)
    signed = candidate(catalog, "things USING gist (title gist_trgm_ops (siglen = 32))")
    assert not candidate(catalog, "things USING gist (title gist_trgm_ops)").subsumed_by(signed)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_sizes_of_empty_and_unknown_tables_are_small(catalog: Catalog, method: str) -> None:
    table = catalog.tables["public", "items" if method in ("hnsw", "ivfflat") else "things"]
    columns = {"gin": "tags", "gist": "place", "spgist": "place", "hnsw": "embedding", "ivfflat": "embedding"}
    wanted = candidate(catalog, f"{table.name} USING {method} ({columns.get(method, 'id')})")
    for rows in (0.0, 1.0):
        size = index_size(IndexRequest(wanted, table, catalog, rows=rows))
        assert 1 <= size.blocks < 520
    assert index_size(IndexRequest(wanted, table, catalog)).blocks > 1


def test_unknown_methods_have_no_size(catalog: Catalog) -> None:
    with pytest.raises(SqlError, match="nonsense"):
        wanted = candidate(catalog, "things USING nonsense (id)")
        index_size(IndexRequest(wanted, catalog.tables["public", "things"], catalog))


def test_indexes_of_a_schema_file_get_the_sizes_of_its_statistics(services: Services) -> None:
    """Without them, an index of another method would look empty, and be used for everything."""
    schema = """
        CREATE EXTENSION pg_trgm;
        CREATE TABLE notes (id integer, made timestamptz, title text);
        CREATE TABLE bare (LIKE notes);
        CREATE INDEX notes_title_idx ON notes USING gin (title gin_trgm_ops);
        CREATE INDEX notes_made_idx ON notes USING brin (made) WITH (pages_per_range = 2);
        CREATE INDEX notes_id_idx ON notes USING hash (id);
    """
    statistics = "".join(
        f"SELECT * FROM pg_catalog.pg_restore_relation_stats('schemaname', 'public', 'relname', '{name}',"
        " 'relpages', 50000, 'reltuples', 1000000::real, 'relallvisible', 50000);\n"
        for name in ("notes", "bare")
    )
    shadow = services.throwaway(schema, statistics)
    texts = (
        "bare USING gin (title gin_trgm_ops)",
        "bare USING brin (made) WITH (pages_per_range = 2)",
        "bare USING hash (id)",
    )
    conditions = ("title LIKE '%abcdef%'", "made = '2024-01-01'", "id = 7")
    with shadow.session() as session:
        made = session.create([candidate(shadow.catalog(), text) for text in texts])
        assert all(index.storage_bytes > 50 * 8192 for index in made.values())
        for condition in conditions:
            existing = session.explain(f"SELECT * FROM notes WHERE {condition}")
            hypothetical = session.explain(f"SELECT * FROM bare WHERE {condition}", using=made.values())
            assert existing.root.type == hypothetical.root.type
            assert existing.cost == hypothetical.cost
