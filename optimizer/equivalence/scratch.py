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
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from optimizer.clock import patience_s
from optimizer.ddl import Script
from optimizer.equivalence.databases import (
    drop_roles,
    fill_template,
    grant,
    is_alive,
    lock_class,
    open_session,
    run_sql,
)
from optimizer.equivalence.schema import GateSchema, schema_key, schema_script, schema_seed
from optimizer.equivalence.session import Command, Session, SessionEnded
from optimizer.equivalence.templates import copy_blank, copy_template, make_schema
from optimizer.errors import ShadowUnavailableError
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster, ClusterKind, Supervisor
from optimizer.shadow.server.room import check_room
from optimizer.shadow.template.database import superuser_connection

#: Schemas, and free copies of whichever schema, that this process keeps at hand.
_MAX_KNOWN_SCHEMAS = 8
_MAX_FREE = 6
_SLOT_LIMIT = 64
_MAKING_PATIENCE_S = 120.0
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
        epoch: of the connection that holds its lock.
        writer_ready: its writing role has been made.
    """

    cluster: Cluster
    dbname: str
    slot: int
    schema: GateSchema
    loader: Session
    epoch: int
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
        self._epoch = 0
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._epoch += 1
        self._control: psycopg.Connection[Any] | None = None
        self._generation = ""
        self._schemas: dict[str, GateSchema] = {}
        self._making: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._free: list[Lease] = []  # the latest used is last
        self._taken: set[tuple[str, int]] = set()

    def epoch(self) -> int:
        """Return a number that changes when the server ended, and with it all that this process held there.

        Errors: `ShadowUnavailableError`.
        """
        with self._lock:
            self._connected()
            return self._epoch

    def schema(self, ddl: str) -> GateSchema:
        """Return a schema with its template, made if need be.

        Parameters:
            ddl: script text.

        Errors: `SqlError` for the script, `ShadowUnavailableError`, `TimeLimitError`.
        """
        key = schema_key(ddl)
        known, cluster, making = self._known(key)
        if known is not None:
            return known
        if not making.acquire(timeout=patience_s(_MAKING_PATIENCE_S)):
            raise ShadowUnavailableError("another request is still making this schema's database: try again")
        try:
            known, cluster, _ = self._known(key)
            if known is None:
                script = schema_script(ddl, self._settings.max_schema_bytes)
                with self._lock:
                    kept = frozenset(self._schemas)
                made = make_schema(cluster, key, script, kept, disk_bytes=self._settings.max_schema_disk_bytes)
                known = replace(made, seed=schema_seed(ddl))
                self._remember(known)
            return known
        finally:
            making.release()

    @contextmanager
    def lease(self, schema: GateSchema) -> Iterator[Lease]:
        """Hold a database of `schema` for one verdict.

        Errors: `ShadowUnavailableError`.
        """
        with self._lock:
            self._connected()
            place = next((i for i in reversed(range(len(self._free))) if self._free[i].schema.key == schema.key), None)
            lease = self._free.pop(place) if place is not None else None
        lease = lease or self._copy(schema)
        sound = False
        try:
            yield lease
            sound = True
        finally:
            self._give_back(lease, sound=sound)

    @contextmanager
    def blank(self, schema: GateSchema, script: Script) -> Iterator[Lease]:
        """Hold a fresh database into which `script` was run, for one replay; it is dropped afterwards.

        Errors: `SqlError` when the script does not run by itself.
        """
        lease = self._copy(schema, script)
        try:
            yield lease
        finally:
            self._discard(lease)

    def reader(self, lease: Lease) -> Session:
        """Open a session that may only read."""
        return self._open(lease, "run")

    def writer(self, lease: Lease) -> Session:
        """Open a session that may write, for statements whose transaction is rolled back."""
        if not lease.writer_ready:
            role = f"{lease.dbname}_dml"
            lease.cluster.ensure_role(role)
            with superuser_connection(lease.cluster, lease.dbname) as connection:
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
            free = self._free if self._pid == os.getpid() else []
            self._free = []
        for lease in free:
            self._discard(lease)
        with self._lock:
            if self._control is not None and self._pid == os.getpid():
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

    def _known(self, key: str) -> tuple[GateSchema | None, Cluster, threading.Lock]:
        """A schema if it is at hand, where it is or will be, and the lock under which this process makes it."""
        self._supervisor.cluster(ClusterKind.SCRATCH)  # may have to start: nobody waits for that under our lock
        with self._lock:
            cluster, _ = self._connected()
            known = self._schemas.pop(key, None)
            if known is not None:
                self._schemas[key] = known  # the latest used is last
            return known, cluster, self._making[key]

    def _remember(self, schema: GateSchema) -> None:
        with self._lock:
            self._schemas[schema.key] = schema
            gone = tuple(self._schemas)[: max(0, len(self._schemas) - _MAX_KNOWN_SCHEMAS)]
            for key in gone:
                del self._schemas[key]
            self._making = defaultdict(
                threading.Lock, {k: lock for k, lock in self._making.items() if k in self._schemas or lock.locked()}
            )
            surplus = [lease for lease in self._free if lease.schema.key in gone]
            self._free = [lease for lease in self._free if lease.schema.key not in gone]
        for lease in surplus:
            self._discard(lease)

    def _copy(self, schema: GateSchema, script: Script | None = None) -> Lease:
        """Copy the template, or for a replay run `script` in an empty database, and make the copy's roles."""
        check_room(self._settings.home)
        with self._lock:
            cluster, control = self._connected()
            slot, epoch = self._slot(control, schema.key), self._epoch
        name = f"gate_{schema.key}_{slot}"
        try:
            with cluster.connect() as admin:
                run_sql(admin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(name))
                cluster.ensure_role(f"{name}_own")
                cluster.ensure_role(f"{name}_run")
                if script is None:
                    copy_template(cluster, admin, name, schema)
                else:
                    copy_blank(admin, name)
            _open_copy(cluster, name, schema, script)
            return Lease(cluster, name, slot, schema, _loader(cluster, name, schema), epoch)
        except BaseException:
            self._free_slot(schema.key, slot, epoch)
            raise

    def _slot(self, control: psycopg.Connection[Any], key: str) -> int:
        for slot in range(1, _SLOT_LIMIT):
            if (key, slot) in self._taken:
                continue
            locked = control.execute("SELECT pg_try_advisory_lock(%s, %s)", [lock_class(key), slot]).fetchone()
            if locked is not None and locked[0]:
                self._taken.add((key, slot))
                return slot
        raise ShadowUnavailableError(f"{_SLOT_LIMIT - 1} verdicts on one schema are under way: try again later")

    def _free_slot(self, key: str, slot: int, epoch: int) -> None:
        with self._lock:
            if self._control is None or self._epoch != epoch:
                return  # the lock went with the server, or with its session
            self._taken.discard((key, slot))
            with suppress(psycopg.Error):
                self._control.execute("SELECT pg_advisory_unlock(%s, %s)", [lock_class(key), slot])

    def _give_back(self, lease: Lease, *, sound: bool) -> None:
        """Keep a copy for the next verdict; one that is damaged goes, or the one that was used least recently."""
        surplus = [lease]
        sound = sound and _is_clean(lease)
        with self._lock:
            if sound and self._epoch == lease.epoch:
                self._free.append(lease)
                surplus = [self._free.pop(0)] if len(self._free) > _MAX_FREE else []
        for each in surplus:
            self._discard(each)

    def _discard(self, lease: Lease) -> None:
        lease.loader.close()
        with self._lock:
            if self._epoch != lease.epoch:
                return  # the server was restarted: another process may hold that name by now
        # What cannot be dropped now is swept when the next schema comes.
        with suppress(psycopg.Error, ShadowUnavailableError), lease.cluster.connect() as admin:
            run_sql(admin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(lease.dbname))
            drop_roles(admin, lease.dbname)
        self._free_slot(lease.schema.key, lease.slot, lease.epoch)


