"""Indexes over many kinds of data, for the benchmarks that compare hypothetical indexes with really built ones.

Each family of tables has a schema of its own. The model of index sizes was worked out on the first two and corrected by
what the next four showed; the last was held out from all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg
import tpch

#: Columns of one table: serial, uniform, skewed, mostly NULL, wide, of many types.
_KINDS = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'elated');
CREATE TABLE g AS
SELECT i::bigint AS id,
       i AS serial,
       (random() * 1000)::int AS thousand,
       (random() * n / 3)::int AS few_each,
       (random() * n * 2)::int AS mostly_unique,
       floor(20000 * power(random(), 6))::int AS skewed,
       (ARRAY['new', 'paid', 'shipped', 'delivered', 'returned to sender'])[1 + floor(5 * power(random(), 3))::int]
         AS status,
       random() < 0.02 AS flag,
       CASE WHEN random() < 0.9 THEN NULL ELSE (random() * 100000)::int END AS rare,
       timestamptz '2024-01-01' + random() * interval '365 days' AS created,
       date '2020-01-01' + (random() * 1500)::int AS day,
       gen_random_uuid() AS uid,
       round((random() * 10000)::numeric, 2) AS price,
       random() AS real8,
       (i % 7)::smallint AS small,
       'user' || (random() * n / 5)::int || '@example.org' AS email,
       repeat(md5(random()::text), 1 + (random() * 3)::int) AS hash,
       md5((i / 3)::text) AS triple,
       (ARRAY['sad', 'ok', 'happy', 'elated'])[1 + i % 4]::mood AS mood,
       ('10.' || i % 200 || '.' || (random() * 200)::int || '.1')::inet AS address,
       lpad((i % 5000)::text, 5, '0')::char(8) AS code,
       CASE WHEN random() < 0.3 THEN NULL ELSE substr(md5(random()::text), 1, 1 + (random() * 20)::int) END AS word,
       interval '1 minute' * (random() * 10000)::int AS lasting,
       ARRAY[i % 10, i % 3] AS pair
  FROM generate_series(1, 500000) i, (SELECT 500000 AS n) s;
ALTER TABLE g ADD PRIMARY KEY (id);
VACUUM (FREEZE, ANALYZE);
"""

#: A log of events: users by Zipf's law, sessions in bursts, times in order, paths and JSON.
_EVENTS = """
CREATE TABLE accounts AS
SELECT i AS id, 'tenant-' || i AS slug, (ARRAY['free', 'free', 'free', 'team', 'enterprise'])[1 + i % 5] AS plan
  FROM generate_series(1, 2000) i;
ALTER TABLE accounts ADD PRIMARY KEY (id);
CREATE TABLE events AS
SELECT i::bigint AS id,
       1 + floor(2000 * power(random(), 2.5))::int AS account_id,
       floor(exp(random() * ln(80000)))::int AS user_id,
       md5((i / (3 + i % 9))::text)::uuid AS session_id,
       timestamptz '2025-01-01' + i * interval '23 seconds' AS happened_at,
       (ARRAY['view', 'view', 'view', 'click', 'click', 'search', 'buy', 'error'])[1 + floor(8 * random())::int]
         AS kind,
       '/' || (ARRAY['p', 'products', 'help', 'blog/archive'])[1 + i % 4] || '/'
         || floor(exp(random() * ln(30000)))::int AS path,
       CASE WHEN random() < 0.97 THEN NULL ELSE 'E' || (1000 + 50 * random())::int END AS error_code,
       CASE WHEN random() < 0.4 THEN NULL
            ELSE '10.' || floor(exp(random() * ln(250)))::int || '.' || floor(250 * random())::int || '.7' END
         AS address,
       round((exp(random() * 9) / 10)::numeric, 1 + i % 3) AS amount,
       jsonb_build_object('device', 'd' || floor(40 * power(random(), 3))::int) AS payload,
       happened.at::date AS day
  FROM generate_series(1, 600000) i,
       LATERAL (SELECT timestamptz '2025-01-01' + i * interval '23 seconds' AS at) happened;
ALTER TABLE events ADD PRIMARY KEY (id);
ALTER TABLE events ADD FOREIGN KEY (account_id) REFERENCES accounts;
VACUUM (FREEZE, ANALYZE);
"""

