"""What must stay small, fast and apart however much there is: files, copies, what-ifs, and sessions side by side."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from production import make_production

from optimizer.candidate import IndexCandidate
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow import pool
from optimizer.shadow.pages.laid_out import set_aside
from optimizer.shadow.pages.leaf import build_leaves
from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.pages.storage import bind_shape
from optimizer.shadow.port import PlanningSession
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.server.orphans import SET_ASIDE
from optimizer.shadow.source.reading import DEFAULT_LOCALE
from optimizer.shadow.template.database import drop_database, mark, new_template, template_facts
from optimizer.shadow.template.restore import apply_dump

INDEXES = (
    "CREATE INDEX ON orders (total)",
    "CREATE INDEX ON orders (note)",
    "CREATE INDEX ON orders (stage, placed_at)",
    "CREATE INDEX ON users (city)",
    "CREATE INDEX ON users (created_at) INCLUDE (name)",
    "CREATE INDEX ON users (name, city)",
)
QUERIES = (
    "SELECT * FROM orders WHERE total > 990",
    "SELECT * FROM orders WHERE note = 'xx' ORDER BY total LIMIT 3",
    "SELECT count(*) FROM orders WHERE stage = 'new' AND placed_at > '2024-02-01'",
    "SELECT * FROM users WHERE city = 7",
    "SELECT name FROM users WHERE created_at < '2023-01-02'",
    "SELECT u.name FROM users u JOIN orders o ON o.user_id = u.id WHERE u.city = 3 AND o.total < 2",
)


@pytest.fixture(scope="module")
def services(settings: Settings, supervisor: Supervisor, scratch_cluster: Cluster) -> Iterator[Services]:
    """Services with a shadow named `scale`."""
    with Services.open(settings) as services:
        services.add_hollow("scale", make_production(scratch_cluster, "scale"))
        yield services
        services.drop("scale")


def candidates(services: Services) -> list[IndexCandidate]:
    """Every index by itself."""
    catalog = services.shadow("scale").catalog()
    return [parse_index_ddl(text, catalog) for text in INDEXES]


def search(services: Services, number: int) -> list[Any]:
    """One search: it holds three of the indexes, and switches them for each query. Which three depends on `number`."""
    shadow = services.shadow("scale")
    chosen = [candidate for place, candidate in enumerate(candidates(services)) if (place + number) % 2]
    plans: list[Any] = []
    with shadow.session() as session:
        made = session.create(chosen)
        for query in QUERIES:
            plans.append(session.explain(query).raw)
            plans.extend(session.explain(query, using=[index]).raw for index in made.values())
            plans.append(session.explain(query, using=made.values()).raw)
    return [without_names(plan) for plan in plans]


def without_names(plan: Any) -> Any:
    """A plan less the names of hypothetical indexes, which need only be free."""
    if isinstance(plan, list):
        return [without_names(part) for part in plan]
    if isinstance(plan, dict):
        return {key: without_names(value) for key, value in plan.items() if key != "Index Name"}
    return plan


def search_elsewhere(home: str, number: int) -> list[Any]:
    """The same in a process of its own."""
    with Services.open(Settings(home=Path(home), cluster_linger_s=10)) as services:
        return search(services, number)


def test_searches_side_by_side_plan_as_alone(services: Services) -> None:
    alone = {number: search(services, number) for number in range(2)}
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda number: search(services, number), range(24)))
    for number, plans in enumerate(together):
        assert plans == alone[number % 2], number


def test_searches_in_other_processes_plan_as_alone(services: Services) -> None:
    alone = {number: search(services, number) for number in range(2)}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as processes:
        home = [str(services.settings.home)] * 6
        for number, plans in enumerate(processes.map(search_elsewhere, home, range(6))):
            assert plans == alone[number % 2], number


def test_nothing_grows_with_what_ifs(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.shadow.hollow.TIDY_AFTER", 50)
    shadow = services.shadow("scale")
    wanted = candidates(services)
    seen: list[tuple[int, int, int]] = []
    names = set()
    for number in range(300):
        with shadow.session() as session:
            candidate = wanted[number % len(wanted)]
            made = session.create([candidate])
            session.explain(QUERIES[number % len(QUERIES)], using=made.values())
            if number % 100 == 99:
                seen.append(footprint(session))
                names.add(session._database.name)  # type: ignore[attr-defined]
    assert len(names) == 1, "all in one planning database"
    for (catalogs, files, memory), (later, more_files, more_memory) in pairwise(seen):
        assert later <= catalogs + 100_000
        assert more_files <= files + 60  # those of dropped indexes stay until the database is tidied
        assert more_memory <= memory + 500


def footprint(session: PlanningSession) -> tuple[int, int, int]:
    """Bytes of the catalogs, files in the folder, and kilobytes of private memory of both server processes."""
    database = session._database  # type: ignore[attr-defined]
    folder = session._cluster.home / "base" / str(database.oid)  # type: ignore[attr-defined]
    ((catalogs,),) = database.superuser.execute(
        "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class"
        " WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'"
    ).fetchall()
    planner = session._explainer.connection.connection  # type: ignore[attr-defined]
    memory = sum(private_kb(connection.info.backend_pid) for connection in (database.superuser, planner))
    return catalogs, len(list(folder.iterdir())), memory


def private_kb(process: int) -> int:
    """Memory of a process that is not shared."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_copies_share_the_files_of_their_template(services: Services) -> None:
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    record = services.registry.get("scale")
    files = cluster.home / SET_ASIDE / str(template_facts(cluster, record.database)["oid"])
    with services.shadow("scale").session() as session:
        session.explain(QUERIES[0])
        folder = cluster.home / "base" / str(session._database.oid)  # type: ignore[attr-defined]
        for file in files.iterdir():
            assert file.samefile(folder / file.name)
        own = sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.stat().st_nlink == 1)
    assert own < 20_000_000
    template = cluster.home / "base" / files.name
    assert not {path.name for path in files.iterdir()} & {path.name for path in template.iterdir()}


