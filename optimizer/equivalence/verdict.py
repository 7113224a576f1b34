"""What the equivalence gate says of two queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Equivalence(StrEnum):
    """The scale, from the strongest claim down; only the first three let a rewrite become advice."""

    PROVED = "proved"
    BOUNDED = "bounded"
    TESTED = "tested"
    UNKNOWN = "unknown"
    REFUTED = "refuted"

    @property
    def rank(self) -> int:
        """0 for refuted up to 4 for proved."""
        return _RANK[self]


_RANK = {
    Equivalence.REFUTED: 0,
    Equivalence.UNKNOWN: 1,
    Equivalence.TESTED: 2,
    Equivalence.BOUNDED: 3,
    Equivalence.PROVED: 4,
}


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A database on which the two queries differ.

    Parameters:
        setup: DDL and INSERTs that anyone can replay in psql, ending with both queries.
        left_rows, right_rows: each row as a list of PostgreSQL text values, None for NULL.
    """

    setup: str
    left_rows: tuple[tuple[str | None, ...], ...]
    right_rows: tuple[tuple[str | None, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "setup": self.setup,
            "left_rows": [list(row) for row in self.left_rows],
            "right_rows": [list(row) for row in self.right_rows],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's judgement.

    Parameters:
        verdict: its place on the scale.
        method: how it was reached: `canonical-form`, `counterexample-search`, ...
        databases: generated databases on which both queries ran.
        bound: rows a table up to which no counterexample exists, for `bounded`.
        detail: one sentence for people.
        counterexample: set when, and only when, refuted by execution.
        transient: another try may end otherwise, since time ran out or the server went away.
    """

    verdict: Equivalence
    method: str
    databases: int = 0
    bound: int | None = None
    detail: str = ""
    counterexample: Counterexample | None = field(default=None)
    transient: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "verdict": self.verdict.value,
            "method": self.method,
            "databases": self.databases,
            "bound": self.bound,
            "detail": self.detail,
            "counterexample": self.counterexample.as_dict() if self.counterexample else None,
        }