#: People and their documents: names of few and of many values, long and short text, missing values, correlated columns.
_PEOPLE = """
CREATE TABLE people AS
SELECT i AS id,
       (ARRAY['Ann', 'Bo', 'Christopher', 'Dmitri', 'Elizabeth', 'Fay'])[1 + floor(6 * power(random(), 2))::int]
         || CASE WHEN random() < 0.3 THEN ' ' || chr(65 + floor(26 * random())::int) || '.' ELSE '' END AS first_name,
       initcap(substr(md5(floor(exp(random() * ln(60000)))::text), 1, 4 + i % 9)) AS last_name,
       lower('p' || i || '.' || substr(md5(i::text), 1, i % 12) || '@mail' || i % 13 || '.example') AS email,
       CASE WHEN i % 3 = 0 THEN '+1-' || lpad((random() * 9999999)::int::text, 7, '0') END AS phone,
       floor(900 * power(random(), 3))::int AS city_id,
       floor(900 * power(random(), 3))::int / 40 AS region_id,
       date '1940-01-01' + (24000 * random())::int AS born,
       timestamp '2019-01-01' + i * interval '11 minutes' + random() * interval '3 days' AS joined_at,
       CASE WHEN random() < 0.95 THEN NULL ELSE timestamp '2022-01-01' + (random() * 1000)::int * interval '1 day' END
         AS deleted_at,
       random() < 0.6 AS subscribed,
       (random() * 10)::numeric(4, 1) AS score,
       repeat(substr('lorem ipsum dolor sit amet ', 1, 5 + i % 20), (8 * power(random(), 2))::int) AS about
  FROM generate_series(1, 250000) i;
ALTER TABLE people ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX ON people (email);
CREATE TABLE places AS
SELECT i AS id, c.city_id, c.city_id / 40 AS region_id, c.city_id / 200 AS country_id,
       CASE WHEN i % 10 = 0 THEN 'draft' WHEN i % 100 = 1 THEN 'hidden' ELSE 'public' END AS state,
       (random() * 180)::float8 AS latitude, substr(md5((i / 2)::text), 1, 8) AS code,
       timestamptz '2024-01-01' + i / 50 * interval '1 hour' AS seen_at
  FROM generate_series(1, 300000) i, LATERAL (SELECT (i::bigint * 7919 % 900)::int AS city_id) c;
CREATE STATISTICS places_area (ndistinct) ON city_id, region_id, country_id FROM places;
VACUUM (FREEZE, ANALYZE);
"""

#: Populations of other forms: Pareto, log-normal, a few hot values among unique ones, bursts, products of chances.
_MIXED = """
CREATE TABLE f AS
SELECT i AS id,
       power(1 - random(), -1 / 1.5)::bigint AS pareto,
       exp(2 * sqrt(-2 * ln(1 - random())) * cos(6.283 * random()) + 8)::int AS scattered,
       CASE WHEN random() < 0.2 THEN (random() * 50)::int ELSE (random() * 2e9)::int END AS hot,
       (i / 40 + (random() * 3)::int) AS bursts,
       timestamp '2024-03-01' + i / 5 * interval '1 second' AS second,
       'https://shop.example/' || (random() * random() * 100000)::int || '/'
         || (ARRAY['a', 'img', 'basket/checkout'])[1 + (random() * 2)::int] AS url,
       CASE WHEN random() < 0.6 THEN NULL ELSE (random() * random() * random() * 500000)::int END AS sparse,
       substr(md5((floor(exp(random() * 12)))::text), 1, 16) AS token,
       (random() * random() * 1000)::numeric(8, 1) AS amount,
       chr(65 + (random() * 25)::int) || chr(65 + (random() * 25)::int) || lpad(floor(random() * 1000)::text, 3, '0')
         AS plate,
       (random() * 3000)::int AS place, (random() * 20)::int AS kind
  FROM generate_series(1, 600000) i;
VACUUM (FREEZE, ANALYZE);
"""

