"""The HTTP face on a real socket, with real clusters."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from http_server import eventually, problem, serving
from job_worker import finished, running_worker
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel

from api import problems
from api.app import create_app
from api.body_limit import BodyLimit
from api.errors import ForbiddenSourceError
from api.schemas import (
    ExplanationModel,
    ReportModel,
    RuleModel,
    ShadowDetailModel,
    ShadowModel,
    VerdictModel,
)
from api.sources import allowed_dsn
from optimizer.errors import InputError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

SCHEMA = """
CREATE TABLE authors (id int PRIMARY KEY, email text NOT NULL UNIQUE, name text);
CREATE TABLE books (id int PRIMARY KEY, author_id int REFERENCES authors (id), title text NOT NULL);
INSERT INTO authors VALUES (1, 'a@example.org', NULL), (2, 'b@example.org', 'bo');
INSERT INTO books VALUES (1, 1, 'x'), (2, 1, 'x'), (3, NULL, 'y');
"""


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with Services.open(settings) as services, serving(create_app(services)) as client, running_worker(settings.home):
        yield client


def matches(model: type[BaseModel], value: object) -> None:
    """The documented model has the value's fields, all of them, and no others."""
    read = model.model_validate(value, strict=False)
    assert json.loads(read.model_dump_json(exclude_unset=True)) == value


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    # The embedded servers are started for the first time, which can take longer than a probe waits.
    eventually(lambda: client.get("/readyz").status_code == 200)
    assert client.get("/readyz").json()["status"] == "ok"


def test_optimize_gives_the_documented_report(client: httpx.Client) -> None:
    request = {"sql": "SELECT DISTINCT id, email FROM authors", "schema": SCHEMA}
    report = client.post("/v1/optimize", json=request).raise_for_status().json()
    matches(ReportModel, report)
    assert report["query"]["tables"] == ["authors"]
    rewrites = [a for a in report["advice"] if a["rules"] == ["RW401"]]
    assert rewrites or any(r["rule"] == "RW401" and r["reason"] == "not_cheaper" for r in report["rejected"])


def test_advice_id_is_stable(client: httpx.Client) -> None:
    request = {"sql": "SELECT DISTINCT id, email FROM authors", "schema": SCHEMA}
    first, second = (client.post("/v1/optimize", json=request).json() for _ in range(2))
    assert [a["id"] for a in first["advice"]] == [a["id"] for a in second["advice"]]


def test_disable_and_parameters(client: httpx.Client) -> None:
    base = {"sql": "SELECT DISTINCT id FROM authors WHERE id > $1", "schema": SCHEMA}
    report = client.post("/v1/optimize", json={**base, "params": [1], "disable": ["RW401"]}).json()
    assert all("RW401" not in advice["rules"] for advice in report["advice"])
    assert "no rule has the code ZZ9" in problem(client.post("/v1/optimize", json={**base, "disable": ["ZZ9"]}), 422)
    assert "parameters" in problem(client.post("/v1/optimize", json={**base, "params": [1, 2]}), 422)


def test_measuring_needs_rows_and_a_model_needs_configuration(client: httpx.Client) -> None:
    base = {"sql": "SELECT 1", "schema": SCHEMA}
    assert "attach" in problem(client.post("/v1/optimize", json={**base, "measure": True}), 422)
    assert "model" in problem(client.post("/v1/optimize", json={**base, "llm": True}), 422)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("SELECT id FROM authors", "SELECT   id FROM authors", {"proved"}),
        ("SELECT DISTINCT id FROM authors", "SELECT id FROM authors", {"tested", "bounded", "proved"}),
        ("SELECT DISTINCT title FROM books", "SELECT title FROM books", {"refuted"}),
    ],
)
def test_equivalence(client: httpx.Client, left: str, right: str, expected: set[str]) -> None:
    response = client.post("/v1/equivalence", json={"left": left, "right": right, "schema": SCHEMA})
    verdict = response.raise_for_status().json()
    matches(VerdictModel, verdict)
    assert verdict["verdict"] in expected
    assert (verdict["counterexample"] is not None) == (verdict["verdict"] == "refuted")


