"""Names for rewrites: fresh ones, and those that PostgreSQL gives to output columns."""

from __future__ import annotations

import pytest
from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.query import Query, parse_expression, render
from optimizer.rewriting.naming import fresh_alias, identifier, output_name, with_output_name
from optimizer.scope import output_names
from optimizer.shadow.server.cluster import Cluster

ITEMS = """
    x; t.x; "X"; x AS y; x AS "Y z"; (x); 1; 'a'; NULL; x + 1; -x; NOT b; x = 1; x IS NULL; x IN (1, 2)
    x BETWEEN 1 AND 2; s LIKE 'a'; s ~ 'a'; s || 'a'; x IS DISTINCT FROM 1; b IS NOT TRUE; b AND b; count(*)
    count(*) FILTER (WHERE b); sum(x); sum(x) * 2; max(x)::text; coalesce(x, 0); coalesce(sum(x), 0) + 1
    nullif(x, 1); greatest(x, 1); least(x, 1); lower(s); pg_catalog.lower(s); "lower"(s); now(); current_date
    current_timestamp; current_user; extract(year FROM d); substring(s FROM 1 FOR 2); trim(s)
    trim(LEADING 'a' FROM s); position('a' IN s); overlay(s PLACING 'b' FROM 1); x::bigint; '1'::int; (x + 1)::int
    (x + 1)::numeric(5, 2); (x + 1)::varchar(3); x::text::int; date '2024-01-01'; timestamp '2024-01-01'
    interval '1 day'; CASE WHEN b THEN 1 END; CASE WHEN b THEN 1 ELSE x END; CASE WHEN b THEN 1 ELSE 2 END
    CASE WHEN b THEN 1 ELSE 2 END::text; (SELECT 1); (SELECT x FROM t LIMIT 1); (SELECT 1 AS z); (SELECT 1)::text
    (SELECT max(x) FROM t) + 1; ((SELECT max(x) FROM t)); EXISTS (SELECT 1); NOT EXISTS (SELECT 1)
    (EXISTS (SELECT 1)); (EXISTS (SELECT 1))::int; x IN (SELECT 1); ARRAY[1, 2]; ARRAY(SELECT 1); a[1]
    string_agg(s, ','); array_agg(x ORDER BY x); row_number() OVER (); sum(x) OVER (ORDER BY x); s COLLATE "C"
    j -> 'a'; j ->> 'a'; j #>> '{a}'; percentile_cont(0.5) WITHIN GROUP (ORDER BY x); d AT TIME ZONE 'UTC'; x % 2
    x & 1; x ^ 2; (SELECT 1 UNION SELECT 2); bool_or(b); json_agg(x); ROW(1, 2); mode() WITHIN GROUP (ORDER BY x)
"""
SELECT_LIST = [item.strip() for item in ITEMS.replace("\n", ";").split(";") if item.strip()]
#: What is worth knowing the name of. Of the other items above `output_name` may say that it cannot tell.
MUST_BE_KNOWN = len(SELECT_LIST) - 1


@pytest.fixture(scope="module")
def named_by_postgresql(scratch_cluster: Cluster) -> dict[str, str]:
    table = """CREATE TEMP TABLE t (x int, "X" int, b bool, s text, d timestamp, a int[], j jsonb)"""
    names = {}
    with scratch_cluster.connect() as connection:
        connection.execute(table)
        for item in SELECT_LIST:
            with connection.cursor() as cursor:
                cursor.execute(f'SELECT {item} FROM t GROUP BY t.ctid, t.x, x, "X", b, s, d, a, j LIMIT 0'.encode())
                assert cursor.description is not None
                names[item] = cursor.description[0].name
    return names


def test_output_columns_are_called_as_postgresql_calls_them(named_by_postgresql: dict[str, str]) -> None:
    told = {item: output_name(_item(item)) for item in SELECT_LIST}
    wrong = {item: (name, named_by_postgresql[item]) for item, name in told.items() if name is not None}
    assert {item: pair for item, pair in wrong.items() if pair[0] != pair[1]} == {}
    assert len(wrong) >= MUST_BE_KNOWN, [item for item, name in told.items() if name is None]


def test_derived_tables_columns_are_called_alike() -> None:
    tree = Query.parse("SELECT x::text, (SELECT max(y) FROM t), count(*)::int, 1 FROM t").tree
    assert tree is not None
    assert output_names(tree, Catalog({})) == ("x", "max", "count", "?column?")


def _item(text: str) -> exp.Expr:
    tree = Query.parse(f"SELECT {text} FROM t").tree
    return tree.expressions[0] if tree is not None else exp.Placeholder()  # not readable: no name to be told


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("totals", "totals"),
        ("orders", "orders_2"),
        ("o", "o_2"),
        ("Order Lines", "order_lines"),
        ("user", "user_2"),
        ("select", "select_2"),
        ("1x", "t_1x"),
        ("é", "t"),
        ("quoted", "quoted"),
        ("Total", "total_3"),
        ("a" * 80, "a" * 63),
    ],
)
def test_fresh_aliases_clash_with_nothing(base: str, expected: str) -> None:
    tree = Query.parse('SELECT o.total, total_2 FROM orders AS o WHERE "Quoted" = 1').tree
    assert tree is not None
    assert fresh_alias(tree, base) == expected


def test_fresh_aliases_keep_away_from_each_other() -> None:
    tree = parse_expression("SELECT 1")
    assert fresh_alias(tree, "x", {"x", "x_2"}) == "x_3"


def test_an_alias_is_added_only_where_the_name_would_change() -> None:
    assert render(with_output_name(parse_expression("a.total"), "total")) == "a.total"
    assert render(with_output_name(parse_expression("a.total"), "?column?")) == 'a.total AS "?column?"'
    assert identifier("Net").sql() == '"Net"'
