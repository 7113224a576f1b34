"""Hollow shadows against the source they were cloned from: plans, hypothetical indexes, refresh."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from production import make_production, source_plan

from optimizer.candidate import IndexCandidate
from optimizer.catalog import IndexColumn
from optimizer.errors import InputError, ShadowUnavailableError, SqlError, TimeLimitError, UnknownShadowError
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import PlanningSession, ShadowDatabase
from optimizer.shadow.server.cluster import Cluster

QUERIES = (
    "SELECT * FROM orders WHERE user_id = 5",
    "SELECT count(*) FROM orders",
    "SELECT o.total FROM orders o JOIN users u ON u.id = o.user_id WHERE u.email = 'u77@example.org'",
    "SELECT * FROM orders WHERE placed_at > '2024-03-20'",
    "SELECT * FROM orders WHERE placed_at > '2030-01-01'",  # past the histogram's end
    "SELECT * FROM orders WHERE placed_at < '2020-01-01'",
    "SELECT * FROM orders WHERE stage = 'new' AND total > 900",  # a partial index
    "SELECT u.city, count(*) FROM users u JOIN orders o ON o.user_id = u.id GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    "SELECT * FROM paid WHERE id BETWEEN 10 AND 5000 ORDER BY placed_at DESC LIMIT 10",
    "SELECT max(placed_at) FROM orders",
    "SELECT * FROM orders WHERE total > 990 ORDER BY placed_at",
    "SELECT stage, avg(total) FROM orders GROUP BY stage",
    "SELECT * FROM users u WHERE NOT EXISTS (SELECT FROM orders o WHERE o.user_id = u.id)",
    "SELECT * FROM users WHERE id IN (1, 2, 3) OR city = double(4)",
    "SELECT * FROM quiet",
    "UPDATE orders SET note = '' WHERE user_id = 7",
    "DELETE FROM orders WHERE id < 100",
    "INSERT INTO users SELECT id + 100000, email || 'x', city, name, created_at FROM users",
    "SELECT * FROM orders WHERE id = 5 FOR UPDATE",
)

INDEXES = (
    ("CREATE INDEX ON orders (total)", "SELECT * FROM orders WHERE total > 995 ORDER BY total LIMIT 5"),
    ("CREATE INDEX ON orders (stage, total)", "SELECT total FROM orders WHERE stage = 'shipped' AND total > 990"),
    ("CREATE INDEX ON users (city) INCLUDE (name)", "SELECT name FROM users WHERE city = 7"),
    ("CREATE INDEX ON users (lower(email))", "SELECT * FROM users WHERE lower(email) = 'a'"),
    ("CREATE INDEX ON orders (placed_at) WHERE stage = 'new'",
     "SELECT * FROM orders WHERE stage = 'new' AND placed_at > '2024-03-01'"),
    ("CREATE INDEX ON orders (user_id, placed_at DESC)",
     "SELECT * FROM orders WHERE user_id = 9 ORDER BY placed_at DESC LIMIT 1"),
    ("CREATE INDEX ON users (created_at)", "SELECT * FROM users ORDER BY created_at LIMIT 3"),
)  # fmt: skip


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def production(scratch_cluster: Cluster) -> str:
    """Connection string of a database with rows."""
    return make_production(scratch_cluster, "production")


@pytest.fixture(scope="module")
def shadow(services: Services, production: str) -> Iterator[ShadowDatabase]:
    """A hollow shadow of it."""
    services.add_hollow("prod", production)
    yield services.shadow("prod")
    services.drop("prod")


@pytest.fixture
def session(shadow: ShadowDatabase) -> Iterator[PlanningSession]:
    """A planning session in it."""
    with shadow.session() as session:
        yield session


@pytest.mark.parametrize("query", QUERIES)
def test_plans_equal_the_sources(session: PlanningSession, production: str, query: str) -> None:
    assert dict(session.explain(query).raw) == source_plan(production, query)


@pytest.mark.parametrize(("ddl", "query"), INDEXES)
def test_hypothetical_indexes_plan_as_real_ones(
    shadow: ShadowDatabase, session: PlanningSession, production: str, ddl: str, query: str
) -> None:
    candidate = parse_index_ddl(ddl, shadow.catalog())
    before = session.explain(query)
    index = session.create([candidate])[candidate]
    assert session.explain(query).raw == before.raw, "it must not be seen unless it is asked for"
    after = session.explain(query, using=[index])
    real = source_plan(production, query, candidate.ddl(index.name, concurrently=False))
    assert index.name in after.indexes
    assert after.cost.total_cost == pytest.approx(real["Total Cost"], rel=0.01)
    assert after.root.type == real["Node Type"]
    assert session.explain(query).raw == before.raw


def test_indexes_are_shown_and_hidden_in_any_order(shadow: ShadowDatabase, session: PlanningSession) -> None:
    texts = ("CREATE INDEX ON orders (total)", "CREATE INDEX ON orders (total, stage)", "CREATE INDEX ON orders (note)")
    candidates = [parse_index_ddl(text, shadow.catalog()) for text in texts]
    made = session.create(candidates)
    query = "SELECT total, stage FROM orders WHERE total > 995"
    costs = {}
    for shown in ((), (0,), (1,), (0, 1), (2,), (0, 1, 2), (1,), ()):
        plan = session.explain(query, using=[made[candidates[i]] for i in shown])
        assert plan.indexes <= {made[candidates[i]].name for i in shown}
        assert costs.setdefault(shown, plan.cost) == plan.cost
    assert costs[(0,)].total_cost < costs[()].total_cost
    assert costs[(0, 1)].total_cost == min(costs[(0,)].total_cost, costs[(1,)].total_cost)


def test_names_that_are_taken_get_a_number(shadow: ShadowDatabase, session: PlanningSession) -> None:
    texts = ("CREATE INDEX ON orders (user_id)", "CREATE INDEX ON orders (user_id DESC)")
    candidates = [parse_index_ddl(text, shadow.catalog()) for text in texts]
    names = [index.name for index in session.create(candidates).values()]
    assert names == ["orders_user_id_idx1", "orders_user_id_idx2"]


def test_the_next_session_starts_clean(shadow: ShadowDatabase) -> None:
    candidate = parse_index_ddl("CREATE INDEX ON users (name)", shadow.catalog())
    query = "SELECT * FROM users WHERE name = 'x'"
    with shadow.session() as first:
        alone = first.explain(query).cost
        assert first.explain(query, using=first.create([candidate]).values()).cost != alone
        assert first.explain_calls == 2
    with shadow.session() as second:
        assert second.explain(query).cost == alone
        assert second.explain_calls == 1
        assert [i.name for i in second.create([candidate]).values()] == ["users_name_idx"]


def test_sessions_do_not_see_each_others_indexes(shadow: ShadowDatabase) -> None:
    candidate = parse_index_ddl("CREATE INDEX ON users (name)", shadow.catalog())
    query = "SELECT * FROM users WHERE name = 'x'"
    with shadow.session() as one, shadow.session() as two:
        alone = two.explain(query)
        made = one.create([candidate])
        assert one.explain(query, using=made.values()).indexes == {"users_name_idx"}
        assert two.explain(query).raw == alone.raw


def key(column: str) -> IndexColumn:
    """A plain key column."""
    return IndexColumn(column, column)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (IndexCandidate("public", "nowhere", (key("id"),)), "no table"),
        (IndexCandidate("public", "paid", (key("id"),)), "view cannot"),
        (IndexCandidate("public", "users", (key("nope"),)), "does not exist"),
        (IndexCandidate("public", "users", (IndexColumn("random()", None),)), "IMMUTABLE"),
        (IndexCandidate("public", "users", (key("id"),), method="heap"), "cannot be hypothetical"),
        (IndexCandidate("public", "users", (key("id"),), predicate="true; DROP TABLE users"), "not one CREATE INDEX"),
        (IndexCandidate("public", "users", (key("id"),), predicate="(("), "syntax error"),
        (IndexCandidate("public", "users", (key("id"),), predicate="id = (SELECT 1)"), "subquery"),
        (IndexCandidate("public", "users", (key("id"),), predicate="id = 1" + " + 1" * 200), "too deeply"),
    ],
)
def test_candidates_that_the_server_refuses_are_left_out(
    session: PlanningSession, candidate: IndexCandidate, reason: str
) -> None:
    good = IndexCandidate("public", "users", (key("city"),))
    made = session.create([candidate, good])
    assert list(made) == [good]
    assert reason in session.refused[candidate]
    assert session.explain("SELECT count(*) FROM users").cost.total_cost > 0


def test_parameters(session: PlanningSession) -> None:
    query = "SELECT * FROM orders WHERE placed_at > $1 AND user_id = $2"
    anything = session.explain(query)
    assert "$1" in str(anything.raw)
    given = session.explain(query, parameters=["2024-03-20", 7])
    assert given.raw == session.explain("SELECT * FROM orders WHERE placed_at > '2024-03-20' AND user_id = 7").raw
    assert session.explain("SELECT $1::bool, $2::int IS NULL", parameters=[True, None]).root.type == "Result"
    assert session.explain(query).raw == anything.raw


@pytest.mark.parametrize(
    ("sql", "parameters", "message", "column"),
    [
        ("SELECT * FROM nowhere", None, 'relation "nowhere" does not exist', 15),
        ("SELECT nope FROM users", None, 'column "nope" does not exist', 8),
        ("SELECT user_i FROM orders", None, "Perhaps you meant", 8),
        ("SELECT * FROM users WHERE id = 'x'", None, "invalid input syntax", 32),
        ("SELECT * FROM users WHERE id = $1 AND nope = $2", None, "does not exist", 39),
        ("SELECT * FROM users WHERE id = $1", ["x"], "invalid input syntax", None),
        ("SELECT * FROM users WHERE id = $1", [1, 2], "2 parameters", None),
        ("SELECT $1", None, "", None),
        ("SELECT 1; SELECT 2", None, "multiple commands", None),
        ("VACUUM", None, "syntax error", 1),
        ("ANALYZE users", None, "syntax error", 1),
    ],
)
def test_refusals_say_where(
    session: PlanningSession, sql: str, parameters: list[str | int] | None, message: str, column: int | None
) -> None:
    if not message:
        assert session.explain(sql, parameters=parameters).root.type == "Result"
        return
    with pytest.raises(SqlError, match=message) as caught:
        session.explain(sql, parameters=parameters)  # type: ignore[arg-type]
    assert caught.value.column == column
    assert session.explain("SELECT 1").cost.plan_rows == 1


def test_what_the_shadow_says_of_itself(services: Services, shadow: ShadowDatabase, production: str) -> None:
    record = services.registry.get("prod")
    assert shadow.info.kind == "hollow" and shadow.info.revision == record.revision
    assert shadow.info.server_version.startswith("18.")
    assert record.settings["random_page_cost"] == "1.5"
    assert record.settings["hash_mem_multiplier"] == "1"  # the scratch cluster's own
    assert shadow.catalog().time_zone == "Europe/Lisbon"
    password = psycopg.conninfo.conninfo_to_dict(production)["password"]
    for path in record.folder.parent.rglob("*"):
        if path.is_file() and path.name != "dsn":
            assert str(password) not in path.read_text(), path
    assert str(password) not in record.origin


def test_no_rows_are_kept(services: Services, shadow: ShadowDatabase, hollow_cluster: Cluster) -> None:
    assert "INSERT" not in shadow.ddl() and "COPY" not in shadow.ddl()
    assert "pg_restore" not in shadow.ddl()
    with shadow.session() as session:
        database = session._database.name  # type: ignore[attr-defined]
        with hollow_cluster.connect(database) as connection:
            rows = connection.execute("SELECT count(*) FROM public.orders").fetchone()
    assert rows == (0,)


def test_refresh_reads_anew(services: Services, production: str) -> None:
    services.add_hollow("fresh", production)
    old = services.shadow("fresh")
    with old.session() as session:
        before = session.explain("SELECT * FROM users").cost.plan_rows
        with psycopg.connect(production, autocommit=True) as source:
            source.execute("CREATE TABLE newcomer (id integer PRIMARY KEY)")
            source.execute("INSERT INTO users SELECT i, 'n' || i, 1, '', now() FROM generate_series(90000, 91000) i")
            source.execute("ANALYZE users")
        new = services.refresh("fresh")
        # A session that was open goes on as it was.
        assert session.explain("SELECT * FROM users").cost.plan_rows == before
    assert new.revision != old.info.revision
    shadow = services.shadow("fresh")
    with shadow.session() as session:
        assert session.explain("SELECT * FROM users").cost.plan_rows == before + 1001
        assert session.explain("SELECT * FROM newcomer").cost.total_cost > 0
    with pytest.raises(ShadowUnavailableError, match="refreshed or dropped meanwhile"), old.session():
        raise AssertionError("the old revision is gone")
    services.drop("fresh")
    with psycopg.connect(production, autocommit=True) as source:
        source.execute("DROP TABLE newcomer; DELETE FROM users WHERE id >= 90000")
        source.execute("VACUUM (ANALYZE) users")
    with pytest.raises(UnknownShadowError):
        services.shadow("fresh")


def test_nothing_is_left_after_a_drop(services: Services, production: str, hollow_cluster: Cluster) -> None:
    def everything() -> list[tuple[str, ...]]:
        with hollow_cluster.connect() as admin:
            return admin.execute("SELECT datname::text FROM pg_database UNION SELECT rolname FROM pg_roles").fetchall()

    before = set(everything())
    services.add_hollow("gone", production)
    with services.shadow("gone").session() as session:
        session.explain("SELECT 1")
    services.drop("gone")
    assert set(everything()) == before
    assert not (services.registry.root / "gone").exists()


def test_a_name_is_given_once(services: Services, shadow: ShadowDatabase, production: str) -> None:
    with pytest.raises(InputError, match="already"):
        services.add_hollow("prod", production)
    with pytest.raises(InputError, match="cannot name"):
        services.add_hollow("Prod!", production)


def test_sources_that_cannot_be_read(services: Services, production: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(production)

    def dsn(**changes: str) -> str:
        return psycopg.conninfo.make_conninfo("", **{**parts, **changes})

    for bad, error, message in (
        (dsn(password="s3cret"), ShadowUnavailableError, "password authentication failed"),
        (dsn(dbname="nowhere"), ShadowUnavailableError, 'database "nowhere" does not exist'),
        (dsn(host="127.0.0.1", port="1"), ShadowUnavailableError, "127.0.0.1:1.*[Rr]efused"),
        ("not a dsn s3cret", InputError, "not a connection string"),
    ):
        with pytest.raises(error, match=message) as caught:
            services.add_hollow("bad", bad)
        text = str(caught.value)
        assert "\n" not in text and "s3cret" not in text and str(parts["password"]) not in text
    assert "bad" not in services.registry.names()


def test_a_role_that_may_not_read_gets_one_clear_error(
    services: Services, scratch_cluster: Cluster, production: str
) -> None:
    scratch_cluster.ensure_role("outsider")
    with pytest.raises(ShadowUnavailableError, match=r"may not read .*GRANT pg_read_all_data") as caught:
        services.add_hollow("denied", scratch_cluster.conninfo("production", "outsider"))
    assert "\n" not in str(caught.value)


def test_a_stuck_planner_is_ended(services: Services, production: str, settings: Settings) -> None:
    """A function that catches its cancellation keeps the server busy, but not us."""
    quick = Services(settings.model_copy(update={"explain_timeout_ms": 300}), services.supervisor, services.plugins)
    shadow = quick.throwaway(
        "CREATE TABLE t (id integer PRIMARY KEY);"
        "CREATE FUNCTION stuck(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN"
        " LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;"
    )
    with shadow.session() as session, pytest.raises(TimeLimitError, match="300 ms"):
        session.explain("SELECT stuck(1) FROM t")
    with shadow.session() as session:
        assert session.explain("SELECT id FROM t").cost.total_cost > 0
        candidate = IndexCandidate("public", "t", (IndexColumn("stuck(1) + id", None),))
        with pytest.raises(TimeLimitError):
            session.create([candidate])
    with shadow.session() as session:
        assert session.explain("SELECT id FROM t").cost.total_cost > 0
