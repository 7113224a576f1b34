"""What evaluating an expression gives, and whether it can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlglot import exp

from optimizer.catalog import Catalog, Column, Function, Table
from optimizer.query import Query
from optimizer.rewriting.evaluation import cannot_fail, same_equality, value_type
from optimizer.rewriting.resolved import ResolvedStatement

TYPES = {
    "i": "integer",
    "l": "bigint",
    "n": "numeric(10,2)",
    "m": "numeric",
    "f": "double precision",
    "s": "text",
    "v": "character varying(20)",
    "c": "character(8)",
    "d": "date",
    "z": "timestamp with time zone",
    "b": "boolean",
    "j": "jsonb",
}


def _table(name: str, kind: str = "table", definition: str | None = None) -> Table:
    columns = {c: Column(c, t, False, n) for n, (c, t) in enumerate(TYPES.items())}
    return Table("public", name, kind, columns, definition=definition)  # type: ignore[arg-type]


CATALOG = Catalog(
    {
        ("public", t.name): t
        for t in (
            _table("t"),
            _table("far", "foreign table"),
            _table("safe_view", "view", "SELECT t.i FROM public.t WHERE t.n > 1"),
            _table("dividing_view", "view", "SELECT 1 / t.i AS i FROM public.t"),
        )
    }
)


def _output(text: str, catalog: Catalog = CATALOG, source: str = "t") -> tuple[exp.Expr, ResolvedStatement]:
    tree = Query.parse(f"SELECT {text} FROM {source}").tree
    assert tree is not None
    return tree.expressions[0], ResolvedStatement.of(tree, catalog)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "i",
            "i = 1",
            "i < l AND NOT b",
            "s LIKE 'a%'",
            "coalesce(i, 0)",
            "CASE WHEN b THEN 1 ELSE 2 END",
            "n * 2 + 1",
        ),
        *("n / 7.0", "i / 2", "i % 2", "i::bigint", "i::text", "n::numeric", "lower(s) || 'x'", "extract(year FROM d)"),
        *("d >= date '1994-01-01' + interval '1 year'", "z > now() - interval '7 days'", "i IN (1, 2)", "i = ANY ($1)"),
        *("sum(i)", "avg(n)", "count(*) FILTER (WHERE b)", "max(s)", "EXISTS (SELECT 1 FROM t AS x WHERE x.i = t.l)"),
        *("i IN (SELECT x.i FROM t AS x)", "(SELECT max(x.i) FROM t AS x)", "(SELECT count(*) FROM safe_view)"),
        *("2 * 3 > i", "-1 = i", "i IS DISTINCT FROM l", "b IS NOT TRUE", "(i, l) = (1, 2)", "nullif(s, 'a')"),
    ],
)
def test_cannot_fail(text: str) -> None:
    node, statement = _output(text)
    assert cannot_fail(node, statement.scopes[0], statement)


@pytest.mark.parametrize(
    "text",
    [
        *("1 / i", "n / l", "i / 0", "i % l", "i + 1", "i * l", "-i", "l::int", "s::int", "n::numeric(3,1)", "d + i"),
        *("s LIKE v", "s LIKE 'a\\'", "sqrt(n)", "unknown(i)", "j || j", "s ~ 'a('", "extract(hour FROM d)", "sum(f)"),
        *("$1 + 1", "(SELECT x.i FROM t AS x)", "(SELECT max(x.i) FROM t AS x GROUP BY x.l)", "sum(i * l)"),
        *("EXISTS (SELECT 1 FROM t AS x WHERE 1 / x.i > 0)", "EXISTS (SELECT 1 FROM far)", "public.lower(s)"),
        *("(SELECT count(*) FROM dividing_view)", "i IN (SELECT 1 / x.i FROM t AS x)", "(SELECT max(t.i) FROM t AS x)"),
        *("(SELECT i FROM t AS x LIMIT 1)", "count(*) OVER ()", "ARRAY(SELECT x.i FROM t AS x)"),
    ],
)
def test_may_fail(text: str) -> None:
    node, statement = _output(text)
    assert not cannot_fail(node, statement.scopes[0], statement)


def test_a_function_of_the_users_own_may_fail() -> None:
    shadowed = replace(CATALOG, functions={("public", "lower"): Function("immutable", True)})
    node, statement = _output("lower(s)", shadowed)
    assert not cannot_fail(node, statement.scopes[0], statement)


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ("n", "t", "numeric(10,2)"),
        ("i + l", "t", "bigint"),
        ("i * n", "t", "numeric"),
        ("sum(i)", "t", "bigint"),
        ("sum(l)", "t", "numeric"),
        ("avg(i)", "t", "numeric"),
        ("avg(f)", "t", None),
        ("min(n)", "t", "numeric(10,2)"),
        ("count(*)", "t", "bigint"),
        ("lower(v)", "t", "text"),
        ("j", "t", None),
        ("'a'", "t", None),
        ("3000000000", "t", "bigint"),
        ("x.total", "(SELECT sum(i) AS total FROM t) AS x", "bigint"),
        ("x.i", "(SELECT * FROM t) AS x", None),
        ("(SELECT max(x.d) FROM t AS x)", "t", "date"),
    ],
)
def test_types(text: str, source: str, expected: str | None) -> None:
    node, statement = _output(text, source=source)
    assert value_type(node, statement.scopes[0], statement) == expected


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("integer", "bigint", True),
        ("integer", "numeric(10,2)", True),
        ("numeric(10,2)", "numeric(4,3)", True),
        ("text", "character varying(20)", True),
        ("character(8)", "character(2)", True),
        ("character(8)", "text", False),
        ("numeric", "double precision", False),
        ("double precision", "double precision", False),
        ("date", "timestamp without time zone", False),
        (None, None, False),
    ],
)
def test_equality(left: str | None, right: str | None, same: bool) -> None:
    assert same_equality(left, right) is same
