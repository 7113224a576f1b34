"""Planning databases: private copies of a template, with the source's physical shape, that processes lease.

A planning database is made once and used again and again, by any process of this user. Whoever plans in one holds a
session advisory lock in it, which the server gives back however the holder ends. A copy is used only if it is known to
be right: finished, of the present template, made since the server's present start (recovery after a crash would put
PostgreSQL's own pages over hand-written ones), and without anything that a killed holder left. All others are dropped.

    comment on the database   what it is: template and build, generation, number of indexes (see `template.mark`)
    advisory lock in it       somebody plans there
    advisory lock in postgres somebody makes, drops or chooses among the copies of one template
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from optimizer.clock import patience_s
from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.pages.laid_out import put_in_place
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.server.room import check_room
from optimizer.shadow.source.planner_settings import apply_settings
from optimizer.shadow.template.database import (
    digest,
    drop_role,
    end_session,
    facts_of,
    mark,
    owner_role,
    reader_role,
    reason,
    superuser_connection,
    sweep_roles,
)

#: Copies of one template that are kept; when all are in use, a session waits, and then gets one more.
MAX_COPIES = 16
PATIENCE_S = 3.0
#: Most copies that are ever in use at once, and how long a session waits when they are.
HARD_LIMIT = 48
WAIT_S = 30.0
#: How long it waits for others to choose theirs, or to make them.
CHOOSING_S = 60.0
#: Copies of all templates together, beyond which those that nobody uses make room for new ones: some 8 MB each.
MAX_ALL = 48
#: Hypothetical indexes of one session after which its database is tidied: each leaves some twenty dead rows, and an
#: empty file until the next checkpoint.
TIDY_AFTER = 500
#: Bytes by which the catalogs of a copy may have grown in all, when many short sessions never come to tidy it.
MAX_GROWTH = 4_000_000
_POLL_S = 0.05
PREFIX = "plan_"
#: Our schema inside a planning database; hidden from the planning login.
PRIVATE_SCHEMA: LiteralString = "planproof_private"
#: An empty table, whose file stands in for any table's while an index is made.
SPARE: LiteralString = f"{PRIVATE_SCHEMA}.spare"
_LEASE_KEY = 0x706C616E  # "plan"
# What CREATE INDEX, DROP INDEX and the swap of files write to.
_CHANGED: LiteralString = "pg_catalog.pg_class, pg_catalog.pg_attribute, pg_catalog.pg_index, pg_catalog.pg_depend"
#: First versions with strategies of CREATE DATABASE, and with options of a role's membership.
_STRATEGIES, _GRANT_OPTIONS = 150000, 160000


@dataclass(frozen=True, slots=True)
class Template:
    """What copies are made of.

    Parameters:
        database: the template's name.
        build: identity of the template as it was made; copies of another build are stale.
        hollow: whether its tables have no rows, and laid-out files beside it.
        settings: planner settings of the copies.
    """

    database: str
    build: str
    hollow: bool
    settings: Mapping[str, str]

    @property
    def prefix(self) -> str:
        """With which the names of its copies begin."""
        return f"{PREFIX}{digest(self.database)}_"


@dataclass(frozen=True, slots=True, eq=False)
class PlanningDatabase:
    """A leased copy; closing `superuser` gives it back.

    Parameters:
        name: of the database, and of its planning login.
        oid: its folder's name.
        superuser: a connection to it, which holds the lease. It must never see users' SQL.
        own_files: whether all its files are its own, so that whoever writes to a table disturbs nobody.
    """

    name: str
    oid: int
    template: Template
    superuser: psycopg.Connection[Any]
    own_files: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Fresh:
    """A copy that is leased, and has none of its laid-out files yet; `spent` ones serve nobody afterwards."""

    database: PlanningDatabase
    template_oid: int
    spent: bool


def acquire(cluster: Cluster, template: Template, *, own_files: bool = False) -> PlanningDatabase:
    """Lease a planning database, made now if there is none free.

    Parameters:
        own_files: one whose files are all its own, which nobody uses afterwards.

    Errors: `ShadowUnavailableError`.
    """
    start, wait_s = time.monotonic(), patience_s(WAIT_S)
    with cluster.connect() as admin:
        while True:
            waited = time.monotonic() - start
            limit = MAX_COPIES if waited < PATIENCE_S else HARD_LIMIT
            leased = _lease(cluster, admin, template, limit, own_files=own_files)
            if isinstance(leased, _Fresh):
                return _finish(cluster, leased)
            if leased is not None:
                return leased
            if waited > wait_s:
                raise ShadowUnavailableError(
                    f"all {HARD_LIMIT} planning databases of this shadow are in use: try again, or ask less at once"
                )
            time.sleep(_POLL_S)


def _lease(
    cluster: Cluster, admin: psycopg.Connection[Any], template: Template, limit: int, *, own_files: bool
) -> PlanningDatabase | _Fresh | None:
    """Take a free copy, or begin to make one if fewer than `limit` are in use; None when that many are."""
    with _choosing(admin, template.prefix):
        copies = _copies(admin, template.prefix)
        in_use = sum(busy for _, _, _, busy in copies)
        for name, oid, comment, busy in copies:
            if busy or (own_files and "indexes" in facts_of(comment)):
                continue
            if _is_current(facts_of(comment), template, cluster) and in_use < HARD_LIMIT:
                found = _try(cluster, template, name, oid, facts_of(comment))
                if found is not None:
                    return found
            _drop(admin, name)
        if in_use >= limit:
            return None
        _sweep_others(cluster, admin, template.prefix)
        _make_room(admin, template.prefix)
        check_room(cluster.home)
        return _make(cluster, admin, template, own_files=own_files)


def _copies(admin: psycopg.Connection[Any], prefix: str) -> list[tuple[str, int, str | None, bool]]:
    return admin.execute(
        """
        SELECT d.datname::text, d.oid::int8, shobj_description(d.oid, 'pg_database'),
               EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.database = d.oid
                          AND l.classid = 0 AND l.objid = %s AND l.granted)
          FROM pg_database d WHERE starts_with(d.datname::text, %s) ORDER BY d.datname""",
        [_LEASE_KEY, prefix],
    ).fetchall()


def _is_current(facts: Mapping[str, Any], template: Template, cluster: Cluster) -> bool:
    wanted = {"template": template.database, "build": template.build, "generation": cluster.generation}
    return "indexes" in facts and all(facts.get(key) == value for key, value in wanted.items())


def _try(
    cluster: Cluster, template: Template, name: str, oid: int, facts: Mapping[str, Any]
) -> PlanningDatabase | None:
    """Lease a free copy unless something is left in it."""
    superuser = _superuser(cluster, name)
    try:
        superuser.execute("SELECT pg_advisory_lock(%s)", [_LEASE_KEY])  # free: only we may choose now
        # A killed holder's sessions may still be planning.
        others = superuser.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        for (process,) in others.fetchall():
            end_session(superuser, process)
        ((count, swapped),) = superuser.execute(
            """
            SELECT (SELECT count(*) FROM pg_index),
                   (SELECT count(*) > 1 FROM pg_class c
                     WHERE c.relfilenode = (SELECT s.relfilenode FROM pg_class s WHERE s.oid = %s::regclass))""",
            [SPARE],
        ).fetchall()
        grown = _catalog_bytes(superuser) - facts.get("catalog_bytes", 0)
        if count == facts["indexes"] and not swapped and grown < MAX_GROWTH:
            return PlanningDatabase(name, oid, template, superuser, own_files=not template.hollow)
    except psycopg.Error:  # damaged in a way we did not foresee: it is dropped
        superuser.close()
        return None
    superuser.close()
    return None


def _make(cluster: Cluster, admin: psycopg.Connection[Any], template: Template, *, own_files: bool) -> _Fresh:
    """Copy the template's catalogs and lease the copy, so that others may choose theirs while it is finished."""
    name = f"{template.prefix}{secrets.token_hex(4)}"
    identifier = sql.Identifier(name)
    owner, reader = sql.Identifier(owner_role(template.database)), sql.Identifier(reader_role(template.database))
    try:
        # FILE_COPY: the other strategy leaves pages in shared buffers, where hand-written ones would not be seen.
        # Before 15, it is the only one.
        strategy = sql.SQL("STRATEGY FILE_COPY" if admin.info.server_version >= _STRATEGIES else "")
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(identifier, sql.Identifier(template.database), strategy)
        )
        cluster.ensure_role(name)
        admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))
        admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}, {}").format(identifier, owner, identifier))
        _grant_reader(admin, reader, identifier)
        apply_settings(admin, name, template.settings)
        ((oid, template_oid),) = admin.execute(
            "SELECT c.oid::int8, t.oid::int8 FROM pg_database c, pg_database t WHERE c.datname = %s AND t.datname = %s",
            [name, template.database],
        ).fetchall()
    except psycopg.Error as error:
        raise ShadowUnavailableError(f"a planning database cannot be made: {reason(error)}") from error
    superuser = _superuser(cluster, name)
    superuser.execute("SELECT pg_advisory_lock(%s)", [_LEASE_KEY])
    database = PlanningDatabase(name, oid, template, superuser, own_files=own_files or not template.hollow)
    return _Fresh(database, template_oid, spent=own_files)


