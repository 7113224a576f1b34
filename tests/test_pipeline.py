"""The whole flow on real clusters: what becomes advice, what is rejected and why, and what is only found."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from optimizer.advice import Advice, Report
from optimizer.equivalence.verdict import Equivalence
from optimizer.errors import InputError, SqlError, TimeLimitError
from optimizer.pipeline import Optimizer, Options
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase

SCHEMA = """
CREATE TABLE customers (id integer PRIMARY KEY, email text NOT NULL, country char(2) NOT NULL);
CREATE TABLE orders (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers (id),
    coupon_id integer,
    status text NOT NULL,
    total numeric(10, 2) NOT NULL,
    placed_at timestamp without time zone NOT NULL
);
CREATE INDEX orders_placed_at_idx ON orders (placed_at);
INSERT INTO customers SELECT n, 'c' || n || '@example.org', CASE n % 9 WHEN 0 THEN 'NO' ELSE 'US' END
    FROM generate_series(1, 5000) AS n;
INSERT INTO orders
    SELECT n, 1 + n * 7 % 5000, CASE WHEN n % 10 = 0 THEN n % 50 END, CASE WHEN n % 100 = 0 THEN 'open' ELSE 'done' END,
           n % 500, timestamp '2024-01-01' + n * interval '11 minutes'
    FROM generate_series(1, 60000) AS n;
