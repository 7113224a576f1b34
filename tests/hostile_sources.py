"""Databases that stand for a hostile user's own server."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from hostile_arena import Arena
from psycopg import sql

from optimizer.shadow.port import ShadowDatabase
from optimizer.shadow.server.cluster import Cluster, ClusterKind


@dataclass(frozen=True)
class Source:
    """A database on the scratch cluster that nobody else uses.

    Parameters:
        cluster: where it is.
        name: of the database.
        owner: an unprivileged role that owns it.
    """

    cluster: Cluster
    name: str
    owner: str

    @property
    def dsn(self) -> str:
        """The superuser's: the worst login to be tricked under."""
        return self.cluster.conninfo(self.name)

    def harm(self, query: str | None) -> str:
        """Run a query of the superuser's that returns a row for each thing done to the source."""
        if query is None:
            return ""
        with self.cluster.connect(self.name, options="-c search_path=pg_catalog") as admin:
            rows = admin.execute(query.encode()).fetchall()
        return f"harm at the source: {rows}" if rows else ""


@contextlib.contextmanager
def source(arena: Arena, script: str) -> Iterator[Source]:
    """Make a database from a script, which an unprivileged owner runs, and drop it at the end."""
    cluster = arena.cluster(ClusterKind.SCRATCH)
    name = f"hostile_{secrets.token_hex(6)}"
    owner = f"{name}_owner"
    cluster.ensure_role(owner)
    database, role = sql.Identifier(name), sql.Identifier(owner)
    with cluster.connect() as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {} STRATEGY FILE_COPY").format(database, role))
        try:
            with cluster.connect(name, owner) as connection:
                for statement in script.split(";;\n"):
                    if statement.strip():
                        connection.execute(arena.replace(statement).encode())
            yield Source(cluster, name, owner)
        finally:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
            with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))


def attached_record(arena: Arena, database: Source) -> ShadowDatabase:
    """Attach the database under its owner's login."""
    name = database.name.replace("_", "-")
    arena.services.add_attached(name, database.cluster.conninfo(database.name, database.owner))
    return arena.services.shadow(name)
