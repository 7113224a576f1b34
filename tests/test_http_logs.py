"""The service's log: a line a request, ids that run through, and nothing of what users send."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from http_server import Service, eventually, problem, service, serving

from api import logs, problems
from api.app import create_app
from api.observed import Observed
from optimizer.hooks import Plugins
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

KEY = "key-canary-0123456789abcdef"
CANARIES = ("sqlcanary", "ddlcanary", "valuecanary", "pathcanary", "querycanary", "hostcanary", "dsncanary", KEY)


@pytest.fixture
def written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as servers write it, for the length of a test."""
    stream = io.StringIO()
    names = ("", "planproof", "uvicorn", "uvicorn.error")
    before = {name: _state(logging.getLogger(name)) for name in names}
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logs.configure(settings)
    yield stream
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], int, bool]:
    return list(logger.handlers), logger.level, logger.propagate


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def requests_of(running: Service) -> list[dict[str, Any]]:
    return [line for line in running.lines if line["event"] == "request"]


def ask_everything(client: httpx.Client) -> None:
    """Requests that succeed, fail and are refused, each with canaries wherever text can stand."""
    schema = "CREATE TABLE ddlcanary (id int PRIMARY KEY, a text)"
    sql = "SELECT * FROM ddlcanary WHERE a = 'sqlcanary'"
    for body in (
        {"sql": sql, "schema": schema},
        {"sql": sql, "schema": schema},
        {"sql": "SELECT * FROM ddlcanary WHERE a = $1", "schema": schema, "params": ["valuecanary"]},
        {"sql": "SELECT sqlcanary FORM x", "schema": schema},
        {"sql": "SELECT sqlcanary()", "schema": schema},
        {"sql": "SELECT 1", "schema": "CREATE TABLE ddlcanary ("},
        {"sql": "SELECT 'sqlcanary'::int", "schema": schema},
        {"sql": sql, "sqlcanary": 1},
        {"sql": sql, "schema": schema, "timeout_ms": 1},
    ):
        client.post("/v1/optimize", json=body)
    client.post(
        "/v1/explain", json={"sql": sql, "schema": schema, "indexes": ["CREATE INDEX sqlcanary ON ddlcanary (a)"]}
    )
    client.post("/v1/equivalence", json={"left": sql, "right": "SELECT 'sqlcanary'", "schema": schema})
    for dsn in ("postgresql://u:dsncanary@127.0.0.1:1/db", "host=dsncanary", "dsncanary"):
        client.post("/v1/shadows", json={"name": "pathcanary", "from": dsn})
    client.get("/v1/shadows/pathcanary")
    client.get("/pathcanary", params={"querycanary": "querycanary"})
    client.get("/v1/rules", headers={"Host": "hostcanary.example"})
    client.get("/v1/rules", headers={"X-API-Key": KEY + "x"})
    client.post("/v1/optimize", content=b'{"sqlcanary', headers={"Content-Type": "application/json"})


def test_nothing_that_users_send_is_logged(settings: Settings) -> None:
    variables = {"LOG_LEVEL": "debug", "API_KEYS": json.dumps([KEY]), "ALLOW_HTTP_SOURCES": '["127.0.0.1"]'}
    with service(settings.home, **variables) as running:
        with running.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
            client.get("/healthz").raise_for_status()
            ask_everything(client)
            text = client.get("/metrics").raise_for_status().text
        found = running.log.read_text()
        assert len(requests_of(running)) >= 17
        for canary in CANARIES:
            assert canary not in found
            assert canary not in text


