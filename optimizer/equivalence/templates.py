"""Template databases of the scratch cluster: made once for each schema, kept between processes, swept.

    advisory lock (key, 0)    held alone by who makes or drops the template of a schema, with others by who copies it
    advisory lock (key, n)    held by who has the copy of that number

Everything happens over connections of its own, so that nobody waits for another's schema; and nobody waits longer than
the request may take.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from optimizer.clock import patience_s
from optimizer.ddl import Script
from optimizer.equivalence.databases import (
    copy_database,
    drop_roles,
    exists,
    fill_template,
    lock_class,
    read_notes,
    run_sql,
    write_notes,
)
from optimizer.equivalence.schema import Breakable, GateSchema
from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.introspect import read_catalog
from optimizer.shadow.template.database import superuser_connection

#: Most templates kept on disk (some 8 MB each); the least recently used go.
MAX_TEMPLATES = 24
#: Database from which empty ones are copied: FILE_COPY of a database of ours is ten times faster than of template0.
BLANK = "gate_blank"
_LOCK_PATIENCE_S = 120.0
_OURS = re.compile(r"gate_([0-9a-f]{16})(?:_([0-9]+))?(_making|_own|_run|_dml)?")


def make_schema(cluster: Cluster, key: str, script: Script, kept: Container[str], *, disk_bytes: int) -> GateSchema:
    """Return a schema with its template, made if there is none.

    Parameters:
        key: of the schema.
        script: its statements.
        kept: keys of schemas whose templates are not swept now.
        disk_bytes: most that a database of it may take.

    Errors: `SqlError` for the script; `ShadowUnavailableError`; `TimeLimitError`.
    """
    name = f"gate_{key}"
    with cluster.connect() as admin, _held(admin, key):
        if not exists(admin, name):
            _sweep(admin, key, kept)
            _build(cluster, admin, key, script, disk_bytes)
        notes = read_notes(admin, name)
        write_notes(admin, name, notes)
        with superuser_connection(cluster, name) as connection:
            connection.execute("SELECT set_config('search_path', %s, false)", [notes["search_path"]])
            catalog = read_catalog(connection)
            unlike = connection.execute(
                "SELECT collname::text FROM pg_catalog.pg_collation WHERE NOT collisdeterministic"
            ).fetchall()
    breakable = tuple(Breakable(*entry) for entry in notes["breakable"])
    secured = tuple(frozenset((schema, table) for schema, table in family) for family in notes["secured"])
    return GateSchema(
        key,
        script,
        catalog,
        notes["search_path"],
        breakable,
        disk_bytes,
        secured,
        frozenset(name for (name,) in unlike),
    )


def copy_template(cluster: Cluster, admin: psycopg.Connection[Any], name: str, schema: GateSchema) -> None:
    """Make the database `name` a copy of a schema's template, which is made again if another process has swept it.

    Errors: as `make_schema`.
    """
    template = f"gate_{schema.key}"
    for _ in range(2):
        with _held(admin, schema.key, shared=True):
            if exists(admin, template):
                copy_database(admin, name, template)
                return
        make_schema(cluster, schema.key, schema.script, (schema.key,), disk_bytes=schema.disk_bytes)
    raise ShadowUnavailableError("too many schemas are judged at once: try again")


def copy_blank(admin: psycopg.Connection[Any], name: str) -> None:
    """Make the database `name` an empty one."""
    if not exists(admin, BLANK):
        with _lock(admin, "SELECT pg_advisory_lock(%s, %s)", "SELECT pg_advisory_unlock(%s, %s)", 0, 0):
            if not exists(admin, BLANK):
                copy_database(admin, BLANK, "template0")
    copy_database(admin, name, BLANK)


def _build(cluster: Cluster, admin: psycopg.Connection[Any], key: str, script: Script, disk_bytes: int) -> None:
    """Make a template under another name first: a half-made one is never taken for it."""
    name, making = f"gate_{key}", f"gate_{key}_making"
    run_sql(admin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(making))
    copy_blank(admin, making)
    try:
        cluster.ensure_role(name)
        path, breakable, secured = fill_template(cluster, making, name, script, disk_bytes)
        write_notes(admin, making, {"search_path": path, "breakable": breakable, "secured": secured})
        run_sql(admin, "ALTER DATABASE {} RENAME TO {}", sql.Identifier(making), sql.Identifier(name))
    except BaseException:
        with suppress(psycopg.Error):  # it is swept later; what failed first is what counts
            run_sql(admin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(making))
        raise


def _sweep(admin: psycopg.Connection[Any], ours: str, kept: Container[str]) -> None:
    """Drop copies that no process holds, what killed processes left, and the templates least recently used.

    Parameters:
        ours: the schema whose lock we hold.
        kept: further schemas whose templates stay.
    """
    rows = admin.execute(
        "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, 'gate_')"
        " UNION SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'gate_')"
    ).fetchall()
    found = [match for (name,) in rows if (match := _OURS.fullmatch(name)) is not None and match[1] != ours]
    used = {match[1]: read_notes(admin, match[0])["used"] for match in found if match[2] is None and match[3] is None}
    templates = set(sorted(used, key=lambda key: used[key], reverse=True)[: MAX_TEMPLATES - 1])
    for key, slot in sorted({(match[1], int(match[2] or 0)) for match in found}):
        if slot or (key not in templates and key not in kept) or any(m[1] == key and m[3] == "_making" for m in found):
            _drop_unheld(admin, key, slot, template=not slot and key not in templates and key not in kept)


def _drop_unheld(admin: psycopg.Connection[Any], key: str, slot: int, *, template: bool) -> None:
    ((mine,),) = admin.execute("SELECT pg_try_advisory_lock(%s, %s)", [lock_class(key), slot]).fetchall()
    if not mine:
        return
    name = f"gate_{key}_{slot}" if slot else f"gate_{key}"
    try:
        with suppress(psycopg.errors.ObjectInUse, psycopg.errors.DependentObjectsStillExist):
            if slot or template:
                command: LiteralString = "DROP DATABASE IF EXISTS {}" + (" WITH (FORCE)" if slot else "")
                run_sql(admin, command, sql.Identifier(name))
            if not slot:
                run_sql(admin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(f"{name}_making"))
            if slot or template:
                drop_roles(admin, name)
    finally:
        admin.execute("SELECT pg_advisory_unlock(%s, %s)", [lock_class(key), slot])


@contextmanager
def _held(admin: psycopg.Connection[Any], key: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock on a schema's template."""
    if shared:
        take: LiteralString = "SELECT pg_advisory_lock_shared(%s, %s)"
        give: LiteralString = "SELECT pg_advisory_unlock_shared(%s, %s)"
    else:
        take, give = "SELECT pg_advisory_lock(%s, %s)", "SELECT pg_advisory_unlock(%s, %s)"
    with _lock(admin, take, give, lock_class(key), 0):
        yield


@contextmanager
def _lock(
    admin: psycopg.Connection[Any], take: LiteralString, give: LiteralString, first: int, second: int
) -> Iterator[None]:
    limit_ms = max(1, int(patience_s(_LOCK_PATIENCE_S) * 1000))
    admin.execute("SELECT set_config('lock_timeout', %s, false)", [f"{limit_ms}ms"])
    try:
        admin.execute(take, [first, second])
    except psycopg.errors.LockNotAvailable:
        raise ShadowUnavailableError("another request is still making this schema's database: try again") from None
    admin.execute("SELECT set_config('lock_timeout', '0', false)")
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # with the server, its locks are gone
            admin.execute(give, [first, second])
