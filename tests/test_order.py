"""What ORDER BY fixes, and where LIMIT leaves open which rows are kept."""

from __future__ import annotations

import pytest

from optimizer.catalog import Catalog, Column, Constraint, Table
from optimizer.equivalence.order import order_of
from optimizer.equivalence.total_order import loose, order_sensitive
from optimizer.query import Query


def table(name: str, columns: str, key: str = "", *, nullable: bool = False) -> Table:
    described = {
        c: Column(c, "integer", not_null=c in key.split() and not nullable, position=i)
        for i, c in enumerate(columns.split(), start=1)
    }
    kind = "unique" if nullable else "primary key"
    constraints = (Constraint("k", kind, tuple(key.split())),) if key else ()
    return Table("public", name, "table", described, constraints)


CATALOG = Catalog(
    {
        ("public", t.name): t
        for t in (
            table("users", "id name city", "id"),
            table("orders", "id user_id total", "id"),
            table("items", "order_id line n", "order_id line"),
            table("bag", "a b"),
            table("maybe", "a b", "a", nullable=True),
        )
    }
)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM users",
        "SELECT * FROM users ORDER BY id LIMIT 1",
        "SELECT id AS k, name FROM users ORDER BY k LIMIT 3",
        "SELECT id, name FROM users ORDER BY 1 LIMIT 3",
        "SELECT name FROM users ORDER BY name LIMIT 2",
        "SELECT * FROM bag ORDER BY b, a LIMIT 2",
        "SELECT * FROM users WHERE id = 4 LIMIT 1",
        "SELECT * FROM items WHERE order_id = $1 ORDER BY line LIMIT 5",
        "SELECT u.*, o.* FROM users u JOIN orders o ON o.user_id = u.id ORDER BY o.id LIMIT 3",
        "SELECT o.id, u.name FROM orders o LEFT JOIN users u ON u.id = o.user_id ORDER BY o.id LIMIT 3",
        "SELECT u.id, (SELECT total FROM orders o WHERE o.user_id = u.id ORDER BY total DESC LIMIT 1) FROM users u",
        "SELECT u.id, (SELECT total FROM orders o WHERE o.user_id = u.id ORDER BY o.id LIMIT 1) FROM users u",
        "SELECT DISTINCT ON (user_id) * FROM orders ORDER BY user_id, id",
        "SELECT city, count(*) FROM users GROUP BY city ORDER BY count(*) DESC, city LIMIT 2",
        "SELECT DISTINCT name FROM users ORDER BY name LIMIT 2",
        "SELECT count(*) FROM users LIMIT 1",
        "(SELECT id FROM users ORDER BY id LIMIT 3) UNION ALL (SELECT id FROM orders ORDER BY id LIMIT 3) "
        "ORDER BY id LIMIT 3",
        "SELECT * FROM users WHERE EXISTS (SELECT 1 FROM orders LIMIT 1)",
        "SELECT * FROM users OFFSET 0",
        "SELECT * FROM users LIMIT ALL",
        "SELECT * FROM users ORDER BY name FETCH FIRST 1 ROWS WITH TIES",
        "SELECT u.id, l.total FROM users u CROSS JOIN LATERAL "
        "(SELECT total FROM orders o WHERE o.user_id = u.id ORDER BY o.id LIMIT 1) l ORDER BY u.id LIMIT 3",
        "SELECT u.id, g.s FROM users u JOIN (SELECT user_id, sum(total) AS s FROM orders GROUP BY user_id) g "
        "ON g.user_id = u.id ORDER BY u.id LIMIT 4",
    ],
)
def test_a_total_order(sql: str) -> None:
    assert loose(Query.parse(sql), CATALOG) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM users LIMIT 1",
        "SELECT * FROM users ORDER BY name LIMIT 1",
        "SELECT id FROM users ORDER BY name LIMIT 1",
        "SELECT * FROM users OFFSET 2",
        "SELECT * FROM users FETCH FIRST 1 ROWS ONLY",
        "SELECT * FROM bag ORDER BY a LIMIT 2",
        "SELECT * FROM maybe ORDER BY a LIMIT 2",
        "SELECT * FROM items WHERE line = 1 ORDER BY line LIMIT 2",
        "SELECT * FROM items ORDER BY order_id LIMIT 2",
        "SELECT * FROM users u LEFT JOIN orders o ON o.user_id = u.id ORDER BY u.id LIMIT 3",
        "SELECT * FROM users u JOIN orders o ON o.user_id = u.id ORDER BY u.id LIMIT 3",
        "SELECT u.id, (SELECT total FROM orders o WHERE o.user_id = u.id LIMIT 1) FROM users u",
        "SELECT u.id, (SELECT total FROM orders o ORDER BY user_id LIMIT 1) FROM users u",
        "SELECT DISTINCT ON (user_id) * FROM orders ORDER BY user_id",
        "SELECT DISTINCT ON (user_id) * FROM orders ORDER BY user_id, total",
        "SELECT city, count(*) FROM users GROUP BY city ORDER BY count(*) LIMIT 2",
        "SELECT id, name FROM users UNION ALL SELECT id, total FROM orders ORDER BY id LIMIT 3",
        "SELECT id, generate_series(1, 2) FROM users ORDER BY id LIMIT 3",
        "SELECT * FROM users u RIGHT JOIN orders o ON o.user_id = u.id ORDER BY u.id LIMIT 3",
        "SELECT * FROM (SELECT * FROM users LIMIT 3) x ORDER BY id",
        "WITH x AS (SELECT * FROM users LIMIT 3) SELECT count(*) FROM x",
        "SELECT * FROM users WHERE id IN (SELECT user_id FROM orders LIMIT 3)",
    ],
)
def test_no_total_order(sql: str) -> None:
    reason = loose(Query.parse(sql), CATALOG)
    assert reason is not None
    assert "order" in reason


