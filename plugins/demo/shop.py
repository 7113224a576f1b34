"""The demo's database: an ordinary PostgreSQL with rows, filled once and kept between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

from optimizer.services import Services
from optimizer.shadow.server.cluster import Cluster, ClusterKind

DATABASE = "demo_shop"
#: Owns the database and nothing else; the proof runs under it.
OWNER = "demo_owner"
#: Files that make the database, in order, and what people are told meanwhile.
_STEPS = (("schema", "making the tables"), ("rows", "filling them"), ("constraints", "making keys and indexes"))
#: An index that is neither a constraint's nor marked as the shop's own: a proof that was killed has left it.
_LEFTOVERS = """
    SELECT format('DROP INDEX %s', i.indexrelid::regclass) FROM pg_index AS i
      JOIN pg_class AS c ON c.oid = i.indexrelid
     WHERE c.relnamespace = 'public'::regnamespace AND obj_description(i.indexrelid, 'pg_class') IS NULL
       AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)"""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """One slow query: `name` is its file's, `question` what somebody wanted to know."""

    name: str
    question: str
    sql: str

    @property
    def title(self) -> str:
        """The name without its number, in words."""
        return self.name.partition("_")[2].replace("_", " ")


@dataclass(frozen=True, slots=True)
class Shop:
    """The filled database.

    Parameters:
        cluster: where it runs.
        filled: True when this run filled it, False when it was there already.
        rows: in all tables.
        size: of the database in bytes.
    """

    cluster: Cluster
    filled: bool
    rows: int
    size: int

    @property
    def dsn(self) -> str:
        """Connection string of the unprivileged owner; it holds a password."""
        return self.cluster.conninfo(DATABASE, OWNER)

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as the unprivileged owner, in autocommit.

        Errors: `ShadowUnavailableError`.
        """
        return self.cluster.connect(DATABASE, OWNER)


def queries() -> tuple[DemoQuery, ...]:
    """Return the demo's queries in order."""
    folder = resources.files("plugins.demo") / "queries"
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            comment, _, text = file.read_text(encoding="utf-8").partition("\n")
            found.append(DemoQuery(file.name.removesuffix(".sql"), comment.removeprefix("-- "), text.strip()))
    return tuple(found)


@contextmanager
def open_shop(
    services: Services, *, scale: float, reset: bool, before_filling: Callable[[], None], progress: Progress
) -> Iterator[Shop]:
    """Start the server, fill the database where that has not been done, and keep it to ourselves for the block.

    One demo at a time: two would time each other's work, and see each other's indexes.

    Parameters:
        services: for the supervisor.
        scale: 1 makes a million order items; less is for tests.
        reset: fill it again.
        before_filling: called before a database that is there is thrown away.
        progress: told the step and the share done, 0 to 1.

    Errors: `ShadowUnavailableError` when the server cannot be started.
    """
    progress("starting PostgreSQL", 0.0)
    cluster = services.supervisor.cluster(ClusterKind.STORE)
    cluster.ensure_role(OWNER)
    version = _version(scale)
    with cluster.connect() as admin:
        _wait_for_others(admin, progress)
        filled = reset or _comment(admin) != version
        if filled:
            before_filling()
            _make_anew(cluster, admin, scale, progress)
            # Last, so that a run that was interrupted is never taken for a filled shop.
            comment = sql.SQL("COMMENT ON DATABASE {} IS {}")
            admin.execute(comment.format(sql.Identifier(DATABASE), sql.Literal(version)))
        with cluster.connect(DATABASE, OWNER) as connection:
            for (drop,) in connection.execute(_LEFTOVERS).fetchall():
                connection.execute(drop)
            ((rows, size),) = connection.execute(
                "SELECT sum(reltuples)::bigint, pg_database_size(current_database())"
                " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            ).fetchall()
        yield Shop(cluster, filled, rows, size)


def _wait_for_others(admin: psycopg.Connection[Any], progress: Progress) -> None:
    """Take the lock that this process then holds until `admin` is closed, however that comes about."""
    ((mine,),) = admin.execute("SELECT pg_try_advisory_lock(hashtext(%s))", [DATABASE]).fetchall()
    if not mine:
        progress("waiting for another demo to end", 0.0)
        admin.execute("SELECT pg_advisory_lock(hashtext(%s))", [DATABASE])


def _make_anew(cluster: Cluster, admin: psycopg.Connection[Any], scale: float, progress: Progress) -> None:
    database, owner = sql.Identifier(DATABASE), sql.Identifier(OWNER)
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
    admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
    statements = [(told, text) for file, told in _STEPS for text in _statements(file, scale)]
    with cluster.connect(DATABASE, OWNER) as connection:
        # Rows go in bare and are not needed after a crash: the demo would fill them again.
        connection.execute("SET synchronous_commit = off")
        for done, (told, text) in enumerate(statements):
            progress(told, done / (len(statements) + 1))
            connection.execute(text.encode())
        progress("gathering statistics", len(statements) / (len(statements) + 1))
        connection.execute("VACUUM (ANALYZE)")


def _statements(file: str, scale: float) -> Iterator[str]:
    text = (resources.files("plugins.demo") / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    for statement in text.replace(":scale", repr(scale)).split(";\n"):
        if statement.strip():
            yield statement


def _comment(admin: psycopg.Connection[Any]) -> str | None:
    row = admin.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [DATABASE]
    ).fetchone()
    return str(row[0]) if row and row[0] is not None else None


def _version(scale: float) -> str:
    digest = hashlib.sha256(repr(scale).encode())
    for file, _ in _STEPS:
        digest.update((resources.files("plugins.demo") / "sql" / f"{file}.sql").read_bytes())
    return f"planproof demo {digest.hexdigest()[:12]}"