def test_shadow_life(client: httpx.Client) -> None:
    started = client.post("/v1/shadows", json={"name": "books", "schema": SCHEMA})
    assert started.status_code == 202
    job = finished(client, started.json()["job"])
    assert (job["state"], job["error"]) == ("done", None)

    listed = client.get("/v1/shadows").json()
    matches(ShadowModel, next(s for s in listed if s["name"] == "books"))
    shown = client.get("/v1/shadows/books").json()
    matches(ShadowDetailModel, shown)
    assert [table["name"] for table in shown["tables"]] == ["public.authors", "public.books"]

    index = "CREATE INDEX ON books (title)"
    request = {"sql": "SELECT * FROM books WHERE title = 'x'", "shadow": "books", "indexes": [index]}
    explanation = client.post("/v1/explain", json=request).json()
    matches(ExplanationModel, explanation)
    assert explanation["total_cost"] == explanation["plan"]["Total Cost"]
    assert len(explanation["indexes"]) == 1

    assert client.delete("/v1/shadows/books").status_code == 204
    assert "no shadow is named" in problem(client.get("/v1/shadows/books"), 404)
    assert "no shadow is named" in problem(client.delete("/v1/shadows/books"), 404)
    assert "no shadow is named" in problem(client.post("/v1/explain", json=request), 404)


def test_a_failing_job_says_why(client: httpx.Client) -> None:
    started = client.post("/v1/shadows", json={"name": "bad", "schema": "CREATE TABLE t (a nonsense)"})
    job = finished(client, started.json()["job"])
    assert job["state"] == "failed"
    assert "nonsense" in str(job["error"])
    assert all(s["name"] != "bad" for s in client.get("/v1/shadows").json())


def test_without_any_shadow_it_says_how_to_make_one(client: httpx.Client) -> None:
    assert "planproof shadow add default" in problem(client.post("/v1/optimize", json={"sql": "SELECT 1"}), 404)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"name": "a"}, "exactly one"),
        ({"name": "a", "schema": "", "attach": "x"}, "exactly one"),
        ({"name": "a", "from": "host=db", "stats": ""}, "stats goes with schema"),
        ({"name": "A b", "schema": ""}, "name"),
        ({"name": "../x", "schema": ""}, "name"),
        ({"name": "a", "from": "host=x password='secret"}, "cannot be read"),
    ],
)
def test_wrong_shadow_requests(client: httpx.Client, body: dict[str, str], detail: str) -> None:
    answer = problem(client.post("/v1/shadows", json=body), 422)
    assert detail in answer
    assert "secret" not in answer


def test_sources_are_refused_unless_listed(client: httpx.Client) -> None:
    for field in ("from", "attach"):
        response = client.post("/v1/shadows", json={"name": "a", field: "postgresql://u:secret@127.0.0.1/db"})
        assert "127.0.0.1 is not allowed" in problem(response, 403)
        assert "secret" not in response.text


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db.example.org hostaddr=10.0.0.1",
        "host=db.example.org,evil dbname=x",
        "dbname=x",
        "",
        "host=/var/run/postgresql",
        "service=prod",
        "host=db.example.org sslkey=/etc/shadow",
        "host=db.example.org passfile=/etc/passwd",
        "host=db.example.org options='-c log_statement=all'",
        "postgresql://db.example.org/postgresql%3A%2F%2Fevil%2Fx",
        "host=db.example.org dbname='host=evil'",
        "host=DB.example.org.evil",
    ],
)
def test_the_list_of_hosts_cannot_be_passed_by(dsn: str) -> None:
    with pytest.raises(ForbiddenSourceError):
        allowed_dsn(dsn, ("db.example.org",))


def test_listed_hosts_pass() -> None:
    parts = allowed_dsn("postgresql://u:p%40@db.example.org:5433/shop?sslmode=require", ("db.example.org",)).split()
    assert set(parts) == {"host=db.example.org", "port=5433", "user=u", "password=p@", "dbname=shop", "sslmode=require"}
    with pytest.raises(InputError, match="cannot be read"):
        allowed_dsn("host", ("db.example.org",))