#: Measurements of devices: geometric shares, readings of few digits, sentences, tags that come and go.
_SENSORS = """
CREATE TABLE readings AS
SELECT i::bigint AS id,
       1 + least(floor(-ln(1 - random()) * 700)::int, 4999) AS device_id,
       (timestamptz '2023-01-01' + i * interval '41 seconds' + random() * interval '10 minutes')::timestamptz(0)
         AS taken_at,
       (20 + 8 * sqrt(-2 * ln(1 - random())) * cos(6.283 * random()))::numeric(5, 2) AS celsius,
       (floor(random() * random() * 65536))::int AS raw,
       (random() * 100)::real AS humidity,
       CASE WHEN random() < 0.001 THEN 'failed' WHEN random() < 0.05 THEN 'suspect' ELSE 'good' END AS quality,
       CASE WHEN random() < 0.85 THEN NULL ELSE 'batch ' || (i / 1000) END AS batch,
       CASE WHEN random() < 0.5 THEN 'the ' || (ARRAY['pump', 'valve', 'compressor'])[1 + i % 3] || ' of hall '
                 || (random() * 40)::int || ' was ' || (ARRAY['seen', 'heard', 'repaired'])[1 + (random() * 2)::int]
                 || repeat(' again', (random() * 3)::int) END AS remark,
       md5((i / (1 + (i / 7) % 7))::text) AS packet,
       (i % 24)::smallint AS channel,
       b'0'::bit(1)::int AS zero
  FROM generate_series(1, 700000) i;
ALTER TABLE readings ADD PRIMARY KEY (id);
VACUUM (FREEZE, ANALYZE);
"""


@dataclass(frozen=True, slots=True)
class Family:
    """Tables of one kind, with indexes to make on them.

    Parameters:
        name: of its schema.
        fill: makes the tables over a connection whose search path is that schema alone, and analyzes them.
        indexes: what comes behind `CREATE INDEX ON`.
        held_out: whether the size model never saw them while it was worked out.
    """

    name: str
    fill: Callable[[psycopg.Connection[Any]], None]
    indexes: tuple[str, ...]
    held_out: bool

    def make(self, connection: psycopg.Connection[Any]) -> None:
        """Make schema, tables and statistics.

        Parameters:
            connection: in autocommit mode.
        """
        connection.execute(f"CREATE SCHEMA {self.name}".encode())
        connection.execute(f"SET search_path = {self.name}".encode())
        connection.execute("SELECT setseed(0.5)")
        self.fill(connection)


def _script(text: str) -> Callable[[psycopg.Connection[Any]], None]:
    def run(connection: psycopg.Connection[Any]) -> None:
        for statement in text.split(";\n"):
            if statement.strip():
                connection.execute(statement.encode())

    return run


