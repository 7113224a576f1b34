"""The hook `planproof_propose`, with plugins that propose well, badly, and not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest
from command_line import ROOT

from optimizer.advice import Finding, Rejection, Report
from optimizer.candidate import IndexCandidate, Rewrite
from optimizer.catalog import IndexColumn
from optimizer.errors import InputError
from optimizer.hooks import PROJECT, Plugins, hookimpl
from optimizer.pipeline import STRICT_ROUNDS, Optimizer, Options
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

SCHEMA = """
CREATE TABLE t (id integer PRIMARY KEY, word text);
INSERT INTO t SELECT n, n FROM generate_series(1, 20000) AS n;
"""
SLOW = "SELECT word FROM t WHERE concat(id) = '4711'"
GOOD = "SELECT word FROM t WHERE id = '4711'"
WRONG = "SELECT word FROM t WHERE id = '4712'"


class Entry(EntryPoint):
    """An entry point whose object is at hand."""

    def load(self) -> Any:
        return KNOWN[self.name]


KNOWN: dict[str, Any] = {}
Propose = Callable[..., Any]


@pytest.fixture
def propose(settings: Settings, supervisor: Supervisor) -> Iterator[Callable[..., Report]]:
    optimizers: list[Optimizer] = []

    def run(*hooks: Propose, sql: str = SLOW, options: Options | None = None) -> Report:
        entries = [e for e in entry_points(group=PROJECT) if e.name in ("rules", "shadows")]
        for place, hook in enumerate(hooks):
            plugin = type("Plugin", (), {})()
            plugin.planproof_propose = hookimpl(hook)
            KNOWN[f"mine{place}"] = plugin
            entries.append(Entry(f"mine{place}", "", PROJECT))
        optimizers.append(Optimizer(Services(settings, supervisor, Plugins(entries))))
        services = optimizers[-1].services
        report = optimizers[-1].optimize(sql, services.throwaway(SCHEMA), options or Options())
        assert services.plugins.failures == []
        return report

    yield run
    for optimizer in optimizers:
        optimizer.close()
    KNOWN.clear()


def test_a_proposal_is_judged_by_the_stricter_gate_and_signed(
    propose: Callable[..., Report], settings: Settings
) -> None:
    report = propose(lambda query: [Rewrite(GOOD, ("RW101",), "title", "why", "rule")])
    (advice,) = report.advice
    assert (advice.rules, advice.source, advice.title) == (("mine0",), "plugin", "title")
    assert advice.equivalence is not None
    assert advice.equivalence.databases > (STRICT_ROUNDS - 1) * settings.verify_databases


def test_what_was_bad_goes_back_to_its_own_plugin_once(propose: Callable[..., Report]) -> None:
    calls: list[tuple[str, tuple[Rejection, ...]]] = []

    def wrong(feedback: Any, memory: Any, found: Any) -> Iterator[Any]:
        calls.append(("wrong", feedback))
        memory["calls"] = memory.get("calls", 0) + 1
        yield Finding("mine", "Called", f"{memory['calls']} times")
        yield Rewrite(GOOD if feedback else WRONG, (), "t", "w", "plugin")

    def fine(feedback: Any) -> list[Any]:
        calls.append(("fine", feedback))
        return [Rewrite("SELECT word FROM t WHERE concat(id) = '4711' AND true", (), "t", "w", "plugin")]

    report = propose(wrong, fine)
    assert [name for name, _ in calls] == ["wrong", "fine", "wrong"]
    (rejection,) = calls[2][1]
    assert rejection.reason == "refuted"
    assert rejection.counterexample is not None
    assert [a.sql for a in report.advice] == [GOOD]
    assert [f.detail for f in report.findings if f.code == "mine"] == ["2 times"]


def test_it_is_told_what_the_rules_found(propose: Callable[..., Report]) -> None:
    told: list[Any] = []

    def listening(query: Any, catalog: Any, plan: Any, options: Any, found: Any, deadline: Any) -> None:
        told.extend((query.sql, catalog.table("t").rows, plan.cost.total_cost > 0, options.llm, found, deadline.passed))

    propose(listening, sql="SELECT id FROM t WHERE word = 'x'")
    assert told[:4] == ["SELECT id FROM t WHERE word = 'x'", 20000, True, False]
    assert [advice.kind for advice in told[4]] == ["index"]
    assert told[5] is False


def test_bad_plugins_hurt_nobody(propose: Callable[..., Report]) -> None:
    def raising() -> None:
        raise RuntimeError("no")

    def breaking() -> Iterator[Any]:
        yield Rewrite(GOOD, (), "t", "w")
        raise RuntimeError("in the middle")

    def nonsense() -> list[Any]:
        return [7, Rewrite("", (), "t", "w"), Rewrite("\0", (), "t", "w"), Rewrite("x" * 2_000_000, (), "t", "w")]

    def number() -> Any:
        return 7

    report = propose(raising, breaking, nonsense, number, lambda: None, lambda: [Rewrite(GOOD, (), "t", "w")])
    assert [a.sql for a in report.advice] == [GOOD]
    reasons = {(r.rule, r.reason) for r in report.rejected}
    assert reasons >= {(f"mine{n}", "plugin_error") for n in range(4)} | {("mine2", "invalid")}
    assert not report.complete


def test_an_input_error_is_for_the_user(propose: Callable[..., Report]) -> None:
    def refusing() -> None:
        raise InputError("not like this")

    with pytest.raises(InputError, match="not like this"):
        propose(refusing)


def test_a_model_that_is_not_installed_is_missed(propose: Callable[..., Report]) -> None:
    with pytest.raises(InputError, match="not installed"):
        propose(options=Options(llm=True))


def test_indexes_that_cannot_be_or_are_there_already_are_rejected(propose: Callable[..., Report]) -> None:
    def index(column: str, **more: Any) -> IndexCandidate:
        return IndexCandidate("public", "t", (IndexColumn(column, column),), **more)

    report = propose(lambda: [index("id"), index("nothing"), index("word", method="nonsense"), index("word")])
    reasons = {r.sql: r.reason for r in report.rejected}
    assert reasons[index("id").ddl()] == "not_cheaper"
    assert reasons[index("nothing").ddl()] == "invalid"
    assert reasons[index("word", method="nonsense").ddl()] == "invalid"
    assert reasons[index("word").ddl()] == "not_cheaper"


def test_the_example_of_the_documentation(propose: Callable[..., Report]) -> None:
    page = (ROOT / "docs" / "hooks.md").read_text()
    (code,) = re.findall(r"```python\n(import pluggy.*?def planproof_propose.*?)```", page, flags=re.DOTALL)
    module: dict[str, Any] = {"__name__": "documented"}
    exec(code, module)
    report = propose(module["planproof_propose"], sql="SELECT word FROM t ORDER BY 1, 1")
    (rejected,) = [r for r in report.rejected if r.rule == "mine0"]
    assert rejected.sql == "SELECT word FROM t ORDER BY 1"
    assert rejected.reason == "not_cheaper"


def test_some_time_is_kept_for_the_gate(propose: Callable[..., Report], settings: Settings) -> None:
    left: list[float] = []

    def asking(deadline: Any) -> None:
        left.append(deadline.remaining_ms)

    propose(asking)
    propose(asking, options=Options(timeout_ms=20_000))
    assert 0 < left[0] <= settings.optimize_timeout_ms - 2 * settings.verify_timeout_ms
    assert 0 < left[1] <= 10_000
