"""Shadows in the embedded server: hollow ones, cloned from a source, and those made from files.

Both are a template database and its copies (`template.py`, `pool.py`). What they are made from is in the registry's
files, so a template that is missing, since the cluster was thrown away, is made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import PlanproofError, ShadowUnavailableError
from optimizer.plan import Plan
from optimizer.settings import Settings
from optimizer.shadow.catalog_file import catalog_from_json
from optimizer.shadow.clone import find_template, remake_template
from optimizer.shadow.cluster import Cluster
from optimizer.shadow.explain import Explainer, execution_ms
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.hypothetical import HypotheticalIndexes
from optimizer.shadow.idle import IdleSessions
from optimizer.shadow.pool import PlanningDatabase, Template, acquire
from optimizer.shadow.port import HypotheticalIndex, Parameter, ShadowInfo
from optimizer.shadow.registry import Registry, ShadowRecord
from optimizer.shadow.template import owner_role, server_errors

T = TypeVar("T")
_FROM_ENVIRONMENT = {"TimeZone": "UTC", "DateStyle": "ISO, MDY", "geqo": "on"}


class HollowSession:
    """A leased planning database with its connections.

    When the server ends in the middle of its work, it goes on in another one: planning changes nothing, so it can be
    done again. Once only, since the statement itself may be what ends servers.

    Parameters:
        cluster: the hollow cluster.
        database: the lease; this session gives it back.
        catalog: of the source.
        settings: for time limits.
        again: gives another cluster and lease after the server has ended.
    """

    def __init__(
        self,
        cluster: Cluster,
        database: PlanningDatabase,
        catalog: Catalog,
        settings: Settings,
        again: Callable[[], tuple[Cluster, PlanningDatabase]],
    ) -> None:
        self._catalog = catalog
        self._timeout_ms = settings.explain_timeout_ms
        self._execution_ms = settings.verify_timeout_ms
        self._again = again
        self._moved = False
        self._explained = 0
        self._begin(cluster, database)

    def _begin(self, cluster: Cluster, database: PlanningDatabase) -> None:
        self._cluster = cluster
        self._database = database
        connection = cluster.connect(database.name, database.name)
        self._explainer = Explainer(self._guarded(connection), settings=_fixed_settings(database.template))
        self._indexes = HypotheticalIndexes(cluster, database, self._owner, self._catalog, self._count_rows)

    @property
    def explain_calls(self) -> int:
        """EXPLAIN statements since the session was opened."""
        return self._explained + self._explainer.calls

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
        visible = tuple(using)

        def plan() -> Plan:
            with server_errors("planning"):
                self._indexes.show(visible)
            return self._explainer.explain(sql, parameters)

        return self._surviving(plan)

    def create(self, candidates: Iterable[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """See `PlanningSession.create`."""
        wanted = tuple(candidates)

        def make() -> dict[IndexCandidate, HypotheticalIndex]:
            with server_errors("planning"):
                return self._indexes.create(wanted)

        return self._surviving(make)

    def reset(self) -> bool:
        """Make it as good as new for the next user; False when it can only be closed."""
        try:
            self._indexes.drop_all()
            if not self._explainer.connection.broken:
                # Prepared statements, sequences' values and listening outlive transactions.
                self._explainer.connection.command("DISCARD ALL")
        except (psycopg.Error, PlanproofError):
            return False
        self._explainer.calls = self._explained = 0
        self._moved = False
        return self.usable() and not self._indexes.tainted

    def usable(self) -> bool:
        """True while the server that it was made for runs and its connections stand."""
        superuser = self._database.superuser
        return not (self._explainer.connection.broken or superuser.closed or superuser.broken) and self._cluster.alive()

    def close(self) -> None:
        """Give the planning database back."""
        self._explainer.connection.connection.close()
        self._database.superuser.close()

    def _surviving(self, work: Callable[[], T]) -> T:
        """Do something that changes nothing, and once more elsewhere if the server ended meanwhile."""
        try:
            return work()
        except ShadowUnavailableError:
            if self._moved or not self._cluster.ended():
                raise
        self._moved = True
        known, calls = self._indexes.candidates, self._explainer.calls
        self.close()
        with server_errors("planning"):
            self._begin(*self._again())
            self._explained += calls
            self._indexes.create(known)
        return work()

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
        with server_errors("planning"):
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
        idle: where sessions are kept between uses.
    """

    def __init__(
        self,
        record: ShadowRecord,
        registry: Registry,
        cluster: Callable[[], Cluster],
        settings: Settings,
        idle: IdleSessions[HollowSession],
    ) -> None:
        self.record = record
        self._registry = registry
        self._cluster = cluster
        self._settings = settings
        self._idle = idle
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
            if session.reset():
                self._idle.keep(self, session, lambda: not self._closed)
            else:
                session.close()

    def close(self) -> None:
        """Give back the planning databases that this process keeps."""
        self._closed = True
        self._idle.drop(self)

    def _take(self) -> HollowSession:
        while (session := self._idle.take(self)) is not None:
            if session.usable():
                return session
            session.close()
        cluster = self._cluster()
        try:
            return self._open(cluster)
        except ShadowUnavailableError:
            if not cluster.ended():
                raise
            return self._open(self._cluster())  # the server ended while we were at it

    def _open(self, cluster: Cluster) -> HollowSession:
        with server_errors("planning"):
            database = acquire(cluster, self._template(cluster))
            try:
                kind = HollowSession if database.template.layout is not None else FilledSession
                return kind(cluster, database, self.catalog(), self._settings, self._leased)
            except BaseException:
                database.superuser.close()
                raise

    def _leased(self) -> tuple[Cluster, PlanningDatabase]:
        cluster = self._cluster()
        return cluster, acquire(cluster, self._template(cluster))

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


def _fixed_settings(template: Template) -> str:
    """SQL for what libpq would take from the user's environment (PGTZ, PGDATESTYLE, PGGEQO): the source's, or ours."""
    fixed = {name: template.settings.get(name, default) for name, default in _FROM_ENVIRONMENT.items()}
    return " ".join(f"SET LOCAL {name} = {sql.Literal(value).as_string()};" for name, value in fixed.items())
