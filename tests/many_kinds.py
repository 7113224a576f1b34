"""A database with rows whose columns suit every access method, and queries that each of them serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from optimizer.shadow.server.cluster import Cluster

EXTENSIONS: LiteralString = """
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS btree_gin;
CREATE EXTENSION IF NOT EXISTS bloom;
"""
TABLES: LiteralString = """
SELECT setseed(0.42);
CREATE TABLE vocabulary AS
SELECT i, (SELECT string_agg(substr('etaoinshrdlucmfwypvbgkqjxz', 1 + floor(26 * power(random(), 1.7))::int, 1), '')
             FROM generate_series(1, 2 + i % 9 + (random() * 3)::int) k WHERE i > 0) AS word
  FROM generate_series(1, 5000) i;
CREATE INDEX ON vocabulary (i);
ANALYZE vocabulary;
CREATE FUNCTION words(n int, skew float8) RETURNS text[] LANGUAGE sql VOLATILE AS $$
SELECT array_agg((SELECT word FROM vocabulary WHERE i = w))
  FROM (SELECT 1 + floor(5000 * power(random(), skew))::int AS w FROM generate_series(1, n)) p $$;
CREATE TABLE things (
    id integer PRIMARY KEY, thousand integer, email text, tags text[], title text, doc jsonb, place point,
    during tstzrange, address inet, created timestamptz, lexemes tsvector, scattered timestamptz);
INSERT INTO things
SELECT i, (random() * 1000)::int, 'user' || (random() * 3000)::int || '@example.org', words(1 + i % 5, 4),
       array_to_string(words(3 + i % 6, 3), ' '),
       jsonb_build_object('kind', (ARRAY['click', 'view', 'buy'])[1 + i % 3], 'user', (random() * 2000)::int,
                          'tags', to_jsonb(words(2, 5))),
       point(random() * 1000, random() * 1000),
       tstzrange(timestamptz '2024-01-01 00:00+00' + i * interval '1 min',
                 timestamptz '2024-01-01 00:00+00' + i * interval '1 min' + (random() * 100)::int * interval '1 min'),
       ('10.' || i % 200 || '.' || (random() * 200)::int || '.1')::inet,
       timestamptz '2024-01-01 00:00+00' + i * interval '1 min',
       to_tsvector('simple', array_to_string(words(5 + i % 20, 4), ' ')),
       timestamptz '2024-01-01 00:00+00' + (random() * 30000)::int * interval '1 min'
  FROM generate_series(1, 30000) i;
CREATE TABLE events (id bigint, day date NOT NULL, kind text, payload jsonb, note text) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2024-02-01') TO ('2024-03-01') PARTITION BY LIST (kind);
CREATE TABLE events_2_view PARTITION OF events_2 FOR VALUES IN ('view');
CREATE TABLE "Events 2, rest" PARTITION OF events_2 DEFAULT;
INSERT INTO events
SELECT i, date '2024-01-01' + i % 60, (ARRAY['click', 'view', 'buy'])[1 + i % 3],
       jsonb_build_object('user', (random() * 1000)::int, 'page', (random() * 50)::int), 'note ' || md5(i::text)
  FROM generate_series(1, 20000) i;
"""
VECTORS: LiteralString = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE items (id integer PRIMARY KEY, embedding vector(32), half halfvec(24), bits bit(64), unsized vector);
INSERT INTO items
SELECT i, (SELECT array_agg(random()) FROM generate_series(1, 32) k WHERE i > 0)::vector(32),
       (SELECT array_agg(random()) FROM generate_series(1, 24) k WHERE i > 0)::halfvec(24),
       (random() * 1e9)::bigint::bit(64), NULL
  FROM generate_series(1, 5000) i;
"""
ORIGIN = "'[" + ",".join(["0.5"] * 32) + "]'"
HALF_ORIGIN = "'[" + ",".join(["0.5"] * 24) + "]'"


@dataclass(frozen=True, slots=True)
class Case:
    """An index, a query that it serves, and how far the costs with the real and the hypothetical one may be apart.

    Parameters:
        share: largest relative difference of total costs; what is left of errors in size.
    """

    index: str
    query: str
    share: float = 0.01