def test_functions_of_the_schema_never_reach_shared_files(services: Services, scratch_cluster: Cluster) -> None:
    dsn = make_production(scratch_cluster, "writing")
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute("CREATE INDEX users_spoilt ON users (city)")
        # An immutable function may not write, and a volatile one that it calls may.
        source.execute(
            "CREATE FUNCTION spoil() RETURNS integer LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
            " INSERT INTO public.quiet SELECT generate_series(1, 3000) ON CONFLICT DO NOTHING;"
            " DROP INDEX IF EXISTS public.users_spoilt;"
            " RETURN 1; END $$"
        )
        source.execute(
            "CREATE FUNCTION innocent() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS"
            " $$ BEGIN RETURN public.spoil(); END $$"
        )
    services.add_hollow("writing", dsn)
    shadow = services.shadow("writing")
    query = "SELECT * FROM users WHERE city = 7"
    candidate = parse_index_ddl("CREATE INDEX ON orders (total) WHERE user_id > innocent()", shadow.catalog())
    with shadow.session() as session:
        before = session.explain(query).raw, session.explain("SELECT * FROM quiet").raw
    shared = shared_files(services, "writing")
    with shadow.session() as session:
        session.create([candidate])
        database = session._database  # type: ignore[attr-defined]
        assert database.own_files, session.refused
        ((rows,),) = database.superuser.execute("SELECT count(*) FROM public.quiet").fetchall()
        assert rows > 0, "this test is about a function that writes"
        database.superuser.execute("CHECKPOINT")
    assert shared_files(services, "writing") == shared
    with shadow.session() as session:
        assert (session.explain(query).raw, session.explain("SELECT * FROM quiet").raw) == before
    services.drop("writing")


def shared_files(services: Services, name: str) -> dict[str, tuple[int, bytes]]:
    """Size and first pages of the laid-out files of a shadow's template."""
    cluster = services.supervisor.cluster(ClusterKind.HOLLOW)
    oid = template_facts(cluster, services.registry.get(name).database)["oid"]
    found = {}
    for path in (cluster.home / SET_ASIDE / str(oid)).iterdir():
        with path.open("rb") as file:
            found[path.name] = (path.stat().st_size, file.read(10 * 8192))
    return found


