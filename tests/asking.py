"""Asks a running service for advice, and counts what that costs it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

_T = TypeVar("_T")

SCHEMA = """
CREATE TABLE authors (id int PRIMARY KEY, name text);
CREATE TABLE books (id int PRIMARY KEY, author_id int REFERENCES authors (id), title text NOT NULL, printed timestamp);
CREATE INDEX books_printed ON books (printed);
INSERT INTO authors SELECT i, 'n' || i FROM generate_series(1, 500) i;
INSERT INTO books SELECT i, i % 500 + 1, 't' || i, timestamp '2020-01-01' + i * interval '1 hour'
FROM generate_series(1, 20000) i;
"""
#: Gets a rewrite, over which the gate sits for a moment; tests take days of their own (MM-DD).
REWRITTEN = "SELECT id FROM books WHERE date_trunc('day', printed) = '2021-{0}' AND title <> 'x'"
ANSWERED = "Turn a date function on a column into a range"


def ask(client: httpx.Client, sql: str, **more: Any) -> dict[str, Any]:
    """Ask for advice on the shadow `cached`, or where `more` says."""
    place = {} if "schema" in more else {"shadow": "cached"}
    response = client.post("/v1/optimize", json=place | {"sql": sql} | more)
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def is_cached(client: httpx.Client, sql: str, **more: Any) -> bool:
    """Whether the answer comes from the cache."""
    return bool(ask(client, sql, **more)["cached"])


def computations(client: httpx.Client) -> int:
    """How many reports a service has computed, by its figures of phases: the cache has no say in them."""
    text = client.get("/metrics").text
    found = re.search(r'^planproof_phase_seconds_count\{phase="parse"\} (\S+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def at_once(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Make calls on threads that all begin at the same moment."""
    start = threading.Barrier(len(calls))

    def call(work: Callable[[], _T]) -> _T:
        start.wait()
        return work()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))
