"""Hypothetical indexes on the user's own server: HypoPG's, or real ones in a transaction that is rolled back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import SqlError, TimeLimitError
from optimizer.plan import Plan
from optimizer.query import Query
from optimizer.shadow.explain import Explainer
from optimizer.shadow.port import HypotheticalIndex, Parameter
from optimizer.shadow.sizes.index_request import IndexRequest
from optimizer.shadow.whatif.admission import free_name, relation_names, unfit
from optimizer.shadow.whatif.index_methods import METHODS, index_size

#: Largest table, in bytes, on which an index is built for a moment.
MOMENTARY_LIMIT_BYTES = 256 * 1024 * 1024
#: How long a momentary index may wait for its table, in milliseconds: others queue behind it.
LOCK_WAIT_MS = 200
_PAGE_BYTES = 8192


class HypopgIndexes:
    """Indexes of the extension HypoPG: known to one session only, and to no statement but EXPLAIN.

    Parameters:
        explainer: over that session.
        catalog: for sizes: HypoPG's leave deduplication out and were 1.3 to 6.9 times too large.
    """

    def __init__(self, explainer: Explainer, catalog: Catalog) -> None:
        self.refused: dict[IndexCandidate, str] = {}
        self._explainer = explainer
        self._connection = explainer.connection
        self._catalog = catalog
        self._schema = self._value(
            "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
            " WHERE e.extname = 'hypopg'"
        )
        self._made: dict[IndexCandidate, HypotheticalIndex] = {}
        self._shown: tuple[HypotheticalIndex, ...] = ()
        self._names: dict[str, str] = {}

    def create(self, candidates: Sequence[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """See `PlanningSession.create`."""
        for candidate in candidates:
            if candidate in self._made or candidate in self.refused:
                continue
            reason = unfit(candidate, self._catalog)
            if reason:
                self.refused[candidate] = reason
                continue
            try:
                oid, _ = self._make(candidate)
            except SqlError as error:
                self.refused[candidate] = str(error.args[0])
                continue
            size = self._size(candidate, oid)
            self._made[candidate] = HypotheticalIndex(candidate, _name(candidate, self._made, self._catalog), size)
        self._hide_all()
        return {c: self._made[c] for c in candidates if c in self._made}

    def explain(self, sql: str, parameters: Sequence[Parameter] | None, using: tuple[HypotheticalIndex, ...]) -> Plan:
        """Plan with exactly these indexes; EXPLAIN's names for them are replaced by theirs."""
        using = self._may_see(sql, using)
        if using != self._shown:
            self._hide_all()
            for index in using:
                _, name = self._make(index.candidate)
                self._names[name] = index.name
            self._shown = using
        return _renamed(self._explainer.explain(sql, parameters), self._names)

    def _make(self, candidate: IndexCandidate) -> tuple[int, str]:
        row = self._connection.run(
            "SELECT indexrelid, indexname FROM ",
            f"{self._schema}.hypopg_create_index($1)",
            [candidate.ddl(concurrently=False).encode()],
        )
        return int(row.get_value(0, 0) or 0), (row.get_value(0, 1) or b"").decode()

    def _size(self, candidate: IndexCandidate, oid: int) -> int:
        if candidate.method not in METHODS:
            return int(self._value(f"SELECT {self._schema}.hypopg_relation_size({oid})"))
        table = self._catalog.tables[candidate.schema, candidate.table]
        rows = None
        if candidate.predicate is not None and table.rows > 0:
            rows = self._explainer.explain(f"SELECT FROM {table.qualified} WHERE {candidate.predicate}").cost.plan_rows
        return index_size(IndexRequest(candidate, table, self._catalog, rows)).bytes

    def _may_see(self, sql: str, using: tuple[HypotheticalIndex, ...]) -> tuple[HypotheticalIndex, ...]:
        """Leave partial indexes out where a view is read: HypoPG could crash the server (its issue 116)."""
        if all(index.candidate.predicate is None for index in using):
            return using
        places = (name.rpartition(".") for name in Query.parse(sql).tables)
        tables = (self._catalog.table(name, schema or None) for schema, _, name in places)
        if all(table is not None and table.definition is None for table in tables):
            return using
        return tuple(index for index in using if index.candidate.predicate is None)

    def _hide_all(self) -> None:
        self._value(f"SELECT {self._schema}.hypopg_reset()::text")
        self._names.clear()
        self._shown = ()

    def _value(self, query: str) -> str:
        return (self._connection.run(query, "").get_value(0, 0) or b"").decode()


