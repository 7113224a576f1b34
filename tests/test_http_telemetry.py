"""Tracing: spans as a collector receives them."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi import FastAPI
from http_server import eventually, service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from api import telemetry
from optimizer.errors import InputError
from optimizer.settings import Settings

SCHEMA = "CREATE TABLE ddlcanary (id int PRIMARY KEY, email text NOT NULL)"
CANARIES = (b"sqlcanary", b"ddlcanary", b"valuecanary", b"keycanary")
KEY = "keycanary-0123456789"


class Collector:
    """An OpenTelemetry collector's HTTP receiver: it decodes what arrives and keeps it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[ExportTraceServiceRequest] = []
        self.bytes = b""
        self.paths: set[str] = set()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, str]:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {attribute.key: attribute.value.string_value for attribute in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.paths.add(self.path)
            collector.bytes += body
            collector.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is to be printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Span) -> dict[str, object]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value") or "string_value") for a in span.attributes}


def test_requests_and_phases_are_spans_without_sql(settings: Settings) -> None:
    keys = json.dumps([KEY])
    with collecting() as collector:
        with service(settings.home, API_KEYS=keys, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as running:
            trace = "0af7651916cd43dd8448eb211c80319c"
            headers = {"X-API-Key": KEY, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            with running.client(headers=headers) as client:
                client.get("/healthz").raise_for_status()
                sql = "SELECT DISTINCT id, email FROM ddlcanary WHERE email = 'sqlcanary' AND id = $1"
                body = {"sql": sql, "schema": SCHEMA, "params": [7]}
                client.post("/v1/optimize", json=body).raise_for_status()
                client.post("/v1/optimize", json={**body, "params": ["valuecanary"]})
                client.post("/v1/optimize", json={"sql": "SELECT sqlcanary FORM", "schema": SCHEMA})
                client.get("/v1/shadows/none")
        spans = collector.spans  # all of them: the service sends what it has before it ends
        assert collector.paths == {"/v1/traces"}
        assert collector.resource["service.name"] == "planproof"
        assert {span.trace_id.hex() for span in spans} == {trace}
        requests = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
        assert [span.name for span in requests] == [*["POST /v1/optimize"] * 3, "GET /v1/shadows/{name}"]
        assert [attributes(span).get("http.status_code") for span in requests] == [200, 400, 400, 404]
        phases = {span.name: span for span in spans if span.parent_span_id == requests[0].span_id}
        assert set(phases) == {"planproof.parse", "planproof.propose", "planproof.verify"}
        for span in phases.values():
            assert requests[0].start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= requests[0].end_time_unix_nano
        assert attributes(phases["planproof.propose"])["planproof.explain_calls"]
        for canary in CANARIES:
            assert canary not in collector.bytes


def test_a_collector_that_is_away_hurts_nothing(settings: Settings) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with service(settings.home, **variables) as running, running.client() as client:
        for _ in range(5):
            client.get("/v1/rules").raise_for_status()
        eventually(lambda: any("opentelemetry" in line["logger"] for line in running.lines))
        client.get("/v1/rules").raise_for_status()


def test_without_configuration_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not telemetry.wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    assert telemetry.wanted()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not telemetry.wanted()
    app = FastAPI()
    telemetry.install(app)
    assert not app.user_middleware


def test_tracing_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.instrumentation.fastapi", None)
    with pytest.raises(
        InputError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT but not installed: install planproof\[telemetry\]"
    ):
        telemetry.check()
