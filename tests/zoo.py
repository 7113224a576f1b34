"""The zoo: a database with one table or group for each thing that planners look at, and the queries over it.

The schema is `fixtures/schemas/zoo.sql`, what happens after its last ANALYZE `zoo_late.sql`, and the queries are in
`fixtures/workloads/zoo`, one a line, where `-- [...]` gives values for its parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
from fidelity import Question, hold_still
from psycopg import sql

from optimizer.shadow.server.cluster import Cluster

_FIXTURES = Path(__file__).parents[1] / "fixtures"
#: Who may read all of it, and who asks: policies apply to the latter.
READER, ROLE = "zoo_reader", "zoo_keeper"
#: Settings of the database's own: small tables are scanned in parallel, and every kind of value has to travel.
_SETTINGS = {
    "min_parallel_table_scan_size": "64kB",
    "min_parallel_index_scan_size": "16kB",
    "parallel_setup_cost": "50",
    "random_page_cost": "2.2",
    "work_mem": "1MB",
    "effective_cache_size": "1GB",
    "default_text_search_config": "simple",
    "hnsw.ef_search": "100",
    "ivfflat.probes": "3",
    "pg_trgm.similarity_threshold": "0.6",
    "enable_partitionwise_join": "on",
    "enable_partitionwise_aggregate": "on",
}
#: Left as they were made: rows come, ANALYZE does not.
_NEVER_ANALYZED = ("fresh", "empty_fresh")
_RELATIONS = """
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname IN ('public', 'back') AND c.relname <> ALL (%s) ORDER BY c.oid"""


def questions() -> Iterator[Question]:
    """Yield the queries; one with parameters comes twice, for its values and for any."""
    for path in sorted((_FIXTURES / "workloads" / "zoo").glob("*.sql")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            text, _, values = line.partition("; -- ")
            name = f"{path.stem} {number}"
            yield Question(name, text.rstrip(";"))
            if values:
                yield Question(f"{name} with values", text, tuple(json.loads(values)))


def make(cluster: Cluster, name: str, *, rows: int) -> None:
    """Make the database `name`, and the roles.

    Parameters:
        rows: of its larger tables.
    """
    database = sql.Identifier(name)
    with cluster.connect() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
        locale = sql.SQL("LOCALE_PROVIDER libc LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'")
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ").format(database) + locale)
        for setting, value in _SETTINGS.items():
            admin.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.Identifier(setting), sql.Literal(value))
            )
        for role, rights in {READER: "BYPASSRLS", ROLE: "NOBYPASSRLS"}.items():
            cluster.ensure_role(role)
            admin.execute(f"ALTER ROLE {role} {rights}".encode())
            admin.execute(f"GRANT pg_read_all_data, pg_write_all_data TO {role} WITH INHERIT TRUE".encode())
        # What the policies ask for.
        admin.execute(f"ALTER ROLE {ROLE} SET app.keeper = 'rita'".encode())
    with cluster.connect(name) as connection:
        connection.execute(f"SET synchronous_commit = off; SET zoo.rows = {rows}".encode())
        _run(connection, "zoo.sql")
        hold_still(connection)
        relations = [row[0] for row in connection.execute(_RELATIONS, [list(_NEVER_ANALYZED)]).fetchall()]
        connection.execute(f"VACUUM (ANALYZE) {', '.join(relations)}".encode())
        _run(connection, "zoo_late.sql")


def _run(connection: psycopg.Connection, file: str) -> None:
    for statement in (_FIXTURES / "schemas" / file).read_text().split(";\n"):
        if statement.strip():
            connection.execute(statement.encode())
