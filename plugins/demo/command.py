"""The `demo` command: fill, clone, optimize, prove, each step shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import psycopg
import typer

from optimizer.advice import Report
from optimizer.errors import InputError, ShadowUnavailableError, UnknownShadowError
from optimizer.pipeline import Optimizer
from optimizer.services import Services
from optimizer.shadow.port import ShadowDatabase
from plugins.demo.proof import Proof, prove
from plugins.demo.shop import OWNER, DemoQuery, Progress, Shop, open_shop, queries
from plugins.demo.show import Screen

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

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.query.name,
            "question": self.query.question,
            "report": self.report.as_dict(),
            "proof": self.proof.as_dict() if self.proof else None,
        }


@dataclass(slots=True)
class Phases:
    """Seconds by phase, in order: fill, clone, optimize, prove."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the block to a phase."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def demo(
    reset: Annotated[bool, typer.Option("--reset", help="Fill the database and make its shadow again.")] = False,
    query: Annotated[
        str | None, typer.Option("--query", metavar="TEXT", help="Only queries whose name holds this text.")
    ] = None,
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
    try:
        holds = _run(chosen, scale, reset, Screen(quiet=as_json))
    except psycopg.Error as error:
        reason = error.diag.message_primary or str(error).splitlines()[0]
        raise ShadowUnavailableError(f"the demo's server failed: {reason}; run the demo again") from error
    if not holds:
        raise typer.Exit(1)


def _run(chosen: list[DemoQuery], scale: float, reset: bool, screen: Screen) -> bool:
    """Run the demo; True when every proof held."""
    phases, outcomes = Phases(), []
    with Services.open() as services, ExitStack() as stack:
        with phases.timed("fill"), screen.progress() as told:
            opening = open_shop(
                services, scale=scale, reset=reset, before_filling=lambda: _forget(services), progress=told
            )
            shop = stack.enter_context(opening)
        screen.shop(shop, phases.seconds["fill"], services.settings.home)
        with phases.timed("clone"), screen.progress() as told:
            shadow, cloned = _shadow(services, shop, told)
        screen.shadow(shadow, cloned, phases.seconds["clone"])
        optimizer = Optimizer(services)
        stack.callback(optimizer.close)
        for position, one in enumerate(chosen, 1):
            with screen.progress() as told:
                outcome = _outcome(one, f"{position} of {len(chosen)}", optimizer, shadow, shop, phases, told)
            outcomes.append(outcome)
            screen.outcome(position, outcome.query, outcome.report, outcome.proof)
    if screen.quiet:
        document = {"queries": [o.as_dict() for o in outcomes], "seconds": phases.seconds}
        screen.write(json.dumps(document, indent=2) + "\n")
    else:
        screen.summary([(o.query, o.report, o.proof) for o in outcomes], phases.seconds)
    return all(outcome.holds for outcome in outcomes)


def _outcome(
    query: DemoQuery,
    place: str,
    optimizer: Optimizer,
    shadow: ShadowDatabase,
    shop: Shop,
    phases: Phases,
    told: Progress,
) -> Outcome:
    told(f"{place}, {query.title}: optimizing on the shadow", 0.0)
    with phases.timed("optimize"):
        report = optimizer.optimize(query.sql, shadow)
    if not report.advice:
        return Outcome(query, report, None)
    with phases.timed("prove"), shop.connect() as connection:
        proof = prove(
            connection, query.sql, report.advice[0], lambda step, done: told(f"{place}, {query.title}: {step}", done)
        )
    return Outcome(query, report, proof)


def _own_shadow(services: Services) -> bool:
    """Tell whether the demo's shadow is there.

    Errors: `InputError` when the user has another one of that name.
    """
    try:
        record = services.registry.get(SHADOW)
    except UnknownShadowError:
        return False
    if not record.origin.endswith(f" as {OWNER}"):
        raise InputError(
            f"the demo calls its shadow {SHADOW!r}, and there is one of that name, from {record.origin}: drop it with "
            f"`planproof shadow drop {SHADOW}`, or run the demo with another PLANPROOF_HOME"
        )
    return True


def _forget(services: Services) -> None:
    """Drop the shadow of a shop that is about to be filled anew."""
    if _own_shadow(services):
        services.drop(SHADOW)


def _shadow(services: Services, shop: Shop, told: Progress) -> tuple[ShadowDatabase, bool]:
    """Open the demo's shadow; says whether it was made just now."""
    known = _own_shadow(services)
    if not known:
        services.add_hollow(SHADOW, shop.dsn, progress=told)
    return services.shadow(SHADOW), not known
