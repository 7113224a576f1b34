"""Examples for the OpenAPI document; a test checks each against its schema."""

from __future__ import annotations

import json
from typing import Any

_SQL = "SELECT * FROM orders WHERE date_trunc('day', placed_at) = '2026-01-01'"
_REWRITTEN = "SELECT * FROM orders WHERE placed_at >= '2026-01-01' AND placed_at < '2026-01-02'"
_DDL = "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint NOT NULL, placed_at timestamp NOT NULL)"
_INDEX = "CREATE INDEX CONCURRENTLY ON public.orders (placed_at)"
_PLAN = {
    "Node Type": "Seq Scan",
    "Relation Name": "orders",
    "Startup Cost": 0.0,
    "Total Cost": 25_406.0,
    "Plan Rows": 5_000,
    "Plan Width": 24,
}
_CHEAPER_PLAN = {
    "Node Type": "Index Scan",
    "Index Name": "orders_placed_at_idx",
    "Relation Name": "orders",
    "Startup Cost": 0.42,
    "Total Cost": 112.5,
    "Plan Rows": 2_720,
    "Plan Width": 24,
}
_TESTED = {
    "verdict": "tested",
    "method": "differential",
    "databases": 60,
    "bound": None,
    "detail": "both queries returned the same rows on 60 generated databases",
    "counterexample": None,
}
_SHADOW = {
    "name": "production",
    "kind": "hollow",
    "server_version": "18.1",
    "revision": "5d41402abc4b",
    "created": "2026-01-31T12:00:00+00:00",
    "origin": "db.example.org/shop",
    "not_cloned": [],
    "redact_statistics": [],
    "only_readable": False,
    "role": "",
    "changes": "",
}
_JOB_ID = "5f0c3f0b8f5e4a5f9d5d0a8f2f1c7b3e"
_JOB = {
    "id": _JOB_ID,
    "kind": "shadow.add",
    "shadow": "production",
    "state": "running",
    "progress": 0.4,
    "step": "restoring statistics",
    "error": None,
    "created": "2026-01-31T12:00:00.000+00:00",
    "started": "2026-01-31T12:00:01.000+00:00",
    "ended": None,
    "attempt": 1,
    "cancel_requested": False,
    "version": 7,
}

#: By operation, then by name, as OpenAPI's `examples`.
REQUESTS: dict[str, dict[str, Any]] = {
    "POST /v1/optimize": {
        "registered": {"summary": "On a registered shadow", "value": {"sql": _SQL, "shadow": "production"}},
        "schema": {"summary": "On a schema sent along", "value": {"sql": _SQL, "schema": _DDL}},
        "parameters": {
            "summary": "With values of its parameters",
            "value": {"sql": "SELECT * FROM orders WHERE user_id = $1", "schema": _DDL, "params": [42]},
        },
    },
    "POST /v1/equivalence": {
        "refuted": {
            "summary": "Two queries over a schema",
            "value": {
                "left": "SELECT DISTINCT user_id FROM orders",
                "right": "SELECT user_id FROM orders",
                "schema": _DDL,
            },
        }
    },
    "POST /v1/explain": {
        "index": {
            "summary": "With a hypothetical index",
            "value": {"sql": _SQL, "schema": _DDL, "indexes": ["CREATE INDEX ON orders (placed_at)"]},
        }
    },
    "POST /v1/shadows": {
        "schema": {"summary": "From a schema", "value": {"name": "shop", "schema": _DDL}},
        "clone": {
            "summary": "A hollow clone of a server that the settings allow",
            "value": {"name": "production", "from": "postgresql://planproof@db.example.org/shop"},
        },
        "redacted": {
            "summary": "A clone without values of columns that hold text",
            "value": {
                "name": "production",
                "from": "postgresql://planproof@db.example.org/shop",
                "redact_statistics": ["text", "users.birthday"],
            },
        },
    },
    "POST /v1/shadows/{name}/refresh": {
        "as before": {"summary": "As before", "value": {}},
        "redacted": {
            "summary": "Without values of a column, from now on",
            "value": {"redact_statistics": ["users.email"]},
        },
    },
}