def _shop(connection: psycopg.Connection[Any]) -> None:
    for name in ("schema", "rows", "constraints"):
        text = (resources.files("plugins.demo") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
        _script(text.replace(":scale", "0.5"))(connection)
    connection.execute("VACUUM (FREEZE, ANALYZE)")


def _on(table: str, *indexes: str) -> tuple[str, ...]:
    return tuple(
        f"{table} {index if index.startswith('(') and not index.startswith('((') else f'({index})'}"
        for index in indexes
    )


FAMILIES = (
    Family(
        "kinds",
        _script(_KINDS),
        (
            *_on("g", "id", "serial", "thousand", "few_each", "mostly_unique", "skewed", "status", "flag", "rare"),
            *_on("g", "created", "day", "uid", "price", "real8", "small", "email", "hash", "triple", "mood"),
            *_on("g", "address", "code", "word", "lasting", "pair", "status, created", "status, day DESC"),
            *_on("g", "small, mood, flag", "thousand, small", "rare, id", "email, created", "word, rare"),
            *_on("g", "small, serial, flag", "(thousand) INCLUDE (price, status)", "(email) INCLUDE (id)"),
            "g (created) WHERE status = 'returned to sender'",
            "g (rare) WHERE rare IS NOT NULL",
            "g (id) WHERE flag",
            "g (lower(email))",
            "g (((created AT TIME ZONE 'UTC')::date))",
        ),
        held_out=False,
    ),
    Family(
        "tpch",
        lambda connection: tpch.fill(connection, 0.1),
        (
            *_on("lineitem", "l_shipdate", "l_partkey", "l_suppkey", "l_extendedprice", "l_shipmode", "l_comment"),
            *_on("lineitem", "l_orderkey", "l_quantity", "l_returnflag", "l_partkey, l_suppkey"),
            *_on("lineitem", "l_shipdate, l_discount, l_quantity", "l_shipdate, l_receiptdate"),
            *_on("lineitem", "l_orderkey, l_linenumber", "(l_suppkey) INCLUDE (l_extendedprice, l_discount)"),
            *_on("orders", "o_custkey", "o_orderdate DESC", "o_clerk", "o_comment", "o_orderpriority"),
            *_on("orders", "o_custkey, o_orderdate", "(o_orderdate) WHERE o_orderstatus = 'P'"),
            *_on("customer", "c_name", "c_mktsegment", "c_acctbal", "c_phone"),
            *_on("part", "p_type", "p_name", "p_brand", "p_brand, p_container, p_size"),
        ),
        held_out=False,
    ),
    Family(
        "shop",
        _shop,
        (
            *_on("order_items", "product_id", "product_id, order_id", "(product_id) INCLUDE (quantity)", "unit_price"),
            *_on("orders", "status", "status, created_at DESC", "user_id, created_at", "coupon", "total"),
            *_on("orders", "(created_at) WHERE status = 'pending'", "user_id, status", "date_trunc('day', created_at)"),
            *_on("users", "lower(email)", "country", "referrer_id", "(id) WHERE deleted_at IS NULL"),
            *_on("inventory_movements", "product_id", "warehouse, moved_at", "reason, product_id", "document"),
            *_on("reviews", "user_id", "stars, product_id", "body"),
            *_on("products", "category_id, price", "title"),
        ),
        held_out=False,
    ),
    Family(
        "events",
        _script(_EVENTS),
        (
            *_on("events", "account_id", "user_id", "session_id", "happened_at DESC", "kind", "path", "error_code"),
            *_on("events", "address", "amount", "day", "account_id, happened_at", "user_id, kind", "kind, day"),
            *_on("events", "account_id, user_id", "day, account_id, kind, id", "(user_id) INCLUDE (kind)"),
            *_on("events", "(happened_at) WHERE error_code IS NOT NULL", "(account_id) WHERE kind = 'buy'"),
            *_on(
                "events",
                "upper(kind)",
                "((payload ->> 'device'))",
                "date_trunc('hour', happened_at AT TIME ZONE 'UTC')",
            ),
            *_on("accounts", "slug", "plan"),
        ),
        held_out=False,
    ),
    Family(
        "people",
        _script(_PEOPLE),
        (
            *_on("people", "first_name", "last_name", "last_name, first_name", "phone", "city_id", "born", "joined_at"),
            *_on("people", "deleted_at", "(joined_at) WHERE deleted_at IS NULL", "subscribed, city_id", "score"),
            *_on("people", "about", "lower(last_name)", "(city_id) INCLUDE (email)", "city_id DESC NULLS LAST, born"),
            *_on("people", "(phone) WHERE phone IS NOT NULL", "date_part('year', born)", "upper(email)"),
            *_on("places", "city_id, region_id", "region_id, city_id, country_id", "state", "code", "seen_at"),
            *_on("places", "state, seen_at", "(latitude) WHERE state <> 'public'"),
        ),
        held_out=False,
    ),
    Family(
        "mixed",
        _script(_MIXED),
        (
            *_on("f", "id", "pareto", "scattered DESC", "hot", "bursts", "second", "url", "sparse", "token", "amount"),
            *_on("f", "plate", "place", "hot, kind", "kind, place", "sparse, kind", "token, kind", "plate, amount"),
            *_on("f", "(url) INCLUDE (kind)", "pareto, place", "place, bursts", "(url) WHERE sparse IS NOT NULL"),
            *_on("f", "(token) WHERE kind = 3", "lower(token)", "date_trunc('minute', second)"),
        ),
        held_out=False,
    ),
    Family(
        "sensors",
        _script(_SENSORS),
        (
            *_on("readings", "device_id", "taken_at", "celsius", "raw", "humidity", "quality", "batch", "remark"),
            *_on("readings", "packet", "channel", "device_id, taken_at DESC", "quality, device_id", "raw, channel"),
            *_on("readings", "channel, quality, batch", "batch, remark", "(device_id) INCLUDE (celsius, taken_at)"),
            *_on("readings", "(taken_at) WHERE quality = 'failed'", "(device_id) WHERE batch IS NOT NULL"),
            *_on("readings", "upper(batch)", "date_trunc('hour', taken_at AT TIME ZONE 'UTC')", "zero, id"),
        ),
        held_out=True,
    ),
)
