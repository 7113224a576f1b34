"""The port every shadow implements: what the pipeline needs of a database, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.plan import Plan

ShadowKind = Literal["hollow", "files", "attached", "sqlite"]
Parameter = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class ShadowInfo:
    """Identity of a shadow.

    Parameters:
        name: as the user called it.
        kind: how it holds the database.
        server_version: of the planner that speaks, such as `18.4`.
        revision: changes whenever schema or statistics change; part of every cache key.
        not_cloned: one line for each thing that could not be carried over, with its likely effect.
        source_version: of the server that it stands for; empty where there is none.
    """

    name: str
    kind: ShadowKind
    server_version: str
    revision: str
    not_cloned: tuple[str, ...] = ()
    source_version: str = ""

    @property
    def planned_by(self) -> str:
        """Say which PostgreSQL plans, and where that matters, how it differs from the source's."""
        planner, source = self.server_version, self.source_version
        own, major = (version.split(".")[0] for version in (planner, source))
        if not source or self.kind == "attached":
            return f"planned by PostgreSQL {planner}"
        if own == major:
            return f"planned by PostgreSQL {planner}, the source's own version"
        return (
            f"planned by the embedded PostgreSQL {planner}; the source is {source}: plans can differ, install "
            f"postgresql-{major} beside planproof and refresh the shadow to have its own planner"
        )

    def as_dict(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "name": self.name,
            "kind": self.kind,
            "server_version": self.server_version,
            "revision": self.revision,
            "not_cloned": list(self.not_cloned),
            "source_version": self.source_version,
            "planned_by": self.planned_by,
        }


@dataclass(frozen=True, slots=True)
class HypotheticalIndex:
    """An index that exists on a shadow only.

    Parameters:
        candidate: what was asked for.
        name: its name on the shadow, as EXPLAIN prints it.
        storage_bytes: estimated size if it were built at the source.
        partition_names: of a partitioned table's index, the names of the partitions' indexes, which EXPLAIN prints.
    """

    candidate: IndexCandidate
    name: str
    storage_bytes: int
    partition_names: tuple[str, ...] = ()

    def serves(self, plan: Plan) -> bool:
        """Say whether a plan reads it."""
        return self.name in plan.indexes or not plan.indexes.isdisjoint(self.partition_names)


class PlanningSession(Protocol):
    """One private place to plan in: what happens here disturbs nobody and is gone at its end."""

    @property
    def explain_calls(self) -> int:
        """EXPLAIN statements since the session was opened."""
        ...

    @property
    def refused(self) -> Mapping[IndexCandidate, str]:
        """Why candidates were left out by `create`, each in one line."""
        ...

    def explain(
        self,
        sql: str,
        *,
        parameters: Sequence[Parameter] | None = None,
        using: Iterable[HypotheticalIndex] = (),
    ) -> Plan:
        """Plan one statement with exactly the hypothetical indexes in `using` visible (and all existing ones).

        The statement runs as one extended-protocol call over an unprivileged login. A statement with `$n` is planned
        generically when `parameters` is None, else with those values.

        Errors: `SqlError` when the server refuses the statement, `TimeLimitError`, `ShadowUnavailableError`.
        """
        ...

    def create(self, candidates: Iterable[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """Make hypothetical indexes; a candidate that the server refuses is left out of the answer (see `refused`)."""
        ...


@runtime_checkable
class ShadowDatabase(Protocol):
    """A database that plans as production plans."""

    @property
    def info(self) -> ShadowInfo:
        """Identity and what is missing."""
        ...

    def catalog(self) -> Catalog:
        """Everything rules may know; read once per revision."""
        ...

    def ddl(self) -> str:
        """The schema as a script that `optimizer.ddl` accepts; the gate builds its databases from it."""
        ...

    def session(self) -> AbstractContextManager[PlanningSession]:
        """Open a private planning session."""
        ...
