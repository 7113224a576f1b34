"""Drives every file under fixtures/rules/index, and checks the candidates on a real server."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.plan import CostEstimate, Plan, PlanNode
from optimizer.query import Query
from optimizer.rule import IndexRule, RuleDoc
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.introspect import read_catalog
from rules import index

ROOT = Path(__file__).parent.parent / "fixtures"
MODULES = [importlib.import_module(f"rules.index.{info.name}") for info in pkgutil.iter_modules(index.__path__)]
CLASSES = [c for m in MODULES for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
RULES: dict[str, IndexRule] = {c.code: c() for c in CLASSES if issubclass(c, IndexRule)}
FILES = sorted((ROOT / "rules" / "index").glob("*.yaml"))
FIXTURES = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
STATISTICS = yaml.safe_load((ROOT / "schemas" / "shop_statistics.yaml").read_text())
TPCH = sorted((ROOT / "tpch").glob("q*.sql"))
#: Most candidates that all rules together may bring for one query.
MOST_CANDIDATES = 33

PLAN = Plan(PlanNode("Result", CostEstimate(0, 0, 0, 0), None, None, None, None, (), {}), {})


def _cases(section: str) -> list[Any]:
    return [
        pytest.param(fixture["code"], case, id=f"{stem}: {case['name']}")
        for stem, fixture in FIXTURES.items()
        for case in fixture[section]
    ]


@pytest.fixture(scope="module")
def shop(scratch_cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    yield from _database(scratch_cluster, "index_rules_shop", [ROOT / "schemas" / "shop.sql"])


@pytest.fixture(scope="module")
def tpch(scratch_cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    yield from _database(scratch_cluster, "index_rules_tpch", [ROOT / "tpch" / n for n in ("schema.sql", "keys.sql")])


def _database(cluster: Cluster, name: str, scripts: list[Path]) -> Iterator[psycopg.Connection[Any]]:
    with cluster.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    with cluster.connect(name) as connection:
        for script in scripts:
            connection.execute(script.read_bytes())
        yield connection
    with cluster.connect("postgres") as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def shop_catalog(shop: psycopg.Connection[Any]) -> Catalog:
    """The shop's catalog with the statistics of a large shop, in the server too, so that it plans as such."""
    for name, facts in STATISTICS.items():
        shop.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)".encode())
        _restore_rows(shop, name)
        for column, fields in facts["columns"].items():
            _restore_column(shop, name, column, fields)
    catalog = read_catalog(shop)
    tables = {k: replace(t, pages=STATISTICS[t.name]["pages"]) for k, t in catalog.tables.items()}
    return replace(catalog, tables=tables)


def _restore_rows(connection: psycopg.Connection[Any], table: str) -> None:
    """The file has one page and PostgreSQL knows it: all the rows are said to be in that page."""
    connection.execute(
        "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', %s::text, 'relpages', 1,"
        " 'relallvisible', 1, 'reltuples', %s::real)",
        (table, STATISTICS[table]["rows"]),
    )


def _restore_column(connection: psycopg.Connection[Any], table: str, column: str, fields: dict[str, Any]) -> None:
    facts: dict[str, tuple[str, Any]] = {
        "schemaname": ("text", "public"),
        "relname": ("text", table),
        "attname": ("text", column),
        "inherited": ("boolean", False),
        "null_frac": ("real", fields.get("null_frac", 0)),
        "avg_width": ("integer", fields["avg_width"]),
        "n_distinct": ("real", fields["n_distinct"]),
    }
    if "common" in fields:
        facts["most_common_vals"] = ("text", _array(fields["common"]))
        facts["most_common_freqs"] = ("real[]", fields["shares"])
    if "histogram" in fields:
        facts["histogram_bounds"] = ("text", _array(fields["histogram"]))
    pairs = ", ".join(f"'{name}', %s::{type_}" for name, (type_, _) in facts.items())
    query = f"SELECT pg_restore_attribute_stats({pairs})".encode()
    assert connection.execute(query, [value for _, value in facts.values()]).fetchone() == (True,)


def _array(values: list[str]) -> str:
    return "{" + ",".join(f'"{value}"' for value in values) + "}"


def _proposed(code: str, sql: str, catalog: Catalog) -> dict[str, IndexCandidate]:
    """Candidates by what stands after ON in their DDL, schema public left out."""
    found = RULES[code].propose(Query.parse(sql), catalog, PLAN)
    return {c.ddl().split(" ON ", 1)[1].removeprefix("public."): c for c in found}


@pytest.mark.parametrize(("code", "case"), _cases("expect"))
def test_proposes(code: str, case: dict[str, str], shop_catalog: Catalog, shop: psycopg.Connection[Any]) -> None:
    found = _proposed(code, case["sql"], shop_catalog)
    assert case["index"] in found
    candidate = found[case["index"]]
    assert candidate.rules == (code,)
    assert candidate.title.startswith(f"Index {candidate.table} by (")
    assert "\n" not in candidate.title
    for key in candidate.key_columns:
        assert key.expression in candidate.why
    for each in found.values():
        _create(shop, each)


