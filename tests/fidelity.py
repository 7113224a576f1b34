"""Plans of a hollow shadow against its source's, node by node and field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from optimizer.shadow.explain import Explainer
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.port import Parameter, PlanningSession

#: Costs are printed with two decimals, and sums of floating-point numbers may differ in the last one.
LAST_DIGIT = 0.0101
_TIMEOUT_MS = 60_000
_SINCE_18 = {"Disabled"}
#: What versions before 17 said after a subplan's name.
_RETURNS = r" \(returns [$0-9,]+\)"


@dataclass(frozen=True, slots=True)
class Question:
    """A query to plan on both sides; with `parameters` for these values, else for any."""

    name: str
    sql: str
    parameters: tuple[Parameter, ...] | None = None


Planner = Callable[[Question], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question.

    Parameters:
        rounding: the number of costs that differ in their last digit only.
        cost_ratio: cost on the shadow / cost on the source.
        alike: whether both have the same nodes over the same relations and indexes.
    """

    question: Question
    differences: tuple[str, ...]
    rounding: int
    cost_ratio: float
    alike: bool


def on_source(connection: psycopg.Connection[Any]) -> Planner:
    """Plan with the source itself, the way shadows plan."""
    explainer = Explainer(GuardedConnection(connection, timeout_ms=_TIMEOUT_MS, end_session=_never))
    return lambda question: explainer.explain(question.sql, question.parameters).raw


def on_shadow(session: PlanningSession) -> Planner:
    """Plan with a shadow."""
    return lambda question: session.explain(question.sql, parameters=question.parameters).raw


def compare(source: Planner, shadow: Planner, questions: Iterable[Question]) -> Iterator[Outcome]:
    """Plan each question on both sides."""
    for question in questions:
        ours, theirs = source(question), shadow(question)
        found = list(_differences(ours, theirs, ""))
        differences = tuple(text for text, rounding in found if not rounding)
        ratio = max(theirs["Total Cost"], LAST_DIGIT) / max(ours["Total Cost"], LAST_DIGIT)
        yield Outcome(question, differences, len(found) - len(differences), ratio, outline(ours) == outline(theirs))


def outline(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    """The nodes of a plan with their relations and indexes, without any number."""
    fields = tuple(plan.get(name) for name in ("Node Type", "Index Name", "Relation Name", "Join Type"))
    return (*fields, *(outline(child) for child in plan.get("Plans", ())))


def hold_still(connection: psycopg.Connection[Any]) -> None:
    """Keep autovacuum away from all tables of a source: statistics that change after the clone would differ."""
    tables = connection.execute(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    ).fetchall()
    for (table,) in tables:
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())


def _differences(left: Mapping[str, Any], right: Mapping[str, Any], place: str) -> Iterator[tuple[str, bool]]:
    """Yield every field in which two plans differ, and whether it is but a cost's last digit."""
    here = f"{place}/{left.get('Node Type')}"
    # A field that only one version of EXPLAIN prints says nothing about the plan.
    unknown = {"Plans"} | (_SINCE_18 if _SINCE_18 & left.keys() != _SINCE_18 & right.keys() else set())
    for field in sorted((left.keys() | right.keys()) - unknown):
        ours, theirs = (re.sub(_RETURNS, "", str(plan.get(field))) for plan in (left, right))
        if ours != theirs:
            rounding = field.endswith(" Cost") and abs(float(ours) - float(theirs)) < LAST_DIGIT
            yield f"{here}: {field} {ours} on the source, {theirs} on the shadow", rounding
    children, others = left.get("Plans", ()), right.get("Plans", ())
    if len(children) != len(others):
        yield f"{here}: {len(children)} children on the source, {len(others)} on the shadow", False
        return
    for child, other in zip(children, others, strict=True):
        yield from _differences(child, other, here)


def _never(process: int) -> None:
    raise TimeoutError(f"the source's session {process} planned longer than {_TIMEOUT_MS} ms")
