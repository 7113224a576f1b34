"""Tracing with OpenTelemetry, when its own variables (OTEL_EXPORTER_OTLP_ENDPOINT and others) ask for it.

A request is one span; each phase of an optimization is a span below it. Spans hold URLs, routes, statuses, times and
counts: no SQL, no schema, no parameter, no message of an exception.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from optimizer.clock import watching_phases
from optimizer.errors import InputError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_S = 5.0
#: EXPLAIN happens a hundred times inside other phases; its total becomes an attribute.
_COUNTED = "explain"


class _Tracing:
    """The tracer of this process, once there is one."""

    provider: Any = None
    tracer: Any = None


def wanted() -> bool:
    """Tell whether the environment asks for tracing."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in _ENDPOINTS)


def check() -> None:
    """Make sure that the tracing which is asked for can be had.

    Errors: `InputError`.
    """
    if not wanted():
        return
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise InputError(f"tracing over {protocol} is not supported: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
    try:
        importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        importlib.import_module("opentelemetry.instrumentation.fastapi")
    except ImportError:
        raise InputError(
            f"tracing is asked for by {' or '.join(n for n in _ENDPOINTS if os.environ.get(n))} but not installed: "
            "install planproof[telemetry], or unset the variable"
        ) from None


def install(app: FastAPI) -> None:
    """Trace the application's requests, if the environment asks for it.

    Errors: `InputError` when it cannot be done.
    """
    check()
    if not wanted():
        return
    if _Tracing.provider is None:
        _Tracing.provider = _provider()
        _Tracing.tracer = _Tracing.provider.get_tracer("planproof", version("planproof"))
    instrumentation = importlib.import_module("opentelemetry.instrumentation.fastapi")
    instrumentation.FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=_Tracing.provider,
        excluded_urls="/healthz$,/readyz$,/metrics$",
        exclude_spans=["receive", "send"],
    )


def _provider() -> Any:
    sdk = importlib.import_module("opentelemetry.sdk.trace")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    resources = importlib.import_module("opentelemetry.sdk.resources")
    exporter = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
    named = {"service.version": version("planproof")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = "planproof"
    provider = sdk.TracerProvider(resource=resources.Resource.create(named))
    provider.add_span_processor(export.BatchSpanProcessor(exporter()))
    return provider


def flush() -> None:
    """Send what has not been sent yet; gives up after a few seconds."""
    if _Tracing.provider is not None:
        # Its own time limit does not hold while the exporter tries again and again.
        flushing = threading.Thread(target=_Tracing.provider.force_flush, name="planproof-traces", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)


@contextmanager
def traced_phases() -> Iterator[None]:
    """Make spans of the phases that the block, or a thread with a copy of its context, goes through."""
    if _Tracing.tracer is None:
        yield
        return
    with watching_phases(_span_maker(_Tracing.tracer)):
        yield


def _span_maker(tracer: Any) -> Callable[[str, float], None]:
    explain_calls, explain_s = 0, 0.0

    def ended(phase: str, seconds: float) -> None:
        nonlocal explain_calls, explain_s
        if phase == _COUNTED:
            explain_calls, explain_s = explain_calls + 1, explain_s + seconds
            return
        end = time.time_ns()
        span = tracer.start_span(f"planproof.{phase}", start_time=end - int(seconds * 1e9))
        span.set_attribute("planproof.explain_calls", explain_calls)
        span.set_attribute("planproof.explain_ms", round(explain_s * 1000, 3))
        span.end(end)

    return ended
