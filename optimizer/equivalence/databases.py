"""Making, granting, remembering and dropping single databases of the scratch cluster."""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from optimizer.clock import patience_s
from optimizer.ddl import Script, apply_script
from optimizer.equivalence.hidden_rows import DISABLING_SQL, FAMILIES_SQL
from optimizer.equivalence.schema import BREAKABLE_SQL
from optimizer.equivalence.session import Session
from optimizer.shadow.server.bounds import GRACE_S, bounded
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.server.seclusion import NEIGHBOURS, NOTES, hide
from optimizer.shadow.template.database import drop_role, superuser_connection

_TEMPLATE_TIMEOUT_S = 120.0
_DEFAULT_PATH = '"$user", public'


def fill_template(
    cluster: Cluster, dbname: str, owner: str, script: Script, disk_bytes: int
) -> tuple[str, list[tuple[str, str, str]], list[list[tuple[str, str]]]]:
    """Run a script as the unprivileged `owner`, take out breakable constraints, and take off row-level security.

    Returns: the search path that it ends with; the constraints; the families of tables that were secured.

    The owner may make schemas meanwhile, but never owns the database: an owner could make it undroppable (IS_TEMPLATE),
    open it to others, or give it settings that the superuser's sessions would begin with.

    Parameters:
        disk_bytes: most that the database may take meanwhile.
    """
    limit_s = patience_s(_TEMPLATE_TIMEOUT_S)
    with superuser_connection(cluster, dbname) as superuser:
        database, role = sql.Identifier(dbname), sql.Identifier(owner)
        run_sql(superuser, "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}", database, role)
        run_sql(superuser, "ALTER SCHEMA public OWNER TO {}", role)
        hide(superuser, (*NOTES, *NEIGHBOURS))
        with (
            cluster.connect(dbname, owner) as connection,
            bounded(cluster, connection, timeout_s=limit_s + GRACE_S, max_bytes=disk_bytes),
        ):
            apply_script(script, connection, extension_connection=superuser, timeout_s=limit_s)
            # SHOW calls no function that a script could have put in the way.
            ((path,),) = connection.execute("SHOW search_path").fetchall()
            connection.execute("DISCARD TEMP")
            connection.execute("SET search_path = pg_catalog")
            breakable = connection.execute(BREAKABLE_SQL).fetchall()
            secured = connection.execute(FAMILIES_SQL).fetchall()
            disabling = connection.execute(DISABLING_SQL).fetchall()
            for command, *_ in (*breakable, *disabling):
                connection.execute(command.encode())
        run_sql(superuser, "ALTER SCHEMA public OWNER TO pg_database_owner")
        run_sql(superuser, "REVOKE CREATE, TEMPORARY ON DATABASE {} FROM {}", database, role)
    path = _DEFAULT_PATH if path in ("", '""') else path
    families: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for root, schema, name in secured:
        families[root].append((schema, name))
    return path, [(table, name, kind) for _, table, name, kind in breakable], list(families.values())


def copy_database(control: psycopg.Connection[Any], name: str, template: str) -> None:
    """Copy a database that nobody is connected to, and let nobody connect to the copy yet."""
    run_sql(
        control,
        "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY",
        sql.Identifier(name),
        sql.Identifier(template),
    )
    run_sql(control, "REVOKE ALL ON DATABASE {} FROM PUBLIC", sql.Identifier(name))


def grant(connection: psycopg.Connection[Any], dbname: str, role: str, rights: LiteralString) -> None:
    """Let a role connect and use all tables of the user's schemas; nothing else."""
    run_sql(connection, "GRANT CONNECT ON DATABASE {} TO {}", sql.Identifier(dbname), sql.Identifier(role))
    schemas = connection.execute(
        "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    ).fetchall()
    for (schema,) in schemas:
        run_sql(connection, "GRANT USAGE ON SCHEMA {} TO {}", sql.Identifier(schema), sql.Identifier(role))
        connection.execute(
            sql.SQL("GRANT {} ON ALL TABLES IN SCHEMA {} TO {}").format(
                sql.SQL(rights), sql.Identifier(schema), sql.Identifier(role)
            )
        )


def drop_roles(control: psycopg.Connection[Any], name: str) -> None:
    """Drop the roles of a database that is gone."""
    roles = control.execute(
        "SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s)",
        [[name, f"{name}_own", f"{name}_run", f"{name}_dml"]],
    ).fetchall()
    for (role,) in roles:
        drop_role(control, role)


def run_sql(connection: psycopg.Connection[Any], command: LiteralString, *parts: sql.Composable) -> None:
    """Run a command of ours with names and constants put in safely."""
    connection.execute(sql.SQL(command).format(*parts))


def is_alive(control: psycopg.Connection[Any]) -> bool:
    """False after a crash of the server, which takes all sessions and their locks along."""
    try:
        control.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def exists(control: psycopg.Connection[Any], name: str) -> bool:
    """Tell whether a database of that name exists."""
    return control.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def read_notes(control: psycopg.Connection[Any], name: str) -> dict[str, Any]:
    """What is remembered of a template, kept where no script can reach it: in the comment on its database."""
    row = control.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [name]
    ).fetchone()
    empty = {"used": 0.0, "search_path": _DEFAULT_PATH, "breakable": [], "secured": []}
    return empty if row is None or row[0] is None else json.loads(row[0])


def write_notes(control: psycopg.Connection[Any], name: str, notes: dict[str, Any]) -> None:
    """Remember `notes` of a template, and that it was used now."""
    text = json.dumps(notes | {"used": time.time()})
    run_sql(control, "COMMENT ON DATABASE {} IS {}", sql.Identifier(name), sql.Literal(text))


def open_session(cluster: Cluster, dbname: str, suffix: str) -> Session:
    """Open a session of one of a database's roles: `own`, `run` or `dml`."""

    def terminate(pid: int) -> None:
        # A connection of its own: no lock of ours may delay it.
        with cluster.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])

    return Session(cluster.conninfo(dbname, f"{dbname}_{suffix}"), terminate)


def lock_class(key: str) -> int:
    """An int4 for advisory locks, which databases share across processes."""
    return zlib.crc32(key.encode()) - 2**31
