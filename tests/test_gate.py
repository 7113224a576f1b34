"""The gate on every pair under fixtures/equivalence/: right verdicts, and counterexamples that psql replays."""

from __future__ import annotations

import csv
import io
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from optimizer.equivalence.gate import Gate
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.errors import ShadowUnavailableError
from optimizer.query import Query
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, Supervisor

FIXTURES = Path(__file__).parents[1] / "fixtures"
#: Far above what a verdict takes: what is tested here is the judgement, not the speed of a busy machine.
PATIENCE_MS = 60_000
NULL = "\x1eNULL"


def pairs() -> Iterator[Any]:
    for path in sorted((FIXTURES / "equivalence").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        schema = (FIXTURES / "schemas" / f"{document['schema']}.sql").read_text()
        for pair in document["pairs"]:
            ddl = f"{schema};\n{pair['extra']};" if "extra" in pair else schema
            yield pytest.param(pair, ddl, id=f"{path.stem}: {pair['name']}")


@pytest.fixture(scope="module")
def gate(supervisor: Supervisor, settings: Settings) -> Iterator[Gate]:
    gate = Gate(supervisor, settings)
    yield gate
    gate.close()


@pytest.fixture
def empty_database(scratch_cluster: Cluster) -> Iterator[str]:
    name = f"replay_{secrets.token_hex(4)}"
    with scratch_cluster.connect() as connection:
        connection.execute(
            psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(psycopg.sql.Identifier(name))
        )
        yield name
        connection.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


def check(gate: Gate, left: str, right: str, ddl: str) -> Verdict:
    return gate.check(Query.parse(left), Query.parse(right), ddl, timeout_ms=PATIENCE_MS)


@pytest.mark.parametrize("pair, ddl", list(pairs()))
def test_pair(
    gate: Gate, scratch_cluster: Cluster, request: pytest.FixtureRequest, pair: dict[str, Any], ddl: str
) -> None:
    verdict = check(gate, pair["left"], pair["right"], ddl)
    assert verdict.verdict == pair["verdict"], verdict.detail
    assert pair.get("detail", "") in verdict.detail
    assert verdict.detail.endswith(".")
    assert (verdict.counterexample is not None) == (pair["verdict"] == "refuted" and pair.get("counterexample", True))
    if verdict.counterexample is not None:
        replay(scratch_cluster, request.getfixturevalue("empty_database"), verdict)


def replay(cluster: Cluster, dbname: str, verdict: Verdict) -> None:
    """Run a counterexample in psql on an empty database, and find the difference that it claims."""
    example = verdict.counterexample
    assert example is not None
    script = example.setup.replace("\n-- left\n", "\n\\echo ===\n-- left\n").replace(
        "\n-- right\n", "\n\\echo ===\n-- right\n"
    )
    options = ("-X", "-q", "-t", "--csv", "-v", "ON_ERROR_STOP=1", "-P", f"null={NULL}")
    if "fails" in verdict.detail:
        with pytest.raises(ShadowUnavailableError, match=r"more than one row|division by zero"):
            cluster.run("psql", *options, dbname=dbname, stdin=script.encode(), timeout_s=60)
        return
    printed = cluster.run("psql", *options, dbname=dbname, stdin=script.encode(), timeout_s=60).stdout.decode()
    _, left, right = (read_rows(part) for part in printed.split("===\n"))
    assert Counter(left) == Counter(example.left_rows)
    assert Counter(right) == Counter(example.right_rows)
    if "named" not in verdict.detail and "type" not in verdict.detail:
        assert left != right


def read_rows(text: str) -> list[tuple[str | None, ...]]:
    return [tuple(None if cell == NULL else cell for cell in row) for row in csv.reader(io.StringIO(text)) if row]


def test_the_same_pair_gets_the_same_verdict(gate: Gate) -> None:
    ddl = (FIXTURES / "schemas" / "shop.sql").read_text()
    left, right = "SELECT DISTINCT nickname FROM users", "SELECT nickname FROM users"
    first, second = check(gate, left, right, ddl), check(gate, left, right, ddl)
    assert first.as_dict() == second.as_dict()


def test_counterexamples_are_small(gate: Gate) -> None:
    ddl = (FIXTURES / "schemas" / "shop.sql").read_text()
    verdict = check(gate, "SELECT DISTINCT total FROM archived_orders", "SELECT total FROM archived_orders", ddl)
    assert verdict.counterexample is not None
    assert verdict.counterexample.left_rows == verdict.counterexample.right_rows[:1]
    assert len(verdict.counterexample.right_rows) == 2
    assert "CREATE TABLE users" not in verdict.counterexample.setup
    assert "CREATE TYPE order_status" in verdict.counterexample.setup


def test_rows_in_the_schema_are_ignored(gate: Gate) -> None:
    ddl = "CREATE TABLE t (a integer); INSERT INTO t VALUES (1); COPY t FROM stdin;\n7\n\\.\n"
    verdict = check(gate, "SELECT count(*) AS n FROM t", "SELECT count(a) AS n FROM t", ddl)
    assert verdict.verdict is Equivalence.REFUTED
    assert verdict.counterexample is not None
    assert "COPY" not in verdict.counterexample.setup


@pytest.mark.parametrize(
    "ddl, left, right, expected",
    [
        pytest.param(
            "CREATE TABLE t (a integer NOT NULL CHECK (a > 100 AND a < 200), b integer)",
            "SELECT a FROM t WHERE a > 150",
            "SELECT a FROM t WHERE a >= 150",
            "refuted",
            id="check constraint on one column",
        ),
        pytest.param(
            "CREATE TABLE t (a integer NOT NULL CHECK (a > 100 AND a < 200), b integer)",
            "SELECT a FROM t WHERE a > 50",
            "SELECT a FROM t",
            "tested",
            id="check constraint that makes them equal",
        ),
        pytest.param(
            "CREATE TABLE t (a integer, b integer, CHECK (a < b))",
            "SELECT a FROM t WHERE a <> b",
            "SELECT a FROM t WHERE a IS NOT NULL AND b IS NOT NULL",
            "tested",
            id="check constraint on two columns",
        ),
        pytest.param(
            "CREATE DOMAIN percent AS integer CHECK (VALUE BETWEEN 0 AND 100); CREATE TABLE t (p percent)",
            "SELECT p FROM t WHERE p < 100",
            "SELECT p FROM t WHERE p <= 100",
            "refuted",
            id="domain",
        ),
        pytest.param(
            "CREATE TABLE t (a integer NOT NULL, CONSTRAINT k UNIQUE (a) DEFERRABLE)",
            "SELECT DISTINCT a FROM t",
            "SELECT a FROM t",
            "refuted",
            id="deferrable key",
        ),
        pytest.param(
            "CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE c (p integer NOT NULL); "
            "ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p NOT VALID",
            "SELECT c.p FROM c JOIN p ON p.id = c.p",
            "SELECT c.p FROM c",
            "refuted",
            id="foreign key not valid",
        ),
        pytest.param(
            "CREATE TABLE a (id integer PRIMARY KEY, b integer); CREATE TABLE b (id integer PRIMARY KEY, a integer); "
            "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b; ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a",
            "SELECT a.id FROM a JOIN b ON b.id = a.b",
            "SELECT a.id FROM a WHERE a.b IS NOT NULL",
            "tested",
            id="foreign keys in a circle",
        ),
        pytest.param(
            "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a integer, "
            "b integer GENERATED ALWAYS AS (a * 2) STORED)",
            "SELECT id FROM t WHERE b = 8",
            "SELECT id FROM t WHERE a = 4",
            "tested",
            id="identity and generated columns",
        ),
        pytest.param(
            "CREATE TABLE t (a integer, b integer) PARTITION BY RANGE (a); "
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100); CREATE TABLE t2 PARTITION OF t DEFAULT",
            "SELECT a FROM t WHERE a < 100",
            "SELECT a FROM t1",
            "refuted",
            id="partitions",
        ),
        pytest.param(
            "CREATE TABLE t (a integer, b text); CREATE VIEW v AS SELECT a, upper(b) AS b FROM t WHERE a > 10; "
            "CREATE VIEW w AS SELECT b, count(*) AS n FROM v GROUP BY b",
            "SELECT b FROM w WHERE n > 1 AND b = 'X'",
            "SELECT upper(b) AS b FROM t WHERE a >= 10 AND upper(b) = 'X' GROUP BY upper(b) HAVING count(*) > 1",
            "refuted",
            id="views over views",
        ),
        pytest.param(
            "CREATE TABLE t (a integer); CREATE MATERIALIZED VIEW m AS SELECT a FROM t WHERE a > 3",
            "SELECT a FROM m",
            "SELECT a FROM m WHERE a > 3",
            "tested",
            id="materialized view",
        ),
        pytest.param(
            "CREATE TABLE t (a integer); CREATE MATERIALIZED VIEW m AS SELECT a FROM t WHERE a > 3",
            "SELECT a FROM m",
            "SELECT a FROM m WHERE a > 4",
            "refuted",
            id="materialized view, refuted",
        ),
        pytest.param(
            "CREATE SCHEMA \"My Schema\"; CREATE TYPE \"My Schema\".mood AS ENUM ('so so', 'it''s ok'); "
            'CREATE TABLE "My Schema"."Ta""ble" ("Select" integer, "Mood" "My Schema".mood, "naïve" text)',
            'SELECT "Select" FROM "My Schema"."Ta""ble" WHERE "Mood" = \'it\'\'s ok\'',
            'SELECT "Select" FROM "My Schema"."Ta""ble" WHERE "Mood" <> \'so so\' OR "Mood" IS NULL',
            "refuted",
            id="names and labels to quote",
        ),
        pytest.param(
            "SELECT pg_catalog.set_config('search_path', '', false); "
            "CREATE TABLE public.t (a integer NOT NULL); ALTER TABLE ONLY public.t ADD CONSTRAINT k PRIMARY KEY (a)",
            "SELECT DISTINCT a FROM t",
            "SELECT a FROM t",
            "tested",
            id="as pg_dump writes it",
        ),
        pytest.param(
            "CREATE EXTENSION citext; CREATE TABLE t (a citext)",
            "SELECT a FROM t WHERE a = 'Ab'",
            "SELECT a FROM t WHERE a::text = 'Ab'",
            "refuted",
            id="extension type",
        ),
        pytest.param(
            "CREATE TABLE t (i integer, r int4range, u uuid, j jsonb, b bytea, n inet, t time, v interval,"
            " a numeric[])",
            "SELECT * FROM t WHERE r @> 2 AND v < '2 days'",
            "SELECT * FROM t WHERE 2 <@ r AND '2 days' > v",
            "tested",
            id="many types",
        ),
        pytest.param(
            "CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1'; "
            "CREATE TABLE t (a integer)",
            "SELECT a FROM t WHERE twice(a) = 6",
            "SELECT a FROM t WHERE a = 3",
            "tested",
            id="a function of the user's",
        ),
        pytest.param(
            "CREATE TABLE t (a integer, at timestamptz NOT NULL)",
            "SELECT a FROM t WHERE at > now() - INTERVAL '7 days'",
            "SELECT a FROM t WHERE at >= now() - INTERVAL '8 days'",
            "refuted",
            id="the present",
        ),
        pytest.param(
            "CREATE TABLE t (a integer, at timestamptz NOT NULL)",
            "SELECT a, now() AS n FROM t WHERE at > now() - INTERVAL '7 days'",
            "SELECT a, now() AS n FROM t WHERE at + INTERVAL '0 days' > CURRENT_TIMESTAMP - INTERVAL '7 days'",
            "tested",
            id="both see the same present",
        ),
        pytest.param(
            "CREATE TABLE t (a text)",
            "SELECT a FROM t ORDER BY a LIMIT $1",
            "SELECT a FROM t ORDER BY a LIMIT $1 + 1",
            "refuted",
            id="a parameter in LIMIT",
        ),
        pytest.param(
            "CREATE TABLE t (a integer)",
            "SELECT 1 + 1 AS two",
            "SELECT 2 AS two",
            "tested",
            id="no tables",
        ),
    ],
)
def test_schema(
    gate: Gate,
    scratch_cluster: Cluster,
    request: pytest.FixtureRequest,
    ddl: str,
    left: str,
    right: str,
    expected: str,
) -> None:
    verdict = check(gate, left, right, ddl)
    assert verdict.verdict == expected, verdict.detail
    if verdict.counterexample is not None and "now()" not in left:
        replay(scratch_cluster, request.getfixturevalue("empty_database"), verdict)


def test_a_modifier_alone_is_told_but_no_difference(gate: Gate) -> None:
    ddl = "CREATE TABLE t (a varchar(3))"
    verdict = check(gate, "SELECT a FROM t WHERE a > 'b'", "SELECT a::varchar AS a FROM t WHERE 'b' < a", ddl)
    assert verdict.verdict is Equivalence.TESTED
    assert "length or precision differs in a" in verdict.detail