def _is_clean(lease: Lease) -> bool:
    """Release the locks that a trigger may have taken; False when triggers left more rows than a copy should keep."""
    commands = [
        Command("SELECT pg_catalog.pg_advisory_unlock_all()"),
        Command("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"),
    ]
    try:
        ((_, size),) = lease.loader.run([commands], limit_s=_OPEN_LIMIT_S)
    except SessionEnded:
        return False
    return bool(size.rows) and int(size.rows[0][0] or 0) <= lease.schema.disk_bytes


def _open_copy(cluster: Cluster, name: str, schema: GateSchema, script: Script | None) -> None:
    """Let a copy's own roles use it; the owner's tables come from the template, or from running `script`."""
    owner, reader = f"{name}_own", f"{name}_run"
    if script is not None:
        fill_template(cluster, name, owner, script, schema.disk_bytes)
    with superuser_connection(cluster, name) as connection:
        if script is None:
            template = sql.Identifier(f"gate_{schema.key}")
            run_sql(connection, "REASSIGN OWNED BY {} TO {}", template, sql.Identifier(owner))
        grant(connection, name, reader, "SELECT")
        run_sql(connection, "GRANT CONNECT ON DATABASE {} TO {}", sql.Identifier(name), sql.Identifier(owner))


def _loader(cluster: Cluster, dbname: str, schema: GateSchema) -> Session:
    """The owner's session, in which CHECKs and triggers find what the schema's search path leads to."""
    session = open_session(cluster, dbname, "own")
    setting = ("search_path", schema.search_path)
    session.run([[Command("SELECT set_config($1, $2, false)", setting)]], limit_s=_OPEN_LIMIT_S)
    return session
