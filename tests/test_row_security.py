"""Row-level security: a shadow plans as its source does for one role, and no advice trusts what policies hide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from optimizer.equivalence.gate import Gate
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.errors import InputError
from optimizer.index_ddl import parse_index_ddl
from optimizer.pipeline import Optimizer
from optimizer.query import Query
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster, Supervisor
from optimizer.shadow.source.row_security import row_security_of, secured_catalog
from optimizer.shadow.template.clone_options import CloneOptions

ROLES = ("rls_plain", "rls_manager", "rls_owner", "rls_above")
SOURCE: LiteralString = """
GRANT USAGE ON SCHEMA public TO PUBLIC;
CREATE TABLE tenant (id integer PRIMARY KEY, name text NOT NULL, region integer NOT NULL);
CREATE TABLE invoice (
    id integer PRIMARY KEY, tenant_id integer NOT NULL REFERENCES tenant, amount numeric NOT NULL, kind text,
    owner text);
CREATE TABLE line (id integer PRIMARY KEY, invoice_id integer NOT NULL REFERENCES invoice, qty integer);
CREATE TABLE audit (id integer PRIMARY KEY, what text);
INSERT INTO tenant SELECT i, 'tenant' || i, i % 7 FROM generate_series(1, 500) i;
INSERT INTO invoice SELECT i, 1 + i % 500, i % 1000, 'k' || i % 30, CASE i % 3 WHEN 0 THEN 'rls_plain' ELSE 'x' END
  FROM generate_series(1, 20000) i;
