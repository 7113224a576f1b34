"""Template databases of the hollow cluster: a schema and its statistics, from which planning databases are copied.

A template is a copy of what the registry keeps in files. Nobody plans in it; a hollow one holds its catalogs only, the
files of its tables and indexes being laid out beside it (`laid_out.py`). While it is being made only its owner, an
unprivileged role of its own, and the superuser are connected, afterwards nobody is.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from optimizer.clock import patience_s
from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.pages.laid_out import remove
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.server.locale_making import provide_locales
from optimizer.shadow.server.seclusion import NOTES, hide
from optimizer.shadow.source.locale import Locale, creation_clauses

#: Prefix of the comments on our databases, followed by JSON.
COMMENT_PREFIX = "planproof "
#: Seconds for one statement of the owner's; the server's own limit.
STATEMENT_TIMEOUT_S = 600.0
#: Seconds for which the end of a session is waited for.
END_TIMEOUT_S = 5.0
#: Names of templates: whose registry, which shadow, which revision.
TEMPLATE_NAME = re.compile(r"^(planproof|throwaway)_([a-z0-9_-]{1,40})_([0-9a-f]{12})$")

_ROLE_NAME = r"^((own|read)_[0-9a-f]{12}|plan_[0-9a-f]{12}_[0-9a-f]{8})$"
_ROLES_KEY = 0x726F6C65  # "role"
_POLL_S = 0.02


def owner_role(database: str) -> str:
    """The unprivileged role that owns everything in the templates of one shadow and their copies."""
    return f"own_{_shadow_digest(database)}"


def reader_role(database: str) -> str:
    """The role, without login, that may read and write every table in them."""
    return f"read_{_shadow_digest(database)}"


def _shadow_digest(database: str) -> str:
    """The same for all revisions of a shadow, so that one may be made by copying another."""
    found = TEMPLATE_NAME.fullmatch(database)
    return digest(database if found is None else database[: found.end(2)])


def digest(text: str) -> str:
    """Twelve hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def reason(error: psycopg.Error) -> str:
    """What the server said, in one line."""
    return error.diag.message_primary or next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def server_errors(doing: str) -> Iterator[None]:
    """Turn what psycopg raises for our own statements into an error for users.

    Parameters:
        doing: what the embedded server failed at, such as `planning`.

    Errors: `ShadowUnavailableError`.
    """
    try:
        yield
    except psycopg.Error as error:
        again = ": try again" if isinstance(error, psycopg.errors.OutOfMemory) else ""
        raise ShadowUnavailableError(f"the embedded server failed while {doing}: {reason(error)}{again}") from error


def superuser_connection(cluster: Cluster, database: str, options: str = "") -> psycopg.Connection[Any]:
    """Connect as the superuser to a database that holds users' objects.

    Its search path is PostgreSQL's own schema alone: a function or an operator of a user's, made to fit the arguments
    of ours better than PostgreSQL's own, would otherwise run with all rights.

    Parameters:
        options: further settings of the session, as libpq's `options` wants them.

    Errors: `ShadowUnavailableError`.
    """
    return cluster.connect(database, options=f"-c search_path=pg_catalog {options}")


@contextmanager
def new_template(
    cluster: Cluster, database: str, locale: Locale
) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    """Make an empty database and give connections to it: its owner's and the superuser's.

    A database that was there under that name is dropped first. It counts as complete after `mark`.

    Errors: `ShadowUnavailableError`.
    """
    owner, reader = owner_role(database), reader_role(database)
    drop_database(cluster, database)
    with cluster.connect() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [_ROLES_KEY])  # until the role has a database, it looks forgotten
        cluster.ensure_role(owner)
        provide_locales(cluster, [] if locale.byte_order else [(locale.provider, locale.collate)])
        _create_database(admin, database, locale)
        known = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [reader]).fetchone()
        if known is None:
            admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN NOINHERIT").format(sql.Identifier(reader)))
        _grant_to_owner(admin, database)
    with superuser_connection(cluster, database) as superuser:
        superuser.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(owner)))
        superuser.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # who has it before 15
        hide(superuser, NOTES)
        with _owner(cluster, database) as connection:
            yield connection, superuser


@contextmanager
def copied_template(
    cluster: Cluster, original: str, database: str
) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    """As `new_template`, but with all that another, complete template of the same shadow has, except laid-out files.

    Errors: `ShadowUnavailableError`; `psycopg.Error` when the original is gone.
    """
    drop_database(cluster, database)
    with cluster.connect() as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(database), sql.Identifier(original)
            )
        )
        _grant_to_owner(admin, database)
    with superuser_connection(cluster, database) as superuser, _owner(cluster, database) as connection:
        yield connection, superuser


def _grant_to_owner(admin: psycopg.Connection[Any], database: str) -> None:
    name, owner = sql.Identifier(database), sql.Identifier(owner_role(database))
    admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    admin.execute(sql.SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}").format(name, owner))


def _owner(cluster: Cluster, database: str) -> psycopg.Connection[Any]:
    limit = f"-c statement_timeout={max(1, int(patience_s(STATEMENT_TIMEOUT_S) * 1000))}"
    return cluster.connect(database, owner_role(database), options=limit)


