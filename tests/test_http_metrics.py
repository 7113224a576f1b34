"""GET /metrics: what is counted, under which names, over several processes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from http_server import eventually, service, serving
from prometheus_client.parser import text_string_to_metric_families

from api import metrics
from api.app import create_app
from optimizer.services import Services
from optimizer.settings import Settings

SCHEMA = "CREATE TABLE authors (id int PRIMARY KEY, email text NOT NULL UNIQUE, name text);"


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with Services.open(settings) as services, serving(create_app(services)) as client:
        yield client


def figures(client: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """All samples of ours, by name and label values."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.raise_for_status().text)
        for sample in family.samples
        if sample.name.startswith("planproof_")
    }


def grown(
    before: dict[tuple[str, tuple[str, ...]], float], after: dict[tuple[str, tuple[str, ...]], float]
) -> set[str]:
    return {f"{name}{list(labels)}" for (name, labels), value in after.items() if value > before.get((name, labels), 0)}


def test_an_optimization_is_counted_by_phase(client: httpx.Client) -> None:
    before = figures(client)
    request = {"sql": "SELECT DISTINCT id, email FROM authors WHERE id > 7", "schema": SCHEMA}
    report = client.post("/v1/optimize", json=request).raise_for_status().json()
    after = figures(client)
    key = ("planproof_explain_calls_total", ())
    assert after[key] - before[key] == report["timings"]["explain_calls"] > 0
    for phase in ("parse", "propose", "explain", "verify"):
        name = ("planproof_phase_seconds_count", (phase,))
        assert after[name] - before.get(name, 0) == 1
        total = ("planproof_phase_seconds_sum", (phase,))
        assert after[total] - before.get(total, 0) == pytest.approx(report["timings"][phase] / 1000)
    assert "planproof_cache_lookups_total['miss']" in grown(before, after)


def test_a_cached_answer_counts_as_a_lookup_and_as_nothing_else(client: httpx.Client) -> None:
    request = {"sql": "SELECT DISTINCT id FROM authors WHERE id > 8", "schema": SCHEMA}
    client.post("/v1/optimize", json=request).raise_for_status()
    before = figures(client)
    assert client.post("/v1/optimize", json=request).json()["cached"] is True
    changed = grown(before, figures(client))
    assert "planproof_cache_lookups_total['memory']" in changed
    assert not [name for name in changed if "phase" in name or "explain" in name or "verdict" in name]


def test_verdicts_are_counted(client: httpx.Client) -> None:
    before = figures(client)
    both = {"left": "SELECT DISTINCT name FROM authors", "right": "SELECT name FROM authors", "schema": SCHEMA}
    assert client.post("/v1/equivalence", json=both).json()["verdict"] == "refuted"
    assert "planproof_verdicts_total['refuted']" in grown(before, figures(client))


def test_series_do_not_grow_with_what_clients_choose(client: httpx.Client) -> None:
    for number in range(20):
        client.get(f"/v1/shadows/nothing{number}")
        client.get(f"/{number}")
        client.request(f"VERB{number}", "/healthz")
        client.get("/healthz", headers={"Host": f"{number}.example"})
    routes = {labels for name, labels in figures(client) if name == "planproof_http_requests_total"}
    assert ("GET", "/v1/shadows/{name}", "404") in routes
    assert ("GET", "(none)", "404") in routes
    assert not [labels for labels in routes if re.search(r"\d", labels[0] + labels[1].replace("v1", ""))]


def test_observing_a_report() -> None:
    """Each verdict once, each advice once; numbers are seconds."""
    verdict = {"verdict": "bounded"}
    report = {
        "timings": {"parse": 1.0, "propose": 2.0, "explain": 3.0, "verify": 4.0, "total": 10.0, "explain_calls": 7},
        "advice": [
            {"equivalence": verdict, "kind": "rewrite", "source": "rule"},
            {"equivalence": None, "kind": "index", "source": "llm"},
        ],
        "rejected": [{"reason": "refuted"}, {"reason": "not_cheaper"}],
    }

    def value(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, labels) or 0.0

    names = [
        ("planproof_verdicts_total", {"verdict": "bounded"}, 1),
        ("planproof_verdicts_total", {"verdict": "refuted"}, 1),
        ("planproof_advice_total", {"kind": "index", "source": "llm"}, 1),
        ("planproof_explain_calls_total", {}, 7),
        ("planproof_phase_seconds_sum", {"phase": "verify"}, 0.004),
    ]
    before = [value(name, **labels) for name, labels, _ in names]
    metrics.observe_report(report)
    for (name, labels, more), old in zip(names, before, strict=True):
        assert value(name, **labels) - old == pytest.approx(more)


def test_the_figures_of_all_processes_add_up_and_the_dead_hold_no_place(settings: Settings) -> None:
    with service(settings.home, "--workers", "2") as running, running.client() as client:
        client.get("/healthz").raise_for_status()
        eventually(lambda: len(running.workers) == 2)
        for _ in range(40):  # a connection each, so that both get some
            with running.client() as other:
                other.get("/v1/rules").raise_for_status()

        def answered() -> float:
            return figures(client).get(("planproof_http_requests_total", ("GET", "/v1/rules", "200")), 0)

        assert answered() == 40
        folder = Path(running.workers[0].environ()["PROMETHEUS_MULTIPROC_DIR"])
        killed = running.workers[0].pid
        gauges = folder / f"gauge_livesum_{killed}.db"
        eventually(gauges.exists)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not gauges.exists())
        with running.client() as other:
            eventually(lambda: len(running.workers) == 2)
            # Counters never go back: what the dead process answered stays answered.
            assert figures(other)[("planproof_http_requests_total", ("GET", "/v1/rules", "200"))] == 40
    assert not folder.exists()