INSERT INTO line SELECT i, 1 + i % 20000, i % 9 FROM generate_series(1, 60000) i;
INSERT INTO audit SELECT i, 'w' || i FROM generate_series(1, 2000) i;
CREATE INDEX ON invoice (tenant_id);
CREATE INDEX ON invoice (kind);
CREATE INDEX ON line (invoice_id);
CREATE FUNCTION shady(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.001 AS 'BEGIN RETURN $1 > ''a''; END';
CREATE VIEW plain_view AS SELECT * FROM invoice WHERE amount > 10;
CREATE VIEW barrier_view WITH (security_barrier) AS SELECT * FROM invoice WHERE amount > 10;
CREATE VIEW invoker_view WITH (security_invoker) AS SELECT * FROM invoice WHERE amount > 10;
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE invoice ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
CREATE POLICY region ON tenant USING (region = 3);
CREATE POLICY region_too ON tenant FOR SELECT USING (region = 4);
CREATE POLICY of_tenant ON invoice TO rls_plain USING (tenant_id IN (SELECT t.id FROM tenant t WHERE t.name <> 'x'));
CREATE POLICY never ON invoice AS RESTRICTIVE FOR SELECT TO PUBLIC USING (kind <> 'k7');
CREATE POLICY managers ON invoice TO rls_manager USING (amount < 900);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO rls_plain, rls_manager, rls_owner, rls_above;
ALTER TABLE audit OWNER TO rls_owner;
ALTER TABLE tenant OWNER TO rls_owner;
ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
VACUUM (ANALYZE);
"""
QUERIES = (
    "SELECT * FROM tenant",
    "SELECT * FROM tenant WHERE id = 7",
    "SELECT * FROM tenant WHERE name = 'tenant7' AND id < 100",
    "SELECT * FROM invoice WHERE kind = 'k3'",
    "SELECT * FROM invoice WHERE kind = 'k3' AND shady(owner)",
    "SELECT * FROM invoice WHERE id = 17 AND kind LIKE 'k%'",
    "SELECT * FROM invoice i JOIN tenant t ON t.id = i.tenant_id WHERE i.amount = 500",
    "SELECT count(*) FROM line l JOIN invoice i ON i.id = l.invoice_id WHERE i.kind = 'k4'",
    "SELECT * FROM audit WHERE id = 3",
    "SELECT * FROM plain_view WHERE kind = 'k3'",
    "SELECT * FROM barrier_view WHERE shady(kind)",
    "SELECT * FROM invoker_view WHERE shady(kind) AND kind = 'k3'",
    "SELECT * FROM line WHERE invoice_id IN (SELECT id FROM invoice WHERE tenant_id = 12)",
)
JOIN = "SELECT i.id FROM invoice i JOIN tenant t ON t.id = i.tenant_id"
WITHOUT = "SELECT i.id FROM invoice i"


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """A database with policies, and roles that they treat differently."""
    with scratch_cluster.connect() as admin:
        for role in ROLES:
            scratch_cluster.ensure_role(role)
        admin.execute("ALTER ROLE rls_above BYPASSRLS")
        admin.execute("CREATE ROLE rls_group NOLOGIN")
        admin.execute("ALTER ROLE rls_manager INHERIT")
        admin.execute("DROP DATABASE IF EXISTS secured WITH (FORCE)")
        admin.execute("CREATE DATABASE secured")
    with scratch_cluster.connect("secured") as connection:
        for statement in SOURCE.split(";\n"):
            connection.execute(statement.encode())
    return scratch_cluster.conninfo("secured")


@pytest.fixture(scope="module", params=[*ROLES, ""])
def seen(request: pytest.FixtureRequest, services: Services, source: str) -> Iterator[tuple[str, ShadowDatabase]]:
    """A clone for each role, and one for the connecting login, a superuser."""
    role: str = request.param
    services.add_hollow("secured", source, options=CloneOptions(role=role))
    yield role, services.shadow("secured")
    services.drop("secured")


def plan_as(source: str, role: str, query: str) -> dict[str, Any]:
    """Plan a query at the source as a role does."""
    with psycopg.connect(source) as connection:
        if role:
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def test_plans_are_those_of_the_role(seen: tuple[str, ShadowDatabase], source: str) -> None:
    role, shadow = seen
    with shadow.session() as session:
        for query in QUERIES:
            assert session.explain(query).root.raw == plan_as(source, role, query), query


def test_indexes_hold_hidden_rows_too(seen: tuple[str, ShadowDatabase], source: str) -> None:
    ddl = "CREATE INDEX ON invoice (id) WHERE amount > 500"
    _, shadow = seen
    candidate = parse_index_ddl(ddl, shadow.catalog())
    with shadow.session() as session:
        size = session.create([candidate])[candidate].storage_bytes
    with psycopg.connect(source) as connection:
        connection.execute(ddl.encode())
        row = connection.execute("SELECT pg_relation_size('invoice_id_idx')").fetchone()
        connection.rollback()
    assert row is not None
    assert size == pytest.approx(row[0], rel=0.05)


def test_roles_get_different_plans(source: str) -> None:
    """Else the test before says nothing."""
    plans = {role: str([plan_as(source, role, query) for query in QUERIES]) for role in (*ROLES, "")}
    assert len({plans["rls_plain"], plans["rls_manager"], plans["rls_owner"], plans[""]}) == 4
    assert plans["rls_above"] == plans[""]


def test_what_counts_is_told(seen: tuple[str, ShadowDatabase]) -> None:
    role, shadow = seen
    (line,) = [line for line in shadow.info.not_cloned if "row-level security" in line]
    if role in ("rls_above", ""):
        assert "no policy applies to the role" in line
    else:
        assert f"plans are those of the role {role}" in line


@pytest.fixture(scope="module")
def gate(supervisor: Supervisor, settings: Settings) -> Iterator[Gate]:
    """A gate on this test process's home."""
    gate = Gate(supervisor, settings)
    yield gate
    gate.close()


def judge(gate: Gate, left: str, right: str, ddl: str) -> Verdict:
    return gate.check(Query.parse(left), Query.parse(right), ddl, timeout_ms=60_000)


def test_the_gate_sees_rows_and_trusts_no_foreign_key(seen: tuple[str, ShadowDatabase], gate: Gate) -> None:
    """Whichever role the plans are for: advice must hold for all."""
    _, shadow = seen
    verdict = judge(gate, JOIN, WITHOUT, shadow.ddl())
    assert verdict.verdict is Equivalence.REFUTED
    assert verdict.counterexample is not None
    assert "row-level security: the referenced row may be hidden" in verdict.counterexample.setup
    # Uniqueness stays true of what can be seen, and so do foreign keys to tables without policies.
    left_join = "SELECT i.id FROM invoice i LEFT JOIN tenant t ON t.id = i.tenant_id"
    assert judge(gate, left_join, WITHOUT, shadow.ddl()).verdict is Equivalence.TESTED
    # Were the rows hidden, these would look equal, too.
    verdict = judge(gate, "SELECT id FROM tenant", "SELECT id FROM tenant WHERE region = 3", shadow.ddl())
    assert verdict.verdict is Equivalence.REFUTED


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("SELECT id FROM plain_view", "SELECT id FROM invoice WHERE amount > 10"),
        ("SELECT v.id FROM plain_view v JOIN invoice i USING (id)", "SELECT id FROM plain_view"),
        ("SELECT id FROM invoker_view", "SELECT id FROM plain_view"),
    ],
)
def test_views_that_see_other_rows_are_not_judged(
    seen: tuple[str, ShadowDatabase], gate: Gate, left: str, right: str
) -> None:
    _, shadow = seen
    verdict = judge(gate, left, right, shadow.ddl())
    assert verdict.verdict is Equivalence.UNKNOWN
    assert "Row-level security" in str(verdict.detail)


