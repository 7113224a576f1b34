"""Runs EXPLAIN over a connection whose login is unprivileged, within limits that the statement cannot lift.

Planning executes code: constant folding runs immutable functions, whoever wrote them. So each statement is planned in a
read-only transaction that is rolled back, as one call of the extended protocol, with timeouts on the server and a clock
on this side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from psycopg import pq
from psycopg.sql import Literal

from optimizer.errors import SqlError
from optimizer.plan import Plan
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.port import Parameter

#: Largest plan that is read: far above any that a person could use.
MAX_PLAN_BYTES = 32_000_000
_PLACEHOLDER = re.compile(r"\$\d")
_PREPARED = "planproof_generic"
#: Ends a transaction, and gives back what outlives one: locks that a function took for its session.
_AFTER = ("ROLLBACK", "SELECT pg_catalog.pg_advisory_unlock_all()")
_END = "; ".join(_AFTER)
_EXPLAIN = "EXPLAIN (FORMAT JSON) "
_COUNT = "SELECT cardinality(parameter_types) FROM pg_catalog.pg_prepared_statements WHERE name = $1"


class Explainer:
    """Plans statements over one connection.

    Parameters:
        connection: with its time limit.
        settings: server settings that each transaction begins with: names and values of ours, not users'.
    """

    def __init__(self, connection: GuardedConnection, *, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.connection = connection
        self.calls = 0
        self._before = _before(connection.timeout_ms, settings)

    def explain(self, sql: str, parameters: Sequence[Parameter] | None = None) -> Plan:
        """Plan one statement in a transaction of its own.

        Parameters:
            sql: the statement.
            parameters: values for `$1`, `$2`, ...; None plans for any values.

        Errors: `SqlError`, `TimeLimitError`, `ShadowUnavailableError`.
        """
        if _generic(sql, parameters):
            self.connection.command("; ".join(self._before))
            try:
                return self.explain_here(sql, parameters)
            finally:
                if not self.connection.broken:
                    self.connection.command(_END)
        self.calls += 1
        values = [_text(value) for value in parameters or ()]
        return _plan(self.connection.run_between(self._before, _EXPLAIN, sql, values, _AFTER))

    def explain_here(self, sql: str, parameters: Sequence[Parameter] | None = None) -> Plan:
        """Plan one statement in the transaction that is open; parameters and errors as for `explain`."""
        self.calls += 1
        if _generic(sql, parameters):
            return self._explain_generic(sql)
        return _plan(self.connection.run(_EXPLAIN, sql, [_text(value) for value in parameters or ()]))

    def _explain_generic(self, sql: str) -> Plan:
        """Plan for any values: prepare, forbid plans for given ones, and explain the execution.

        EXPLAIN (GENERIC_PLAN) would do for 16 and later, but not in the extended protocol, where it wants values and
        plans for them.
        """
        self.connection.run(f"PREPARE {_PREPARED} AS ", sql)
        try:
            self.connection.command("SET LOCAL plan_cache_mode = force_generic_plan")
            found = self.connection.run(_COUNT, "", [_PREPARED.encode()])
            nulls = ", ".join(["NULL"] * int(found.get_value(0, 0) or 0))
            # Checked and prepared: what is sent now holds none of the user's text.
            return _plan(self.connection.run(f"{_EXPLAIN}EXECUTE {_PREPARED}", f"({nulls})" if nulls else ""))
        finally:
            # A prepared statement outlives a rollback, and after an error only a rollback is heard.
            if not self.connection.broken:
                failed = self.connection.connection.info.transaction_status == pq.TransactionStatus.INERROR
                self.connection.command(f"{'ROLLBACK; BEGIN; ' if failed else ''}DEALLOCATE {_PREPARED}")


def execution_ms(connection: GuardedConnection, sql: str, parameters: Sequence[Parameter] | None) -> float:
    """Execute one statement in a read-only transaction that is rolled back; return the time that the server took.

    Parameters:
        connection: with a time limit for executions.
        sql: the statement.
        parameters: values for `$1`, `$2`, ...

    Errors: `SqlError`, `TimeLimitError`, `ShadowUnavailableError`.
    """
    connection.command("; ".join(_before(connection.timeout_ms, {})))
    try:
        values = [_text(value) for value in parameters or ()]
        result = connection.run("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ", sql, values)
        return float(json.loads(result.get_value(0, 0) or b"")[0]["Execution Time"])
    finally:
        if not connection.broken:
            connection.command(_END)


def _before(limit_ms: int, settings: Mapping[str, str]) -> tuple[str, ...]:
    """What each transaction begins with; two statements, since each takes a message of its own in a pipeline."""
    limits = {
        "statement_timeout": str(limit_ms),
        "lock_timeout": str(limit_ms),
        "idle_in_transaction_session_timeout": str(limit_ms + 60_000),
    }
    calls = (
        f"pg_catalog.set_config({Literal(name).as_string()}, {Literal(value).as_string()}, true)"
        for name, value in (limits | dict(settings)).items()
    )
    return "BEGIN READ ONLY", f"SELECT {', '.join(calls)}"


def _generic(statement: str, parameters: Sequence[Parameter] | None) -> bool:
    """Whether a statement is to be planned for any values of its parameters."""
    return parameters is None and _PLACEHOLDER.search(statement) is not None


def _plan(result: pq.abc.PGresult) -> Plan:
    text = result.get_value(0, 0) or b""
    if len(text) > MAX_PLAN_BYTES:
        raise SqlError(f"the plan has {len(text):,} bytes, more than {MAX_PLAN_BYTES:,}: simplify the query")
    try:
        return Plan.from_explain(json.loads(text))
    except RecursionError:
        raise SqlError("the plan is nested too deeply: simplify the query") from None


def _text(value: Parameter) -> bytes | None:
    """A value in PostgreSQL's text form; its type is the one that the statement gives the parameter."""
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return str(value).encode()