def _finish(cluster: Cluster, fresh: _Fresh) -> PlanningDatabase:
    """Give a copy its files, while nobody has read any page of them, and all else that makes it a planning database."""
    database, template, superuser = fresh.database, fresh.database.template, fresh.database.superuser
    try:
        if template.hollow:
            put_in_place(cluster, fresh.template_oid, database.oid, own=fresh.spent)
        superuser.execute(f"CREATE SCHEMA {PRIVATE_SCHEMA}")
        superuser.execute(f"CREATE TABLE {SPARE} ()")
        ((indexes,),) = superuser.execute("SELECT count(*) FROM pg_index").fetchall()
        facts: dict[str, Any] = {"template": template.database, "build": template.build}
        if not fresh.spent:  # without the number it is
            facts |= {"indexes": indexes, "catalog_bytes": _catalog_bytes(superuser)}
        mark(superuser, database.name, facts | {"generation": cluster.generation})
    except BaseException:
        superuser.close()
        raise
    return database


def _grant_reader(admin: psycopg.Connection[Any], reader: sql.Identifier, login: sql.Identifier) -> None:
    """Let a planning login inherit the reader's rights.

    Before 16 inheriting is the login's own property, and whoever inherits a role may also take it: nothing is won by
    that, since the reader owns nothing and has the same rights.
    """
    if admin.info.server_version >= _GRANT_OPTIONS:
        admin.execute(sql.SQL("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE").format(reader, login))
    else:
        admin.execute(sql.SQL("GRANT {} TO {}").format(reader, login))
        admin.execute(sql.SQL("ALTER ROLE {} INHERIT").format(login))


