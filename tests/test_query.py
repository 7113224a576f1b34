"""Reading statements: what is accepted, what is refused and where, and what may be rewritten."""

from __future__ import annotations

import pytest

from optimizer.canonical import same_query
from optimizer.errors import InputError, SqlError, TooLargeError
from optimizer.query import MAX_NESTING, Query, render


def test_a_query_is_parsed_once_and_knows_its_tables():
    query = Query.parse("  SELECT u.id FROM users u JOIN s.orders o ON o.user_id = u.id;  -- done\n")
    assert query.sql == "SELECT u.id FROM users u JOIN s.orders o ON o.user_id = u.id"
    assert query.tables == ("s.orders", "users")
    assert query.kind == "select"
    assert query.tree is not None


def test_fingerprints_ignore_literals_and_layout_but_not_shape():
    one = Query.parse("select a from t where b = 1")
    assert one.fingerprint == Query.parse("SELECT a\nFROM t WHERE b = 2").fingerprint
    assert one.fingerprint != Query.parse("select a from t where c = 1").fingerprint


@pytest.mark.parametrize(
    ("sql", "line", "column", "words"),
    [
        ("", None, None, "empty"),
        (" \n\t ", None, None, "empty"),
        ("-- nothing", None, None, "only comments"),
        ("select 1; select 2", 1, 11, "2 statements"),
        ("select 1\n  from from t", 2, 8, "syntax error"),
        ("select 'é' from t where\n a = = 1", 2, 6, "syntax error"),
        ("select 1 \0", 1, 10, "NUL"),
        ("select '\ud800'", 1, 9, "UTF-8"),
        ("create table t (a int)", 1, 1, "not a query"),
        ("copy t to program 'true'", 1, 1, "COPY is not a query"),
        ("explain select 1", 1, 1, "not a query"),
        ("select * from t where a = %s", 1, 27, "driver's placeholder"),
        ("select * from t where a = :name", 1, 27, "driver's placeholder"),
        ("select * from t where a = ?", 1, 27, "driver's placeholder"),
        ("select `id` from `books`", 1, 13, "looks like MySQL"),
        ("select top 5 id from books", 1, 12, "looks like SQL Server"),
        ("select 1 into x", 1, 1, "SELECT INTO makes a table"),
        ("/* é */ select 1 into x", 1, 9, "SELECT INTO makes a table"),
        ("-- x\n;; -- y\n  explain select 1", 3, 3, "not a query"),
        ("-- select 1\nselect 1;\n -- é\n select 1", 4, 2, "2 statements"),
    ],
)
def test_bad_statements_get_one_clear_error(sql: str, line: int | None, column: int | None, words: str):
    with pytest.raises(SqlError, match=words) as caught:
        Query.parse(sql)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("before", "place"), [("", (1, 8)), ("-- select nope\n", (2, 8)), ("/* é */ ", (1, 16)), ("\n\n-- x\n  ", (4, 10))]
)
def test_errors_about_a_statement_tell_the_place_in_the_whole_text(before: str, place: tuple[int, int]):
    query = Query.parse(f"{before}select nope; -- z")
    assert (query.before, query.sql) == (before, "select nope")
    with pytest.raises(SqlError) as caught, query.in_place():
        raise SqlError.at_offset("column does not exist", query.sql, 7)
    assert (caught.value.line, caught.value.column) == place


def test_size_and_nesting_are_limited_before_any_parser_sees_the_text():
    with pytest.raises(TooLargeError):
        Query.parse("select '" + "x" * 2_000_000 + "'")
    with pytest.raises(SqlError, match="nests parentheses"):
        Query.parse("select " + "(" * 10_000 + "1" + ")" * 10_000)
    assert Query.parse("select " + "(" * (MAX_NESTING - 1) + "1" + ")" * (MAX_NESTING - 1)).kind == "select"
    assert issubclass(TooLargeError, InputError)


def test_parentheses_in_text_are_not_nesting():
    assert Query.parse(f"select '{'(' * 500}'").kind == "select"


def test_long_chains_are_read_and_longer_ones_refused():
    assert Query.parse("select 1" + " union all select x from t" * 200).tables == ("t",)
    assert Query.parse("select " + "||".join(["'a'"] * 2_000)).kind == "select"
    with pytest.raises(SqlError, match="chained or nested too long"):
        Query.parse("select " + "+".join(["1"] * 50_000))


def test_parameters_need_no_space_behind_them():
    assert Query.parse("select * from t where a=$1and b in($2,$3)").tree is not None


def test_parameters_are_counted_outside_of_text():
    assert Query.parse("select * from t where a = $2 and b = '$9' -- $8").parameters == 2


@pytest.mark.parametrize(
    "sql",
    [
        "select date_trunc('day', ts), now(), Foo(a) from t where a not in (1, 2) and b not like 'x!_%' escape '!'",
        "select a::int8, .5, interval '1 day', x is not distinct from y from t order by a desc nulls last limit 3",
        "with q as materialized (select 1 as a) select * from q join lateral (select q.a) z on true",
        "select count(*) filter (where a > 1), sum(a) over (partition by b order by c) from t group by rollup (a, b)",
        "select date_part('year', ts), extract(year from ts), interval '3' month, interval '1' day from t",
        "select a from t where a is not true and b is not null and (c is null) is not false and not d is null",
        "select * from (a join b using (x)) left join c on a.y = c.y where (a.x, a.y) in (select 1, 2)",
    ],
)
def test_statements_come_back_as_the_same_query(sql: str):
    query = Query.parse(sql)
    assert query.unreadable is None
    assert query.tree is not None
    assert same_query(render(query.tree), sql)


def test_a_statement_that_does_not_come_back_is_never_rewritten():
    query = Query.parse("select a from t order by a using >")
    assert query.tree is None
    assert query.unreadable


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("select not a in (1)", "select a not in (1)", True),
        ("select not a between 1 and 2", "select a not between 1 and 2", True),
        ("select 1::int8", "select 1::bigint", True),
        ("select .5", "select 0.5", True),
        ("select interval '90' day", "select interval '90 day'", True),
        ("select interval '90' day", "select interval '90 month'", False),
        ("select interval '1-2' year to month", "select interval '1-2 year'", False),
        ("select not a is true", "select a is not true", True),
        ("select not a is null", "select a is not null", False),  # they differ for rows
        ("select (a) -- why", "select a", True),
        ("select A", 'select "a"', True),
        ("select 1.0", "select 1.00", False),
        ('select "A"', "select a", False),
        ("select a, b", "select b, a", False),
        ("select not (a = 1)", "select a <> 1", False),
    ],
)
def test_canonical_forms(left: str, right: str, same: bool):
    assert same_query(left, right) is same


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT a{'[1]' * 400} FROM t",
        f"SELECT a{'[1].b' * 400} FROM t",
        f"SELECT a{'[b[1]] /* x */ ' * 400} FROM t",
        f"SELECT a::int{'[3]' * 400} FROM t",
        f"SELECT 1{', a[1]' * 2000} FROM t",
    ],
)
def test_subscripts_that_take_the_rewriter_minutes_are_left_alone(sql: str) -> None:
    query = Query.parse(sql)
    assert query.tree is None
    assert query.reading_tree is None
    assert "subscripts" in (query.unreadable or "")


def test_usual_subscripts_are_read() -> None:
    assert Query.parse("SELECT a[1][2], b.c[1].d[2], '[1][1][1][1][1][1][1][1][1]' FROM t").tree is not None
    assert Query.parse(f"SELECT 1 WHERE 1 IN (1{', (ARRAY[1, 2])[1]' * 50})").tree is not None