@pytest.mark.parametrize(("code", "case"), _cases("expect"))
def test_planner_uses(code: str, case: dict[str, str], shop_catalog: Catalog, shop: psycopg.Connection[Any]) -> None:
    """PostgreSQL picks the index by itself: it implies its predicate, sees its expression, wants its order."""
    candidate = _proposed(code, case["sql"], shop_catalog)[case["index"]]
    with shop.transaction(force_rollback=True):
        shop.execute(candidate.ddl("the_candidate", concurrently=False).encode())
        if "beside" in case:
            shop.execute(f"CREATE INDEX ON {case['beside']}".encode())
        _restore_rows(shop, candidate.table)  # building an index counts the rows that there are
        options = "(GENERIC_PLAN) " if "$1" in case["sql"] else ""
        plan = shop.execute(f"EXPLAIN {options}{case['sql']}".encode(), prepare=False).fetchall()
    assert "the_candidate" in "\n".join(line for (line,) in plan)


@pytest.mark.parametrize(("code", "case"), _cases("expect-not"))
def test_does_not_propose(code: str, case: dict[str, str], shop_catalog: Catalog) -> None:
    found = _proposed(code, case["sql"], shop_catalog)
    if "index" in case:
        assert case["index"] not in found
    else:
        assert not found


def test_an_index_once_built_is_not_proposed_again(shop_catalog: Catalog, shop: psycopg.Connection[Any]) -> None:
    """As PostgreSQL prints them: casts added, parentheses, IN as ANY."""
    cases = [param.values for param in _cases("expect")]
    with shop.transaction(force_rollback=True):
        for number, (code, case) in enumerate(cases):
            candidate = _proposed(code, case["sql"], shop_catalog)[case["index"]]
            shop.execute(candidate.ddl(f"built_{number}", concurrently=False).encode())
        built = read_catalog(shop)
    tables = {k: replace(t, indexes=built.tables[k].indexes) for k, t in shop_catalog.tables.items()}
    later = replace(shop_catalog, tables=tables)
    again = [case["index"] for code, case in cases if case["index"] in _proposed(code, case["sql"], later)]
    assert not again


def _create(connection: psycopg.Connection[Any], candidate: IndexCandidate) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(candidate.ddl(concurrently=False).encode())


@pytest.mark.parametrize("path", TPCH, ids=lambda path: path.stem)
def test_tpch(path: Path, tpch: psycopg.Connection[Any]) -> None:
    """Every TPC-H query gets a bounded list of distinct candidates, the same each time, that PostgreSQL accepts."""
    catalog, query = read_catalog(tpch), Query.parse(path.read_text())
    found = [c for rule in RULES.values() for c in rule.propose(query, catalog, PLAN)]
    again = [c for rule in RULES.values() for c in rule.propose(Query.parse(query.sql), read_catalog(tpch), PLAN)]
    assert found == again
    assert [c.title for c in found] == [c.title for c in again]
    assert 0 < len(set(found)) <= MOST_CANDIDATES
    for candidate in set(found):
        _create(tpch, candidate)
    keys = {t.name: t.primary_key for t in catalog.tables.values()}
    for candidate in found:
        primary = keys[candidate.table] or ()
        names = tuple(k.column for k in candidate.key_columns)
        plain = not candidate.include and candidate.predicate is None
        assert not (plain and names == primary[: len(names)]), "a prefix of the primary key"


@pytest.mark.parametrize("code", sorted(RULES))
def test_is_documented(code: str) -> None:
    doc = RuleDoc.of(type(RULES[code]))
    assert len(doc.summary.splitlines()) == 1
    assert "```sql\nCREATE INDEX CONCURRENTLY" in doc.instead


def test_every_rule_has_fixtures() -> None:
    assert {f["code"] for f in FIXTURES.values()} == set(RULES)
    for stem, fixture in FIXTURES.items():
        assert fixture["schema"] == "shop"
        assert len(fixture["expect"]) >= 2
        assert len(fixture["expect-not"]) >= 2
        assert stem == Path(inspect.getfile(type(RULES[fixture["code"]]))).stem
        for case in fixture["expect-not"]:
            assert case["why"]


@pytest.mark.parametrize("code", sorted(RULES))
def test_documented_example_leads_to_the_documented_index(code: str, shop_catalog: Catalog) -> None:
    doc = RuleDoc.of(type(RULES[code]))
    example, instead = (text.strip("`").removeprefix("sql").strip() for text in (doc.example, doc.instead))
    found = RULES[code].propose(Query.parse(example), shop_catalog, PLAN)
    assert instead in [c.ddl().replace(" ON public.", " ON ") for c in found]
