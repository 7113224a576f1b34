"""A report as text for people, with or without colours."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console
from rich.rule import Rule as Line
from rich.syntax import Syntax
from rich.text import Text

from optimizer.advice import Advice, Report
from optimizer.equivalence.verdict import Counterexample, Equivalence, Verdict
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

_INDENT = 3
_LABEL_WIDTH = 13
_VERDICT_STYLES = {
    Equivalence.PROVED: "bold green",
    Equivalence.BOUNDED: "green",
    Equivalence.TESTED: "green",
    Equivalence.UNKNOWN: "yellow",
    Equivalence.REFUTED: "bold red",
}
_SEVERITY_STYLES = {"info": "cyan", "warning": "yellow", "error": "red"}


class Page:
    """Collects what is printed.

    Parameters:
        width: columns that prose is wrapped to.
        colours: whether to emit ANSI colours.
    """

    def __init__(self, width: int, colours: bool) -> None:
        self._file = io.StringIO()
        self._console = Console(
            file=self._file,
            width=width,
            force_terminal=colours,
            no_color=not colours,
            color_system="standard" if colours else None,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    def __str__(self) -> str:
        return self._file.getvalue().rstrip() + "\n"

    def blank(self) -> None:
        """Leave a line empty."""
        self._console.print()

    def heading(self, title: str) -> None:
        """A title, with a line across the rest of the page where it leaves room for one."""
        self.blank()
        words = visible(" ".join(title.split()))
        if len(words) + 2 < self._console.width:
            self._console.print(Line(Text(words, "bold"), align="left", style="dim", characters="─"))
        else:
            self._wrapped("", words, "bold", 0)

    def prose(self, words: str, style: str = "", indent: int = 0) -> None:
        """Wrapped text."""
        self._wrapped("", words, style, indent)

    def field(self, label: str, words: str, style: str = "", indent: int = _INDENT) -> None:
        """A label and, in a column of its own, wrapped text."""
        self._wrapped(f"{label:<{_LABEL_WIDTH}}", words, style, indent)

    def _wrapped(self, label: str, words: str, style: str, indent: int) -> None:
        lines = Text(visible(words), style).wrap(self._console, max(self._console.width - indent - len(label), 20))
        for line in lines:
            line.rstrip()
            self._console.print(Text(" " * indent).append(label, "dim").append_text(line), soft_wrap=True)
            label = " " * len(label)

    def sql(self, code: str, indent: int = _INDENT) -> None:
        """SQL, never wrapped or cut, so that it can be copied; control characters are spelled out (JSON has them)."""
        shown = visible(code)
        if not self._console.color_system:
            self._file.writelines(f"{' ' * indent}{line}\n" for line in shown.rstrip().split("\n"))
            return
        highlighted = Syntax("", "postgresql", theme="ansi_dark", background_color="default").highlight(shown)
        highlighted.rstrip()
        for line in highlighted.split("\n"):
            self._console.print(Text(" " * indent).append_text(line), soft_wrap=True)


def text(report: Report, *, width: int, colours: bool) -> str:
    """Print a report: the query, each piece of advice, then what was rejected and found.

    Parameters:
        report: what `optimize()` found.
        width: columns that prose is wrapped to; SQL is never wrapped.
        colours: whether to emit ANSI colours.
    """
    page = Page(width, colours)
    _query(page, report)
    for position, advice in enumerate(report.advice, 1):
        _advice(page, position, advice)
    if not report.advice:
        page.blank()
        page.prose("No advice: nothing that was tried is both cheaper and known to return the same rows.", "bold")
    _rejected(page, report)
    _findings(page, report)
    page.blank()
    page.prose(_footer(report), "dim")
    return str(page)


def verdict_text(verdict: Verdict, *, width: int, colours: bool) -> str:
    """Print one verdict, with its counterexample in full."""
    page = Page(width, colours)
    page.prose(equivalence_line(verdict), _VERDICT_STYLES[verdict.verdict])
    if verdict.counterexample is not None:
        _counterexample(page, verdict.counterexample, ("left", "right"), indent=0)
        page.blank()
        page.prose("Replay it in psql, in an empty database:")
        page.blank()
        page.sql(verdict.counterexample.setup, indent=0)
    return str(page)


def _query(page: Page, report: Report) -> None:
    shadow = report.shadow
    page.prose(f"Query on the shadow {shadow.name} ({shadow.kind}), {shadow.planned_by}", "bold")
    page.blank()
    page.sql(report.query.sql)
    page.blank()
    cost = report.baseline.cost
    page.field("cost", f"{number(cost.total_cost)} planner units, {number(cost.plan_rows)} rows expected")


def _advice(page: Page, position: int, advice: Advice) -> None:
    page.heading(f"{position}. {advice.title}")
    for paragraph in paragraphs(advice.why):
        page.prose(paragraph, indent=_INDENT)
    page.blank()
    if advice.cost is not None:
        page.field("cost", cost_line(advice.cost), "bold green")
    page.field("evidence", evidence_line(advice))
    style = _VERDICT_STYLES[advice.equivalence.verdict] if advice.equivalence else ""
    page.field("equivalence", equivalence_line(advice.equivalence), style)
    if advice.ddl:
        page.field("storage", f"{size(advice.storage_bytes)} for {_count(len(advice.rollback), 'index', 'indexes')}")
    page.field("from", f"{advice.source} {', '.join(advice.rules)}".rstrip())
    for title, statements in _statements(advice):
        page.blank()
        page.prose(title, "dim", indent=_INDENT)
        for statement in statements:
            page.sql(_ended(statement))


def _statements(advice: Advice) -> Iterable[tuple[str, tuple[str, ...]]]:
    if advice.sql is not None:
        yield "rewritten query:", (advice.sql,)
    if advice.ddl:
        yield "create:", advice.ddl
    if advice.rollback:
        yield "undo:", advice.rollback


def _rejected(page: Page, report: Report) -> None:
    if not report.rejected:
        return
    page.heading(f"Rejected: {len(report.rejected)}")
    for rejection in report.rejected:
        page.prose(f"{rejection.rule} ({rejection.reason.replace('_', ' ')}): {rejection.detail}", indent=_INDENT)
        if rejection.counterexample is not None:
            _counterexample(page, rejection.counterexample, ("original", "rewrite"), indent=_INDENT + 2)


def _counterexample(page: Page, found: Counterexample, labels: tuple[str, str], indent: int) -> None:
    for label, rows in zip(labels, (found.left_rows, found.right_rows), strict=True):
        page.field(label, rows_line(rows), "red", indent)


def _findings(page: Page, report: Report) -> None:
    if not report.findings:
        return
    page.heading("Findings")
    for finding in report.findings:
        style = _SEVERITY_STYLES[finding.severity]
        page.prose(f"{finding.severity}: {finding.title}. {finding.detail}", style, indent=_INDENT)


def _footer(report: Report) -> str:
    spent = report.timings
    source = "from the cache" if report.cached else f"{_count(spent.explain_calls, 'plan', 'plans')} compared"
    return f"{_count(len(report.advice), 'piece', 'pieces')} of advice, {source}, {spent.total / 1000:.2f} s"


def _count(number_of: int, one: str, many: str) -> str:
    return f"{number_of:,} {one if number_of == 1 else many}"


def _ended(statement: str) -> str:
    return statement if statement.rstrip().endswith(";") else f"{statement.rstrip()};"
