"""A plan as a model is told of it: one line a node, conditions below, no literals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimizer.errors import SqlError
from optimizer.plan import Plan
from plugins.llm_advisor.redaction import Redactor

MAX_LINES = 200
#: Fields whose texts are words of PostgreSQL or names, never expressions.
_NAMES = ("Relation Name", "Alias", "Index Name", "CTE Name", "Function Name", "Subplan Name")
_WORDS = ("Join Type", "Strategy", "Partial Mode", "Scan Direction", "Operation", "Command")
_TOLD = frozenset({"Node Type", "Schema", "Parent Relationship", *_NAMES, *_WORDS})


def outline(plan: Plan, redactor: Redactor) -> str:
    """Print a plan as an indented tree.

    Parameters:
        plan: of the query.
        redactor: replaces the literals in its conditions.
    """
    lines = list(_node(plan.raw, redactor, 0))
    left_out = len(lines) - MAX_LINES
    return "\n".join([*lines[:MAX_LINES], *([f"... and {left_out} more lines"] if left_out > 0 else [])])


def _node(raw: Mapping[str, Any], redactor: Redactor, depth: int) -> Iterator[str]:
    indent = "  " * depth
    words = " ".join(str(raw[key]) for key in (*_WORDS, *_NAMES) if isinstance(raw.get(key), str))
    cost, rows = float(raw.get("Total Cost", 0)), float(raw.get("Plan Rows", 0))
    # Rounded: under a LIMIT the number of rows is the user's own.
    yield f"{indent}{raw['Node Type']} {words} (cost={cost:.6g} rows={rows:.2g} width={raw.get('Plan Width', 0)})"
    for key, value in raw.items():
        if key in _TOLD or key == "Plans":
            continue
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        told = [_safe(text, redactor) for text in texts if isinstance(text, str)]
        if told:
            yield f"{indent}  {key}: {', '.join(told)}"
    for child in raw.get("Plans", ()):
        yield from _node(child, redactor, depth + 1)


def _safe(text: str, redactor: Redactor) -> str:
    try:
        return redactor.sql(text)
    except SqlError:
        return "..."