class MomentaryIndexes:
    """Real indexes that live for one EXPLAIN, inside a transaction that is rolled back.

    Parameters:
        explainer: over a session whose role owns the tables.
        catalog: for the tables' sizes.
    """

    def __init__(self, explainer: Explainer, catalog: Catalog) -> None:
        self.refused: dict[IndexCandidate, str] = {}
        self._explainer = explainer
        self._connection = explainer.connection
        self._catalog = catalog
        self._made: dict[IndexCandidate, HypotheticalIndex] = {}

    def create(self, candidates: Sequence[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """See `PlanningSession.create`; each is built once to learn its size."""
        for candidate in candidates:
            if candidate in self._made or candidate in self.refused:
                continue
            reason = unfit(candidate, self._catalog) or self._too_large(candidate)
            if reason:
                self.refused[candidate] = reason
                continue
            name = _name(candidate, self._made, self._catalog)
            try:
                with self._transaction():
                    size = self._build(candidate, name)
            except (SqlError, TimeLimitError) as error:
                self.refused[candidate] = str(error.args[0])
                continue
            self._made[candidate] = HypotheticalIndex(candidate, name, size)
        return {c: self._made[c] for c in candidates if c in self._made}

    def explain(self, sql: str, parameters: Sequence[Parameter] | None, using: tuple[HypotheticalIndex, ...]) -> Plan:
        """Plan with exactly these indexes."""
        if not using:
            return self._explainer.explain(sql, parameters)
        with self._transaction():
            for index in using:
                self._build(index.candidate, index.name)
            self._connection.command("SET TRANSACTION READ ONLY")
            return self._explainer.explain_here(sql, parameters)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        limit = self._connection.timeout_ms
        self._connection.command(
            f"BEGIN READ WRITE; SET LOCAL lock_timeout = {LOCK_WAIT_MS}; SET LOCAL statement_timeout = {limit}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {limit}"
        )
        try:
            yield
        finally:
            if not self._connection.broken:
                self._connection.command("ROLLBACK")

    def _too_large(self, candidate: IndexCandidate) -> str:
        pages = self._catalog.tables[candidate.schema, candidate.table].pages
        if pages * _PAGE_BYTES <= MOMENTARY_LIMIT_BYTES:
            return ""
        return (
            f"{candidate.schema}.{candidate.table} is larger than {MOMENTARY_LIMIT_BYTES >> 20} MB: building an index "
            "on it for a moment would keep its writers waiting; install hypopg, or clone the server with --from"
        )

    def _build(self, candidate: IndexCandidate, name: str) -> int:
        self._connection.run("", candidate.ddl(name, concurrently=False))
        size = self._connection.run(
            "SELECT pg_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = $1 AND c.relname = $2",
            "",
            [candidate.schema.encode(), name.encode()],
        )
        return int(size.get_value(0, 0) or 0)


def _name(candidate: IndexCandidate, made: Mapping[IndexCandidate, HypotheticalIndex], catalog: Catalog) -> str:
    return free_name(candidate, relation_names(candidate.schema, catalog) | {index.name for index in made.values()})


def _renamed(plan: Plan, names: Mapping[str, str]) -> Plan:
    """Replace the names of indexes in a plan."""

    def node(raw: Mapping[str, Any]) -> dict[str, Any]:
        copy = dict(raw)
        if copy.get("Index Name") in names:
            copy["Index Name"] = names[copy["Index Name"]]
        if "Plans" in copy:
            copy["Plans"] = [node(child) for child in copy["Plans"]]
        return copy

    return Plan.from_explain([{"Plan": node(plan.raw)}]) if names else plan