#: By operation, of its successful answer.
RESPONSES: dict[str, Any] = {
    "POST /v1/optimize": {
        "query": {"sql": _SQL, "fingerprint": "a0e0b2c4d6f8a1c3", "tables": ["orders"]},
        "shadow": {
            "name": "production",
            "kind": "hollow",
            "server_version": "18.1",
            "source_version": "18.1",
            "planned_by": "planned by PostgreSQL 18.1, the source's own version",
            "revision": "5d41402abc4b",
            "not_cloned": [],
        },
        "baseline": {"total_cost": 25_406.0, "startup_cost": 0.0, "plan_rows": 5_000.0, "plan": _PLAN},
        "advice": [
            {
                "id": "9f86d081884c7d65",
                "kind": "combined",
                "rules": ["RW201", "IX101"],
                "title": "Compare the column itself, and index it",
                "why": "an index on placed_at cannot be used while the column is inside a function",
                "sql": _REWRITTEN,
                "ddl": [_INDEX],
                "rollback": ["DROP INDEX CONCURRENTLY public.orders_placed_at_idx"],
                "cost": {"before": 25_406.0, "after": 112.5, "ratio": 0.0044, "unit": "planner"},
                "measured": None,
                "evidence": "estimated",
                "equivalence": _TESTED,
                "plan": _CHEAPER_PLAN,
                "storage_bytes": 22_487_040,
                "source": "rule",
            }
        ],
        "rejected": [],
        "findings": [],
        "cached": False,
        "timings": {
            "parse": 0.9,
            "propose": 8.4,
            "explain": 6.1,
            "verify": 310.2,
            "total": 330.8,
            "explain_calls": 9,
        },
    },
    "POST /v1/equivalence": {
        "verdict": "refuted",
        "method": "differential",
        "databases": 3,
        "bound": None,
        "detail": "the queries return different rows",
        "counterexample": {
            "setup": "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint NOT NULL, "
            "placed_at timestamp NOT NULL);\n"
            "INSERT INTO orders VALUES (1, 1, '2026-01-01'), (2, 1, '2026-01-01');",
            "left_rows": [["1"]],
            "right_rows": [["1"], ["1"]],
        },
    },
    "POST /v1/explain": {
        "plan": _CHEAPER_PLAN,
        "total_cost": 112.5,
        "indexes": [
            {
                "ddl": "CREATE INDEX ON public.orders (placed_at)",
                "name": "orders_placed_at_idx",
                "storage_bytes": 22_487_040,
                "used": True,
            }
        ],
    },
    "POST /v1/shadows": {"job": _JOB_ID},
    "POST /v1/shadows/{name}/refresh": {"job": _JOB_ID},
    "GET /v1/shadows": [_SHADOW],
    "GET /v1/shadows/{name}": {
        **_SHADOW,
        "source_version": "16.4",
        "planned_by": (
            "planned by the embedded PostgreSQL 18.1; the source is 16.4: plans can differ, install postgresql-16 "
            "beside planproof and refresh the shadow to have its own planner"
        ),
        "settings": {"search_path": '"public"', "random_page_cost": "1.1"},
        "tables": [{"name": "public.orders", "kind": "table", "rows": 1_000_000.0, "bytes": 104_857_600, "indexes": 2}],
    },
    "GET /v1/jobs": [_JOB],
    "GET /v1/jobs/{job_id}": _JOB,
    "DELETE /v1/jobs/{job_id}": {**_JOB, "cancel_requested": True, "version": 8},
    "GET /v1/jobs/{job_id}/events": {"event": "progress", "id": "7", "data": json.dumps(_JOB)},
    "GET /v1/rules": [
        {
            "code": "RW401",
            "name": "distinct-on-unique",
            "kind": "rewrite",
            "source": "rule",
            "summary": "DISTINCT over rows that are unique already",
            "what": "Removes DISTINCT where a key makes every row unique.",
            "why": "The server sorts or hashes all rows only to find no duplicates.",
            "example": "SELECT DISTINCT id FROM orders",
            "instead": "SELECT id FROM orders",
            "preconditions": "A unique constraint over columns that are NOT NULL and all selected.",
        }
    ],
    "GET /healthz": {"status": "ok"},
    "GET /readyz": {"status": "ok", "jobs": "ok"},
    "GET /metrics": 'planproof_http_requests_total{method="POST",route="/v1/optimize",status="200"} 12.0\n',
}


def _problem(status: int, slug: str, title: str, detail: str, **more: Any) -> dict[str, Any]:
    type_ = f"urn:planproof:problem:{slug}" if slug else "about:blank"
    return {"type": type_, "title": title, "status": status, "detail": detail, **more}


PROBLEMS: dict[int, dict[str, Any]] = {
    400: _problem(
        400,
        "sql",
        "The SQL cannot be used",
        'syntax error at or near "FORM" (line 1, column 10)',
        line=1,
        column=10,
    ),
    401: _problem(401, "key", "No valid key", "send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"),
    403: _problem(
        403,
        "forbidden-source",
        "That source is not allowed",
        "the host db.example.org is not allowed: an operator can list it in PLANPROOF_ALLOW_HTTP_SOURCES",
    ),
    404: _problem(404, "unknown-shadow", "No such shadow", "no shadow is named 'production'"),
    408: _problem(408, "", "Request Timeout", "the request's body took too long to arrive: send it faster"),
    409: _problem(409, "", "Conflict", "the job has ended already"),
    413: _problem(413, "too-large", "The input is too large", "the query is larger than 1,000,000 bytes: send less"),
    415: _problem(415, "", "The body is not JSON", "send JSON, with the header Content-Type: application/json"),
    421: _problem(
        421,
        "host",
        "Not a name of this service",
        "the request was sent to a host name that this service does not go by: an operator can list it in "
        "PLANPROOF_ALLOWED_HOSTS",
    ),
    422: _problem(
        422,
        "field",
        "A field is wrong",
        "sql: Field required",
        errors=[{"field": "sql", "detail": "Field required"}],
    ),
    429: _problem(429, "too-many", "Too many requests", "the service is busy: try again later"),
    500: _problem(500, "internal", "planproof failed", "a defect of planproof; its log says more"),
    503: _problem(
        503, "shadow-unavailable", "The shadow cannot be reached", "the server of the shadow 'production' is away"
    ),
    504: _problem(
        504,
        "time-limit",
        "The time limit passed",
        "the time limit passed while planning the query: allow more time, or ask for less",
    ),
}