CASES = (
    Case("things USING hash (email)", "SELECT * FROM things WHERE email = 'user7@example.org'"),
    Case("things USING hash (thousand) WITH (fillfactor = 50)", "SELECT * FROM things WHERE thousand = 7"),
    Case("things USING gin (tags)", "SELECT * FROM things WHERE tags @> ARRAY['xyz']", 0.2),
    Case("things USING gin (title gin_trgm_ops)", "SELECT * FROM things WHERE title LIKE '%qxz%'", 0.35),
    Case("things USING gin (email gin_trgm_ops)", "SELECT * FROM things WHERE email LIKE '%ser77@%'", 0.35),
    Case("things USING gin (doc)", "SELECT * FROM things WHERE doc @> '{\"user\": 77}'", 0.2),
    Case("things USING gin (doc jsonb_path_ops) WITH (fastupdate = off)",
         "SELECT * FROM things WHERE doc @> '{\"user\": 77}'", 0.2),
    Case("things USING gin (lexemes)", "SELECT * FROM things WHERE lexemes @@ 'qxz'", 0.2),
    Case("things USING gin (to_tsvector('english', title))",
         "SELECT * FROM things WHERE to_tsvector('english', title) @@ to_tsquery('english', 'qxz')", 0.2),
    Case("things USING gin (thousand, tags)", "SELECT * FROM things WHERE thousand = 7 AND tags @> ARRAY['xyz']", 0.3),
    Case("things USING gist (place)", "SELECT * FROM things WHERE place <@ box '((10,10),(20,20))'"),
    Case("things USING gist (place)", "SELECT * FROM things ORDER BY place <-> point '(5,5)' LIMIT 10", 0.2),
    Case("things USING gist (during)",
         "SELECT * FROM things WHERE during && tstzrange('2024-01-03', '2024-01-03 01:00')"),
    Case("things USING gist (title gist_trgm_ops (siglen = 32))", "SELECT * FROM things WHERE title LIKE '%qxz%'", 0.1),
    Case("things USING gist (thousand, during) INCLUDE (id)",
         "SELECT * FROM things WHERE thousand = 7 AND during @> timestamptz '2024-01-05'"),
    Case("things USING spgist (place)", "SELECT * FROM things WHERE place <@ box '((10,10),(20,20))'", 0.1),
    Case("things USING spgist (email)", "SELECT * FROM things WHERE email = 'user7@example.org'", 0.2),
    Case("things USING spgist (address)", "SELECT * FROM things WHERE address << '10.7.0.0/16'", 0.1),
    Case("things USING brin (created)",
         "SELECT * FROM things WHERE created BETWEEN '2024-01-05' AND '2024-01-05 01:00'"),
    Case("things USING brin (created) WITH (pages_per_range = 2)",
         "SELECT * FROM things WHERE created BETWEEN '2024-01-05' AND '2024-01-05 01:00'"),
    Case("things USING brin (created timestamptz_minmax_multi_ops, address inet_inclusion_ops)"
         " WITH (pages_per_range = 8)",
         "SELECT * FROM things WHERE created BETWEEN '2024-01-05' AND '2024-01-05 01:00'", 0.1),
    Case("things USING brin (created timestamptz_bloom_ops) WITH (pages_per_range = 4)",
         "SELECT * FROM things WHERE created = '2024-01-05'", 0.1),
    Case("things USING brin (created) WHERE thousand < 100",
         "SELECT * FROM things WHERE created < '2024-01-02' AND thousand < 100"),
    Case("things USING bloom (thousand, email) WITH (length = 64)",
         "SELECT * FROM things WHERE thousand = 7 AND email = 'user7@example.org'"),
    Case("things USING gin (lower(title) gin_trgm_ops) WHERE thousand < 500",
         "SELECT * FROM things WHERE lower(title) LIKE '%qxz%' AND thousand < 500", 0.35),
    Case("events USING gin (payload jsonb_path_ops)", "SELECT * FROM events WHERE payload @> '{\"user\": 7}'", 0.2),
    Case("events USING brin (id) WITH (pages_per_range = 16)", "SELECT * FROM events WHERE id < 100"),
    Case("events USING hash (id)", "SELECT * FROM events WHERE id = 77 AND day > '2024-02-10'"),
    Case("events USING btree (id)", "SELECT * FROM events WHERE id = 77"),
)  # fmt: skip
VECTOR_CASES = (
    Case("items USING hnsw (embedding vector_l2_ops)",
         f"SELECT id FROM items ORDER BY embedding <-> {ORIGIN} LIMIT 10", 0.05),
    Case("items USING hnsw (embedding vector_cosine_ops) WITH (m = 8, ef_construction = 32)",
         f"SELECT id FROM items ORDER BY embedding <=> {ORIGIN} LIMIT 10", 0.05),
    Case("items USING hnsw (half halfvec_l2_ops)",
         f"SELECT id FROM items ORDER BY half <-> {HALF_ORIGIN} LIMIT 10", 0.05),
    Case("items USING ivfflat (embedding vector_l2_ops) WITH (lists = 50)",
         f"SELECT id FROM items ORDER BY embedding <-> {ORIGIN} LIMIT 10", 0.1),
    Case("items USING ivfflat (embedding vector_ip_ops) WITH (lists = 7)",
         f"SELECT id FROM items ORDER BY embedding <#> {ORIGIN} LIMIT 10", 0.1),
)  # fmt: skip


def make_many_kinds(cluster: Cluster, name: str, *, vectors: bool = True) -> str:
    """Make the database `name` and return a connection string to it."""
    with cluster.connect() as admin:
        identifier = sql.Identifier(name)
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        admin.execute(sql.SQL("ALTER DATABASE {} SET random_page_cost = 1.5").format(identifier))
    with cluster.connect(name) as connection:
        fill(connection, vectors=vectors)
    return cluster.conninfo(name)


def fill(connection: psycopg.Connection[object], *, vectors: bool) -> None:
    """Make and analyze the tables; the connection must be in autocommit mode."""
    connection.execute(EXTENSIONS)
    connection.execute(TABLES)
    if vectors:
        connection.execute(VECTORS)
    connection.execute("VACUUM (ANALYZE)")