def test_a_listed_source_is_cloned(settings: Settings, supervisor: Supervisor) -> None:
    cluster = supervisor.cluster(ClusterKind.STORE)
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE bookshop")
    with cluster.connect("bookshop") as connection:
        connection.execute(
            "CREATE TABLE books AS SELECT i AS id, md5(i::text) AS title FROM generate_series(1, 5000) i"
        )
        connection.execute("ANALYZE books")
    parts = conninfo_to_dict(cluster.conninfo("bookshop"))
    dsn = make_conninfo(**{key: str(parts[key]) for key in ("host", "port", "user", "password", "dbname")})
    listing = settings.model_copy(update={"allow_http_sources": (cluster.host,)})
    opened = Services.open(listing)
    with opened as services, serving(create_app(services)) as client, running_worker(settings.home):
        job = finished(client, client.post("/v1/shadows", json={"name": "bookshop", "from": dsn}).json()["job"])
        assert (job["state"], job["error"], job["progress"]) == ("done", None, 1.0)
        shown = client.get("/v1/shadows/bookshop")
        assert str(parts["password"]) not in shown.text
        assert shown.json()["kind"] == "hollow"
        assert [table["rows"] for table in shown.json()["tables"]] == [5_000]
        slow = {"sql": "SELECT id FROM books WHERE title = 'x'", "shadow": "bookshop"}
        assert any(a["kind"] == "index" for a in client.post("/v1/optimize", json=slow).json()["advice"])
        measured = client.post("/v1/optimize", json={**slow, "measure": True})
        assert "holds no rows" in problem(measured, 422)
        assert client.delete("/v1/shadows/bookshop").status_code == 204


def test_rules(client: httpx.Client) -> None:
    rules = client.get("/v1/rules").json()
    assert "RW401" in [rule["code"] for rule in rules]
    for rule in rules:
        matches(RuleModel, rule)


def test_openapi_describes_every_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    expected = {
        ("/v1/optimize", "post"),
        ("/v1/equivalence", "post"),
        ("/v1/explain", "post"),
        ("/v1/shadows", "post"),
        ("/v1/shadows", "get"),
        ("/v1/shadows/{name}", "get"),
        ("/v1/shadows/{name}", "delete"),
        ("/v1/jobs/{job_id}", "get"),
        ("/v1/rules", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
    }
    assert expected <= {(path, method) for path, item in document["paths"].items() for method in item}
    problem_types = document["paths"]["/v1/optimize"]["post"]["responses"]["400"]["content"]
    assert list(problem_types) == ["application/problem+json"]


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"[]", JSON, 422),
        (b'{"sql": 1}', JSON, 422),
        (b'{"sql": "SELECT 1", "sq\\ud800l": 1}', JSON, 422),
        (b'{"sql": "SELECT 1", "params": ["\\u0000"]}', JSON, 422),
        (b'{"sql": "SELECT 1", "params": [{}]}', JSON, 422),
        (b'{"sql": "SELECT 1", "timeout_ms": 0}', JSON, 422),
        (b'{"sql": "SELECT 1", "min_equivalence": "refuted"}', JSON, 422),
        (b'{"sql": "SELECT 1"}', {"content-type": "text/plain"}, 415),
        (b"", {}, 422),
    ],
)
def test_wrong_bodies(client: httpx.Client, content: bytes, headers: dict[str, str], status: int) -> None:
    problem(client.post("/v1/optimize", content=content, headers=headers), status)


def test_unknown_routes_and_methods(client: httpx.Client) -> None:
    problem(client.get("/v1/nothing"), 404)
    response = client.put("/v1/optimize", json={})
    problem(response, 405)
    assert response.headers["allow"] == "POST"
    problem(client.get("/v1/jobs/unknown"), 404)


@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_are_limited_while_they_arrive(chunked: bool) -> None:
    app = FastAPI()
    app.add_middleware(BodyLimit, max_bytes=1_000)
    problems.install(app)

    @app.post("/")
    def echo(body: dict[str, str]) -> dict[str, str]:
        return body

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    with serving(app) as client:
        assert client.post("/", json={"a": "b"}).json() == {"a": "b"}
        content = pieces() if chunked else b" " * 2_000
        assert "1,000 bytes" in problem(client.post("/", content=content, headers=JSON), 413)


def test_defects_leak_nothing() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def broken() -> None:
        raise RuntimeError("the password is hunter2")

    with serving(app) as client:
        response = client.get("/")
    assert "hunter2" not in response.text
    assert problem(response, 500) == "a defect of planproof; its log says more"