def _create_database(admin: psycopg.Connection[Any], database: str, locale: Locale) -> None:
    refusal: psycopg.Error | None = None
    for clause in creation_clauses(locale, admin.info.server_version):
        command = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(database))
        try:
            admin.execute(command + clause)
        except psycopg.Error as error:  # this machine does not have that locale: the next one is further off
            refusal = error
        else:
            return
    why = reason(refusal) if refusal is not None else "no locale"
    raise ShadowUnavailableError(f"the embedded server cannot make a database: {why}")


def grant_reading(connection: psycopg.Connection[Any], database: str) -> None:
    """Let the reader role plan any query: USAGE of all schemas, and all rights on tables that a query may need.

    Not `pg_read_all_data`, which would open the catalog of passwords as well.

    Parameters:
        connection: the superuser's, to the template.
    """
    schemas = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    ).fetchall()
    reader = sql.Identifier(reader_role(database))
    for (schema,) in schemas:
        name = sql.Identifier(schema)
        for grant in (
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}"),
            sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {} TO {}"),
            sql.SQL("GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA {} TO {}"),
        ):
            connection.execute(grant.format(name, reader))


def mark(admin: psycopg.Connection[Any], database: str, facts: dict[str, Any]) -> None:
    """Write facts on a database where every process finds them without connecting to it. It is complete with them."""
    text = COMMENT_PREFIX + json.dumps(facts)
    admin.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(text)))


def facts_of(comment: str | None) -> dict[str, Any]:
    """Read what `mark` wrote; nothing for a database without, or with a damaged comment."""
    if comment is None or not comment.startswith(COMMENT_PREFIX):
        return {}
    try:
        facts = json.loads(comment.removeprefix(COMMENT_PREFIX))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def template_names(cluster: Cluster) -> list[str]:
    """Names of all templates, unfinished ones too."""
    with cluster.connect() as admin:
        rows = admin.execute("SELECT datname::text FROM pg_database WHERE datname ~ %s", [TEMPLATE_NAME.pattern])
        return [row[0] for row in rows]


def template_facts(cluster: Cluster, database: str) -> dict[str, Any]:
    """Facts of a template, with its `oid`; nothing when it is missing or was never finished."""
    with cluster.connect() as admin:
        row = admin.execute(
            "SELECT shobj_description(oid, 'pg_database'), oid::int8 FROM pg_database WHERE datname = %s", [database]
        ).fetchone()
    facts = facts_of(row[0]) if row is not None else {}
    return facts | {"oid": row[1]} if row is not None and facts else {}


def drop_database(cluster: Cluster, database: str) -> None:
    """Drop a template, its laid-out files and its roles, if they are there.

    Errors: `ShadowUnavailableError`.
    """
    with cluster.connect() as admin:
        oids = admin.execute("SELECT oid::int8 FROM pg_database WHERE datname = %s", [database]).fetchall()
        try:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        except psycopg.Error as error:
            raise ShadowUnavailableError(f"the database {database} cannot be dropped: {reason(error)}") from error
        for (oid,) in oids:
            remove(cluster, oid)
        for role in (owner_role(database), reader_role(database)):
            drop_role(admin, role)


def sweep_roles(admin: psycopg.Connection[Any]) -> None:
    """Drop roles that were left by whoever was killed while dropping their database."""
    ((mine,),) = admin.execute("SELECT pg_try_advisory_lock(%s)", [_ROLES_KEY]).fetchall()
    if not mine:
        return
    # In this order: a copy's role is made after the copy, so one that is seen without its copy has lost it.
    roles = [row[0] for row in admin.execute("SELECT rolname::text FROM pg_roles WHERE rolname ~ %s", [_ROLE_NAME])]
    databases = [row[0] for row in admin.execute("SELECT datname::text FROM pg_database").fetchall()]
    # Those of a template that is gone stay as long as its copies: their tables depend on the roles.
    kept = {_shadow_digest(name) for name in databases}
    for role in roles:
        if role not in databases and not (role.split("_")[1] in kept and not role.startswith("plan_")):
            drop_role(admin, role)
    admin.execute("SELECT pg_advisory_unlock(%s)", [_ROLES_KEY])


def end_session(superuser: psycopg.Connection[Any], process: int) -> None:
    """End a session of the server's, and wait until it is gone, at most `END_TIMEOUT_S`.

    Parameters:
        process: the number of its server process.

    Errors: `psycopg.Error`.
    """
    superuser.execute("SELECT pg_terminate_backend(%s::int4)", [process])
    deadline = time.monotonic() + END_TIMEOUT_S
    while superuser.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [process]).rowcount:
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)


def drop_role(admin: psycopg.Connection[Any], role: str) -> None:
    """Drop a role if nothing depends on it any more; copies of a template may still be in use."""
    # One at a time, as they are made: two who drop the same role at once meet the server's internal errors.
    with suppress(psycopg.errors.DependentObjectsStillExist), admin.transaction():
        admin.execute("SELECT pg_advisory_xact_lock(hashtext('planproof.role'))")
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
