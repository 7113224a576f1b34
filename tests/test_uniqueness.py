"""Which columns tell the rows of a join apart."""

from __future__ import annotations

import pytest

from optimizer.catalog import Catalog, Column, Constraint, Index, IndexColumn, RelationKind, Table
from optimizer.query import Query
from optimizer.rewriting.uniqueness import output_places, sources_in, tells_rows_apart
from optimizer.scope import scopes


def table(
    name: str, columns: str, *constraints: Constraint, kind: RelationKind = "table", indexes: tuple[Index, ...] = ()
) -> Table:
    """Columns are written `name!` when NOT NULL, `name~` when numeric, `name%` under a loose collation."""
    made = {}
    for position, word in enumerate(columns.split()):
        plain = word.rstrip("!~%")
        type_ = "numeric" if "~" in word else "text" if "%" in word else "integer"
        made[plain] = Column(plain, type_, "!" in word, position, deterministic="%" not in word)
    return Table("public", name, kind, made, constraints, indexes)


def key(*columns: str, primary: bool = True, deferrable: bool = False) -> Constraint:
    return Constraint("k", "primary key" if primary else "unique", columns, deferrable=deferrable)


PARTIAL = Index("p", "public", "partial", "btree", (IndexColumn("id", "id"),), predicate="x > 0", unique=True)
TABLES = (
    table("a", "id! x y!", key("id")),
    table("b", "id! aid u", key("id"), key("u", primary=False)),
    table("pair", "p! q! x", key("p", "q")),
    table("late", "id!", key("id", deferrable=True)),
    table("partial", "id! x", indexes=(PARTIAL,)),
    table("amounts", "id!~", key("id")),
    table("floats", "f", key("f")),
    table("names", "name!%", key("name")),
    table("seen", "id!", key("id"), kind="view"),
)
FLOAT = Column("f", "real", True, 0)
CATALOG = Catalog(
    {("public", t.name): t for t in TABLES if t.name != "floats"}
    | {("public", "floats"): Table("public", "floats", "table", {"f": FLOAT}, (key("f"),))}
)


@pytest.mark.parametrize(
    ("sql", "apart"),
    [
        ("SELECT id FROM a", True),
        ("SELECT * FROM a", True),
        ("SELECT b.* FROM a JOIN b ON b.id = a.x", False),
        ("SELECT a.id FROM a JOIN b ON b.id = a.x", True),
        ("SELECT a.id FROM a JOIN b USING (id)", True),
        ("SELECT b.id FROM a JOIN b USING (id)", True),
        ("SELECT x FROM a", False),
        ("SELECT a.id FROM a, b WHERE b.u = a.x", True),
        ("SELECT u FROM b", False),
        ("SELECT u FROM b WHERE u = 5", True),
        ("SELECT u FROM b WHERE u = 5 OR u = 6", False),
        ("SELECT a.id FROM a LEFT JOIN b ON b.u = a.x", True),
        ("SELECT a.id FROM a LEFT JOIN b ON b.u = a.x AND a.y > 0", True),
        ("SELECT b.id FROM a LEFT JOIN b ON b.id = a.id", False),
        ("SELECT a.id FROM a RIGHT JOIN b ON b.id = a.id", False),
        ("SELECT a.id, b.id FROM a FULL JOIN b ON b.aid = a.id", True),
        ("SELECT a.id FROM a FULL JOIN b ON b.id = a.id", False),
        ("SELECT a.id FROM a LEFT JOIN (b JOIN pair ON pair.p = b.id AND pair.q = 1) ON b.id = a.x", False),
        ("SELECT p FROM pair", False),
        ("SELECT p FROM pair WHERE q = 1", True),
        ("SELECT a.id FROM a JOIN pair ON p = a.id AND q = a.y", True),
        ("SELECT 1 FROM a WHERE id = $1", True),
        ("SELECT 1 FROM a WHERE id = 1 + x", False),
        ("SELECT id FROM late", False),
        ("SELECT id FROM partial", False),
        ("SELECT name FROM names", False),
        ("SELECT id FROM seen", False),
        ("SELECT d.id FROM (SELECT id FROM a) AS d", False),
        ("SELECT f FROM floats JOIN amounts ON amounts.id = floats.f", False),
        ("SELECT 1 FROM amounts WHERE id = 1.5", True),
        ("SELECT 1 FROM amounts WHERE id = 1.5::real", False),
    ],
)
def test_rows_are_told_apart(sql: str, apart: bool) -> None:
    tree = Query.parse(sql).tree
    assert tree is not None
    scope = scopes(tree, CATALOG)[0]
    places = output_places(scope)
    assert places is not None
    assert tells_rows_apart(scope, places) is apart


def test_a_correlated_column_is_one_value() -> None:
    tree = Query.parse("SELECT 1 FROM a WHERE EXISTS (SELECT DISTINCT 1 FROM b WHERE b.id = a.x)").tree
    assert tree is not None
    inner = scopes(tree, CATALOG)[1]
    assert tells_rows_apart(inner, ())


def test_only_the_tables_asked_for_count() -> None:
    tree = Query.parse("SELECT a.id FROM a JOIN b ON b.aid = a.id").tree
    assert tree is not None
    scope = scopes(tree, CATALOG)[0]
    assert not tells_rows_apart(scope, [("a", "id")])
    assert tells_rows_apart(scope, [("a", "id")], among=["a"])


@pytest.mark.parametrize("item", ["generate_series(1, 2)", "unnest(ARRAY[1])", "lower(unknown(x))"])
def test_what_may_return_a_set_is_refused(item: str) -> None:
    tree = Query.parse(f"SELECT id, {item} FROM a").tree
    assert tree is not None
    assert output_places(scopes(tree, CATALOG)[0]) is None


def test_sources_are_found_in_subqueries_too() -> None:
    sql = "SELECT 1 FROM a, b WHERE EXISTS (SELECT 1 FROM pair WHERE p = b.id AND q = u) AND a.x > 0 AND nowhere = 1"
    tree = Query.parse(sql).tree
    assert tree is not None
    all_scopes = scopes(tree, CATALOG)
    first, second, third = (part for part in tree.args["where"].this.flatten())
    found = [sources_in(part, all_scopes[0], all_scopes) for part in (first, second, third)]
    assert [{s.alias for s in sources} if sources is not None else None for sources in found] == [{"b"}, {"a"}, None]