@pytest.mark.parametrize(
    "sql, output, keys, limited",
    [
        ("SELECT a, b FROM bag", "a b", (), False),
        ("SELECT a, b FROM bag ORDER BY b, 1", "a b", (1, 0), False),
        ("SELECT a, b FROM bag ORDER BY bag.b LIMIT 2", "a b", (2,), True),
        ("SELECT a + 1, b FROM bag ORDER BY a + 1", "?column? b", (0,), False),
        ("SELECT * FROM bag t ORDER BY t.b, lower(t.a)", "a b", (2, 3), False),
        ("SELECT a FROM bag UNION SELECT b FROM bag ORDER BY a", "a", (0,), False),
        ("SELECT a FROM bag ORDER BY b, a", "a", (1, 0), False),
        ("SELECT a FROM bag OFFSET 0", "a", (), False),
        ("SELECT a FROM bag OFFSET 1", "a", (), True),
        ("SELECT a FROM bag ORDER BY a FETCH FIRST 2 ROWS WITH TIES", "a", (0,), False),
        ("DELETE FROM bag", "", (), False),
    ],
)
def test_sort_keys(sql: str, output: str, keys: tuple[int, ...], limited: bool) -> None:
    order = order_of(Query.parse(sql), output.split())
    assert order.keys == keys
    assert order.limited is limited
    assert (order.widened is not None) == any(key >= order.width for key in keys)


def test_a_hidden_key_is_appended() -> None:
    order = order_of(Query.parse("SELECT a FROM bag ORDER BY b DESC LIMIT 3"), ["a"])
    assert order.widened == "SELECT a, b FROM bag ORDER BY b DESC LIMIT 3"


def test_functions_that_see_an_order() -> None:
    assert order_sensitive(Query.parse("SELECT string_agg(name, ',') FROM users"))
    assert order_sensitive(Query.parse("SELECT row_number() OVER (ORDER BY name) FROM users"))
    assert not order_sensitive(Query.parse("SELECT sum(id) FROM users"))
