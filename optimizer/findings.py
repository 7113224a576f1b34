"""What a user should know about an answer that is not advice: what was missing, and what was left untried."""

from __future__ import annotations

from optimizer.advice import Finding
from optimizer.catalog import Catalog
from optimizer.query import Query
from optimizer.shadow.port import ShadowInfo


def findings_on(
    query: Query, catalog: Catalog, shadow: ShadowInfo, *, unfit: str | None, generic: bool
) -> tuple[Finding, ...]:
    """Say what limits the answer.

    Parameters:
        query: what was asked about.
        catalog: of its shadow.
        shadow: what is missing there.
        unfit: why no rule may rewrite the query, None when rules may.
        generic: it has parameters, and was planned without values.
    """
    found = [Finding("not-cloned", "Not carried over to the shadow", line) for line in shadow.not_cloned]
    if unfit:
        found.append(Finding("not-rewritten", "No rewrite was tried", unfit))
    if generic:
        detail = "costs are those of the generic plan: give values to see the plan for them"
        found.append(Finding("generic-plan", "Planned without parameter values", detail))
    named = {name.rsplit(".", 1)[-1] for name in query.tables}
    unknown = sorted(
        t.qualified for t in catalog.tables.values() if t.name in named and t.kind == "table" and t.rows < 0
    )
    if unknown:
        detail = f"no statistics for {', '.join(unknown)}: costs are guesses until ANALYZE has run at the source"
        found.append(Finding("no-statistics", "Tables without statistics", detail, "warning"))
    return tuple(found)