"""


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    with Services.open(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def shadow(services: Services) -> ShadowDatabase:
    return services.throwaway(SCHEMA)


@pytest.fixture(scope="module")
def optimizer(services: Services) -> Iterator[Optimizer]:
    made = Optimizer(services)
    yield made
    made.close()


def advice_of(report: Report, kind: str) -> Advice:
    found = [a for a in report.advice if a.kind == kind]
    assert found, (report.advice, report.rejected)
    return found[0]


def test_a_rewrite_becomes_advice_with_both_scales(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = "SELECT count(*) FROM orders WHERE date_trunc('day', placed_at) = timestamp '2024-03-05'"
    report = optimizer.optimize(sql, shadow)
    rewrite = advice_of(report, "rewrite")
    assert rewrite.rules == ("RW501",)
    assert rewrite.sql is not None
    assert "date_trunc" not in rewrite.sql
    assert rewrite.cost is not None
    assert rewrite.cost.ratio < 0.2
    assert rewrite.evidence.value == "estimated"
    assert rewrite.equivalence is not None
    assert rewrite.equivalence.verdict is Equivalence.TESTED
    assert rewrite.equivalence.databases >= 20
    assert rewrite.plan is not None
    assert "orders_placed_at_idx" in rewrite.plan.indexes


def test_an_index_becomes_advice_with_its_ddl_and_size(optimizer: Optimizer, shadow: ShadowDatabase):
    report = optimizer.optimize("SELECT total FROM orders WHERE customer_id = 77", shadow)
    index = advice_of(report, "index")
    assert index.ddl[0].startswith("CREATE INDEX CONCURRENTLY ")
    assert "(customer_id)" in index.ddl[0]
    assert index.rollback[0].startswith("DROP INDEX CONCURRENTLY ")
    assert index.storage_bytes > 100_000
    assert index.equivalence is None
    assert report.advice[0] is index


def test_rewrite_and_index_are_found_together(optimizer: Optimizer, shadow: ShadowDatabase):
    # Neither alone helps much: the cast hides customer_id, and there is no index on it.
    report = optimizer.optimize(
        "SELECT total FROM orders WHERE customer_id + 1 = 78", shadow, Options(disable=frozenset({"IX106"}))
    )
    combined = advice_of(report, "combined")
    assert combined.rules[0] == "RW502"
    assert combined.sql is not None
    assert combined.ddl
    assert combined.cost is not None
    assert combined.cost.ratio < 0.05


def test_a_rewrite_that_does_not_pay_is_reported_as_such(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = "SELECT DISTINCT id, email FROM customers WHERE id = 5"
    report = optimizer.optimize(sql, shadow)
    assert report.advice == ()
    assert ("RW401", "not_cheaper") in {(r.rule, r.reason) for r in report.rejected}


def test_nothing_is_said_where_nothing_is_known(optimizer: Optimizer, shadow: ShadowDatabase):
    report = optimizer.optimize("SELECT id, random() FROM orders WHERE placed_at::date = '2024-03-05'", shadow)
    assert {f.code for f in report.findings} >= {"not-rewritten"}
    assert all(a.sql is None for a in report.advice)


def test_disabled_rules_stay_out_and_unknown_codes_are_refused(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = "SELECT total FROM orders WHERE customer_id = 77"
    every_index_rule = frozenset(r.code for r in optimizer.rules if r.kind == "index")
    assert optimizer.optimize(sql, shadow, Options(disable=every_index_rule)).advice == ()
    with pytest.raises(InputError, match="RW999"):
        optimizer.optimize(sql, shadow, Options(disable=frozenset({"RW999"})))


def test_a_stronger_equivalence_can_be_demanded(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = "SELECT count(*) FROM orders WHERE date_trunc('day', placed_at) = timestamp '2024-03-05'"
    options = Options(min_equivalence=Equivalence.PROVED, disable=frozenset({"IX106"}))
    report = optimizer.optimize(sql, shadow, options)
    assert all(a.sql is None for a in report.advice)
    assert any(r.rule == "RW501" and "proved was asked for" in r.detail for r in report.rejected)


def test_parameters_are_planned_generically_or_with_values(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = "SELECT total FROM orders WHERE status = $1"
    generic = optimizer.optimize(sql, shadow)
    assert "generic-plan" in {f.code for f in generic.findings}
    common = optimizer.optimize(sql, shadow, Options(parameters=("done",)))
    rare = optimizer.optimize(sql, shadow, Options(parameters=("open",)))
    assert rare.baseline.cost.plan_rows < generic.baseline.cost.plan_rows < common.baseline.cost.plan_rows
    with pytest.raises(InputError, match="1 parameters but 2"):
        optimizer.optimize(sql, shadow, Options(parameters=("a", "b")))


def test_errors_are_the_servers_and_leave_nothing_broken(optimizer: Optimizer, shadow: ShadowDatabase):
    with pytest.raises(SqlError, match="nowhere"):
        optimizer.optimize("SELECT 1 FROM nowhere", shadow)
    with pytest.raises(SqlError, match="nothing"):
        optimizer.optimize("SELECT\n  nothing FROM orders", shadow)
    with pytest.raises(TimeLimitError):
        optimizer.optimize("SELECT total FROM orders WHERE customer_id = 77", shadow, Options(timeout_ms=1))
    assert optimizer.optimize("SELECT total FROM orders WHERE customer_id = 77", shadow).advice


def test_the_report_has_the_contracts_shape_and_is_deterministic(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = (
        "SELECT c.email, (SELECT sum(o.total) FROM orders AS o WHERE o.customer_id = c.id) AS spent FROM customers AS c"
    )
    first = json.loads(json.dumps(optimizer.optimize(sql, shadow).as_dict()))
    second = json.loads(json.dumps(optimizer.optimize(sql, shadow).as_dict()))
    assert set(first) == {
        "query", "shadow", "baseline", "advice", "rejected", "findings", "cached", "timings"
    }  # fmt: skip
    assert first["query"]["tables"] == ["customers", "orders"]
    assert first["timings"]["explain_calls"] > 0
    for report in (first, second):
        report.pop("timings")
    assert first == second


def test_explain_shows_hypothetical_indexes(optimizer: Optimizer, shadow: ShadowDatabase):
    sql = "SELECT total FROM orders WHERE customer_id = 77"
    bare = optimizer.explain(sql, shadow)
    with_index = optimizer.explain(sql, shadow, ["CREATE INDEX ON orders (customer_id)"])
    assert with_index.plan.cost.total_cost < bare.plan.cost.total_cost / 10
    assert with_index.plan.indexes == {with_index.indexes[0].name}
    with pytest.raises(SqlError):
        optimizer.explain(sql, shadow, ["DROP TABLE orders"])
    assert optimizer.explain(sql, shadow).plan.cost == bare.plan.cost


def test_the_gate_alone(optimizer: Optimizer, shadow: ShadowDatabase):
    left = "SELECT id FROM customers WHERE id NOT IN (SELECT coupon_id FROM orders)"
    right = "SELECT id FROM customers c WHERE NOT EXISTS (SELECT 1 FROM orders WHERE coupon_id = c.id)"
    verdict = optimizer.equivalent(left, right, shadow.ddl())
    assert verdict.verdict is Equivalence.REFUTED
    assert verdict.counterexample is not None
