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

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.errors import PlanproofError, ShadowUnavailableError
from optimizer.plan import Plan
from optimizer.settings import Settings
from optimizer.shadow.explain import Explainer, execution_ms
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.idle import IdleSessions
from optimizer.shadow.pool import TIDY_AFTER, PlanningDatabase, Template, acquire, tidy
from optimizer.shadow.port import HypotheticalIndex, Parameter, ShadowInfo
from optimizer.shadow.registry import Registry, ShadowRecord
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.template.catalog_file import catalog_from_json
from optimizer.shadow.template.clone import find_template, remake_template
from optimizer.shadow.template.database import end_session, owner_role, server_errors
from optimizer.shadow.whatif.hypothetical import HypotheticalIndexes

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
        again: gives another lease, and its cluster: after the server has ended, or, if so asked, of a database whose
            files are all its own.
    """

    def __init__(
        self,
        cluster: Cluster,
        database: PlanningDatabase,
        catalog: Catalog,
        settings: Settings,
        again: Callable[[bool], tuple[Cluster, PlanningDatabase]],
    ) -> None:
        self._catalog = catalog
        self._timeout_ms = settings.explain_timeout_ms
        self._execution_ms = settings.verify_timeout_ms
        self._again = again
        self._moved = False
        self._explained = 0
        self._untidy = 0
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
                if not self._database.own_files and self._indexes.may_run_functions(wanted):
                    self._move(own_files=True)
                return self._indexes.create(wanted)

        return self._surviving(make)

    def drop(self, indexes: Iterable[HypotheticalIndex]) -> None:
        """Drop indexes that `create` made, so that a long search does not gather those that it gave up.

        Errors: `ShadowUnavailableError`.
        """
        with server_errors("planning"):
            self._indexes.drop(tuple(indexes))

    def reset(self) -> bool:
        """Make it as good as new for the next user; False when it can only be closed."""
        self._untidy += len(self._indexes.candidates)
        try:
            self._indexes.drop_all()
            if self._untidy >= TIDY_AFTER:
                tidy(self._database)
                self._untidy = 0
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
        with server_errors("planning"):
            self._move(own_files=self._database.own_files)
        return work()

    def _move(self, *, own_files: bool) -> None:
        """Go on in another planning database."""
        known, calls = self._indexes.candidates, self._explainer.calls
        self.close()
        self._begin(*self._again(own_files))
        self._explained += calls
        self._indexes.create(known)

    def _count_rows(self, table: str, predicate: str) -> float:
        self._indexes.show(())
        query = f"SELECT FROM ONLY {table} WHERE {predicate}"
        if not any(known.row_security and known.qualified == table for known in self._catalog.tables.values()):
            return self._explainer.explain(query).cost.plan_rows
        with self._owner() as owner:  # an index holds the rows that policies hide, too
            return Explainer(owner, settings=_fixed_settings(self._database.template)).explain(query).cost.plan_rows

    @contextlib.contextmanager
    def _owner(self) -> Iterator[GuardedConnection]:
        role = owner_role(self._database.template.database)
        limit = f"-c statement_timeout={self._timeout_ms}"
        with self._cluster.connect(self._database.name, role, options=limit) as connection:
            yield self._guarded(connection)

    def _guarded(self, connection: psycopg.Connection[Any]) -> GuardedConnection:
        return GuardedConnection(connection, timeout_ms=self._timeout_ms, end_session=self._end_session)

    def _end_session(self, process: int) -> None:
        end_session(self._database.superuser, process)


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
            record.name,
            record.kind,
            self._cluster().binaries.version,
            record.revision,
            record.not_cloned,
            record.server_version,
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
                kind = HollowSession if database.template.hollow else FilledSession
                return kind(cluster, database, self.catalog(), self._settings, self._leased)
            except BaseException:
                database.superuser.close()
                raise

    def _leased(self, own_files: bool) -> tuple[Cluster, PlanningDatabase]:
        cluster = self._cluster()
        return cluster, acquire(cluster, self._template(cluster), own_files=own_files)

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


def _fixed_settings(template: Template) -> dict[str, str]:
    """What libpq would take from the user's environment (PGTZ, PGDATESTYLE, PGGEQO): the source's values, or ours."""
    return {name: template.settings.get(name, default) for name, default in _FROM_ENVIRONMENT.items()}
