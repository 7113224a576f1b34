"""Plans: PostgreSQL's `EXPLAIN (FORMAT JSON)` as values.

Source: PostgreSQL documentation, "Using EXPLAIN"; `src/backend/commands/explain.c`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The planner's estimate: costs in planner units, rows a count, width in bytes."""

    startup_cost: float
    total_cost: float
    plan_rows: float
    plan_width: int


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One node of a plan.

    Parameters:
        type: `Node Type`: `Seq Scan`, `Hash Join`, ...
        raw: the node's own fields as PostgreSQL printed them.
    """

    type: str
    cost: CostEstimate
    relation: str | None
    schema: str | None
    alias: str | None
    index: str | None
    children: tuple[PlanNode, ...]
    raw: Mapping[str, Any]

    def walk(self) -> Iterator[PlanNode]:
        """Yield this node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Plan:
    """One planned statement; `raw` is the `Plan` object of EXPLAIN's JSON."""

    root: PlanNode
    raw: Mapping[str, Any]

    @property
    def cost(self) -> CostEstimate:
        """The root's estimate."""
        return self.root.cost

    @property
    def indexes(self) -> frozenset[str]:
        """Names of the indexes that the plan reads."""
        return frozenset(node.index for node in self.root.walk() if node.index is not None)

    @classmethod
    def from_explain(cls, explained: Any) -> Plan:
        """Read what `EXPLAIN (FORMAT JSON)` returned: a list with one object.

        Errors: `ValueError` for anything else.
        """
        try:
            raw = explained[0]["Plan"]
        except (TypeError, KeyError, IndexError):
            raise ValueError("not the output of EXPLAIN (FORMAT JSON)") from None
        return cls(_node(raw), raw)


def _node(raw: Mapping[str, Any]) -> PlanNode:
    return PlanNode(
        type=raw["Node Type"],
        cost=CostEstimate(
            startup_cost=float(raw["Startup Cost"]),
            total_cost=float(raw["Total Cost"]),
            plan_rows=float(raw["Plan Rows"]),
            plan_width=int(raw["Plan Width"]),
        ),
        relation=raw.get("Relation Name"),
        schema=raw.get("Schema"),
        alias=raw.get("Alias"),
        index=raw.get("Index Name"),
        children=tuple(_node(child) for child in raw.get("Plans", ())),
        raw=raw,
    )
