"""The built-in renderers: both scales are always shown, SQL can be copied, nothing can hijack a terminal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from optimizer.advice import Advice, Comparison, Evidence, Finding, Measurement, Rejection, Report, Timings
from optimizer.equivalence.verdict import Counterexample, Equivalence, Verdict
from optimizer.plan import CostEstimate, Plan
from optimizer.query import Query
from optimizer.shadow.port import ShadowInfo
from plugins.renderers import planproof_render
from plugins.renderers.markdown import fenced
from plugins.renderers.plan_text import plan_text
from plugins.renderers.text import verdict_text
from plugins.renderers.words import equivalence_line, gain, number, rows_line, size, visible

LONG_PREDICATE = " AND ".join(f"column_number_{i} = {i}" for i in range(12))
COUNTEREXAMPLE = Counterexample("CREATE TABLE t (a int);\nSELECT 1;", (("1", None),), ())


def explained(cost: float, **more: object) -> Plan:
    node = {"Startup Cost": 0.0, "Total Cost": cost, "Plan Rows": 10, "Plan Width": 4}
    return Plan.from_explain([{"Plan": {"Node Type": "Seq Scan", "Relation Name": "t", "Alias": "t", **node, **more}}])


def report_with(advice: Advice | None, sql: str = "SELECT *\nFROM t") -> Report:
    return Report(
        query=Query.parse(sql),
        shadow=ShadowInfo("production", "hollow", "18.4", "r1"),
        baseline=explained(12_345.67),
        advice=(advice,) if advice else (),
        rejected=(
            Rejection("RW401", "SELECT 1", "refuted", "It returns other rows.", COUNTEREXAMPLE),
            Rejection("acme", "", "plugin_error", "the plugin failed in import: RuntimeError: on holiday"),
        ),
        findings=(Finding("no-statistics", "Tables without statistics", "no statistics for t", "warning"),),
        timings=Timings(total=1_234.5, explain_calls=7),
    )


def combined(**changes: object) -> Advice:
    advice = Advice(
        kind="combined",
        rules=("RW101", "IX101"),
        title="Group once instead of once a row",
        why="PostgreSQL never decorrelates a scalar subquery.",
        sql=f"SELECT *\nFROM t\nWHERE {LONG_PREDICATE}",
        ddl=("CREATE INDEX CONCURRENTLY t_a_idx ON public.t USING btree (a)",),
        rollback=("DROP INDEX CONCURRENTLY public.t_a_idx",),
        cost=Comparison(CostEstimate(0, 12_345.67, 10, 4), CostEstimate(0, 1_000, 10, 4)),
        evidence=Evidence.ESTIMATED,
        equivalence=Verdict(Equivalence.TESTED, "counterexample-search", 60),
        plan=explained(1_000),
        storage_bytes=123_456_789,
        source="rule",
    )
    return replace(advice, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["text", "terminal", "markdown"])
@pytest.mark.parametrize("evidence", list(Evidence))
@pytest.mark.parametrize("verdict", [None, Equivalence.PROVED, Equivalence.BOUNDED, Equivalence.TESTED])
def test_both_scales_are_always_shown(format: str, evidence: Evidence, verdict: Equivalence | None) -> None:
    judged = None if verdict is None else Verdict(verdict, "some-method", 60, bound=4)
    shown = planproof_render(report_with(combined(evidence=evidence, equivalence=judged)), format)
    assert shown is not None
    assert f"{evidence.value}: " in shown
    assert (f"{judged.verdict.value}: " if judged else "not needed: an index changes no rows") in shown


@pytest.mark.parametrize("format", ["text", "markdown"])
def test_everything_of_an_advice_is_shown(format: str) -> None:
    advice = combined(measured=Measurement(120.0, 10.0), evidence=Evidence.MEASURED)
    shown = planproof_render(report_with(advice), format)
    assert shown is not None
    expected = [
        "1. Group once instead of once a row",
        "PostgreSQL never decorrelates",
        "12,346 -> 1,000 planner units (12.3x cheaper)",
        "120.0 ms -> 10.0 ms (12x faster)",
        "60 generated databases, by counterexample-search",
        LONG_PREDICATE,
        "CREATE INDEX CONCURRENTLY t_a_idx ON public.t USING btree (a);",
        "DROP INDEX CONCURRENTLY public.t_a_idx;",
        "118 MB",
        "RW101, IX101",
        "production",
        "(1, NULL)",
        "no rows",
        "on holiday",
        "warning",
        "no statistics for t",
    ]
    assert [text for text in expected if text not in shown] == []


def test_plain_text_has_no_escapes_and_terminal_has_colours() -> None:
    report = report_with(combined())
    plain, coloured = planproof_render(report, "text"), planproof_render(report, "terminal")
    assert plain is not None
    assert coloured is not None
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert not any(line.endswith(" ") for line in plain.split("\n"))


def test_prose_is_wrapped_and_sql_is_not() -> None:
    shown = planproof_render(report_with(combined(why="word " * 60)), "text")
    assert shown is not None
    assert all(len(line) <= 100 for line in shown.split("\n") if "column_number" not in line)
    assert any(LONG_PREDICATE in line for line in shown.split("\n"))


def test_long_titles_are_wrapped_not_cut() -> None:
    shown = planproof_render(report_with(combined(title="a long title " * 12)), "text") or ""
    assert " ".join(shown.split()).count("a long title") == 12
    assert "…" not in shown


@pytest.mark.parametrize("format", ["terminal", "text", "markdown"])
def test_a_terminal_cannot_be_hijacked(format: str) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\u202e\x9b1m"
    report = report_with(combined(title=evil, why=evil, sql=f"SELECT '{evil}'"), sql=f"SELECT 1 -- {evil}")
    shown = planproof_render(report, format)
    assert shown is not None
    for bad in ("\x1b]", "\x1b[2J", "\x07", "\u202e", "\x9b"):
        assert bad not in shown
    assert r"\x1b]0;title\x07" in shown.replace(r"\]", "]")


def test_plain_sql_keeps_tabs_lines_and_spaces() -> None:
    shown = planproof_render(report_with(combined(sql="SELECT '\t',\n  ' \u202e\x1b  '")), "text")
    assert shown is not None
    assert "SELECT '\t',\n     ' \\u202e\\x1b  ';" in shown


def test_json_is_exact() -> None:
    """What a program reads may be run: not one character of it may change."""
    report = report_with(combined(sql="SELECT '\u202e\x1b'"))
    assert json.loads(json.dumps(report.as_dict()))["advice"][0]["sql"] == "SELECT '\u202e\x1b'"


def test_no_advice_is_said() -> None:
    for format in ("text", "markdown"):
        assert "No advice" in (planproof_render(report_with(None), format) or "")


def test_unknown_formats_are_left_to_others() -> None:
    assert planproof_render(report_with(None), "sarif") is None


def test_markdown_fences_hold() -> None:
    assert fenced("SELECT '```'").startswith("````sql\n")
    shown = planproof_render(report_with(combined(title="*a* | <b>", sql="SELECT '```'")), "markdown")
    assert shown is not None
    assert "\\*a\\* \\| \\<b>" in shown
    assert "````sql\nSELECT '```'\n````" in shown


def test_paragraphs_are_wrapped_anew_and_code_stays_code() -> None:
    advice = combined(why="PostgreSQL hashes `a *\nb` again\nand again.\n\nThen _once_ more: `x|y`.")
    plain, marked = (planproof_render(report_with(advice), format) for format in ("text", "markdown"))
    assert "   PostgreSQL hashes `a * b` again and again.\n   Then _once_ more: `x|y`.\n" in (plain or "")
    assert "\nPostgreSQL hashes `a * b` again and again.\n\nThen \\_once\\_ more: \\`x\\|y\\`.\n" in (marked or "")


def test_refuted_verdict_replays() -> None:
    verdict = Verdict(Equivalence.REFUTED, "counterexample-search", 3, counterexample=COUNTEREXAMPLE)
    shown = verdict_text(verdict, width=80, colours=False)
    assert "refuted: different rows" in shown
    assert "CREATE TABLE t (a int);\nSELECT 1;" in shown
    assert "left         (1, NULL)" in shown
    assert "right        no rows" in shown


def test_plan_text_looks_like_explain() -> None:
    figures = {"Startup Cost": 0.0, "Total Cost": 8.3, "Plan Rows": 1, "Plan Width": 4}
    scan = {"Node Type": "Index Scan", "Index Name": "t_a_idx", "Relation Name": "t", "Alias": "x", **figures}
    join = {"Node Type": "Hash Join", "Join Type": "Left", "Hash Cond": "(x.a = y.a)", **figures}
    plan = Plan.from_explain(
        [{"Plan": {**join, "Plans": [{**scan, "Index Cond": "(a = 1)", "Scan Direction": "Forward"}]}}]
    )
    assert plan_text(plan).split("\n") == [
        "Hash Left Join  (cost=0.00..8.30 rows=1 width=4)",
        "  Hash Cond: (x.a = y.a)",
        "  ->  Index Scan using t_a_idx on t x  (cost=0.00..8.30 rows=1 width=4)",
        "        Index Cond: (a = 1)",
    ]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (1_000.0, 10.0, "100x cheaper"),
        (123.0, 10.0, "12.3x cheaper"),
        (10.0, 20.0, "2x dearer"),
        (10.0, 10.0, "no change"),
        (10.0, 0.0, "cheaper"),
        (0.0, 0.0, "no change"),
    ],
)
def test_gain(before: float, after: float, words: str) -> None:
    assert gain(before, after) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1_023, "1023 bytes"),
        (1_024, "1.0 kB"),
        (8_192, "8.0 kB"),
        (16_384_000, "16 MB"),
        (2**50, "1.0 PB"),
    ],
)
def test_size(count: int, words: str) -> None:
    assert size(count) == words


def test_numbers() -> None:
    assert [number(v) for v in (0.0, 0.011, 8.31, 999.0, 1_234.56)] == ["0", "0.01", "8.31", "999", "1,235"]


def test_rows_are_cut() -> None:
    assert rows_line(tuple((str(i),) for i in range(6))) == "(0), (1), (2), (3) and 2 more"


def test_unknown_verdict_says_how() -> None:
    line = equivalence_line(Verdict(Equivalence.UNKNOWN, "counterexample-search", 4, detail="LIMIT meets ties"))
    assert line.startswith("unknown: ")
    assert line.endswith("(LIMIT meets ties)")


def test_visible_keeps_newlines_and_tabs() -> None:
    assert visible("a\tb\nc\r\x00\ud800") == "a\tb\nc\\r\\x00\\ud800"
