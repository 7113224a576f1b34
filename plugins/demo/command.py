"""The `demo` command: fill, clone, optimize, prove, each step shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from optimizer.advice import Report
from optimizer.errors import InputError, UnknownShadowError
from optimizer.pipeline import Optimizer, Options
from optimizer.services import Services
from optimizer.shadow.port import ShadowDatabase
from plugins.demo.proof import Proof, prove
from plugins.demo.shop import DemoQuery, Shop, open_shop, queries
from plugins.demo.show import show_outcome, show_summary

SHADOW = "demo"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one query; `proof` is None where there was no advice."""

    query: DemoQuery
    report: Report
    proof: Proof | None

    @property
    def holds(self) -> bool:
        """False when the advised form gave other rows."""
        return self.proof is None or self.proof.same_rows


@dataclass
class Phases:
    """Seconds by phase, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the block to a phase."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def demo(
    reset: Annotated[bool, typer.Option("--reset", help="Fill the database and make its shadow again.")] = False,
    query: Annotated[str | None, typer.Option("--query", help="Only the query whose name holds this text.")] = None,
    scale: Annotated[
        float, typer.Option(min=0.01, max=10, help="Size of the database; 1 is a million order items.")
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports and proofs as JSON.")] = False,
) -> None:
    """Optimize slow queries of a bundled shop and prove the advice by running it.

    Starts an embedded PostgreSQL, fills it, makes a hollow shadow of it (no rows), optimizes each query on the shadow,
    then executes the original and the advised form on the real rows. Nothing needs to be installed beforehand.
    """
    chosen = [q for q in queries() if query is None or query in q.name]
    if not chosen:
        raise InputError(f"no query of the demo is called {query!r}: there are {', '.join(q.name for q in queries())}")
    phases = Phases()
    out = Console(highlight=False, soft_wrap=True)
    with Services.open() as services:
        with phases.timed("fill the shop"), _progress() as told:
            shop = open_shop(services, scale=scale, reset=reset, progress=told)
        with phases.timed("make the hollow shadow"), _progress() as told:
            shadow = _shadow(services, shop, told)
        optimizer = Optimizer(services)
        outcomes = []
        try:
            for position, one in enumerate(chosen, 1):
                outcome = _run(one, optimizer, shadow, shop, phases)
                outcomes.append(outcome)
                if not as_json:
                    show_outcome(out, position, outcome.query, outcome.report, outcome.proof)
        finally:
            optimizer.close()
    if as_json:
        typer.echo(json.dumps({"queries": [_as_dict(o) for o in outcomes], "seconds": phases.seconds}, default=str))
    else:
        show_summary(out, [(o.query, o.report, o.proof) for o in outcomes], phases.seconds)
    if not all(outcome.holds for outcome in outcomes):
        raise typer.Exit(1)


def _run(query: DemoQuery, optimizer: Optimizer, shadow: ShadowDatabase, shop: Shop, phases: Phases) -> Outcome:
    with _progress() as told:
        told(f"{query.name}: optimizing on the shadow", 0.0)
        with phases.timed("optimize"):
            report = optimizer.optimize(query.sql, shadow, Options())
        if not report.advice:
            return Outcome(query, report, None)
        told(f"{query.name}: running both forms on the real rows", 0.5)
        with phases.timed("prove by execution"), shop.connect() as connection:
            return Outcome(query, report, prove(connection, query.sql, report.advice[0]))


def _shadow(services: Services, shop: Shop, told: Any) -> ShadowDatabase:
    """Open the demo's shadow, made anew when the shop was."""
    try:
        shadow = services.shadow(SHADOW)
    except UnknownShadowError:
        services.add_hollow(SHADOW, shop.dsn, progress=told)
        return services.shadow(SHADOW)
    if shop.filled:
        services.drop(SHADOW)
        services.add_hollow(SHADOW, shop.dsn, progress=told)
        return services.shadow(SHADOW)
    return shadow


@contextmanager
def _progress() -> Iterator[Any]:
    """Give a function (step, share done) that shows progress on stderr: a bar on a terminal, else a line a step."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        last = ""

        def line(step: str, done: float) -> None:
            nonlocal last
            if step != last:
                last = step
                console.print(f"... {step}")

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda step, done: bar.update(task, description=step, completed=done)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.query.name,
        "question": outcome.query.question,
        "report": outcome.report.as_dict(),
        "proof": outcome.proof.as_dict() if outcome.proof else None,
    }
