"""The proof: a query as it was and as advised, both really executed on the database that has the rows."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from optimizer.advice import Advice
from optimizer.errors import TimeLimitError

#: Runs that are timed, after one that warms the cache; a slow query is timed once.
RUNS = 3
SLOW_MS = 1000.0
LIMIT = "60s"


@dataclass(frozen=True, slots=True)
class Execution:
    """One query executed.

    Parameters:
        milliseconds: median time, rows fetched included.
        rows: number of rows.
        digest: of the rows in text form, sorted: equal digests are equal bags.
    """

    milliseconds: float
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Both executions side by side."""

    before: Execution
    after: Execution

    @property
    def same_rows(self) -> bool:
        """True when both gave the same bag of rows."""
        return self.before.digest == self.after.digest

    @property
    def speedup(self) -> float:
        """Time before divided by time after."""
        return self.before.milliseconds / self.after.milliseconds

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "before_ms": self.before.milliseconds,
            "after_ms": self.after.milliseconds,
            "rows": self.before.rows,
            "same_rows": self.same_rows,
        }


def prove(
    connection: psycopg.Connection[Any], query: str, advice: Advice, progress: Callable[[str, float], None]
) -> Proof:
    """Execute a query before and after following the advice; indexes are really built, and dropped again.

    Parameters:
        connection: in autocommit, as the owner of the tables.
        query: the original.
        advice: what to follow.
        progress: told the step and the share done, 0 to 1.

    Errors: `TimeLimitError` when either form runs past the limit.
    """
    connection.execute(f"SET statement_timeout = '{LIMIT}'")
    progress("executing the original", 0.3)
    before = _execute(connection, query)
    progress("building what is advised" if advice.ddl else "executing what is advised", 0.7)
    with _indexes(connection, advice):
        progress("executing what is advised", 0.9)
        after = _execute(connection, advice.sql or query)
    return Proof(before, after)


@contextmanager
def _indexes(connection: psycopg.Connection[Any], advice: Advice) -> Iterator[None]:
    try:
        for statement in advice.ddl:
            connection.execute(statement.encode())
        yield
    finally:
        for statement in advice.rollback:
            connection.execute(statement.replace("CONCURRENTLY ", "CONCURRENTLY IF EXISTS ", 1).encode())


def _execute(connection: psycopg.Connection[Any], query: str) -> Execution:
    times: list[float] = []
    rows: list[Any] = []
    while len(times) < 1 + RUNS and (not times or times[0] < SLOW_MS):
        begin = time.perf_counter()
        try:
            rows = connection.execute(query.encode()).fetchall()
        except psycopg.errors.QueryCanceled:
            raise TimeLimitError(f"a query of the demo ran past {LIMIT}") from None
        times.append((time.perf_counter() - begin) * 1000)
    digest = hashlib.sha256("\n".join(sorted(map(repr, rows))).encode()).hexdigest()
    return Execution(statistics.median(times[1:] or times), len(rows), digest)
