"""Nothing by itself: the requests of the load and kill benchmarks, as teams and attackers might send them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from served import SHADOW

#: Statuses that a service may give to anybody when it has too much to do.
BUSY = frozenset({429, 503})
#: Throw-away schemas among which requests choose.
SCHEMAS = 400

_COMMON = (
    "SELECT * FROM orders WHERE date_trunc('month', placed_at) = '2024-03-01'",
    "SELECT u.nickname, count(*) FROM users u JOIN orders o ON o.user_id = u.id GROUP BY u.nickname",
    "SELECT * FROM products WHERE category_id = 7 ORDER BY price LIMIT 20",
    "SELECT id FROM users WHERE id NOT IN (SELECT user_id FROM orders WHERE total > 100)",
    "SELECT o.id FROM orders o WHERE o.total + 10 > 500 AND o.status = 'paid'",
)
_FRESH = (
    "SELECT * FROM orders WHERE user_id = {n} AND placed_at > '2024-01-01' ORDER BY placed_at DESC LIMIT 10",
    "SELECT id, email FROM users WHERE id NOT IN (SELECT user_id FROM orders WHERE coupon_id = {n})",
    "SELECT title FROM products p WHERE (SELECT count(*) FROM reviews r WHERE r.product_id = p.id AND stars > {d}) > 0",
    "SELECT * FROM orders WHERE total * 2 > {n}",
    "SELECT DISTINCT u.id, u.email FROM users u JOIN orders o ON o.user_id = u.id WHERE o.total > {n}",
)
_SAME = (
    ("SELECT id FROM users WHERE active IS TRUE AND id > {n}", "SELECT id FROM users WHERE active AND id > {n}"),
    ("SELECT DISTINCT id FROM orders WHERE user_id = {n}", "SELECT id FROM orders WHERE user_id = {n}"),
)
_DIFFERENT = (
    ("SELECT id FROM orders WHERE total > {n}", "SELECT id FROM orders WHERE total >= {n}"),
    ("SELECT city_id FROM users WHERE id > {n}", "SELECT DISTINCT city_id FROM users WHERE id > {n}"),
)
_BAD = ("SELEC 1", "SELECT * FROM nowhere WHERE id = {n}", "SELECT 1; SELECT 2", "SELECT (((((", "SELECT {n} +")
_ENDLESS = "WITH RECURSIVE r(n) AS (SELECT {n} UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
_CROSS = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, {n}00000) b, generate_series(1, 9999) c"
_REGEX = "SELECT id FROM users WHERE nickname ~ '^(a+)+{n}$' AND repeat('a', 100000) ~ '(x+x+)+y'"


@dataclass(frozen=True, slots=True)
class Request:
    """One request and the statuses that it deserves when there is time for it.

    Parameters:
        kind: of the mix.
        path: below the service's address.
        body: JSON.
        statuses: what a service with nothing else to do may answer.
        method: of HTTP.
    """

    kind: str
    path: str
    body: bytes
    statuses: frozenset[int]
    method: str = "POST"

    def deserved(self, status: int) -> bool:
        """Whether a status is right for it, under load too."""
        return status in self.statuses or status in BUSY


def _post(kind: str, path: str, body: Mapping[str, Any], *statuses: int) -> Request:
    return Request(kind, f"/v1/{path}", json.dumps(body).encode(), frozenset(statuses or (200,)))


def cached(chance: random.Random) -> Request:
    """One of a few queries that everybody asks."""
    return _post("optimize, cached", "optimize", {"sql": chance.choice(_COMMON), "shadow": SHADOW})


def fresh(chance: random.Random) -> Request:
    """A query that nobody has asked before."""
    sql = _filled(chance.choice(_FRESH), chance)
    return _post("optimize, fresh", "optimize", {"sql": sql, "shadow": SHADOW})


def schema_text(number: int) -> str:
    """One of many small schemas."""
    columns = ", ".join(f"c{i} integer" for i in range(number % 7))
    return (
        f"CREATE TABLE event_{number} (id bigint PRIMARY KEY, kind text NOT NULL, seen date{', ' if columns else ''}"
        f"{columns});\nCREATE TABLE note_{number} (event_id bigint REFERENCES event_{number} (id), body text);\n"
        f"CREATE INDEX ON note_{number} (event_id);"
    )


def throwaway(chance: random.Random) -> Request:
    """A query with a schema of its own."""
    number = chance.randrange(SCHEMAS)
    sql = f"SELECT * FROM event_{number} WHERE id NOT IN (SELECT event_id FROM note_{number})"
    return _post("throw-away schema", "optimize", {"sql": sql, "schema": schema_text(number)})


def explain(chance: random.Random) -> Request:
    """A plan with hypothetical indexes."""
    indexes = ["CREATE INDEX ON orders (user_id, placed_at)", "CREATE INDEX ON orders (total) WHERE status = 'paid'"]
    sql = f"SELECT * FROM orders WHERE user_id = {chance.randrange(10_000)} ORDER BY placed_at"
    return _post("explain", "explain", {"sql": sql, "shadow": SHADOW, "indexes": indexes})


def equivalent(chance: random.Random) -> Request:
    """Two queries that return the same rows."""
    return _pair("equivalence, same", _SAME, chance)


def different(chance: random.Random) -> Request:
    """Two queries that do not."""
    return _pair("equivalence, differs", _DIFFERENT, chance)


def bad_sql(chance: random.Random) -> Request:
    """SQL that cannot be planned."""
    return _post("bad SQL", "optimize", {"sql": _filled(chance.choice(_BAD), chance), "shadow": SHADOW}, 400)


def hostile(chance: random.Random) -> Request:
    """A query that would run for ever."""
    sql = _filled(chance.choice((_ENDLESS, _CROSS, _REGEX)), chance)
    body = {"left": sql, "right": f"SELECT * FROM ({sql}) q", "shadow": SHADOW, "timeout_ms": 2_000}
    return _post("hostile", "equivalence", body, 200, 400, 504)


def big_body(chance: random.Random) -> Request:
    """More than is accepted, or nearly."""
    if chance.random() < 0.5:
        return _post("big body", "optimize", {"sql": f"SELECT '{'x' * 1_100_000}'", "shadow": SHADOW}, 413)
    sql = f"SELECT * FROM orders WHERE user_id IN ({', '.join(map(str, range(chance.randrange(500, 2_000))))})"
    return _post("big body", "optimize", {"sql": sql, "shadow": SHADOW})


def wrong_request(chance: random.Random) -> Request:
    """What a client's mistake looks like."""
    if chance.random() < 0.5:
        return _post("wrong request", "optimize", {"sql": "SELECT 1", "shadow": "nowhere"}, 404)
    return Request("wrong request", "/v1/optimize", b'{"sql": ', frozenset({400}))


def _pair(kind: str, pairs: tuple[tuple[str, str], ...], chance: random.Random) -> Request:
    number = chance.randrange(100_000)
    left, right = (text.format(n=number) for text in chance.choice(pairs))
    return _post(kind, "equivalence", {"left": left, "right": right, "shadow": SHADOW})


def _filled(text: str, chance: random.Random) -> str:
    return text.replace("{n}", str(chance.randrange(1, 1_000_000))).replace("{d}", str(chance.randrange(1, 5)))


#: Share of each kind, in hundredths.
MIX: tuple[tuple[Callable[[random.Random], Request], int], ...] = (
    (cached, 38),
    (fresh, 15),
    (throwaway, 12),
    (explain, 10),
    (equivalent, 6),
    (different, 6),
    (bad_sql, 6),
    (hostile, 2),
    (big_body, 2),
    (wrong_request, 3),
)


def requests(seed: int) -> Callable[[], Request]:
    """A source of mixed requests, the same for the same seed."""
    chance = random.Random(seed)
    makers, weights = zip(*MIX, strict=True)
    return lambda: chance.choices(makers, weights)[0](chance)
