"""Which of many hypothetical indexes a query really wants.

The planner itself chooses: with every candidate visible, the cheapest plan names the indexes worth having. What it uses
is then made economical, since an index costs storage and writes that the planner does not see: an index goes when the
plan is almost as cheap without it, and gives way to a smaller one of the same table that is almost as good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from optimizer.clock import Deadline
from optimizer.plan import Plan
from optimizer.shadow.port import HypotheticalIndex

#: How much dearer than the cheapest plan a plan with fewer or smaller indexes may be: a share of that plan's cost, or
#: of the gain up to a cost that takes a millisecond or two anyway.
TOLERANCE = 0.1
GAIN_TOLERANCE = 0.01
NEGLIGIBLE_COST = 100.0
#: Smaller stand-ins tried for each index.
MAX_STAND_INS = 4

Explain = Callable[[Collection[HypotheticalIndex]], Plan]


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen indexes and the plan with exactly them."""

    indexes: tuple[HypotheticalIndex, ...]
    plan: Plan

    @property
    def storage_bytes(self) -> int:
        """Estimated size of all indexes together."""
        return sum(index.storage_bytes for index in self.indexes)


def select_indexes(
    bare: Plan, candidates: Collection[HypotheticalIndex], explain: Explain, deadline: Deadline
) -> Selection:
    """Choose indexes for one query.

    Parameters:
        bare: the plan without any candidate.
        candidates: hypothetical indexes to choose from.
        explain: plans the query with exactly the given indexes.
        deadline: past it the choice is not made more economical.

    Returns: the selection; without indexes when none helps.
    """
    everything = explain(candidates)
    used = tuple(index for index in candidates if index.serves(everything))
    best = everything.cost.total_cost
    if not used or best >= bare.cost.total_cost:
        return Selection((), bare)
    gain = bare.cost.total_cost - best
    limit = best + max(TOLERANCE * best, min(GAIN_TOLERANCE * gain, NEGLIGIBLE_COST))
    chosen = _pruned(Selection(used, explain(used)), limit, explain, deadline)
    return _shrunk(chosen, candidates, limit, explain, deadline)


def _pruned(selection: Selection, limit: float, explain: Explain, deadline: Deadline) -> Selection:
    """Take out indexes the plan can do without, the largest first."""
    for index in sorted(selection.indexes, key=lambda i: -i.storage_bytes):
        if len(selection.indexes) == 1 or deadline.passed:
            break
        rest = tuple(i for i in selection.indexes if i is not index)
        plan = explain(rest)
        if plan.cost.total_cost <= limit:
            selection = Selection(rest, plan)
    return selection


def _shrunk(
    selection: Selection,
    candidates: Collection[HypotheticalIndex],
    limit: float,
    explain: Explain,
    deadline: Deadline,
) -> Selection:
    """Exchange indexes for smaller ones that serve almost as well."""
    for index in selection.indexes:
        for stand_in in _smaller(index, candidates):
            if deadline.passed:
                return selection
            swapped = tuple(stand_in if i is index else i for i in selection.indexes)
            plan = explain(swapped)
            if plan.cost.total_cost <= limit:
                selection = Selection(swapped, plan)
                break
    return selection


def _smaller(index: HypotheticalIndex, candidates: Collection[HypotheticalIndex]) -> Iterator[HypotheticalIndex]:
    """Candidates on the same table with the same leading key that take clearly less room, smallest first."""

    def place(other: HypotheticalIndex) -> tuple[str, str, str]:
        candidate = other.candidate
        return candidate.schema, candidate.table, candidate.key_columns[0].expression

    alike = [i for i in candidates if place(i) == place(index) and i.storage_bytes < 0.9 * index.storage_bytes]
    yield from sorted(alike, key=lambda i: i.storage_bytes)[:MAX_STAND_INS]
