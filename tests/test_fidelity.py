"""A hollow shadow plans as its source: each node, estimate and cost, over whatever planners look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zoo
from fidelity import compare, on_shadow, on_source

from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.template.clone_options import CloneOptions


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> Cluster:
    """A cluster with the zoo in it."""
    zoo.make(scratch_cluster, "zoo", rows=4_000)
    return scratch_cluster


@pytest.fixture(scope="module")
def shadow(source: Cluster, settings: Settings) -> Iterator[ShadowDatabase]:
    with Services.open(settings) as services:
        services.add_hollow("zoo", source.conninfo("zoo", zoo.READER), options=CloneOptions(role=zoo.ROLE))
        yield services.shadow("zoo")


def test_all_plans_are_the_sources(source: Cluster, shadow: ShadowDatabase) -> None:
    with source.connect("zoo", zoo.ROLE) as connection, shadow.session() as session:
        outcomes = list(compare(on_source(connection), on_shadow(session), zoo.questions()))
    assert len(outcomes) > 250
    assert {o.question.name: o.differences for o in outcomes if o.differences} == {}


def test_nothing_of_the_zoo_is_left_out(shadow: ShadowDatabase) -> None:
    mapping, secured = shadow.info.not_cloned
    assert mapping.startswith("CREATE USER MAPPING")
    assert mapping.endswith("no plan depends on it")
    assert secured.startswith(f"row-level security: plans are those of the role {zoo.ROLE}")


LIMITED = """
CREATE TYPE size AS ENUM ('s', 'm');
CREATE TABLE hashed (size size) PARTITION BY HASH (size);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE settings (tenant integer);
INSERT INTO settings VALUES (3);
CREATE TABLE rows AS SELECT i % 5 AS tenant FROM generate_series(1, 100) i;
ANALYZE rows;
CREATE FUNCTION tenant() RETURNS integer LANGUAGE sql STABLE AS 'SELECT tenant FROM settings';
CREATE FUNCTION tenants() RETURNS SETOF integer LANGUAGE sql STABLE AS 'SELECT tenant FROM settings';
CREATE FUNCTION half(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 2';
"""


def test_what_cannot_be_planned_without_rows_is_told(source: Cluster, settings: Settings) -> None:
    with source.connect() as admin:
        admin.execute("CREATE DATABASE limited")
    with source.connect("limited") as connection:
        connection.execute(LIMITED.encode())
    with Services.open(settings) as services:
        record = services.add_hollow("limited", source.conninfo("limited", zoo.READER))
    told = [note for note in record.not_cloned if not note.startswith("collation")]
    assert [note.partition(":")[0] for note in told] == [
        "partitions by the hash of an enum",
        "functions that read tables",
    ]
    assert "public.hashed" in told[0]
    assert "1 that the planner may call (such as public.tenant)" in told[1]
