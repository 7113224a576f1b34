"""What every face needs at hand: settings, the embedded clusters, the plugins, and the shadows by name."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from optimizer.errors import InputError, ShadowUnavailableError, UnknownShadowError
from optimizer.hooks import Plugins
from optimizer.open_shadows import OpenShadows
from optimizer.settings import Settings
from optimizer.shadow.attached import inspect_server
from optimizer.shadow.hollow import HollowSession
from optimizer.shadow.idle import IdleSessions
from optimizer.shadow.pool import sweep
from optimizer.shadow.port import ShadowDatabase, ShadowKind
from optimizer.shadow.registry import Registry, ShadowRecord, check_name
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.server.room import check_room, is_short
from optimizer.shadow.source.carried import Carried
from optimizer.shadow.source.connection import connected, origin_of
from optimizer.shadow.source.reading import Progress
from optimizer.shadow.template.carried_clone import make_from_files
from optimizer.shadow.template.clone import Cloned, clone_source, drop_template
from optimizer.shadow.template.clone_options import CloneOptions
from optimizer.shadow.template.database import TEMPLATE_NAME, server_errors, template_names
from optimizer.shadow.template.refresh import Refreshed, refresh_source

#: Shadows from schema texts that came with a request, kept for the next request with the same text.
MAX_THROWAWAYS = 16
#: And the disk that their databases may take together.
MAX_THROWAWAY_BYTES = 2_000_000_000
_DISK_BYTES = "disk_bytes"


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
        self.idle: IdleSessions[HollowSession] = IdleSessions()
        self._throwaways = Registry(settings.home / "throwaways")
        self._shadows = OpenShadows(self._open)

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
        self._shadows.close_all()
        self.supervisor.close()

    def shadow(self, name: str) -> ShadowDatabase:
        """Open a registered shadow, in its present revision.

        Errors: `UnknownShadowError`; `InputError` when it is damaged or no plugin opens its kind;
            `ShadowUnavailableError`.
        """
        return self._shadows.get(self.registry.root, self.registry.get(name))

    def add_hollow(
        self, name: str, dsn: str, progress: Progress | None = None, options: CloneOptions | None = None
    ) -> ShadowRecord:
        """Clone a server's schema, statistics and shape, not its rows.

        Parameters:
            name: for the new shadow.
            dsn: of the source.
            progress: told what is being done and the share that is behind us, 0 to 1.
            options: how to clone; None is as all of it defaults to.

        Errors: `InputError`, `ShadowUnavailableError`.
        """
        with self._adding(name):
            return self._clone(name, dsn, progress or _silent, options or CloneOptions())

    def add_files(self, name: str, schema_text: str, stats_text: str | None = None, origin: str = "") -> ShadowRecord:
        """Make a shadow from a schema script, with rows or statistics if it has any.

        Parameters:
            name: for the new shadow.
            schema_text, stats_text: see `optimizer.shadow.template.carried_clone.make_from_files`.
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

    def refresh(self, name: str, progress: Progress | None = None, options: CloneOptions | None = None) -> ShadowRecord:
        """Read a shadow's server again and replace what is known of it.

        Parameters:
            name: of the shadow.
            progress: as for `add_hollow`.
            options: how to clone from now on; None is as before.

        Errors: as `add_hollow`; `InputError` for a shadow made from files.
        """
        with self.registry.lock(name):
            record = self.registry.get(name)
            if record.kind == "hollow":
                chosen = options or record.options
                return self._clone(name, self.registry.dsn(name), progress or _silent, chosen, record)
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
        """As `using_throwaway`, for a process that has its data folder to itself: others may drop it to make room.

        Errors: as `add_files`.
        """
        with self.using_throwaway(schema_text, stats_text) as shadow:
            return shadow

    @contextlib.contextmanager
    def using_throwaway(self, schema_text: str, stats_text: str | None = None) -> Iterator[ShadowDatabase]:
        """Open a shadow for a schema that came with a request, which nobody drops inside the block.

        The same text finds the same shadow again, as long as no others need the room.

        Errors: as `add_files`.
        """
        revision = _revision_of(schema_text, stats_text)
        name = f"schema-{revision}"
        registry = self._throwaways
        try:
            with contextlib.ExitStack() as use:
                with registry.lock(name):
                    use.enter_context(registry.using(name))
                    if name in registry.names():
                        record = registry.get(name)
                    else:
                        record = self._read_files(
                            registry, name, revision, schema_text, stats_text, "a schema sent along"
                        )
                    os.utime(registry.root / name)  # the least recently used go first
                yield self._shadows.get(registry.root, record)
        finally:
            self._trim_throwaways()

    def fresh_s(self, record: ShadowRecord) -> float:
        """Seconds for which what was found on a registered shadow may be believed: endless, but for attached ones."""
        if record.kind != "attached":
            return math.inf
        return self._shadows.fresh_s(self.registry.root, record)

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

    def _clone(
        self, name: str, dsn: str, progress: Progress, options: CloneOptions, before: ShadowRecord | None = None
    ) -> ShadowRecord:
        revision = secrets.token_hex(6)
        database = _database("planproof", name, revision)
        self._check_room()
        origin = origin_of(dsn)
        with connected(dsn) as source:
            planner = self.supervisor.planner_for(source.info.server_version)
        cluster = self._swept_cluster(name, planner)
        if before is not None and (before.options, before.planner_major) == (options, planner):
            found = refresh_source(cluster, before, database, dsn, self.settings, progress)
        else:
            found = Refreshed(clone_source(cluster, database, dsn, self.settings, progress, options), "")
        if found.cloned is None:
            progress("nothing has changed", 1.0)
            return self.registry.get(name)
        record = self._record(name, "hollow", revision, origin, database, found.cloned)
        record = replace(record, options=options, planner_major=planner, changes=found.changes)
        record = self.registry.put(record, found.cloned.files, dsn=dsn)
        if before is not None:
            self._drop_database(before)
        progress(found.changes or "done", 1.0)
        return record

    def _read_files(
        self, registry: Registry, name: str, revision: str, schema_text: str, stats_text: str | None, origin: str
    ) -> ShadowRecord:
        database = _database(self._prefix(registry), name, revision)
        self._check_room()
        carried = Carried.from_text(stats_text) if stats_text is not None else None
        planner = self.supervisor.planner_for(carried.shape.server_version_num) if carried is not None else None
        cluster = self.supervisor.cluster(ClusterKind.HOLLOW, planner)
        try:
            self._sweep(cluster, name)
            cloned = make_from_files(cluster, database, schema_text, stats_text, self.settings)
        except ShadowUnavailableError:
            if not cluster.ended():
                raise
            # The server ended meanwhile, with what was half made: once more in the next one.
            cluster = self._swept_cluster(name, planner)
            cloned = make_from_files(cluster, database, schema_text, stats_text, self.settings)
        record = replace(self._record(name, "files", revision, origin, database, cloned), planner_major=planner)
        return registry.put(record, {**cloned.files, _DISK_BYTES: str(cloned.disk_bytes)})

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

    def _open(self, record: ShadowRecord) -> ShadowDatabase:
        shadow: ShadowDatabase | None = self.plugins.first("planproof_open_shadow", record=record, services=self)
        if shadow is None:
            raise InputError(
                f"no plugin opens shadows of the kind {record.kind!r}, such as {record.name!r}: install the one that "
                "made it"
            )
        return shadow

    def _drop(self, registry: Registry, name: str) -> None:
        """Delete a shadow. Hold its lock."""
        majors: tuple[int | None, ...] = (None, *self.supervisor.majors())
        with contextlib.suppress(InputError):  # damaged: it may have a database, in any hollow cluster
            record = registry.get(name)
            majors = (record.planner_major,) if record.database else ()
        self._shadows.close(registry.root, name)
        registry.delete(name)
        # Where a PostgreSQL has gone from this machine, its databases stay until it comes back, and are then swept.
        for major in (major for major in majors if major is None or self.supervisor.serves(major)):
            cluster = self.supervisor.cluster(ClusterKind.HOLLOW, major)
            with server_errors("dropping the shadow"):
                for database in template_names(cluster):
                    if _shadow_of(database) == (self._prefix(registry), name):
                        drop_template(cluster, database)

    def _drop_database(self, record: ShadowRecord) -> None:
        """Drop the template of a revision that is no more, if its PostgreSQL is still on this machine."""
        if record.planner_major is None or self.supervisor.serves(record.planner_major):
            drop_template(self.supervisor.cluster(ClusterKind.HOLLOW, record.planner_major), record.database)

    def _swept_cluster(self, locked: str, major: int | None = None) -> Cluster:
        """A hollow cluster, swept as `_sweep` says."""
        cluster = self.supervisor.cluster(ClusterKind.HOLLOW, major)
        self._sweep(cluster, locked)
        return cluster

    def _sweep(self, cluster: Cluster, locked: str) -> None:
        """Drop what killed processes left in the hollow cluster: templates of no record, copies of no template.

        Parameters:
            locked: the shadow whose lock we hold ourselves.
        """
        with server_errors("cleaning up"):
            for database in template_names(cluster):
                prefix, name = _shadow_of(database)
                registry = next(r for r in (self.registry, self._throwaways) if self._prefix(r) == prefix)
                lock = registry.lock(name, timeout_s=0) if name != locked else contextlib.nullcontext()
                with contextlib.suppress(ShadowUnavailableError, InputError), lock:
                    known = name in registry.names() and registry.get(name).database == database
                    if not known:
                        drop_template(cluster, database)
            sweep(cluster)

    def _prefix(self, registry: Registry) -> str:
        return "planproof" if registry.root == self.registry.root else "throwaway"

    def _trim_throwaways(self, most: int | None = None) -> None:
        """Drop the least recently used throw-away shadows beyond the limit, except those that somebody uses.

        Parameters:
            most: that may stay; None is the limit.
        """
        registry, limit = self._throwaways, MAX_THROWAWAY_BYTES
        most = MAX_THROWAWAYS if most is None else most
        names = sorted(registry.names(), key=lambda name: _last_use(registry.root / name), reverse=True)
        sizes = itertools.accumulate(_disk_bytes(registry.root / name) for name in names)
        doomed = [n for place, (n, size) in enumerate(zip(names, sizes, strict=True)) if place >= most or size > limit]
        for name in reversed(doomed):
            # Away, or used by another: whoever comes next tries again.
            with contextlib.suppress(ShadowUnavailableError, UnknownShadowError), registry.lock(name, timeout_s=0):
                if not registry.in_use(name):
                    self._drop(registry, name)
        # What another process has dropped, this one need not keep.
        self._shadows.keep_only(registry.root, frozenset(registry.names()))

    def _check_room(self) -> None:
        """Refuse to make a database where the disk is nearly full, unless dropping throw-away ones helps.

        Errors: `ShadowUnavailableError`.
        """
        if is_short(self.settings.home):
            self._trim_throwaways(most=0)
        check_room(self.settings.home)


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


def _disk_bytes(folder: Path) -> int:
    """What the database of a shadow made from files takes; 0 where that is not known."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # another process has just deleted it
        for file in folder.glob(f"*/{_DISK_BYTES}"):
            return int(file.read_text())
    return 0


def _silent(_step: str, _done: float) -> None:
    """Progress that nobody watches."""
