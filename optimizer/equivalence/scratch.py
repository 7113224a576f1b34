"""Databases and roles on the scratch cluster.

    gate_<key>        the template of a schema: made once by an unprivileged owner, kept between processes
    gate_<key>_<n>    a copy for one verdict at a time, held by an advisory lock of the process that made it

A copy has roles of its own: `..._own` owns the tables and loads rows, `..._run` may only read, `..._dml` may write.
Sessions of one role can see and end each other; of different ones they cannot. Nobody else may connect to it. A role
never gets a second database, and what a killed process left is dropped, not used again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from optimizer.ddl import Script
from optimizer.equivalence.databases import (
    copy_database,
    drop_roles,
    exists,
    fill_template,
    grant,
    is_alive,
    lock_class,
    open_session,
    read_notes,
    run_sql,
    write_notes,
)
from optimizer.equivalence.schema import Breakable, GateSchema, schema_key, schema_script
from optimizer.equivalence.session import Command, Session
from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.introspect import read_catalog

#: Most templates kept on disk (some 8 MB each); the least recently used go.
_MAX_TEMPLATES = 24
#: Schemas whose databases this process keeps at hand.
_MAX_KNOWN_SCHEMAS = 8
#: Database from which empty ones are copied: FILE_COPY of a database of ours is ten times faster than of template0.
_BLANK = "gate_blank"
_SLOT_LIMIT = 64
_OPEN_LIMIT_S = 10.0


@dataclass(slots=True)
class Lease:
    """One copy that this process holds.

    Parameters:
        cluster: where it is.
        dbname: its name, and the stem of its roles' names.
        slot: its number.
        schema: what it was copied from.
        loader: the owner's session, kept open.
        writer_ready: its writing role has been made.
    """

    cluster: Cluster
    dbname: str
    slot: int
    schema: GateSchema
    loader: Session
    writer_ready: bool = False


class Scratch:
    """The scratch databases of this process. Safe to share between threads.

    Parameters:
        supervisor: starts the cluster.
        settings: limits.
    """

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._control: psycopg.Connection[Any] | None = None
        self._generation = ""
        self._schemas: dict[str, GateSchema] = {}
        self._free: dict[str, list[Lease]] = {}
        self._taken: set[tuple[str, int]] = set()

    def schema(self, ddl: str) -> GateSchema:
        """Return a schema with its template, made if need be.

        Parameters:
            ddl: script text.

        Errors: `SqlError` for the script, `ShadowUnavailableError`, `TimeLimitError`.
        """
        key = schema_key(ddl)
        with self._lock:
            cluster, control = self._connected()
            known = self._schemas.get(key)
            if known is None:
                script = schema_script(ddl, self._settings.max_schema_bytes)
                known = self._template(cluster, control, key, script)
                while len(self._schemas) >= _MAX_KNOWN_SCHEMAS:
                    self._drop_known(next(iter(self._schemas)))
            self._schemas.pop(key, None)
            self._schemas[key] = known  # the latest used is last
            return known

    @contextmanager
    def lease(self, schema: GateSchema) -> Iterator[Lease]:
        """Hold a database of `schema` for one verdict.

        Errors: `ShadowUnavailableError`.
        """
        with self._lock:
            cluster, control = self._connected()
            free = self._free.get(schema.key)
            lease = free.pop() if free else self._copy(cluster, control, schema)
        sound = False
        try:
            yield lease
            sound = True
        finally:
            with self._lock:
                if sound and self._generation == lease.cluster.generation:
                    self._free.setdefault(schema.key, []).append(lease)
                else:
                    self._discard(lease)

    @contextmanager
    def blank(self, schema: GateSchema, script: Script) -> Iterator[Lease]:
        """Hold a fresh database into which `script` was run, for one replay; it is dropped afterwards.

        Errors: `SqlError` when the script does not run by itself.
        """
        with self._lock:
            cluster, control = self._connected()
            self._ensure_blank(control)
            lease = self._copy(cluster, control, schema, script)
        try:
            yield lease
        finally:
            with self._lock:
                self._discard(lease)

    def reader(self, lease: Lease) -> Session:
        """Open a session that may only read."""
        return self._open(lease, "run")

    def writer(self, lease: Lease) -> Session:
        """Open a session that may write, for statements whose transaction is rolled back."""
        if not lease.writer_ready:
            with self._lock:
                role = f"{lease.dbname}_dml"
                lease.cluster.ensure_role(role)
                with lease.cluster.connect(lease.dbname) as connection:
                    grant(connection, lease.dbname, role, "SELECT, INSERT, UPDATE, DELETE")
                lease.writer_ready = True
        return self._open(lease, "dml")

    def renew_loader(self, lease: Lease) -> None:
        """Open the loader's session again after it was ended."""
        lease.loader.close()
        lease.loader = _loader(lease.cluster, lease.dbname, lease.schema)

    def close(self) -> None:
        """Drop the copies of this process and close its connections; templates stay."""
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
                return
            for key in tuple(self._free):
                self._drop_known(key)
            if self._control is not None:
                self._control.close()
            self._forget()

    def _open(self, lease: Lease, suffix: str) -> Session:
        return open_session(lease.cluster, lease.dbname, suffix)

    def _connected(self) -> tuple[Cluster, psycopg.Connection[Any]]:
        """The cluster and the superuser's connection, which holds the locks; both anew after a restart or a fork."""
        if self._pid != os.getpid():
            self._forget()
        cluster = self._supervisor.cluster(ClusterKind.SCRATCH)
        control = self._control
        if control is None or cluster.generation != self._generation or not is_alive(control):
            self._forget()
            self._control = control = cluster.connect("postgres")
            self._generation = cluster.generation
        return cluster, control

    def _template(self, cluster: Cluster, control: psycopg.Connection[Any], key: str, script: Script) -> GateSchema:
        name = f"gate_{key}"
        control.execute("SELECT pg_advisory_lock(%s, 0)", [lock_class(key)])
        try:
            if not exists(control, name):
                self._sweep(control)
                self._ensure_blank(control)
                self._build(cluster, control, key, script)
            notes = read_notes(control, name)
            write_notes(control, name, notes)
        finally:
            control.execute("SELECT pg_advisory_unlock(%s, 0)", [lock_class(key)])
        with cluster.connect(name) as connection:
            connection.execute("SELECT set_config('search_path', %s, false)", [notes["search_path"]])
            catalog = read_catalog(connection)
        breakable = tuple(Breakable(*entry) for entry in notes["breakable"])
        return GateSchema(key, script, catalog, notes["search_path"], breakable)

    def _build(self, cluster: Cluster, control: psycopg.Connection[Any], key: str, script: Script) -> None:
        """Make a template under another name first: a half-made one is never taken for it."""
        name, making = f"gate_{key}", f"gate_{key}_making"
        run_sql(control, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(making))
        copy_database(control, making, _BLANK)
        try:
            cluster.ensure_role(name)
            path, breakable = fill_template(cluster, making, name, script)
            write_notes(control, making, {"search_path": path, "breakable": breakable})
            run_sql(control, "ALTER DATABASE {} RENAME TO {}", sql.Identifier(making), sql.Identifier(name))
        except BaseException:
            run_sql(control, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(making))
            raise

    def _copy(
        self, cluster: Cluster, control: psycopg.Connection[Any], schema: GateSchema, script: Script | None = None
    ) -> Lease:
        """Copy the template, or for a replay run `script` in an empty database, and make the copy's roles."""
        slot = self._slot(control, schema.key)
        name = f"gate_{schema.key}_{slot}"
        run_sql(control, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(name))
        owner, reader = f"{name}_own", f"{name}_run"
        try:
            cluster.ensure_role(owner)
            cluster.ensure_role(reader)
            copy_database(control, name, f"gate_{schema.key}" if script is None else _BLANK)
            if script is not None:
                fill_template(cluster, name, owner, script)
            with cluster.connect(name) as connection:
                if script is None:
                    run_sql(
                        connection,
                        "REASSIGN OWNED BY {} TO {}",
                        sql.Identifier(f"gate_{schema.key}"),
                        sql.Identifier(owner),
                    )
                grant(connection, name, reader, "SELECT")
                run_sql(connection, "GRANT CONNECT ON DATABASE {} TO {}", sql.Identifier(name), sql.Identifier(owner))
            loader = _loader(cluster, name, schema)
        except BaseException:
            self._taken.discard((schema.key, slot))
            control.execute("SELECT pg_advisory_unlock(%s, %s)", [lock_class(schema.key), slot])
            raise
        return Lease(cluster, name, slot, schema, loader)

    def _slot(self, control: psycopg.Connection[Any], key: str) -> int:
        for slot in range(1, _SLOT_LIMIT):
            if (key, slot) in self._taken:
                continue
            locked = control.execute("SELECT pg_try_advisory_lock(%s, %s)", [lock_class(key), slot]).fetchone()
            if locked is not None and locked[0]:
                self._taken.add((key, slot))
                return slot
        raise ShadowUnavailableError(f"{_SLOT_LIMIT - 1} verdicts on one schema are under way: try again later")

    def _discard(self, lease: Lease) -> None:
        lease.loader.close()
        key = lease.schema.key
        if self._control is None or self._control.closed or self._generation != lease.cluster.generation:
            return  # the server was restarted: another process may hold that name by now
        with suppress(psycopg.Error):
            run_sql(self._control, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(lease.dbname))
            drop_roles(self._control, lease.dbname)
            self._control.execute("SELECT pg_advisory_unlock(%s, %s)", [lock_class(key), lease.slot])
        self._taken.discard((key, lease.slot))

    def _drop_known(self, key: str) -> None:
        """Forget a schema: its free copies go, its template stays."""
        for lease in self._free.pop(key, ()):
            self._discard(lease)
        self._schemas.pop(key, None)

    def _ensure_blank(self, control: psycopg.Connection[Any]) -> None:
        if exists(control, _BLANK):
            return
        control.execute("SELECT pg_advisory_lock(0, 0)")
        try:
            if not exists(control, _BLANK):
                copy_database(control, _BLANK, "template0")
        finally:
            control.execute("SELECT pg_advisory_unlock(0, 0)")

    def _sweep(self, control: psycopg.Connection[Any]) -> None:
        """Drop copies that no process holds, and the templates least recently used."""
        rows = control.execute(
            "SELECT datname::text FROM pg_database WHERE datname ~ '^gate_[0-9a-f]{16}(_[0-9]+)?$'"
        ).fetchall()
        names = sorted((name for (name,) in rows), key=lambda name: read_notes(control, name)["used"], reverse=True)
        kept = 0
        for name in names:
            key, _, slot = name.removeprefix("gate_").partition("_")
            if not slot:
                kept += 1
                if kept < _MAX_TEMPLATES or key in self._schemas:
                    continue
            if (key, int(slot or 0)) not in self._taken:
                self._drop_unheld(control, name, key, int(slot or 0))

    def _drop_unheld(self, control: psycopg.Connection[Any], name: str, key: str, slot: int) -> None:
        locked = control.execute("SELECT pg_try_advisory_lock(%s, %s)", [lock_class(key), slot]).fetchone()
        if locked is None or not locked[0]:
            return
        try:
            # A template may be in the middle of being copied: then it stays.
            with suppress(psycopg.errors.ObjectInUse):
                command: LiteralString = "DROP DATABASE IF EXISTS {}" + (" WITH (FORCE)" if slot else "")
                run_sql(control, command, sql.Identifier(name))
                drop_roles(control, name)
        finally:
            control.execute("SELECT pg_advisory_unlock(%s, %s)", [lock_class(key), slot])


def _loader(cluster: Cluster, dbname: str, schema: GateSchema) -> Session:
    """The owner's session, in which CHECKs and triggers find what the schema's search path leads to."""
    session = open_session(cluster, dbname, "own")
    setting = ("search_path", schema.search_path)
    session.run([[Command("SELECT set_config($1, $2, false)", setting)]], limit_s=_OPEN_LIMIT_S)
    return session
