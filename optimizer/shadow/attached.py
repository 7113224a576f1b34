"""Attached shadows: the user's own server, planned on as it stands.

Hypothetical indexes come from the extension HypoPG where the server has it. Elsewhere they are real for a moment: made
inside a transaction that is rolled back, within a time limit, never CONCURRENTLY. That keeps writers of the table
waiting while it lasts, so it is done to small tables only.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import InputError
from optimizer.plan import Plan
from optimizer.settings import Settings
from optimizer.shadow.explain import Explainer, execution_ms
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.port import HypotheticalIndex, Parameter, ShadowInfo
from optimizer.shadow.registry import ShadowRecord
from optimizer.shadow.server.binaries import bundled_binaries
from optimizer.shadow.source.collations import collation_statements, read_collations
from optimizer.shadow.source.connection import connect, connected, dump, origin_of
from optimizer.shadow.source.introspect import read_catalog
from optimizer.shadow.source.role import named_role
from optimizer.shadow.source.row_security import read_row_security
from optimizer.shadow.template.catalog_file import catalog_to_json
from optimizer.shadow.template.restore import accepted
from optimizer.shadow.whatif.attached_indexes import HypopgIndexes, MomentaryIndexes

_NO_HYPOPG = (
    "hypothetical indexes: this server has no extension hypopg, so each is really built inside a transaction that is "
    "rolled back; only tables of up to 256 MB get any, and their writers wait meanwhile (install hypopg, or clone the "
    "server with --from)"
)


def inspect_server(dsn: str) -> tuple[str, tuple[str, ...]]:
    """Check that a server may be attached.

    Returns: its version, and what is limited there, a line each.

    Errors: `InputError` for a superuser's login; `ShadowUnavailableError`.
    """
    with connected(dsn) as connection:
        _refuse_superuser(connection, dsn)
        version = connection.info.parameter_status("server_version") or ""
        return version.split(" ")[0], () if _has_hypopg(connection) else (_NO_HYPOPG,)


def _refuse_superuser(connection: psycopg.Connection[Any], dsn: str) -> None:
    # EXPLAIN runs functions. Under a superuser, one that a query brings along could do anything.
    row = connection.execute(
        "SELECT pg_catalog.current_setting('is_superuser'), session_user::pg_catalog.text"
    ).fetchone()
    superuser, user = row if row is not None else ("on", "")
    if superuser == "on":
        raise InputError(
            f"{user} is a superuser on {origin_of(dsn)}, and planning a query can run code: attach with a role that "
            "may only read (CREATE ROLE planproof LOGIN PASSWORD '...'; GRANT pg_read_all_data TO planproof)"
        )


def _has_hypopg(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute("SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'hypopg'").fetchone() is not None


class AttachedSession:
    """One connection to the user's server.

    Parameters:
        dsn: of the server.
        catalog: of its database.
        settings: for time limits.
    """

    def __init__(self, dsn: str, catalog: Catalog, settings: Settings) -> None:
        self._dsn = dsn
        self._settings = settings
        # Whatever is not rolled back on purpose could at least write nothing.
        self._connection = connect(dsn, options="-c default_transaction_read_only=on")
        try:
            _refuse_superuser(self._connection, dsn)
            guarded = GuardedConnection(
                self._connection, timeout_ms=settings.explain_timeout_ms, end_session=self._end_session
            )
            self._explainer = Explainer(guarded)
            self._indexes: HypopgIndexes | MomentaryIndexes = (
                HypopgIndexes(self._explainer, catalog)
                if _has_hypopg(self._connection)
                else MomentaryIndexes(self._explainer, catalog)
            )
        except BaseException:
            self._connection.close()
            raise

    @property
    def explain_calls(self) -> int:
        """EXPLAIN statements since the session was opened."""
        return self._explainer.calls

    @property
    def refused(self) -> dict[IndexCandidate, str]:
        """Why candidates were left out by `create`."""
        return self._indexes.refused

    def explain(
        self,
        sql: str,
        *,
        parameters: Sequence[Parameter] | None = None,
        using: Iterable[HypotheticalIndex] = (),
    ) -> Plan:
        """See `PlanningSession.explain`."""
        return self._indexes.explain(sql, parameters, tuple(dict.fromkeys(using)))

    def create(self, candidates: Iterable[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """See `PlanningSession.create`."""
        return self._indexes.create(tuple(dict.fromkeys(candidates)))

    def execution_ms(self, sql: str, *, parameters: Sequence[Parameter] | None = None) -> float:
        """See `optimizer.measurement.Executes`; no hypothetical index takes part."""
        guarded = GuardedConnection(
            self._connection,
            timeout_ms=self._settings.verify_timeout_ms,
            setting="PLANPROOF_VERIFY_TIMEOUT_MS",
            end_session=self._end_session,
        )
        return execution_ms(guarded, sql, parameters)

    def close(self) -> None:
        """End the connection, and with it whatever HypoPG holds."""
        self._connection.close()

    def _end_session(self, process: int) -> None:
        """Roles may end sessions of their own; over a second connection, since the first one does not answer."""
        with contextlib.suppress(psycopg.Error), connected(self._dsn) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [process])


class AttachedShadow:
    """A server that the user named.

    Parameters:
        record: its entry in the registry.
        dsn: of the server.
        settings: for time limits.
    """

    def __init__(self, record: ShadowRecord, dsn: str, settings: Settings) -> None:
        self.record = record
        self._dsn = dsn
        self._settings = settings
        self._lock = threading.Lock()
        self._ddl: str | None = None
        with connected(dsn) as connection:
            _refuse_superuser(connection, dsn)
            self._version = (connection.info.parameter_status("server_version") or "").split(" ")[0]
            self._catalog = read_catalog(connection)
        # The server changes without telling: what the catalog says now is the revision.
        self._revision = hashlib.sha256(catalog_to_json(self._catalog).encode()).hexdigest()[:12]

    @property
    def info(self) -> ShadowInfo:
        """See `ShadowDatabase.info`."""
        return ShadowInfo(self.record.name, "attached", self._version, self._revision, self.record.not_cloned)

    def catalog(self) -> Catalog:
        """See `ShadowDatabase.catalog`."""
        return self._catalog

    def ddl(self) -> str:
        """See `ShadowDatabase.ddl`; dumped when it is first asked for."""
        with self._lock:
            if self._ddl is None:
                with connected(self._dsn) as connection:
                    text = dump(bundled_binaries(), connection, statistics=False)
                    connection.execute("SET search_path = pg_catalog")
                    text += read_row_security(connection, named_role(connection, "")).marks()
                    text += collation_statements(read_collations(connection))
                self._ddl = accepted(text, max_bytes=self._settings.max_schema_bytes)
            return self._ddl

    @contextlib.contextmanager
    def session(self) -> Iterator[AttachedSession]:
        """See `ShadowDatabase.session`."""
        session = AttachedSession(self._dsn, self._catalog, self._settings)
        try:
            yield session
        finally:
            session.close()
