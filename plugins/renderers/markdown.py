"""A report as Markdown (CommonMark with tables), for tickets and pull requests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from optimizer.advice import Advice, Report
from plugins.renderers.words import (
    cost_line,
    equivalence_line,
    evidence_line,
    number,
    paragraphs,
    rows_line,
    size,
    visible,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]<#|~&!])")
#: A span of code; one with a bar would end a table's cell.
_CODE = re.compile(r"(`[^`|]+`)")


def markdown(report: Report) -> str:
    """Print a report as Markdown: the query, each piece of advice, then what was rejected and found."""
    return "\n".join(_blocks(report)).rstrip() + "\n"


def escaped(words: str) -> str:
    """Text that Markdown prints as it stands, on one line; `code` in backticks stays code."""
    pieces = _CODE.split(visible(" ".join(words.split())))
    return "".join(p if _CODE.fullmatch(p) else _SPECIAL.sub(r"\\\1", p) for p in pieces)


def fenced(code: str, language: str = "sql") -> str:
    """A code block that its content cannot end: the fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(code)}\n{fence}"


def _blocks(report: Report) -> Iterator[str]:
    shadow = report.shadow
    yield "# Query advice\n"
    yield fenced(report.query.sql) + "\n"
    yield (
        f"On the shadow {escaped(shadow.name)} ({shadow.kind}), {escaped(shadow.planned_by)}: "
        f"cost {number(report.baseline.cost.total_cost)} planner units.\n"
    )
    for position, advice in enumerate(report.advice, 1):
        yield from _advice(position, advice)
    if not report.advice:
        yield "No advice: nothing that was tried is both cheaper and known to return the same rows.\n"
    if report.rejected:
        yield "## Rejected\n\n| rule | reason | detail |\n| --- | --- | --- |"
        yield from _rejected(report)
        yield ""
    if report.findings:
        yield "## Findings\n"
        for finding in report.findings:
            yield f"- **{finding.severity}**: {escaped(finding.title)}. {escaped(finding.detail)}"


def _advice(position: int, advice: Advice) -> Iterator[str]:
    yield f"## {position}. {escaped(advice.title)}\n"
    for paragraph in paragraphs(advice.why):
        yield f"{escaped(paragraph)}\n"
    yield "| | |\n| --- | --- |"
    if advice.cost is not None:
        yield f"| cost | {escaped(cost_line(advice.cost))} |"
    yield f"| evidence | {escaped(evidence_line(advice))} |"
    yield f"| equivalence | {escaped(equivalence_line(advice.equivalence))} |"
    if advice.ddl:
        yield f"| storage | {size(advice.storage_bytes)} |"
    yield f"| from | {escaped(' '.join((advice.source, ', '.join(advice.rules))))} |\n"
    if advice.sql is not None:
        yield f"Rewritten query:\n\n{fenced(advice.sql)}\n"
    if advice.ddl:
        yield "Create:\n\n" + fenced(";\n".join(advice.ddl) + ";") + "\n"
    if advice.rollback:
        yield "Undo:\n\n" + fenced(";\n".join(advice.rollback) + ";") + "\n"


def _rejected(report: Report) -> Iterator[str]:
    for rejection in report.rejected:
        detail = rejection.detail
        if rejection.counterexample is not None:
            left, right = rejection.counterexample.left_rows, rejection.counterexample.right_rows
            detail += f" Original: {rows_line(left)}; rewrite: {rows_line(right)}."
        yield f"| {escaped(rejection.rule)} | {rejection.reason.replace('_', ' ')} | {escaped(detail)} |"
