"""What is read out of a query: conditions, joins, orders and columns of each base table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from sqlglot import exp

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Column, ColumnStatistics, Constraint, Function, Index, IndexColumn, Table
from optimizer.indexing.existing import normal_form, served
from optimizer.indexing.index_expression import like_prefix
from optimizer.indexing.index_rule import worth_an_index
from optimizer.indexing.keys import join_keys, search_keys, sort_keys
from optimizer.indexing.predicates import table_uses
from optimizer.indexing.reading import WRITES, reading_form
from optimizer.indexing.selectivity import (
    any_selectivity,
    between_selectivity,
    equality_selectivity,
    prefix_selectivity,
    range_selectivity,
)
from optimizer.indexing.table_use import TableUse
from optimizer.query import Query, parse_expression


def table(
    name: str, columns: str, *, kind: str = "table", key: Iterable[str] = (), definition: str | None = None
) -> Table:
    parsed = [part.strip().split(" ", 1) for part in columns.split(",")]
    return Table(
        schema="public",
        name=name,
        kind=kind,  # type: ignore[arg-type]
        columns={
            n: Column(n, t.removesuffix(" not null"), t.endswith(" not null"), i)
            for i, (n, t) in enumerate(parsed, start=1)
        },
        constraints=(Constraint(f"{name}_pkey", "primary key", tuple(key)),) if key else (),
        rows=100_000,
        pages=1_000,
        definition=definition,
    )


TABLES = (
    table("t", "id integer not null, a integer, b integer, c text, d date, f boolean, j json", key=["id"]),
    table("u", "id integer not null, t_id integer, a integer, x numeric, s character(8)", key=["id"]),
    table("Odd", "Key integer not null, order integer"),
    table(
        "v", "id integer, twice integer", kind="view", definition="SELECT t.id, t.a + t.a AS twice FROM t WHERE t.b = 3"
    ),
    table("w", "id integer, twice integer", kind="view", definition="SELECT v.id, v.twice FROM v"),
    table("m", "id integer, a integer", kind="materialized view"),
)
CATALOG = Catalog(
    {(t.schema, t.name): t for t in TABLES},
    {("pg_catalog", n): Function("immutable", True) for n in ("lower", "abs", "sqrt")}
    | {("public", "mine"): Function("immutable", True), ("pg_catalog", "now"): Function("stable", True)},
)


def uses(sql: str, catalog: Catalog = CATALOG) -> dict[str, TableUse]:
    return {use.alias: use for use in table_uses(Query.parse(sql), catalog)}


def conditions(use: TableUse) -> list[str]:
    return [f"{c.kind} {c.key.expression}" for c in use.conditions]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("a = 1", ["equality a"]),
        ("1 = a", ["equality a"]),
        ("(a) = (1)", ["equality a"]),
        ("a IN (1, 2)", ["equality a"]),
        ("(a, b) IN ((1, 2), (3, 4))", ["equality a", "equality b"]),
        ("a = ANY ($1)", ["equality a"]),
        ("a = ANY (ARRAY[1, 2])", ["equality a"]),
        ("a = ALL ($1)", []),
        ("(a, b) = (1, $1)", ["equality a", "equality b"]),
        ("(a, b) > (1, 2)", ["range a"]),
        ("5 > a", ["range a"]),
        ("a BETWEEN 1 AND $1", ["range a"]),
        ("a BETWEEN SYMMETRIC 1 AND 2", []),
        ("a NOT BETWEEN 1 AND 2", []),
        ("a IS NULL", ["equality a"]),
        ("id IS NULL", []),
        ("a IS NOT NULL", ["other a"]),
        ("f", ["equality f"]),
        ("NOT f", ["equality f"]),
        ("f IS TRUE", ["equality f"]),
        ("f IS NOT TRUE", ["other f"]),
        ("f = true", ["equality f"]),
        ("a > b", []),
        ("a = a", []),
        ("a = 1.5", []),
        ("a = 2 + 3", ["equality a"]),
        ("d >= date '2024-01-01' - interval '90 days'", ["range d"]),
        ("d >= now()", ["range d"]),
        ("d = random()", []),
        ("c LIKE 'x%'", ["range c"]),
        ("c LIKE 'x'", ["equality c"]),
        ("c LIKE '%x'", []),
        ("c NOT LIKE 'x%'", []),
        ("c ILIKE 'x%'", []),
        ("c LIKE $1", []),
        ("lower(c) = 'x'", ["equality lower(c)"]),
        ("unknown(c) = 'x'", []),
        ("sqrt(a) = 2", []),
        ("mine(a) = 2", ["equality mine(a)"]),
        ("a % 10 = 2", ["equality a % 10"]),
        ("a / 0 = 2", []),
        ("10 / a = 2", []),
        ("a + 1 = 2", []),
        ("a::bigint = 2", ["equality CAST(a AS BIGINT)"]),
        ("a::smallint = 2", []),
        ("a::numeric(4, 2) = 2", []),
        ("j = '{}'", []),
        ("a = (SELECT max(a) FROM u)", ["equality a"]),
        ("NOT (a = 1 AND b = 2)", []),
        ("ctid = '(0,1)'", []),
        ("nonsense = 1", []),
    ],
)
def test_conditions(where: str, expected: list[str]) -> None:
    assert conditions(uses(f"SELECT 1 FROM t WHERE {where}")["t"]) == expected


@pytest.mark.parametrize("comparison", ["u.s = t.c", "u.x = t.a"])
def test_only_the_side_without_a_cast_is_searched(comparison: str) -> None:
    found = uses(f"SELECT 1 FROM t JOIN u ON {comparison}")
    searched = {alias for alias, use in found.items() if use.joins}
    assert searched == ({"t"} if "u.s" in comparison else {"u"})


def test_conditions_know_what_they_compare_with() -> None:
    one, several, parameter, null = uses("SELECT 1 FROM t WHERE a = 1 AND b IN (1, 2) AND id = $1 AND c IS NULL")[
        "t"
    ].conditions
    assert (one.single, one.constant) == (True, True)
    assert (several.single, several.constant) == (False, True)
    assert (parameter.single, parameter.constant) == (True, False)
    assert (null.single, null.constant) == (False, True)


def test_a_collation_of_the_query_is_part_of_the_key() -> None:
    (condition,) = uses("SELECT 1 FROM t WHERE c COLLATE \"C\" LIKE 'x%'")["t"].conditions
    assert condition.key == IndexColumn("c", "c", collation="C")
    (condition,) = uses("SELECT 1 FROM t WHERE c LIKE 'x%'")["t"].conditions
    assert condition.key == IndexColumn("c", "c", opclass="text_pattern_ops")


def test_names_are_quoted_where_they_must_be() -> None:
    (use,) = uses('SELECT 1 FROM "Odd" WHERE "Key" = 1 AND "order" > 2').values()
    assert [c.key.expression for c in use.conditions] == ['"Key"', '"order"']


def test_joins_are_seen_from_both_sides() -> None:
    found = uses("SELECT 1 FROM t, u WHERE t.a = abs(u.t_id) AND u.a = t.b")
    assert [(j.key.expression, j.partner) for j in found["t"].joins] == [("a", "u"), ("b", "u")]
    assert [(j.key.expression, j.partner) for j in found["u"].joins] == [("abs(t_id)", "t"), ("a", "t")]


@pytest.mark.parametrize(
    ("join", "searched"), [("JOIN", "tu"), ("LEFT JOIN", "u"), ("RIGHT JOIN", "t"), ("FULL JOIN", "")]
)
def test_an_outer_join_looks_up_the_side_that_may_be_missing(join: str, searched: str) -> None:
    found = uses(f"SELECT 1 FROM t {join} u ON t.a = u.t_id AND t.b = 1 AND u.a = 2")
    assert "".join(alias for alias, use in found.items() if use.joins) == searched
    assert conditions(found["t"]) == (["equality b"] if "t" in searched else [])
    assert conditions(found["u"]) == (["equality a"] if "u" in searched else [])


def test_merged_columns() -> None:
    found = uses("SELECT a, x FROM t JOIN u USING (a) WHERE b = 2")
    assert [j.key.expression for j in found["t"].joins] == ["a"]
    assert [j.key.expression for j in found["u"].joins] == ["a"]
    assert conditions(found["t"]) == ["equality b"]
    assert found["u"].referenced == frozenset({"a", "x"})
    natural = uses("SELECT 1 FROM t NATURAL LEFT JOIN u")
    assert [j.key.expression for j in natural["u"].joins] == ["id", "a"]
    assert not natural["t"].joins


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.t_id = t.a)", ["a"]),
        ("SELECT 1 FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.t_id = t.a)", []),
        ("SELECT 1 FROM t WHERE b = 1 OR EXISTS (SELECT 1 FROM u WHERE u.t_id = t.a)", []),
        ("SELECT 1 FROM t WHERE a IN (SELECT t_id FROM u)", ["a"]),
        ("SELECT 1 FROM t WHERE a = ANY (SELECT t_id FROM u)", ["a"]),
        ("SELECT 1 FROM t WHERE (a, b) IN (SELECT t_id, a FROM u)", ["a", "b"]),
        ("SELECT 1 FROM t WHERE a NOT IN (SELECT t_id FROM u)", []),
    ],
)
def test_subqueries_that_become_joins(sql: str, expected: list[str]) -> None:
    assert [j.key.expression for j in uses(sql)["t"].joins] == expected


def test_a_correlated_column_is_an_equality() -> None:
    found = uses("SELECT (SELECT max(x) FROM u WHERE u.t_id = t.id AND u.a < t.b) FROM t")
    assert conditions(found["u"]) == ["equality t_id", "range a"]
    assert not found["t"].joins


def test_constants_spread_over_equal_columns() -> None:
    found = uses("SELECT 1 FROM t JOIN u ON u.t_id = t.a WHERE t.a = 5")
    assert conditions(found["u"]) == ["equality t_id"]
    assert not found["u"].conditions[0].constant  # it is not in the query's text for this column
    assert not uses("SELECT 1 FROM t LEFT JOIN u ON u.t_id = t.a WHERE t.a > 5")["u"].conditions
    assert not uses("SELECT 1 FROM t, u WHERE (u.t_id = t.a OR t.b = 1) AND t.a = 5")["u"].conditions


def test_arms_of_an_or() -> None:
    (use,) = uses("SELECT 1 FROM t WHERE (a = 1 AND b = 2) OR (b = 2 AND d > '2024-01-01')").values()
    assert conditions(use) == ["equality b"]
    assert [[c.key.expression for c in arm] for arm in use.alternatives] == [["a"], ["d"]]
    assert not uses("SELECT 1 FROM t, u WHERE t.a = 1 OR u.a = 2")["t"].alternatives


def test_conditions_reach_through_derived_tables_only_where_they_are_pushed() -> None:
    inner = "SELECT a, count(*) AS n FROM t GROUP BY a"
    assert conditions(uses(f"SELECT 1 FROM ({inner}) AS q WHERE q.a = 1")["t"]) == ["equality a"]
    assert not uses(f"SELECT 1 FROM ({inner}) AS q WHERE q.n = 1")["t"].conditions
    assert not uses(f"SELECT 1 FROM ({inner}) AS q JOIN u ON u.a = q.a")["t"].joins
    assert uses("SELECT 1 FROM (SELECT * FROM t) AS q JOIN u ON u.a = q.a")["t"].joins
    assert not uses("SELECT 1 FROM (SELECT a FROM t LIMIT 3) AS q WHERE q.a = 1")["t"].conditions
    window = "SELECT a, b, sum(id) OVER (PARTITION BY a) FROM t"
    assert conditions(uses(f"SELECT 1 FROM ({window}) AS q WHERE q.a = 1 AND q.b = 2")["t"]) == ["equality a"]


def test_ctes() -> None:
    assert uses("WITH q AS (SELECT * FROM t) SELECT 1 FROM q WHERE a = 1")["t"].conditions
    assert not uses("WITH q AS (SELECT * FROM t) SELECT 1 FROM q, q AS r WHERE q.a = 1")["t"].conditions
    assert not uses("WITH q AS MATERIALIZED (SELECT * FROM t) SELECT 1 FROM q WHERE a = 1")["t"].conditions
    assert uses("WITH q AS NOT MATERIALIZED (SELECT * FROM t) SELECT 1 FROM q, q AS r WHERE q.a = 1")["t"].conditions
    recursive = "WITH RECURSIVE q AS (SELECT a FROM t UNION ALL SELECT a + 1 FROM q) SELECT 1 FROM q WHERE a = 1"
    assert not uses(recursive)["t"].conditions


def test_views_are_opened_and_the_users_tree_stays_as_it_is() -> None:
    query = Query.parse("SELECT twice FROM w AS mine WHERE mine.id > 4")
    before = repr(query.tree)
    (use,) = table_uses(query, CATALOG)
    assert use.table.name == "t"
    assert sorted(conditions(use)) == ["equality b", "range id"]
    assert repr(query.tree) == before


def test_update_and_delete_read_like_select() -> None:
    found = uses("UPDATE t SET a = u.x, (b, c) = (1, 'z') FROM u WHERE u.t_id = t.id AND t.f RETURNING t.d")
    assert conditions(found["t"]) == ["equality f"]
    assert found["t"].written == frozenset({"a", "b", "c"})
    assert found["t"].referenced is None
    assert found["u"].referenced == frozenset({"x", "t_id"})
    assert [j.key.expression for j in found["u"].joins] == ["t_id"]
    inside = uses("WITH gone AS (DELETE FROM t WHERE a = 1 RETURNING id) SELECT 1 FROM gone JOIN u ON u.t_id = gone.id")
    assert conditions(inside["t"]) == ["equality a"]
    tree = reading_form(Query.parse("DELETE FROM t USING u WHERE t.a = u.a"), CATALOG)
    assert isinstance(tree, exp.Select)
    assert tree.meta[WRITES] == frozenset()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t WHERE b = 1", {"a", "b"}),
        ("SELECT t.* FROM t", set(TABLES[0].columns)),
        ("SELECT count(*) FROM t WHERE b = 1", {"b"}),
        ("SELECT 1 FROM u WHERE EXISTS (SELECT * FROM t WHERE t.a = u.a)", {"a"}),
        ("SELECT a AS z FROM t ORDER BY z", {"a"}),
        ("SELECT t FROM t", None),
        ("SELECT xmin FROM t", None),
        ("SELECT a FROM t FOR SHARE", None),
        ("SELECT (SELECT t.b FROM u WHERE u.a = t.a) FROM t", {"a", "b"}),
    ],
)
def test_referenced_columns(sql: str, expected: set[str] | None) -> None:
    assert uses(sql)["t"].referenced == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t ORDER BY a DESC, b", [("ORDER BY", "a DESC, b", False)]),
        ("SELECT a FROM t ORDER BY 1 LIMIT 3", [("ORDER BY", "a", True)]),
        ("SELECT a AS b FROM t ORDER BY b", [("ORDER BY", "a", False)]),
        ("SELECT a AS b FROM t GROUP BY b", []),
        ("SELECT a, b FROM t GROUP BY a, b ORDER BY b", [("ORDER BY", "b", False), ("GROUP BY", "b, a", False)]),
        ("SELECT a FROM t GROUP BY ROLLUP (a)", []),
        ("SELECT DISTINCT a, b FROM t", [("DISTINCT", "a, b", False)]),
        ("SELECT DISTINCT ON (a) b FROM t", [("DISTINCT", "a", False)]),
        ("SELECT max(a), min(b) FROM t", [("max()", "a", True), ("min()", "b", True)]),
        ("SELECT max(a) FILTER (WHERE f) FROM t", []),
        ("SELECT rank() OVER (PARTITION BY a ORDER BY b) FROM t", [("the window", "a, b", False)]),
        ("SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY b)", [("the window", "b", False)]),
        ("SELECT t.a FROM t, u ORDER BY t.a, u.a", []),
        ("SELECT a FROM t ORDER BY a, a, b", [("ORDER BY", "a, b", False)]),
        ("SELECT a FROM t ORDER BY a, b, c, d, f", []),
    ],
)
def test_orderings(sql: str, expected: list[tuple[str, str, bool]]) -> None:
    found = [
        (o.clause, ", ".join(k.expression + (" DESC" if k.descending else "") for k in o.keys), o.limited)
        for o in uses(sql)["t"].orderings
        if o.keys
    ]
    if "AS b FROM t GROUP BY b" in sql:  # an input column wins over an output name in GROUP BY
        assert found == [("GROUP BY", "b", False)]
    else:
        assert found == expected


def test_statements_that_sqlglot_cannot_print_are_read_all_the_same() -> None:
    query = Query.parse("SELECT 1 FROM t WHERE a=$1and b IN($2,$3) AND (c = 1) IS UNKNOWN")
    assert query.tree is None
    (use,) = table_uses(query, CATALOG)
    assert conditions(use) == ["equality a", "equality b"]


def test_the_answer_is_kept_for_each_query_and_catalog() -> None:
    query = Query.parse("SELECT 1 FROM t WHERE a = 1")
    first = table_uses(query, CATALOG)
    assert table_uses(query, CATALOG) is first
    assert table_uses(query, replace(CATALOG)) is not first


def test_keys_put_equality_before_range_and_fix_before_sort() -> None:
    (use,) = uses("SELECT 1 FROM t WHERE b > 3 AND a = 1 ORDER BY d DESC LIMIT 1").values()
    assert [k.column for k in next(search_keys(use)).columns] == ["a", "b"]
    assert [[k.column for k in keys.columns] for keys in sort_keys(use)] == [["a", "d"], ["d"]]
    assert not list(join_keys(use))
    (single,) = uses("SELECT 1 FROM t WHERE id = 3 AND b > 3 ORDER BY d").values()
    assert not list(search_keys(single))
    assert not list(sort_keys(single))


@pytest.mark.parametrize(
    ("kind", "rows", "pages", "worth"),
    [
        ("table", 100, 1, False),
        ("table", 0, 0, False),
        ("table", -1, 0, True),
        ("table", 500, 2, True),
        ("materialized view", 500, 9, True),
        ("view", 500, 9, False),
        ("foreign table", 500, 9, False),
        ("partitioned table", 500, 9, True),
    ],
)
def test_which_relations_are_worth_an_index(kind: str, rows: float, pages: int, worth: bool) -> None:
    assert worth_an_index(replace(TABLES[0], kind=kind, rows=rows, pages=pages)) is worth  # type: ignore[arg-type]


def numbers(**fields: object) -> Column:
    statistics = ColumnStatistics(null_frac=0.1, avg_width=4, n_distinct=12, **fields)  # type: ignore[arg-type]
    return Column("a", "integer", False, 1, statistics=statistics)


def test_selectivity_follows_the_statistics() -> None:
    column = numbers(
        most_common_vals=("1", "2"), most_common_freqs=(0.3, 0.1), histogram_bounds=("0", "10", "20", "30", "40")
    )
    assert equality_selectivity(column, TABLES[0], parse_expression("1")) == pytest.approx(0.3)
    assert equality_selectivity(column, TABLES[0], parse_expression("1.0")) == pytest.approx(0.3)
    assert equality_selectivity(column, TABLES[0], parse_expression("7")) == pytest.approx(0.5 / 10)
    assert equality_selectivity(column, TABLES[0], parse_expression("$1")) == pytest.approx(0.9 / 12)
    assert range_selectivity(column, parse_expression("20"), below=True) == pytest.approx(0.4 + 0.5 * 0.5)
    assert range_selectivity(column, parse_expression("25"), below=False) == pytest.approx(0.5 * 0.375)
    assert between_selectivity(column, parse_expression("10"), parse_expression("30")) == pytest.approx(0.25)
    assert any_selectivity(column, TABLES[0], [parse_expression("1"), parse_expression("2")]) == pytest.approx(0.4)
    assert any_selectivity(column, TABLES[0], None) == pytest.approx(0.75)
    assert equality_selectivity(replace(column, statistics=None), TABLES[0], None) is None


def test_selectivity_of_dates_and_text() -> None:
    dates = numbers(histogram_bounds=("2024-01-01", "2024-02-01", "2024-03-01"))
    dates = replace(dates, type="date")
    moved = parse_expression("date '2024-03-02' - interval '30 days'")
    assert range_selectivity(dates, moved, below=True) == pytest.approx(0.45, abs=0.01)
    assert (
        range_selectivity(dates, parse_expression("date '2024-03-02' - interval '9999999 years'"), below=True) is None
    )
    assert range_selectivity(dates, parse_expression("'infinity'"), below=True) is None
    words = replace(numbers(histogram_bounds=("aa", "ab", "ba", "bb")), type="text")
    assert prefix_selectivity(words, "a") == pytest.approx(0.45)
    padded = replace(numbers(most_common_vals=("x   ",), most_common_freqs=(0.2,)), type="character(4)")
    assert equality_selectivity(padded, TABLES[0], parse_expression("'x'")) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("pattern", "escape", "expected"),
    [
        ("ab%", "\\", ("ab", False)),
        ("a_b", "\\", ("a", False)),
        ("a\\%b%", "\\", ("a%b", False)),
        ("a!%", "!", ("a%", True)),
        ("%", "\\", ("", False)),
        ("ab", "\\", ("ab", True)),
        ("a\\", "\\", ("a", True)),
    ],
)
def test_like_prefix(pattern: str, escape: str, expected: tuple[str, bool]) -> None:
    assert like_prefix(pattern, escape) == expected


@pytest.mark.parametrize(
    ("printed", "written"),
    [
        ("lower((code)::text)", "lower(code)"),
        ("(attributes ->> 'color'::text)", "attributes ->> 'color'"),
        ("date_trunc('day'::text, placed_at)", "date_trunc('day', placed_at)"),
        ("(status = 'new'::public.order_status)", "status = 'new'"),
        ("((kind)::text = ANY (ARRAY['a'::text, 'b'::text]))", "kind IN ('a', 'b')"),
        ("(deleted_at IS NULL)", "deleted_at IS NULL"),
        ("EXTRACT(year FROM placed_at)", "EXTRACT(YEAR FROM placed_at)"),
        ("((quantity)::numeric * price)", "quantity * price"),
        ("((kind)::text <> ALL (ARRAY['a'::text, 'b'::text]))", "kind NOT IN ('a', 'b')"),
    ],
)
def test_postgresql_spelling_is_recognised(printed: str, written: str) -> None:
    types = frozenset({("code", "character varying"), ("kind", "text"), ("quantity", "integer"), ("price", "numeric")})
    assert normal_form(printed, types) == normal_form(written, types)


def test_a_cast_that_means_something_is_kept() -> None:
    types = frozenset({("a", "integer"), ("b", "integer"), ("id", "integer")})
    assert normal_form("(id)::text", types) != normal_form("id", types)
    assert normal_form("(a)::numeric / b", types) != normal_form("a / b", types)
    assert normal_form("(a + b) * c", types) != normal_form("a + (b * c)", types)


def keys(*names: str) -> tuple[IndexColumn, ...]:
    return tuple(
        IndexColumn(n.removesuffix(" DESC"), n.removesuffix(" DESC"), n.endswith(" DESC"), n.endswith(" DESC"))
        for n in names
    )


@pytest.mark.parametrize(
    ("existing", "wanted", "free", "ordered", "expected"),
    [
        (("a", "b"), ("b", "a"), 2, False, True),
        (("a", "b"), ("b", "a"), 0, False, False),
        (("a DESC", "b"), ("a", "b"), 1, True, True),
        (("a", "b DESC"), ("a", "b"), 1, True, True),
        (("a DESC", "b"), ("a", "b"), 0, True, False),
        (("a DESC", "b DESC"), ("a", "b"), 0, True, True),
        (("a", "b", "c"), ("b",), 1, False, False),
        (("a DESC",), ("a",), 0, False, True),
    ],
)
def test_existing_indexes(
    existing: tuple[str, ...], wanted: tuple[str, ...], free: int, ordered: bool, expected: bool
) -> None:
    known = replace(TABLES[0], indexes=(Index("i", "public", "t", "btree", keys(*existing)),))
    assert served(IndexCandidate("public", "t", keys(*wanted)), known, free=free, ordered=ordered) is expected


def test_an_index_of_other_rows_does_not_serve() -> None:
    full = Index("i", "public", "t", "btree", keys("a"))
    partial = replace(full, predicate="(b = 3)")
    candidate = IndexCandidate("public", "t", keys("a"))
    assert not served(candidate, replace(TABLES[0], indexes=(partial,)), free=1, ordered=False)
    narrow = replace(candidate, predicate="b = 3")
    assert served(narrow, replace(TABLES[0], indexes=(partial,)), free=1, ordered=False)
    assert not served(narrow, replace(TABLES[0], indexes=(full,)), free=1, ordered=False)
    assert not served(candidate, replace(TABLES[0], indexes=(replace(full, valid=False),)), free=1, ordered=False)
