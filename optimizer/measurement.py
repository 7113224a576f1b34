"""Executing before and after, on shadows that hold rows, so that a gain can be called measured.

Only rewrites are executed: an index would have to be built first. Runs are interleaved, so that a machine that slows
down or warms up does so for both, and medians are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from optimizer.advice import Advice, Evidence, Measurement, Rejection
from optimizer.clock import Deadline
from optimizer.shadow.port import Parameter

#: Timed runs of each form, after one that fills the caches.
RUNS = 3


@runtime_checkable
class Executes(Protocol):
    """A planning session that can also execute."""

    def execution_ms(self, sql: str, *, parameters: Sequence[Parameter] | None = None) -> float:
        """Execute one statement in a read-only transaction that is rolled back; return its time in milliseconds.

        Errors: `SqlError`, `TimeLimitError`, `ShadowUnavailableError`.
        """
        ...


def measured(
    advice: Sequence[Advice],
    sql: str,
    session: Executes,
    parameters: Sequence[Parameter] | None,
    deadline: Deadline,
) -> tuple[tuple[Advice, ...], tuple[Rejection, ...]]:
    """Execute the original and each advised rewrite; one that is not faster is advice no more.

    Parameters:
        advice: what was found by cost, best first.
        sql: the original.
        session: where to execute.
        parameters: values for `$n`.
        deadline: past it, what has not been executed stays estimated.

    Errors: `SqlError`, `TimeLimitError`, `ShadowUnavailableError`.
    """
    kept: list[Advice] = []
    rejected: list[Rejection] = []
    for one in advice:
        if one.sql is None or one.ddl or deadline.passed:
            kept.append(one)
            continue
        found = _measure(sql, one.sql, session, parameters)
        if found.after_ms < found.before_ms:
            kept.append(replace(one, measured=found, evidence=Evidence.MEASURED))
        else:
            detail = f"executed: {found.before_ms:.1f} ms before, {found.after_ms:.1f} ms after, though planned cheaper"
            rejected.append(Rejection("+".join(one.rules), one.sql, "not_cheaper", detail))
    return tuple(kept), tuple(rejected)


def _measure(before: str, after: str, session: Executes, parameters: Sequence[Parameter] | None) -> Measurement:
    times: dict[str, list[float]] = {before: [], after: []}
    for _ in range(1 + RUNS):
        for sql, runs in times.items():
            runs.append(session.execution_ms(sql, parameters=parameters))
    medians = [statistics.median(runs[1:]) for runs in times.values()]
    return Measurement(medians[0], medians[1])