@pytest.mark.parametrize("links", [True, False])
def test_a_table_of_terabytes(hollow_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    blocks = 2**29 + 7  # 4 TB and a little
    if not links:  # as on a file system without hard links
        monkeypatch.setattr(os, "link", refuse)
    with new_template(hollow_cluster, "vast", DEFAULT_LOCALE) as (owner, superuser):
        owner.execute("CREATE TABLE public.vast (id bigint PRIMARY KEY)")
        shape = Shape(
            180000,
            (
                RelationShape("public", "vast", "table", blocks, 1e9, blocks, 0),
                RelationShape("public", "vast_pkey", "index", 10_000, 1e9, 10_000, 0, "btree", 2, ("1", "99")),
            ),
        )
        set_aside(hollow_cluster, superuser, bind_shape(hollow_cluster, owner, shape))
        mark(superuser, "vast", {"build": "b", "hollow": True})
    database = pool.acquire(hollow_cluster, pool.Template("vast", "b", True, {}))
    try:
        ((size,),) = database.superuser.execute("SELECT pg_relation_size('public.vast')").fetchall()
        assert size == blocks * 8192
        folder = hollow_cluster.home / "base" / str(database.oid)
        assert sum(path.stat().st_blocks for path in folder.iterdir()) * 512 < 20_000_000
    finally:
        database.superuser.close()
        pool.drop_copies(hollow_cluster, "vast")
        drop_database(hollow_cluster, "vast")
    assert not (hollow_cluster.home / SET_ASIDE / str(database.oid)).exists()


def refuse(*_arguments: object, **_options: object) -> None:
    """Stand for a file system without hard links."""
    raise PermissionError(1, "Operation not permitted")


def test_statements_sent_together_fail_alone(hollow_cluster: Cluster) -> None:
    wrong = {7, 8, 199, 200, 201, 433}
    text = "".join(
        f"CREATE TABLE public.t{n} (id integer, x {'missing' if n in wrong else 'text'});\n"
        f"CREATE INDEX i{n} ON public.t{n} (id);\n"
        for n in range(450)
    )
    with new_template(hollow_cluster, "together", DEFAULT_LOCALE) as (owner, superuser):
        applied = apply_dump(text, owner, superuser, max_bytes=1_000_000)
        names = {row[0] for row in superuser.execute("SELECT relname::text FROM pg_class WHERE relname ~ '^[it][0-9]'")}
    drop_database(hollow_cluster, "together")
    assert names == {f"{kind}{n}" for kind in "it" for n in range(450) if n not in wrong}
    assert applied.schema.count("CREATE TABLE") == 450 - len(wrong)
    assert all('type "missing" does not exist' in note or "CREATE TABLE" in note for note in applied.notes)
    assert applied.notes


def test_leaves_of_many_indexes_at_once(hollow_cluster: Cluster) -> None:
    count, refused = 900, {3, 500}
    with new_template(hollow_cluster, "leaves", DEFAULT_LOCALE) as (owner, _):
        owner.execute("CREATE TABLE public.wide (a integer, b text)")
        for n in range(count):
            keys = ("a", "b", "a DESC, b")[n % 3]
            owner.execute(f"CREATE INDEX i{n} ON public.wide ({keys})".encode())
        ends = {}
        for n in range(count):
            pair = (f"k{n:04}", f"x{n:04}") if n % 3 == 1 else (str(n + 5000), str(n)) if n % 3 else (str(n), "7000")
            ends["public", f"i{n}"] = ("no number", "1") if n in refused else pair
        leaves = build_leaves(owner, hollow_cluster.home, ends)
        alone = {}
        for n in (0, 1, 2, 301, 899):
            place = ("public", f"i{n}")
            alone[place] = build_leaves(owner, hollow_cluster.home, {place: ends[place]})[place]
    drop_database(hollow_cluster, "leaves")
    assert {int(name[1:]) for _, name in leaves} == set(range(count)) - {n for n in refused if n % 3 != 1}
    assert {len(entries) for entries in leaves.values()} == {2}
    for place, entries in alone.items():
        # All but the row that they point at.
        assert [entry[6:] for entry in leaves[place]] == [entry[6:] for entry in entries], place
