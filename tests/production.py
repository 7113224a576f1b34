"""A small database with rows that stands for production in tests: skewed, indexed, analyzed."""

from __future__ import annotations

from typing import LiteralString

import psycopg
from psycopg import sql

from optimizer.shadow.server.cluster import Cluster

TABLES: LiteralString = """
SELECT setseed(0.42);
CREATE TYPE public.stage AS ENUM ('new', 'paid', 'shipped');
CREATE TABLE users (
    id integer PRIMARY KEY, email text NOT NULL UNIQUE, city integer, name text, created_at timestamp NOT NULL);
CREATE TABLE orders (
    id bigint PRIMARY KEY, user_id integer NOT NULL REFERENCES users, stage stage NOT NULL, total numeric(10, 2),
    placed_at timestamptz NOT NULL, note text);
CREATE TABLE quiet (id integer PRIMARY KEY);
INSERT INTO users
SELECT i, 'u' || i || '@example.org', (random() * 50)::int, md5(i::text), timestamp '2023-01-01' + i * interval '37 min'
  FROM generate_series(1, 5000) i;
INSERT INTO orders
SELECT i, 1 + (random() ^ 2 * 4999)::int, (ARRAY['new', 'paid', 'paid', 'shipped'])[1 + (random() * 3)::int]::stage,
       (random() * 1000)::numeric(10, 2), timestamptz '2024-01-01 00:00+00' + i * interval '2 min',
       repeat('x', (random() * 40)::int)
  FROM generate_series(1, 60000) i;
CREATE INDEX orders_user_id_idx ON orders (user_id);
CREATE INDEX orders_placed_at_idx ON orders (placed_at);
CREATE INDEX orders_new_idx ON orders (total) WHERE stage = 'new';
CREATE VIEW paid AS SELECT * FROM orders WHERE stage = 'paid';
CREATE FUNCTION double(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
"""


def make_production(cluster: Cluster, name: str) -> str:
    """Make the database `name` and return a connection string to it."""
    with cluster.connect() as admin:
        identifier = sql.Identifier(name)
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        admin.execute(sql.SQL("ALTER DATABASE {} SET random_page_cost = 1.5").format(identifier))
        admin.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Europe/Lisbon'").format(identifier))
    with cluster.connect(name) as connection:
        connection.execute("SET default_statistics_target = 250")  # samples every row, so statistics never vary
        connection.execute(TABLES)
        connection.execute("VACUUM (ANALYZE)")
    return cluster.conninfo(name)


def source_plan(dsn: str, query: str, ddl: str | None = None) -> dict[str, object]:
    """Plan a query on production itself, with a real index if one is given; nothing stays."""
    with psycopg.connect(dsn) as connection:
        if ddl is not None:
            connection.execute(ddl.encode())
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
        connection.rollback()
    assert row is not None
    plan: dict[str, object] = row[0][0]["Plan"]
    return plan
