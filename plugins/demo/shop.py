"""The demo's database: an ordinary PostgreSQL with rows, filled once and kept between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import sql

from optimizer.services import Services
from optimizer.shadow.cluster import Cluster, ClusterKind

DATABASE = "demo_shop"
#: Owns the database and nothing else; the proof runs under it.
OWNER = "demo_owner"
#: Files that make the database, in order, and what people are told meanwhile.
_STEPS = (("schema", "making the tables"), ("rows", "filling them"), ("constraints", "making keys and indexes"))

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """One slow query: `name` is its file's, `question` what somebody wanted to know."""

    name: str
    question: str
    sql: str


@dataclass(frozen=True, slots=True)
class Shop:
    """The filled database.

    Parameters:
        cluster: where it runs.
        filled: True when this run filled it, False when it was there already.
        version: changes with the demo's files and the scale.
    """

    cluster: Cluster
    filled: bool
    version: str

    @property
    def dsn(self) -> str:
        """Connection string of the unprivileged owner."""
        return self.cluster.conninfo(DATABASE, OWNER)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as the unprivileged owner, in autocommit."""
        return psycopg.connect(self.dsn, autocommit=True)


def queries() -> tuple[DemoQuery, ...]:
    """Return the demo's queries in order."""
    folder = resources.files("plugins.demo") / "queries"
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            comment, _, text = file.read_text(encoding="utf-8").partition("\n")
            found.append(DemoQuery(file.name.removesuffix(".sql"), comment.removeprefix("-- "), text.strip()))
    return tuple(found)


def open_shop(services: Services, *, scale: float = 1.0, reset: bool = False, progress: Progress) -> Shop:
    """Start the server and fill the database where that has not been done.

    Parameters:
        services: for the supervisor.
        scale: 1 makes a million order items; less is for tests.
        reset: fill it again.
        progress: told the step and the share done, 0 to 1.

    Errors: `ShadowUnavailableError` when the server cannot be started.
    """
    progress("starting PostgreSQL", 0.0)
    cluster = services.supervisor.cluster(ClusterKind.STORE)
    cluster.ensure_role(OWNER)
    version = _version(scale)
    with cluster.connect() as admin:
        # One process fills, others wait for it.
        admin.execute("SELECT pg_advisory_lock(hashtext(%s))", (DATABASE,))
        ready = None if reset else _comment(admin)
        if ready == version:
            progress("the shop is filled already", 1.0)
            return Shop(cluster, False, version)
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))
        shop = Shop(cluster, True, version)
        _fill(shop, scale, progress)
        admin.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(DATABASE), sql.Literal(version)))
    return shop


def _fill(shop: Shop, scale: float, progress: Progress) -> None:
    statements = [(told, text) for file, told in _STEPS for text in _statements(file, scale)]
    with shop.connect() as connection:
        # Rows go in bare and are not needed after a crash: the demo would fill them again.
        connection.execute("SET synchronous_commit = off")
        for done, (told, text) in enumerate(statements):
            progress(told, done / len(statements))
            connection.execute(text.encode())
        progress("gathering statistics", 0.95)
        connection.execute("VACUUM (ANALYZE)")
        progress("the shop is filled", 1.0)


def _statements(file: str, scale: float) -> Iterator[str]:
    text = (resources.files("plugins.demo") / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    for statement in text.replace(":scale", repr(scale)).split(";\n"):
        if statement.strip():
            yield statement


def _comment(admin: psycopg.Connection[tuple[object, ...]]) -> str | None:
    row = admin.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (DATABASE,)
    ).fetchone()
    return str(row[0]) if row and row[0] is not None else None


def _version(scale: float) -> str:
    digest = hashlib.sha256(repr(scale).encode())
    for file, _ in _STEPS:
        digest.update((resources.files("plugins.demo") / "sql" / f"{file}.sql").read_bytes())
    return f"planproof demo {digest.hexdigest()[:12]}"
