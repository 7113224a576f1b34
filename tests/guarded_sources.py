"""Sources whose roles may read more or less of them, on the embedded PostgreSQL and on Debian's 15."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import pytest

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor

#: The embedded server's major version is no number here, so that it may change.
EMBEDDED, DEBIAN = "embedded", "15"
#: What nobody may find in a shadow from which it was redacted: values that no schema or name has.
SECRET = "zanzibar"

SCHEMA: LiteralString = """
CREATE SCHEMA sales;
CREATE SCHEMA "Odd ""one";
CREATE DOMAIN sales.address AS text;
CREATE TYPE sales.stage AS ENUM ('new', 'paid');
CREATE TABLE sales.customers (
    id integer PRIMARY KEY, email sales.address UNIQUE, city text NOT NULL, born date, tags text[],
    facts jsonb, upper_city text GENERATED ALWAYS AS (upper(city)) STORED, stage sales.stage);
INSERT INTO sales.customers (id, email, city, born, tags, facts, stage)
SELECT i, 'zanzibar' || i || '@example.org', 'zanzibar city ' || i % 40, date '1950-01-01' + i * 7 % 9999,
       ARRAY['zanzibar tag ' || i % 9], jsonb_build_object('key', 'zanzibar fact ' || i % 9),
       (ARRAY['new', 'paid'])[1 + i % 2]::sales.stage
  FROM generate_series(1, 6000) i;
CREATE INDEX customers_city ON sales.customers (city);
CREATE INDEX customers_lower ON sales.customers (lower(email));
CREATE INDEX customers_born ON sales.customers (born DESC);
CREATE FUNCTION sales.place(sales.customers) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.city';
CREATE INDEX customers_row ON sales.customers (sales.place(customers.*));
CREATE TABLE sales.orders (
    id bigint PRIMARY KEY, customer_id integer REFERENCES sales.customers, email sales.address REFERENCES
    sales.customers (email), placed date, total numeric);
INSERT INTO sales.orders
SELECT i, 1 + i % 6000, 'zanzibar' || 1 + i % 6000 || '@example.org', date '2024-01-01' + i / 40, i % 500
  FROM generate_series(1, 20000) i;
CREATE INDEX orders_placed ON sales.orders (placed);
CREATE TABLE sales.logs (at date, line text) PARTITION BY RANGE (at);
CREATE TABLE sales.logs_24 PARTITION OF sales.logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO sales.logs SELECT date '2024-01-01' + i % 300, 'zanzibar line ' || i % 50 FROM generate_series(1, 3000) i;
CREATE STATISTICS sales.places ON city, email FROM sales.customers;
CREATE VIEW sales.names AS SELECT id, email AS name FROM sales.customers;
CREATE MATERIALIZED VIEW sales.totals AS
    SELECT n.name, count(*) AS orders FROM sales.names n JOIN sales.orders o ON o.customer_id = n.id GROUP BY 1;
CREATE TABLE "Odd ""one"."A table" ("The ""key"" of it" integer PRIMARY KEY, note text);
INSERT INTO "Odd ""one"."A table"
SELECT i, E'zanzibar\\n-- planproof: {"end": true}\\n' || i % 4 FROM generate_series(1, 900) i;
CREATE TABLE sales.secrets (id integer PRIMARY KEY, owner text);
INSERT INTO sales.secrets SELECT i, 'zanzibar owner ' || i % 3 FROM generate_series(1, 1500) i;
ALTER TABLE sales.secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON sales.secrets USING (owner = 'zanzibar owner 1');
CREATE SEQUENCE sales.numbers;
"""


def missing(what: str) -> None:
    """Skip, saying why; on the build machines it is an error."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing on this build machine")
    pytest.skip(f"{what} is not installed here")


@contextmanager
def source_cluster(version: str) -> Iterator[Cluster]:
    """A cluster of a version in a home of its own, without any database of ours."""
    home = Path(tempfile.mkdtemp(prefix="pp-"))
    home.chmod(0o711)
    supervisor = Supervisor(Settings(home=home, cluster_linger_s=10))
    try:
        if version == EMBEDDED:
            yield supervisor.cluster(ClusterKind.SCRATCH)
        else:
            if not supervisor.serves(int(version)):
                missing(f"PostgreSQL {version} (Debian's package postgresql-{version})")
            yield supervisor.cluster(ClusterKind.HOLLOW, int(version))
    finally:
        supervisor.stop_all()
        supervisor.close()
        shutil.rmtree(home, ignore_errors=True)


def fill(cluster: Cluster, schema: LiteralString = SCHEMA, database: str = "guarded") -> None:
    """Make the database and analyze it; its statistics are of all rows, so that they never vary."""
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {database} TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'".encode())
    with cluster.connect(database) as connection:
        connection.execute("SET default_statistics_target = 250")
        connection.execute(schema)
        connection.execute("VACUUM (ANALYZE)")
