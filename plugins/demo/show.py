"""How the demo looks: progress on standard error, everything else on standard output."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from optimizer.advice import Advice, Report
from optimizer.shadow.port import ShadowDatabase
from plugins.demo.proof import Proof
from plugins.demo.shop import DemoQuery, Progress, Shop
from plugins.renderers.text import Page
from plugins.renderers.words import cost_line, equivalence_line, evidence_line, gain, milliseconds, number, size

MAX_WIDTH = 100
_INDENT = 3
_HEADINGS = ("query", "advice", "rules", "cheaper", "faster", "verdict")
_RIGHT = frozenset({"cheaper", "faster"})


class Screen:
    """Where the demo prints.

    Parameters:
        quiet: print progress only.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give a function (step, share done) that shows progress: a bar on a terminal, else a line a step."""
        console = Console(stderr=True, highlight=False, markup=False)
        if not console.is_terminal or console.is_dumb_terminal:
            said: set[str] = set()

            def line(step: str, done: float) -> None:
                what = step.partition(":")[0]
                if what not in said:
                    said.add(what)
                    console.print(f"... {what}", soft_wrap=True)

            yield line
            return
        columns = (SpinnerColumn(), BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda step, done: bar.update(task, description=step, completed=done)

    def shop(self, shop: Shop, seconds: float, home: Path) -> None:
        """Say what the source is."""
        page = self._page()
        page.prose("A shop, the advice on its slow queries, and the proof", "bold")
        page.blank()
        made = f"filled in {seconds:.1f} s" if shop.filled else "filled by an earlier run"
        page.field("source", f"{number(shop.rows)} rows, {size(shop.size)}, {made}, in {home}")
        self._show(page)

    def shadow(self, shadow: ShadowDatabase, made: bool, seconds: float) -> None:
        """Say what is planned on."""
        page = self._page()
        how = f"cloned in {seconds:.1f} s" if made else "cloned by an earlier run"
        words = f"hollow, {how}: the schema and its statistics, no rows; PostgreSQL {shadow.info.server_version}"
        page.field("shadow", words)
        self._show(page)

    def outcome(self, position: int, query: DemoQuery, report: Report, proof: Proof | None) -> None:
        """Show one query: what was asked, what is advised, and the proof."""
        page = self._page()
        page.heading(f"{position}. {query.title}")
        page.prose(query.question)
        page.blank()
        page.sql(query.sql, _INDENT)
        page.blank()
        if report.advice and proof is not None:
            _advice(page, report.advice[0])
            _proof(page, proof)
            if len(report.advice) > 1:
                kinds = ", ".join(a.kind for a in report.advice[1:])
                page.field("also found", f"{kinds} (dearer); `planproof optimize` shows all", "dim")
        else:
            page.prose("No advice: nothing that was tried is both cheaper and known to return the same rows.", "yellow")
            for rejected in report.rejected:
                page.field("rejected", f"{rejected.rule}: {rejected.reason}, {rejected.detail}")
        self._show(page)

    def summary(self, outcomes: Sequence[tuple[DemoQuery, Report, Proof | None]], seconds: Mapping[str, float]) -> None:
        """Show one line for each query, and where the time went."""
        page = self._page()
        page.heading("All together")
        for line in _table([_HEADINGS, *(_cells(*outcome) for outcome in outcomes)]):
            page.prose(line)
        page.blank()
        proofs = [proof for _, _, proof in outcomes if proof is not None]
        same = sum(proof.same_rows for proof in proofs)
        page.prose(
            f"Executed before and after: {same} of {len(proofs)} returned the same rows.",
            "bold green" if same == len(proofs) else "bold red",
        )
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        page.prose(f"{spent}; {sum(seconds.values()):.1f} s in all", "dim")
        page.blank()
        page.prose("Next: your own database, of which no row is copied.")
        page.blank()
        page.sql(
            'planproof shadow add default --from "postgresql://you@host/database"\nplanproof optimize query.sql', 3
        )
        self._show(page)

    def _page(self) -> Page:
        return Page(self._width, self._colours)

    def _show(self, page: Page) -> None:
        if not self.quiet:
            self.write(str(page))

    def write(self, text: str) -> None:
        """Write to standard output; when its reader has gone, end as other programs do (128 + SIGPIPE)."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes once more at its end; let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None


def _advice(page: Page, advice: Advice) -> None:
    page.field(advice.kind, f"{advice.title} ({', '.join(advice.rules)})", "bold")
    page.blank()
    if advice.sql:
        page.sql(advice.sql, _INDENT)
        page.blank()
    if advice.ddl:
        page.sql("\n".join(_folded(f"{statement};") for statement in advice.ddl), _INDENT)
        page.blank()
    if advice.cost:
        page.field("cost", cost_line(advice.cost))
    if advice.ddl:
        page.field("storage", size(advice.storage_bytes))
    page.field("evidence", evidence_line(advice))
    page.field("equivalence", equivalence_line(advice.equivalence))


def _folded(statement: str) -> str:
    """Give a long CREATE INDEX a second line."""
    return statement if len(statement) < MAX_WIDTH - _INDENT else statement.replace(" ON ", "\n    ON ", 1)


def _proof(page: Page, proof: Proof) -> None:
    before, after = proof.before, proof.after
    speed = gain(before.milliseconds, after.milliseconds, "faster", "slower")
    count = "row" if after.rows == 1 else f"{number(after.rows)} rows"
    rows = f"the same {count}" if proof.same_rows else f"OTHER ROWS: {before.rows}, then {after.rows}"
    page.field(
        "proof",
        f"executed on the source: {milliseconds(before.milliseconds)} -> {milliseconds(after.milliseconds)} "
        f"({speed}), {rows}",
        "bold green" if proof.same_rows else "bold red",
    )


def _cells(query: DemoQuery, report: Report, proof: Proof | None) -> tuple[str, ...]:
    best = report.advice[0] if report.advice else None
    if best is None or proof is None or best.cost is None:
        return (query.title, "none", "", "", "", "")
    verdict = str(best.equivalence.verdict) if best.equivalence else "-"
    return (
        query.title,
        best.kind,
        " ".join(best.rules),
        gain(best.cost.before.total_cost, best.cost.after.total_cost).removesuffix(" cheaper"),
        gain(proof.before.milliseconds, proof.after.milliseconds, "faster", "slower").removesuffix(" faster"),
        verdict if proof.same_rows else f"{verdict}, OTHER ROWS",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Align columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, _HEADINGS, strict=True)
        yield "  ".join(c.rjust(width) if name in _RIGHT else c.ljust(width) for c, width, name in cells).rstrip()
