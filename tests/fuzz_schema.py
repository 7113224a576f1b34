"""Tables and values that the statements of sql_fuzzer.py and the rows of fuzz_oracle.py have in common."""

from __future__ import annotations

from collections.abc import Mapping

#: What shop.sql lacks: views, quoted and clashing names, keys of several columns, numerics without a scale, partitions.
EXTRA_DDL = """
CREATE VIEW paid_orders AS SELECT id, user_id, total, placed_at FROM orders WHERE status = 'paid';
CREATE VIEW user_totals AS SELECT user_id, count(*) AS orders, max(total) AS total FROM orders GROUP BY user_id;
CREATE TABLE "Shop Keys" (
    "Id" integer PRIMARY KEY, "user" integer NOT NULL REFERENCES users (id), "Group" varchar(8), id text,
    flag char(3) NOT NULL, city_id integer NOT NULL REFERENCES cities (id), UNIQUE ("user", flag));
CREATE TABLE shipments (
    parcel smallint NOT NULL, order_id bigint NOT NULL, line integer NOT NULL, amount numeric, label char(8) NOT NULL,
    sent_at timestamp(0) with time zone, weight real, PRIMARY KEY (parcel, order_id, line),
    FOREIGN KEY (order_id, line) REFERENCES order_items (order_id, line));
CREATE TABLE visits (
    id bigint NOT NULL, user_id integer NOT NULL REFERENCES users (id), seen_on date NOT NULL, pages smallint,
    PRIMARY KEY (id, seen_on)) PARTITION BY RANGE (seen_on);
CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM (MINVALUE) TO ('2024-01-02');
CREATE TABLE visits_new PARTITION OF visits FOR VALUES FROM ('2024-01-02') TO (MAXVALUE);
CREATE UNIQUE INDEX movements_once ON movements (warehouse, id) WHERE delta > 3;
"""

#: Kinds of columns: values of one kind can be compared with each other.
TABLES: Mapping[str, Mapping[str, str]] = {
    "cities": {"id": "int", "name": "text", "country": "char"},
    "users": {
        "id": "int",
        "email": "text",
        "phone": "text",
        "nickname": "text",
        "badge": "int",
        "city_id": "int",
        "home_city_id": "int",
        "referrer_id": "int",
        "active": "bool",
        "score": "float",
        "created_at": "ts",
        "seen_at": "tz",
    },
    "categories": {"id": "int", "parent_id": "int", "title": "text"},
    "products": {"id": "int", "sku": "text", "category_id": "int", "title": "text", "price": "num", "weight": "float"},
    "orders": {
        "id": "int",
        "user_id": "int",
        "coupon_id": "int",
        "status": "status",
        "total": "num",
        "placed_at": "ts",
        "shipped_on": "date",
        "code": "char",
    },
    "order_items": {
        "order_id": "int",
        "line": "int",
        "product_id": "int",
        "quantity": "int",
        "price": "num",
        "discount": "num",
    },
    "reviews": {"id": "int", "product_id": "int", "user_id": "int", "stars": "int", "body": "text", "written_at": "tz"},
    "archived_orders": {"id": "int", "user_id": "int", "status": "status", "total": "num", "placed_at": "ts"},
    "movements": {"id": "int", "product_id": "int", "warehouse": "int", "delta": "int", "moved_at": "ts"},
    "paid_orders": {"id": "int", "user_id": "int", "total": "num", "placed_at": "ts"},
    "user_totals": {"user_id": "int", "orders": "int", "total": "num"},
    "Shop Keys": {"Id": "int", "user": "int", "Group": "text", "id": "text", "flag": "char", "city_id": "int"},
    "shipments": {
        "parcel": "int",
        "order_id": "int",
        "line": "int",
        "amount": "num",
        "label": "char",
        "sent_at": "tz",
        "weight": "float",
    },
    "visits": {"id": "int", "user_id": "int", "seen_on": "date", "pages": "int"},
}
POPULAR = ("users", "orders", "order_items", "products", "cities", "reviews", "movements")

