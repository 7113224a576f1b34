"""Shadows in the embedded server: hollow ones, cloned from a source, and those made from files.

Both are a template database and its copies (`template.py`, `pool.py`). What they are made from is in the registry's
files, so a template that is missing, since the cluster was thrown away, is made again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import ShadowUnavailableError
from optimizer.plan import Plan
from optimizer.settings import Settings
from optimizer.shadow.catalog_file import catalog_from_json
from optimizer.shadow.clone import find_template, remake_template
from optimizer.shadow.cluster import Cluster
from optimizer.shadow.explain import Explainer, execution_ms
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.hypothetical import HypotheticalIndexes
from optimizer.shadow.pool import PlanningDatabase, Template, acquire
from optimizer.shadow.port import HypotheticalIndex, Parameter, ShadowInfo
from optimizer.shadow.registry import Registry, ShadowRecord
from optimizer.shadow.template import owner_role, reason

#: Sessions that a shadow keeps open for its process between uses.
MAX_IDLE_SESSIONS = 2
_FROM_ENVIRONMENT = {"TimeZone": "UTC", "DateStyle": "ISO, MDY", "geqo": "on"}


class HollowSession:
    """A leased planning database with its connections.

    Parameters:
        cluster: the hollow cluster.
        database: the lease; this session gives it back.
        catalog: of the source.
        settings: for time limits.
    """

    def __init__(self, cluster: Cluster, database: PlanningDatabase, catalog: Catalog, settings: Settings) -> None:
        self._cluster = cluster
        self._database = database
        self._timeout_ms = settings.explain_timeout_ms
        self._execution_ms = settings.verify_timeout_ms
        connection = cluster.connect(database.name, database.name)
        self._explainer = Explainer(self._guarded(connection), settings=_fixed_settings(database.template))
        self._indexes = HypotheticalIndexes(cluster, database, self._owner, catalog, self._count_rows)

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
        with _server_errors():
            self._indexes.show(using)
        return self._explainer.explain(sql, parameters)

    def create(self, candidates: Iterable[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """See `PlanningSession.create`."""
        with _server_errors():
            return self._indexes.create(candidates)

    def reset(self) -> bool:
        """Make it as good as new for the next user; False when it can only be closed."""
        try:
            self._indexes.drop_all()
        except psycopg.Error:
            return False
        self._explainer.calls = 0
        return self.usable() and not self._indexes.tainted

    def usable(self) -> bool:
        """True while the server that it was made for runs and its connections stand."""
        superuser = self._database.superuser
        return not (self._explainer.connection.broken or superuser.closed or superuser.broken) and self._cluster.alive()

    def close(self) -> None:
        """Give the planning database back."""
        self._explainer.connection.connection.close()
        self._database.superuser.close()

    def _count_rows(self, table: str, predicate: str) -> float:
        self._indexes.show(())
        return self._explainer.explain(f"SELECT FROM ONLY {table} WHERE {predicate}").cost.plan_rows

    @contextlib.contextmanager
    def _owner(self) -> Iterator[GuardedConnection]:
        role = owner_role(self._database.template.database)
        limit = f"-c statement_timeout={self._timeout_ms}"
        with self._cluster.connect(self._database.name, role, options=limit) as connection:
            yield self._guarded(connection)

    def _guarded(self, connection: psycopg.Connection[Any]) -> GuardedConnection:
        return GuardedConnection(connection, timeout_ms=self._timeout_ms, end_session=self._end_session)

    def _end_session(self, process: int) -> None:
        self._database.superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [process])


class FilledSession(HollowSession):
    """A planning database that holds rows, so that statements can be executed, too."""

    def execution_ms(self, sql: str, *, parameters: Sequence[Parameter] | None = None) -> float:
        """See `optimizer.measurement.Executes`; no hypothetical index takes part."""
        with _server_errors():
            self._indexes.show(())
        guarded = GuardedConnection(
            self._explainer.connection.connection,
            timeout_ms=self._execution_ms,
            setting="PLANPROOF_VERIFY_TIMEOUT_MS",
            end_session=self._end_session,
        )
        return execution_ms(guarded, sql, parameters)


class HollowShadow:
    """A shadow whose planning databases are copies of a template.

    Parameters:
        record: its entry in the registry.
        registry: where that is.
        cluster: gives the running hollow cluster.
        settings: for time limits.
    """

    def __init__(
        self, record: ShadowRecord, registry: Registry, cluster: Callable[[], Cluster], settings: Settings
    ) -> None:
        self.record = record
        self._registry = registry
        self._cluster = cluster
        self._settings = settings
        self._idle: list[HollowSession] = []
        self._lock = threading.Lock()
        self._closed = False

    @cached_property
    def info(self) -> ShadowInfo:
        """See `ShadowDatabase.info`."""
        record = self.record
        return ShadowInfo(
            record.name, record.kind, self._cluster().binaries.version, record.revision, record.not_cloned
        )

    @cached_property
    def _catalog(self) -> Catalog:
        return catalog_from_json(self.record.read("catalog.json"))

    def catalog(self) -> Catalog:
        """See `ShadowDatabase.catalog`."""
        return self._catalog

    def ddl(self) -> str:
        """See `ShadowDatabase.ddl`."""
        return self.record.read("schema.sql")

    @contextlib.contextmanager
    def session(self) -> Iterator[HollowSession]:
        """See `ShadowDatabase.session`."""
        session = self._take()
        try:
            yield session
        finally:
            if not (session.reset() and self._keep(session)):
                session.close()

    def close(self) -> None:
        """Give back the planning databases that this process keeps."""
        with self._lock:
            self._closed = True
            sessions, self._idle = self._idle, []
        for session in sessions:
            session.close()

    def _take(self) -> HollowSession:
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            if session is None:
                break
            if session.usable():
                return session
            session.close()
        cluster = self._cluster()
        try:
            return self._open(cluster)
        except ShadowUnavailableError:
            again = self._cluster()
            if again.generation == cluster.generation:
                raise
            return self._open(again)  # the server was stopped while we were at it

    def _open(self, cluster: Cluster) -> HollowSession:
        with _server_errors():
            database = acquire(cluster, self._template(cluster))
            try:
                kind = HollowSession if database.template.layout is not None else FilledSession
                return kind(cluster, database, self.catalog(), self._settings)
            except BaseException:
                database.superuser.close()
                raise

    def _template(self, cluster: Cluster) -> Template:
        """The template, made again if the cluster has lost it."""
        found = find_template(cluster, self.record)
        if found is not None:
            return found
        name = self.record.name
        with self._registry.lock(name):
            if name not in self._registry.names() or self._registry.get(name).revision != self.record.revision:
                raise ShadowUnavailableError(f"the shadow {name!r} was refreshed or dropped meanwhile: try again")
            return find_template(cluster, self.record) or remake_template(cluster, self.record, self._settings)

    def _keep(self, session: HollowSession) -> bool:
        with self._lock:
            if self._closed or len(self._idle) >= MAX_IDLE_SESSIONS:
                return False
            self._idle.append(session)
            return True


def _fixed_settings(template: Template) -> str:
    """SQL for what libpq would take from the user's environment (PGTZ, PGDATESTYLE, PGGEQO): the source's, or ours."""
    fixed = {name: template.settings.get(name, default) for name, default in _FROM_ENVIRONMENT.items()}
    return " ".join(f"SET LOCAL {name} = {sql.Literal(value).as_string()};" for name, value in fixed.items())


@contextlib.contextmanager
def _server_errors() -> Iterator[None]:
    """Turn what psycopg raises for our own statements into an error for users."""
    try:
        yield
    except psycopg.Error as error:
        raise ShadowUnavailableError(f"the embedded server failed while planning: {reason(error)}") from error
