"""A plan as text, in the look of PostgreSQL's own EXPLAIN (`src/backend/commands/explain.c`, text format)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optimizer.plan import Plan, PlanNode
from plugins.renderers.words import visible

#: Fields that say why a node is there, in the order in which EXPLAIN prints them.
_DETAILS = (
    "Index Cond",
    "Recheck Cond",
    "Hash Cond",
    "Merge Cond",
    "Join Filter",
    "TID Cond",
    "Filter",
    "Sort Key",
    "Presorted Key",
    "Group Key",
    "Cache Key",
    "Workers Planned",
)


def plan_text(plan: Plan) -> str:
    """Print a plan as an indented tree."""
    return visible("\n".join(_lines(plan.root, 0)))


def _lines(node: PlanNode, depth: int) -> Iterator[str]:
    arrow = "" if depth == 0 else " " * (depth * 6 - 4) + "->  "
    cost = node.cost
    figures = f"(cost={cost.startup_cost:.2f}..{cost.total_cost:.2f} rows={cost.plan_rows:.0f} width={cost.plan_width})"
    yield f"{arrow}{_title(node)}  {figures}"
    indent = " " * (depth * 6 + 2)
    if subplan := node.raw.get("Subplan Name"):
        yield f"{indent}({subplan})"
    for key in _DETAILS:
        if key in node.raw:
            yield f"{indent}{key}: {_value(node.raw[key])}"
    for child in node.children:
        yield from _lines(child, depth + 1)


def _title(node: PlanNode) -> str:
    name = node.type
    raw = node.raw
    if name == "Aggregate":
        name = {"Hashed": "HashAggregate", "Sorted": "GroupAggregate", "Mixed": "MixedAggregate"}.get(
            raw.get("Strategy", ""), name
        )
    if name == "ModifyTable":
        name = raw.get("Operation", name)
    join = raw.get("Join Type", "Inner")
    if join != "Inner":
        name = f"Nested Loop {join} Join" if name == "Nested Loop" else name.replace("Join", f"{join} Join")
    if raw.get("Parallel Aware"):
        name = f"Parallel {name}"
    if node.index is not None:
        backward = " Backward" if raw.get("Scan Direction") == "Backward" else ""
        name += f"{backward} {'on' if node.type == 'Bitmap Index Scan' else 'using'} {node.index}"
    target = node.relation or raw.get("CTE Name") or raw.get("Function Name")
    if target:
        name += f" on {target}"
        if node.alias and node.alias != target:
            name += f" {node.alias}"
    elif node.alias and node.type == "Subquery Scan":
        name += f" on {node.alias}"
    return name


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
