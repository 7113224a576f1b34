"""Statements that users wrote, sent all at once: each has its own fate, and none outlives a time limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from optimizer.errors import SqlError, TimeLimitError
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.server.cluster import Cluster

TEMPORARY = "SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema() ORDER BY relname"
DEAF = """
    CREATE FUNCTION pg_temp.deaf() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$
"""


@pytest.fixture
def connection(scratch_cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """An unprivileged connection."""
    scratch_cluster.ensure_role("guarded")
    with scratch_cluster.connect("postgres", "guarded") as connection:
        yield connection


def guarded(connection: psycopg.Connection[Any], cluster: Cluster, timeout_ms: int = 10_000) -> GuardedConnection:
    def end(process: int) -> None:
        with cluster.connect() as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [process])

    return GuardedConnection(connection, timeout_ms=timeout_ms, end_session=end)


def test_one_that_is_refused_leaves_the_others_alone(
    connection: psycopg.Connection[Any], scratch_cluster: Cluster
) -> None:
    refusals = guarded(connection, scratch_cluster).run_each(
        [
            "CREATE TEMP TABLE first ()",
            "CREATE TEMP TABLE first ()",
            "CREATE TEMP TABLE bad (x nowhere)",
            "CREATE TEMP TABLE last ()",
        ]
    )
    assert [refusal and refusal.args[0] for refusal in refusals] == [
        None,
        'relation "first" already exists',
        'type "nowhere" does not exist',
        None,
    ]
    assert connection.execute(TEMPORARY).fetchall() == [("first",), ("last",)]


def test_each_is_one_statement(connection: psycopg.Connection[Any], scratch_cluster: Cluster) -> None:
    two, one = guarded(connection, scratch_cluster).run_each(["SELECT 1; CREATE TEMP TABLE second ()", "SELECT 2"])
    assert isinstance(two, SqlError)
    assert one is None
    assert connection.execute(TEMPORARY).fetchall() == []


def test_the_connection_can_be_used_afterwards(connection: psycopg.Connection[Any], scratch_cluster: Cluster) -> None:
    use = guarded(connection, scratch_cluster)
    assert use.run_each([]) == []
    assert use.run_each(["SELECT 1"]) == [None]
    assert use.run("", "SELECT 2").get_value(0, 0) == b"2"


@pytest.mark.parametrize("slow", ["SELECT pg_sleep(60)", "SELECT pg_temp.deaf()"])
def test_past_the_limit_the_session_ends_and_what_waits_is_not_run(
    slow: str, connection: psycopg.Connection[Any], scratch_cluster: Cluster
) -> None:
    connection.execute(DEAF.encode())
    process = connection.info.backend_pid
    with pytest.raises(TimeLimitError, match="300 ms"):
        guarded(connection, scratch_cluster, 300).run_each(["SELECT 1", slow, "SELECT pg_sleep(120)"])
    assert connection.closed
    with scratch_cluster.connect() as admin:
        assert admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [process]).fetchall() == []