def tidy(database: PlanningDatabase) -> None:
    """Give back the room of what hypothetical indexes left; nothing may be planned in it meanwhile.

    Errors: `psycopg.Error`.
    """
    database.superuser.execute(f"VACUUM {_CHANGED}")
    database.superuser.execute("CHECKPOINT")  # the files of dropped indexes are deleted now


def _catalog_bytes(superuser: psycopg.Connection[Any]) -> int:
    ((size,),) = superuser.execute(
        "SELECT sum(pg_total_relation_size(name))::int8 FROM unnest(%s::text[]::regclass[]) name",
        [_CHANGED.split(", ")],
    ).fetchall()
    return int(size)


def spend(database: PlanningDatabase) -> None:
    """Say that a leased database must serve nobody after its present holder, however that one ends.

    Errors: `psycopg.Error`.
    """
    template = database.template
    mark(database.superuser, database.name, {"template": template.database, "build": template.build})


def _superuser(cluster: Cluster, name: str) -> psycopg.Connection[Any]:
    """Connect for the few statements on catalogs that every request repeats: each is planned once."""
    return superuser_connection(cluster, name, "-c plan_cache_mode=force_generic_plan")


def sweep(cluster: Cluster) -> None:
    """Drop all copies, of any template, that nobody uses and nobody could."""
    with cluster.connect() as admin:
        _sweep_others(cluster, admin, "")


