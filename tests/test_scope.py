"""Name resolution over statements as users write them."""

from __future__ import annotations

import pytest
from sqlglot import exp

from optimizer.catalog import Catalog, Column, Constraint, Table
from optimizer.query import Query
from optimizer.scope import output_names, own_nodes, scopes


def table(name: str, *columns: str) -> Table:
    return Table(
        "public",
        name,
        "table",
        {c: Column(c, "integer", c == "id", i) for i, c in enumerate(columns)},
        (Constraint(f"{name}_pkey", "primary key", ("id",)),) if "id" in columns else (),
    )


CATALOG = Catalog(
    {
        ("public", t.name): t
        for t in (
            table("users", "id", "name", "city_id"),
            table("orders", "id", "user_id", "total"),
            table("items", "order_id", "qty"),
        )
    }
)


def resolved(sql: str, select: int = 0) -> dict[str, str | None]:
    tree = Query.parse(sql).tree
    assert tree is not None
    scope = scopes(tree, CATALOG)[select]
    found: dict[str, str | None] = {}
    for column in own_nodes(scope.select, exp.Column):
        assert isinstance(column, exp.Column)
        source = scope.source_of(column)
        place = None if source is None else source.alias + ("^" if scope.is_outer(column) else "")
        found[column.sql()] = place
    return found


@pytest.mark.parametrize(
    ("sql", "select", "expected"),
    [
        ("select name from users", 0, {"name": "users"}),
        ("select name, user_id from users u, orders", 0, {"name": "u", "user_id": "orders"}),
        ("select id from users, orders", 0, {"id": None}),
        ("select nothing from users", 0, {"nothing": None}),
        ("select name from unknown_table", 0, {"name": None}),
        ("select (select total from orders where user_id = users.id) from users", 1,
         {"total": "orders", "user_id": "orders", "users.id": "users^"}),
        ("select 1 from users where exists (select 1 from items where order_id = city_id)", 1,
         {"order_id": "items", "city_id": "users^"}),
        ("select 1 from users, (select total from orders where user_id = name) d", 1,
         {"total": "orders", "user_id": "orders", "name": None}),
        ("select 1 from users, lateral (select total from orders where user_id = name) d", 1,
         {"total": "orders", "user_id": "orders", "name": "users^"}),
        ("with users as (select qty as name from items) select name, qty from users", 1,
         {"name": "users", "qty": None}),
        ("select id from users join orders using (id)", 0, {"id": None}),
        ("select public.users.name from users", 0, {"public.users.name": "users"}),
        ("select a, id, name from users as x(a)", 0, {"a": "x", "id": None, "name": "x"}),
        ('select "NAME", NAME from users', 0, {'"NAME"': None, "NAME": "users"}),
    ],
)  # fmt: skip
def test_columns_mean_what_postgresql_takes_them_for(sql: str, select: int, expected: dict[str, str | None]):
    assert resolved(sql, select) == expected


def test_outer_joins_make_sources_nullable():
    tree = Query.parse("select 1 from users u left join orders o on true full join items i on true").tree
    assert tree is not None
    sources = scopes(tree, CATALOG)[0].sources
    assert {a: s.nullable for a, s in sources.items()} == {"u": True, "o": True, "i": True}
    tree = Query.parse("select 1 from users u left join orders o on true join items i on true").tree
    assert tree is not None
    assert {a: s.nullable for a, s in scopes(tree, CATALOG)[0].sources.items()} == {"u": False, "o": True, "i": False}


def test_output_names_expand_stars_and_give_up_honestly():
    def names(sql: str) -> tuple[str, ...] | None:
        tree = Query.parse(sql).tree
        assert tree is not None
        return output_names(tree, CATALOG)

    assert names("select u.*, total as t from users u, orders") == ("id", "name", "city_id", "t")
    assert names("select * from users join orders using (id)") is None
    assert names("select * from elsewhere") is None
    assert names("select count(*), id from users union select 1, 2") == ("count", "id")
