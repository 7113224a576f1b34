"""What every face needs at hand: settings, the embedded clusters, the plugins, and the shadows by name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from optimizer.errors import InputError, ShadowUnavailableError
from optimizer.hooks import Plugins
from optimizer.settings import Settings
from optimizer.shadow.attached import inspect_server
from optimizer.shadow.clone import Cloned, Progress, clone_source, drop_template, read_files
from optimizer.shadow.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.pool import sweep
from optimizer.shadow.port import ShadowDatabase, ShadowKind
from optimizer.shadow.registry import Registry, ShadowRecord, check_name
from optimizer.shadow.source import origin_of
from optimizer.shadow.template import TEMPLATE_NAME, template_names

#: Shadows from schema texts that came with a request, kept for the next request with the same text.
MAX_THROWAWAYS = 16
#: Seconds for which an attached server's catalog is believed to be unchanged.
ATTACHED_FRESH_S = 30.0


class Services:
    """Settings, clusters, plugins and shadows of one process; safe to share between threads.

    Parameters:
        settings: as read from the environment.
        supervisor: of the embedded clusters.
        plugins: loaded.
    """

    def __init__(self, settings: Settings, supervisor: Supervisor, plugins: Plugins) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.plugins = plugins
        self.registry = Registry(settings.shadows)
        self._throwaways = Registry(settings.home / "throwaways")
        self._open: dict[tuple[str, str], tuple[ShadowRecord, ShadowDatabase, float]] = {}
        self._opening: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, settings: Settings | None = None) -> Self:
        """Make the services; nothing is started yet.

        Parameters:
            settings: None reads the environment.
        """
        settings = settings if settings is not None else Settings()
        return cls(settings, Supervisor(settings), Plugins())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back planning databases and clusters."""
        with self._lock:
            shadows, self._open = [entry[1] for entry in self._open.values()], {}
        for shadow in shadows:
            _close(shadow)
        self.supervisor.close()

    def shadow(self, name: str) -> ShadowDatabase:
        """Open a registered shadow, in its present revision.

        Errors: `UnknownShadowError`; `InputError` when it is damaged or no plugin opens its kind;
            `ShadowUnavailableError`.
        """
        return self._opened(self.registry, self.registry.get(name))

    def add_hollow(self, name: str, dsn: str, progress: Progress | None = None) -> ShadowRecord:
        """Clone a server's schema, statistics and shape, not its rows.

        Parameters:
            name: for the new shadow.
            dsn: of the source.
            progress: told what is being done and the share that is behind us, 0 to 1.

        Errors: `InputError`, `ShadowUnavailableError`.
        """
        with self._adding(name):
            return self._clone(name, dsn, progress or _silent)

    def add_files(self, name: str, schema_text: str, stats_text: str | None = None, origin: str = "") -> ShadowRecord:
        """Make a shadow from a schema script, with rows or statistics if it has any.

        Parameters:
            name: for the new shadow.
            schema_text, stats_text: see `optimizer.shadow.clone.read_files`.
            origin: where the texts come from, for people.

        Errors: `InputError` (`SqlError` with line and column), `ShadowUnavailableError`.
        """
        with self._adding(name):
            revision = _revision_of(schema_text, stats_text)
            return self._read_files(self.registry, name, revision, schema_text, stats_text, origin or "schema text")

    def add_attached(self, name: str, dsn: str) -> ShadowRecord:
        """Register a server to plan on itself.

        Errors: `InputError` for a superuser's login; `ShadowUnavailableError`.
        """
        with self._adding(name):
            version, notes = inspect_server(dsn)
            record = self._record(
                name, "attached", secrets.token_hex(6), origin_of(dsn), "", Cloned({}, version, {}, notes)
            )
            return self.registry.put(record, {}, dsn=dsn)

    def refresh(self, name: str, progress: Progress | None = None) -> ShadowRecord:
        """Read a shadow's server again and replace what is known of it.

        Errors: as `add_hollow`; `InputError` for a shadow made from files.
        """
        with self.registry.lock(name):
            record = self.registry.get(name)
            if record.kind == "hollow":
                return self._clone(name, self.registry.dsn(name), progress or _silent, record)
            if record.kind == "attached":
                version, notes = inspect_server(self.registry.dsn(name))
                cloned = Cloned({}, version, {}, notes)
                fresh = self._record(name, "attached", secrets.token_hex(6), record.origin, "", cloned)
                return self.registry.put(fresh, {})
            raise InputError(
                f"the shadow {name!r} was made from {record.origin}: drop it and add it again to read that anew"
            )

    def drop(self, name: str) -> None:
        """Forget a shadow and delete what is kept of it, even if it is damaged.

        Errors: `UnknownShadowError`, `ShadowUnavailableError`.
        """
        with self.registry.lock(name):
            self._drop(self.registry, name)

    def throwaway(self, schema_text: str, stats_text: str | None = None) -> ShadowDatabase:
        """Open a shadow for a schema that came with a request; the same text finds the same shadow again.

        Errors: as `add_files`.
        """
        revision = _revision_of(schema_text, stats_text)
        name = f"schema-{revision}"
        registry = self._throwaways
        with registry.lock(name):
            if name in registry.names():
                record = registry.get(name)
            else:
                record = self._read_files(registry, name, revision, schema_text, stats_text, "a schema sent along")
            os.utime(registry.root / name)  # the least recently used go first
        self._trim_throwaways(keep=name)
        return self._opened(registry, record)

    @contextlib.contextmanager
    def _adding(self, name: str) -> Iterator[None]:
        check_name(name)
        with self.registry.lock(name):
            if name in self.registry.names():
                raise InputError(
                    f"there is a shadow named {name!r} already: refresh it, or drop it first with "
                    f"`planproof shadow drop {name}`"
                )
            yield

    def _clone(self, name: str, dsn: str, progress: Progress, before: ShadowRecord | None = None) -> ShadowRecord:
        revision = secrets.token_hex(6)
        database = _database("planproof", name, revision)
        origin = origin_of(dsn)
        cluster = self._swept_cluster(name)
        cloned = clone_source(cluster, database, dsn, self.settings, progress)
        record = self._record(name, "hollow", revision, origin, database, cloned)
        record = self.registry.put(record, cloned.files, dsn=dsn)
        if before is not None:
            drop_template(cluster, before.database)
        progress("done", 1.0)
        return record

    def _read_files(
        self, registry: Registry, name: str, revision: str, schema_text: str, stats_text: str | None, origin: str
    ) -> ShadowRecord:
        database = _database(self._prefix(registry), name, revision)
        cluster = self._swept_cluster(name)
        cloned = read_files(cluster, database, schema_text, stats_text, self.settings)
        record = self._record(name, "files", revision, origin, database, cloned)
        return registry.put(record, cloned.files)

    def _record(
        self, name: str, kind: ShadowKind, revision: str, origin: str, database: str, cloned: Cloned
    ) -> ShadowRecord:
        return ShadowRecord(
            name=name,
            kind=kind,
            revision=revision,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            origin=origin,
            database=database,
            server_version=cloned.server_version,
            not_cloned=cloned.not_cloned,
            settings=cloned.settings,
        )

    def _opened(self, registry: Registry, record: ShadowRecord) -> ShadowDatabase:
        key = (str(registry.root), record.name)
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        # A server that does not answer keeps those waiting who want this shadow, and nobody else.
        with opening:
            known = self._open.get(key)
            if known is not None:
                fresh = record.kind != "attached" or time.monotonic() - known[2] < ATTACHED_FRESH_S
                if known[0].revision == record.revision and fresh:
                    return known[1]
            shadow: ShadowDatabase | None = self.plugins.first("planproof_open_shadow", record=record, services=self)
            if shadow is None:
                raise InputError(
                    f"no plugin opens shadows of the kind {record.kind!r}, such as {record.name!r}: install the one "
                    "that made it"
                )
            with self._lock:
                self._open[key] = (record, shadow, time.monotonic())
        if known is not None:
            _close(known[1])
        return shadow

    def _drop(self, registry: Registry, name: str) -> None:
        """Delete a shadow. Hold its lock."""
        with_database = True
        with contextlib.suppress(InputError):  # damaged: it may have one
            with_database = registry.get(name).database != ""
        with self._lock:
            entry = self._open.pop((str(registry.root), name), None)
        if entry is not None:
            _close(entry[1])
        registry.delete(name)
        if with_database:
            cluster = self.supervisor.cluster(ClusterKind.HOLLOW)
            for database in template_names(cluster):
                if _shadow_of(database) == (self._prefix(registry), name):
                    drop_template(cluster, database)

    def _swept_cluster(self, locked: str) -> Cluster:
        """The hollow cluster, without what killed processes left in it: templates of no record, copies of no template.

        Parameters:
            locked: the shadow whose lock we hold ourselves.
        """
        cluster = self.supervisor.cluster(ClusterKind.HOLLOW)
        for database in template_names(cluster):
            prefix, name = _shadow_of(database)
            registry = next(r for r in (self.registry, self._throwaways) if self._prefix(r) == prefix)
            lock = registry.lock(name, timeout_s=0) if name != locked else contextlib.nullcontext()
            with contextlib.suppress(ShadowUnavailableError, InputError), lock:
                known = name in registry.names() and registry.get(name).database == database
                if not known:
                    drop_template(cluster, database)
        sweep(cluster)
        return cluster

    def _prefix(self, registry: Registry) -> str:
        return "planproof" if registry.root == self.registry.root else "throwaway"

    def _trim_throwaways(self, *, keep: str) -> None:
        """Drop the least recently used throw-away shadows beyond the limit, except one that somebody is changing."""
        registry = self._throwaways
        names = sorted(registry.names(), key=lambda name: _last_use(registry.root / name))
        for name in names[: max(len(names) - MAX_THROWAWAYS, 0)]:
            if name != keep:
                with contextlib.suppress(ShadowUnavailableError), registry.lock(name, timeout_s=0):
                    self._drop(registry, name)


def _database(prefix: str, name: str, revision: str) -> str:
    return f"{prefix}_{name}_{revision}"


def _shadow_of(database: str) -> tuple[str, str]:
    """Whose template a database is: the prefix of its registry, and the shadow's name."""
    found = TEMPLATE_NAME.fullmatch(database)
    return (found.group(1), found.group(2)) if found is not None else ("", "")


def _revision_of(schema_text: str, stats_text: str | None) -> str:
    return hashlib.sha256(f"{schema_text}\0{stats_text or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _last_use(folder: Path) -> float:
    """Seconds since the epoch; 0 for one that another process has just deleted."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _close(shadow: ShadowDatabase) -> None:
    """Close a shadow of a kind that can be closed."""
    close: Callable[[], None] | None = getattr(shadow, "close", None)
    if close is not None:
        close()


def _silent(_step: str, _done: float) -> None:
    """Progress that nobody watches."""
