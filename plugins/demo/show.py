"""How the demo looks on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from optimizer.advice import Advice, Report
from plugins.demo.proof import Proof
from plugins.demo.shop import DemoQuery
from plugins.renderers.words import cost_line, equivalence_line, evidence_line, gain, milliseconds, number, size


def show_outcome(out: Console, position: int, query: DemoQuery, report: Report, proof: Proof | None) -> None:
    """Print one query: what was asked, what is advised, and the proof."""
    out.print(Rule(f"{position}. {query.name}", align="left", characters="─"))
    out.print(Text(query.question, style="italic"))
    _code(out, query.sql)
    if not report.advice or proof is None:
        out.print(Text("no advice: nothing was found that is both cheaper and shown to be the same", style="yellow"))
        for rejected in report.rejected:
            out.print(f"  rejected {rejected.rule}: {rejected.reason}, {rejected.detail}", markup=False)
        out.print()
        return
    _advice(out, report.advice[0])
    _proof(out, proof)
    others = len(report.advice) - 1
    if others:
        kinds = ", ".join(a.kind for a in report.advice[1:])
        out.print(Text(f"  also found: {others} weaker ({kinds}); `planproof optimize` shows all", style="dim"))
    out.print()


def _advice(out: Console, advice: Advice) -> None:
    out.print(
        Text.assemble((f"{advice.kind}: ", "bold green"), (advice.title, "bold"), f"  [{', '.join(advice.rules)}]")
    )
    if advice.sql:
        _code(out, advice.sql)
    if advice.ddl:
        _code(out, "\n".join(f"{statement};" for statement in advice.ddl))
    if advice.cost:
        out.print(Text(f"  cost         {cost_line(advice.cost)}"))
    if advice.storage_bytes:
        out.print(Text(f"  storage      {size(advice.storage_bytes)}"))
    out.print(Text(f"  evidence     {evidence_line(advice)}"))
    out.print(Text(f"  equivalence  {equivalence_line(advice.equivalence)}"))


def _proof(out: Console, proof: Proof) -> None:
    before, after = proof.before, proof.after
    speed = gain(before.milliseconds, after.milliseconds, "faster", "slower")
    out.print(
        Text.assemble(
            ("  proof        ", "bold"),
            f"executed: {milliseconds(before.milliseconds)}, {number(before.rows)} rows -> "
            f"{milliseconds(after.milliseconds)}, {number(after.rows)} rows ",
            (
                f"({speed}, {'same rows' if proof.same_rows else 'DIFFERENT ROWS'})",
                "green" if proof.same_rows else "red",
            ),
        )
    )


def show_summary(
    out: Console, outcomes: Sequence[tuple[DemoQuery, Report, Proof | None]], seconds: Mapping[str, float]
) -> None:
    """Print one line for each query, and where the time went."""
    table = Table(title="Advice and proof", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("query", "advice", "rules"):
        table.add_column(heading)
    for heading in ("planned", "executed"):
        table.add_column(heading, justify="right")
    table.add_column("equivalence")
    for query, report, proof in outcomes:
        if not report.advice or proof is None or report.advice[0].cost is None:
            table.add_row(query.name, "none", "", "", "", "")
            continue
        best = report.advice[0]
        cost = report.advice[0].cost
        table.add_row(
            query.name,
            best.kind,
            ", ".join(best.rules),
            gain(cost.before.total_cost, cost.after.total_cost),
            gain(proof.before.milliseconds, proof.after.milliseconds, "faster", "slower"),
            (best.equivalence.verdict if best.equivalence else "rows unchanged")
            + ("" if proof.same_rows else " BUT THE ROWS DIFFER"),
        )
    out.print(table)
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    out.print(f"\n{spent}; {sum(seconds.values()):.1f} s in all", markup=False)


def _code(out: Console, sql: str) -> None:
    if out.is_terminal:
        out.print(Padding(Syntax(sql, "postgresql", theme="ansi_dark", background_color="default"), (0, 0, 0, 4)))
    else:
        out.print("\n".join(f"    {line}" for line in sql.splitlines()), markup=False)
