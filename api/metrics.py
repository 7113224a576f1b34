"""What the service counts, in the form of Prometheus.

With PROMETHEUS_MULTIPROC_DIR set before this module is imported (`planproof serve` does so), every process writes its
numbers to files there and `exposition` adds them up; else there are only this process's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["CONTENT_TYPE_LATEST"]

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

_REQUEST_BUCKETS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PHASE_BUCKETS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_JOB_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)

#: Every answered request; `route` is the route's template, so that paths cannot make new series.
REQUESTS = Counter(
    "planproof_http_requests", "HTTP requests by route, method and status.", ("route", "method", "status")
)
REQUEST_SECONDS = Histogram(
    "planproof_http_request_seconds",
    "Time from a request's headers to the end of its answer.",
    ("route", "method"),
    buckets=_REQUEST_BUCKETS,
)
QUEUE = Gauge(
    "planproof_http_work",
    "Requests that are being worked on (running) or wait for their turn (waiting).",
    ("state",),
    multiprocess_mode="livesum",
)
REFUSED = Counter("planproof_http_refused", "Requests refused because too many were waiting (429).")

PHASE_SECONDS = Histogram(
    "planproof_phase_seconds", "Time one optimization spent in a phase.", ("phase",), buckets=_PHASE_BUCKETS
)
EXPLAIN_CALLS = Counter("planproof_explain_calls", "EXPLAIN statements of optimizations.")
VERDICTS = Counter("planproof_verdicts", "Verdicts of the equivalence gate.", ("verdict",))
ADVICE = Counter("planproof_advice", "Advice given.", ("kind", "source"))
#: result: memory, redis, miss, shared.
CACHE_LOOKUPS = Counter("planproof_cache_lookups", "Reports looked up in the cache.", ("result",))

#: `set` it to what the store says; processes agree on the newest figure (so no `inc` or `dec`).
JOBS = Gauge("planproof_jobs", "Jobs in the store, by state.", ("state",), multiprocess_mode="livemostrecent")
JOB_SECONDS = Histogram("planproof_job_seconds", "Time one job took.", ("kind", "outcome"), buckets=_JOB_BUCKETS)

_PHASES = ("parse", "propose", "explain", "verify")


def observe_report(report: Mapping[str, Any]) -> None:
    """Count what making a report took and gave; call it once for each computation, never for a cached answer.

    Parameters:
        report: in the contract's shape; times are milliseconds.
    """
    timings = report["timings"]
    for phase in _PHASES:
        PHASE_SECONDS.labels(phase).observe(timings[phase] / 1000)
    EXPLAIN_CALLS.inc(timings["explain_calls"])
    for verdict in _verdicts(report):
        VERDICTS.labels(verdict).inc()
    for advice in report["advice"]:
        ADVICE.labels(advice["kind"], advice["source"]).inc()


def observe_verdict(verdict: Mapping[str, Any]) -> None:
    """Count a verdict that was asked for by itself, in the contract's shape."""
    VERDICTS.labels(verdict["verdict"]).inc()


def exposition() -> bytes:
    """Return all metrics as text, those of the other processes included where they share a folder."""
    registry = REGISTRY
    if DIRECTORY in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """Take a dead process's gauges out; its counters stay, as they must."""
    if DIRECTORY in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _verdicts(report: Mapping[str, Any]) -> Iterator[str]:
    for advice in report["advice"]:
        if advice["equivalence"] is not None:
            yield advice["equivalence"]["verdict"]
    for rejected in report["rejected"]:
        if rejected["reason"] in ("refuted", "unknown"):
            yield rejected["reason"]