def test_a_request_is_one_line(settings: Settings) -> None:
    with service(settings.home, API_KEYS=json.dumps(["x" * 32, KEY])) as running:
        with running.client(headers={"X-API-Key": KEY, "X-Request-ID": "trace-7"}) as client:
            client.get("/healthz").raise_for_status()
            client.get("/v1/shadows/none")
            client.get("/v1/rules", headers={"X-API-Key": "wrong"})
            client.post("/v1/optimize", json={"sql": "SELECT 1", "schema": ""}).raise_for_status()
            client.post("/v1/optimize", json={"sql": "SELECT 1", "schema": ""}).raise_for_status()
        eventually(lambda: len(requests_of(running)) == 4)
        missing, refused, first, second = requests_of(running)
        assert (missing["method"], missing["route"], missing["status"]) == ("GET", "/v1/shadows/{name}", 404)
        assert (missing["problem"], missing["key"], missing["request_id"]) == ("unknown-shadow", 2, "trace-7")
        assert (refused["status"], refused["route"], "key" in refused) == (401, "(none)", False)
        assert (first["cache"], first["cached"], first["advice"]) == ("miss", False, 0)
        assert (second["cache"], second["cached"], second["advice"]) == ("memory", True, 0)
        assert first["duration_ms"] > 0
        assert {"time", "level", "logger"} <= set(first)


def test_console_form(settings: Settings) -> None:
    with service(settings.home, LOG_FORMAT="console") as running:
        with running.client() as client:
            client.get("/v1/rules").raise_for_status()
        eventually(lambda: "route=/v1/rules" in running.log.read_text())
        assert not running.lines


def test_a_defect_is_logged_with_its_place_and_without_its_message(written: io.StringIO) -> None:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Observed)

    @app.get("/")
    def broken() -> None:
        try:
            raise KeyError("sqlcanary")
        except KeyError as error:
            raise RuntimeError("SELECT sqlcanary") from error

    with serving(app) as client:
        assert problem(client.get("/"), 500) == "a defect of planproof; its log says more"
    defect, request = lines(written)
    assert [link["class"] for link in defect["exception"]] == ["builtins.RuntimeError", "builtins.KeyError"]
    assert all("broken" in link["frames"][-1] for link in defect["exception"])
    assert (request["event"], request["status"], request["level"]) == ("request", 500, "info")
    assert "sqlcanary" not in json.dumps(defect)


def test_what_libraries_log_goes_through_too(written: io.StringIO) -> None:
    logging.getLogger("some.library").warning("connecting to %s", "postgresql://me:dsncanary@db/x?password=dsncanary")
    logging.getLogger("uvicorn.error").error("odd\nline")
    logging.getLogger("planproof").info("host=db password='dsn canary' user=me")
    first, second, third = lines(written)
    assert first["event"].startswith("connecting to postgresql://***@db/x")
    assert second["event"] == "odd\nline"
    assert third["event"] == "host=db password=*** user=me"
    assert "canary" not in f"{first}{third}"


def test_where_a_shadows_server_is_stays_in_the_log(
    settings: Settings, supervisor: Supervisor, written: io.StringIO
) -> None:
    cluster = supervisor.cluster(ClusterKind.STORE)
    cluster.ensure_role("http_reader")
    with Services.open(settings) as services:
        services.add_attached("far", cluster.conninfo("postgres", "http_reader"))
    with cluster.connect() as connection:
        connection.execute("ALTER ROLE http_reader NOLOGIN")
    with Services.open(settings) as services, serving(create_app(services)) as client:
        response = client.post("/v1/optimize", json={"sql": "SELECT 1", "shadow": "far"})
        assert "its operator's log says why" in problem(response, 503)
        assert response.headers["retry-after"].isdigit()
        assert "http_reader" not in response.text
        assert cluster.host not in response.text
        services.drop("far")
    (warning,) = (line for line in lines(written) if "cannot be used" in line["event"])
    assert "http_reader" in warning["reason"]


def test_a_plugin_that_fails_is_logged_without_its_message(written: io.StringIO) -> None:
    plugins = Plugins([EntryPoint("acme", "sqlcanary", "planproof")])
    (line,) = lines(written)
    assert line["event"] == "plugin acme failed in import: ModuleNotFoundError"
    assert "sqlcanary" not in written.getvalue()
    assert "sqlcanary" in plugins.failures[0].detail
