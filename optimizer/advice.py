"""What the user gets: `Comparison`, `Advice`, `Report`, in the shapes of the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from optimizer.equivalence.verdict import Counterexample, Verdict
from optimizer.layout import read_layout
from optimizer.plan import CostEstimate, Plan
from optimizer.query import Query
from optimizer.shadow.port import ShadowInfo

AdviceKind = Literal["rewrite", "index", "combined", "schema"]
RejectionReason = Literal["refuted", "unknown", "not_cheaper", "invalid", "timeout", "plugin_error"]
Severity = Literal["info", "warning", "error"]


class Evidence(StrEnum):
    """How a gain is known: a rule of thumb, planned on a shadow, or executed on a shadow with data."""

    STATIC = "static"
    ESTIMATED = "estimated"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same work before and after, both planned on the same shadow."""

    before: CostEstimate
    after: CostEstimate
    unit: Literal["planner", "steps", "ru"] = "planner"

    @property
    def ratio(self) -> float:
        """After divided by before; below 1 is a gain."""
        return self.after.total_cost / self.before.total_cost if self.before.total_cost else 1.0

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "before": self.before.total_cost,
            "after": self.after.total_cost,
            "ratio": self.ratio,
            "unit": self.unit,
        }


@dataclass(frozen=True, slots=True)
class Measurement:
    """Execution times in milliseconds, medians."""

    before_ms: float
    after_ms: float


@dataclass(frozen=True, slots=True)
class Advice:
    """One validated change: a rewrite, indexes, or both together."""

    kind: AdviceKind
    rules: tuple[str, ...]
    title: str
    why: str
    sql: str | None
    ddl: tuple[str, ...]
    rollback: tuple[str, ...]
    cost: Comparison | None
    evidence: Evidence
    equivalence: Verdict | None
    plan: Plan | None
    storage_bytes: int
    source: str
    measured: Measurement | None = None

    def identity(self, query: Query, shadow: ShadowInfo) -> str:
        """A short id that is stable for the same query (however it is laid out), shadow revision and advice."""
        parts = (*read_layout(query.sql).tokens, "", shadow.name, shadow.revision, self.sql or "", *self.ddl)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def as_dict(self, query: Query, shadow: ShadowInfo) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "id": self.identity(query, shadow),
            "kind": self.kind,
            "rules": list(self.rules),
            "title": self.title,
            "why": self.why,
            "sql": self.sql,
            "ddl": list(self.ddl),
            "rollback": list(self.rollback),
            "cost": self.cost.as_dict() if self.cost else None,
            "measured": (
                {"before_ms": self.measured.before_ms, "after_ms": self.measured.after_ms} if self.measured else None
            ),
            "evidence": self.evidence.value,
            "equivalence": self.equivalence.as_dict() if self.equivalence else None,
            "plan": dict(self.plan.raw) if self.plan else None,
            "storage_bytes": self.storage_bytes,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Rejection:
    """A candidate that did not become advice, and why.

    Parameters:
        rule: code of the rule, or the name of the plugin that failed.
        sql: the rewrite or the DDL; empty for a plugin that failed.
        transient: asked again, it may become advice, so a report with it is not to be kept.
    """

    rule: str
    sql: str
    reason: RejectionReason
    detail: str
    counterexample: Counterexample | None = None
    transient: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        entry: dict[str, Any] = {"rule": self.rule, "sql": self.sql, "reason": self.reason, "detail": self.detail}
        if self.counterexample is not None:
            entry["counterexample"] = self.counterexample.as_dict()
        return entry


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the user should know that is not advice.

    Parameters:
        transient: asked again, the report may say more, so it is not to be kept.
    """

    code: str
    title: str
    detail: str
    severity: Severity = "info"
    transient: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {"code": self.code, "title": self.title, "detail": self.detail, "severity": self.severity}


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds by phase, and the number of EXPLAIN statements."""

    parse: float = 0
    propose: float = 0
    explain: float = 0
    verify: float = 0
    total: float = 0
    explain_calls: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "parse": self.parse,
            "propose": self.propose,
            "explain": self.explain,
            "verify": self.verify,
            "total": self.total,
            "explain_calls": self.explain_calls,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `optimize()` found, best advice first."""

    query: Query
    shadow: ShadowInfo
    baseline: Plan
    advice: tuple[Advice, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    findings: tuple[Finding, ...] = ()
    timings: Timings = field(default_factory=Timings)
    cached: bool = False

    @property
    def complete(self) -> bool:
        """False when something failed that may work the next time; such a report is not to be kept."""
        failed = any(r.transient or r.reason in ("timeout", "plugin_error") for r in self.rejected)
        return not failed and not any(finding.transient for finding in self.findings)

    def as_dict(self) -> Mapping[str, Any]:
        """The contract's shape, the same for every face."""
        cost = self.baseline.cost
        return {
            "query": {
                "sql": self.query.sql,
                "fingerprint": self.query.fingerprint,
                "tables": list(self.query.tables),
            },
            "shadow": self.shadow.as_dict(),
            "baseline": {
                "total_cost": cost.total_cost,
                "startup_cost": cost.startup_cost,
                "plan_rows": cost.plan_rows,
                "plan": dict(self.baseline.raw),
            },
            "advice": [a.as_dict(self.query, self.shadow) for a in self.advice],
            "rejected": [r.as_dict() for r in self.rejected],
            "findings": [f.as_dict() for f in self.findings],
            "cached": self.cached,
            "timings": self.timings.as_dict(),
        }