#: Columns that are joined: most along foreign keys, some without one, some across types.
_LINKS = """
orders.user_id users.id | order_items.order_id orders.id | order_items.product_id products.id
orders.user_id users.id | order_items.order_id orders.id | order_items.product_id products.id
users.city_id cities.id | users.home_city_id cities.id | users.referrer_id users.id | reviews.user_id users.id
reviews.product_id products.id | movements.product_id products.id | products.category_id categories.id
categories.parent_id categories.id | archived_orders.id orders.id | archived_orders.user_id users.id
orders.user_id reviews.user_id | order_items.product_id movements.product_id | orders.coupon_id users.badge
orders.status archived_orders.status | users.nickname cities.name | users.phone products.sku
orders.total archived_orders.total | products.price order_items.price | orders.code cities.country
orders.code users.nickname | users.score products.weight | orders.placed_at users.created_at
orders.shipped_on movements.moved_at | orders.placed_at reviews.written_at | reviews.stars users.id
order_items.line reviews.stars | paid_orders.user_id users.id | user_totals.user_id users.id
Shop Keys.user users.id | Shop Keys.city_id cities.id | Shop Keys.id cities.name | Shop Keys.flag orders.code
shipments.order_id orders.id | shipments.order_id order_items.order_id | shipments.line order_items.line
shipments.amount orders.total | shipments.label orders.code | visits.user_id users.id
visits.seen_on orders.shipped_on | users.id users.id | orders.id orders.id | products.price orders.total
"""
End = tuple[str, str]


def _read_links() -> dict[str, list[tuple[str, End]]]:
    found: dict[str, list[tuple[str, End]]] = {name: [] for name in TABLES}
    for link in _LINKS.strip().replace("\n", " | ").split(" | "):
        left, right = (end.rsplit(".", 1) for end in link.replace("Shop Keys", "Shop_Keys").split())
        for (table, column), (other, partner) in ((left, right), (right, left)):
            found[table.replace("_Keys", " Keys")].append((column, (other.replace("_Keys", " Keys"), partner)))
    return found


#: By table: a column and the column of another table that it is joined with.
LINKS: Mapping[str, list[tuple[str, End]]] = _read_links()

#: Constants as SQL by kind. Rows are drawn from them too, so that conditions hold for some rows.
POOLS: Mapping[str, tuple[str, ...]] = {
    "int": ("0", "1", "2", "3", "4", "5", "7", "8"),
    "num": ("0", "0.5", "1", "2.5", "5.25", "10", "20", "1.00"),
    "float": ("0.1", "0.2", "1.5", "0"),
    "text": ("'a'", "'b'", "'A'", "'ab'", "'bo'", "''", "'a '", "'5'", "'05'"),
    "char": ("'a'", "'ab'", "'A'", "'5'", "''", "'ab '"),
    "bool": ("true", "false"),
    "status": ("'new'", "'paid'", "'shipped'", "'cancelled'"),
    "date": (
        "'2023-12-31'",
        "'2024-01-01'",
        "'2024-01-02'",
        "'2024-02-29'",
        "'2024-03-01'",
        "'2024-12-31'",
        "'2025-01-01'",
    ),
    "ts": (
        "'2023-12-31 23:59:59.999999'",
        "'2024-01-01'",
        "'2024-01-01 12:00'",
        "'2024-01-02 00:00:00'",
        "'2024-02-29'",
        "'2024-03-01'",
        "'2025-01-01'",
    ),
    "tz": (
        "'2024-01-01 00:00+00'",
        "'2024-01-01 23:30+00'",
        "'2024-03-10 07:30+00'",
        "'2024-03-31 00:30+00'",
        "'2024-11-03 05:30+00'",
        "'2025-01-01 00:00+00'",
    ),
}
#: Values that only rows have.
RARE_VALUES: Mapping[str, tuple[str, ...]] = {
    "num": ("NaN", "-1", "0.00"),
    "float": ("NaN", "-0", "0.30000000000000004"),
    "date": ("infinity", "-infinity", "0005-03-01 BC"),
    "ts": ("infinity", "-infinity", "0005-03-01 BC", "2024-01-31 23:59:59.9999995"),
    "tz": ("infinity", "-infinity"),
    "int": ("-1", "6", "9"),
    "text": ("zz", "%"),
}
SQL_TYPES: Mapping[str, str] = {
    "int": "bigint",
    "num": "numeric",
    "float": "real",
    "text": "text",
    "char": "char(2)",
    "bool": "boolean",
    "status": "order_status",
    "date": "date",
    "ts": "timestamp",
    "tz": "timestamptz",
}


def quoted(name: str) -> str:
    """Quote a name where PostgreSQL needs it."""
    plain = name.isidentifier() and name == name.lower() and name not in ("user", "group", "order")
    return name if plain else f'"{name}"'