def drop_copies(cluster: Cluster, database: str) -> None:
    """Drop the copies of a template that nobody uses; the others are swept later."""
    prefix = f"{PREFIX}{digest(database)}_"
    with cluster.connect() as admin, _choosing(admin, prefix):
        for name, _, _, busy in _copies(admin, prefix):
            if not busy:
                _drop(admin, name)


def _sweep_others(cluster: Cluster, admin: psycopg.Connection[Any], ours: str) -> None:
    """Drop copies whose template is gone, those of a former start of the server, and roles whose databases are gone."""
    templates = {row[0] for row in admin.execute("SELECT datname::text FROM pg_database").fetchall()}

    def useless(comment: str | None) -> bool:
        facts = facts_of(comment)
        return facts.get("template") not in templates or facts.get("generation") != cluster.generation

    for name, _, comment, busy in _copies(admin, PREFIX):
        if not busy and useless(comment) and not (ours and name.startswith(ours)):
            _drop_free(admin, name, useless)
    sweep_roles(admin)


def _make_room(admin: psycopg.Connection[Any], ours: str) -> None:
    """Drop free copies of other templates, the oldest first, as long as there are too many in all."""
    copies = sorted(_copies(admin, PREFIX), key=lambda copy: copy[1])
    surplus = len(copies) + 1 - MAX_ALL
    for name, _, _, busy in copies:
        if surplus > 0 and not busy and not name.startswith(ours):
            surplus -= _drop_free(admin, name, lambda _: True)


def _drop_free(admin: psycopg.Connection[Any], name: str, doomed: Callable[[str | None], bool]) -> bool:
    """Drop another template's copy if it is free and its comment says that it should go; returns whether it did.

    Until the lock is held, another process may be finishing it, or taking it: what was seen before does not count.
    """
    with _choosing(admin, prefix := name[: name.rindex("_") + 1], wait=False) as mine:
        if not mine:
            return False
        for other, _, comment, busy in _copies(admin, prefix):
            if other == name and not busy and doomed(comment):
                _drop(admin, name)
                return True
    return False


def _drop(admin: psycopg.Connection[Any], name: str) -> None:
    try:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    except psycopg.errors.ObjectInUse as error:
        raise ShadowUnavailableError(f"the planning database {name} cannot be dropped: {reason(error)}") from error
    drop_role(admin, name)


def _wait_for(admin: psycopg.Connection[Any], key: int) -> None:
    limit_ms = max(1, int(patience_s(CHOOSING_S) * 1000))
    admin.execute("SELECT set_config('lock_timeout', %s, false)", [f"{limit_ms}ms"])
    try:
        admin.execute("SELECT pg_advisory_lock(%s)", [key])
    except psycopg.errors.LockNotAvailable:
        raise ShadowUnavailableError("others are still making planning databases of this shadow: try again") from None
    finally:
        admin.execute("SELECT set_config('lock_timeout', '0', false)")


@contextlib.contextmanager
def _choosing(admin: psycopg.Connection[Any], prefix: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock under which the copies of one template are made, chosen and dropped; says whether we have it."""
    key = int(prefix.removeprefix(PREFIX).rstrip("_") or "0", 16)
    if wait:
        _wait_for(admin, key)
        mine = True
    else:
        ((mine,),) = admin.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchall()
    try:
        yield mine
    finally:
        if mine and not admin.closed:
            admin.execute("SELECT pg_advisory_unlock(%s)", [key])