def test_the_catalog_presents_no_such_key_as_valid(seen: tuple[str, ShadowDatabase]) -> None:
    _, shadow = seen
    tables = shadow.catalog().tables
    found = {
        name: [c.validated for c in tables["public", name].constraints if c.kind == "foreign key"]
        for name in ("invoice", "line")
    }
    assert found == {"invoice": [False], "line": [False]}


def test_the_join_is_not_eliminated(seen: tuple[str, ShadowDatabase], services: Services) -> None:
    _, shadow = seen
    report = Optimizer(services).optimize(JOIN, shadow)
    assert all(advice.sql != WITHOUT for advice in report.advice)
    assert "RW203" not in str(report.as_dict()["advice"])


SCHEMA = """
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent_id integer NOT NULL REFERENCES parent);
"""
SECURED = """
ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
ALTER TABLE child ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON parent USING (false);
CREATE POLICY nobody ON child USING (false);
ALTER POLICY nobody ON child USING (id = 0);
"""


def test_policies_of_a_schema_file_hide_nothing_from_the_gate(services: Services, gate: Gate) -> None:
    join, without = "SELECT c.id FROM child c JOIN parent p ON p.id = c.parent_id", "SELECT c.id FROM child c"
    assert judge(gate, join, without, SCHEMA).verdict is Equivalence.TESTED
    for ddl in (SCHEMA + SECURED, services.throwaway(SCHEMA + SECURED).ddl()):
        assert judge(gate, join, without, ddl).verdict is Equivalence.REFUTED
        assert judge(gate, without, "SELECT c.id FROM child c WHERE c.id > 1", ddl).verdict is Equivalence.REFUTED


def test_partitions_have_policies_of_their_own(gate: Gate) -> None:
    ddl = """
    CREATE TABLE whole (id integer, kind text) PARTITION BY LIST (kind);
    CREATE TABLE part PARTITION OF whole FOR VALUES IN ('a');
    """
    pair = "SELECT id FROM whole WHERE kind = 'a'", "SELECT id FROM part WHERE kind = 'a'"
    assert judge(gate, *pair, ddl).verdict is Equivalence.TESTED
    assert judge(gate, *pair, f"{ddl} ALTER TABLE part ENABLE ROW LEVEL SECURITY;").verdict is Equivalence.UNKNOWN


def test_a_role_that_is_not_there(services: Services, source: str) -> None:
    with pytest.raises(InputError, match="there is no role 'nobody_at_all'"):
        services.add_hollow("secured-nobody", source, options=CloneOptions(role="nobody_at_all"))


def test_rights_through_membership(services: Services, scratch_cluster: Cluster, source: str) -> None:
    """A policy for a group counts for its members; one for another role does not."""
    with scratch_cluster.connect("secured") as connection:
        connection.execute("CREATE TABLE grouped (id integer); INSERT INTO grouped SELECT generate_series(1, 1000)")
        connection.execute("ALTER TABLE grouped ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY of_group ON grouped TO rls_group USING (id < 10)")
        connection.execute("GRANT SELECT ON grouped TO rls_manager, rls_plain")
        connection.execute("GRANT rls_group TO rls_manager; ANALYZE grouped")
    for role, rows in (("rls_manager", 9), ("rls_plain", 1)):
        services.add_hollow("grouped", source, options=CloneOptions(role=role))
        with services.shadow("grouped").session() as session:
            plan = session.explain("SELECT * FROM grouped")
        assert plan.root.raw == plan_as(source, role, "SELECT * FROM grouped")
        assert plan.cost.plan_rows == pytest.approx(rows, abs=1)
        services.drop("grouped")
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("DROP TABLE grouped")


def test_a_template_without_policies_has_a_catalog_that_knows(services: Services) -> None:
    found = row_security_of("any", [(1, "public", "parent", False)], [], [])
    catalog = secured_catalog(services.throwaway(SCHEMA).catalog(), found)
    assert catalog.tables["public", "parent"].row_security
    assert not catalog.tables["public", "child"].row_security
    keys = [c.validated for c in catalog.tables["public", "child"].constraints if c.kind == "foreign key"]
    assert keys == [False]


def test_attached_shadows_know_of_it_too(services: Services, scratch_cluster: Cluster, source: str, gate: Gate) -> None:
    services.add_attached("secured-there", scratch_cluster.conninfo("secured", "rls_above"))
    shadow = services.shadow("secured-there")
    assert not any(
        c.validated for c in shadow.catalog().tables["public", "line"].constraints if c.kind == "foreign key"
    )
    assert judge(gate, JOIN, WITHOUT, shadow.ddl()).verdict is Equivalence.REFUTED
    services.drop("secured-there")
