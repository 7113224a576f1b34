"""Brings a store's tables up to this version's: ours by Alembic, the queue's by the SQL that procrastinate ships.

All of it is one transaction under one lock, so that of several processes one does it, wholly or not at all.
"""

from __future__ import annotations

from pathlib import Path

import procrastinate.schema
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text

from optimizer.errors import StoreUnavailableError
from optimizer.store.models import QueueMigration

VERSION_TABLE = "planproof_revision"
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('planproof.store'))")


def migrate(connection: Connection, revision: str = "head", *, queue: str | None = None) -> None:
    """Bring the tables to a revision. The caller commits.

    Parameters:
        connection: inside a transaction.
        revision: of Alembic; the newest unless told.
        queue: the last of procrastinate's migrations to apply; None applies all.

    Errors: `StoreUnavailableError` when a newer planproof has been here.
    """
    connection.execute(_LOCK)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    _refuse_newer(connection, config)
    command.upgrade(config, revision)
    _migrate_queue(connection, queue)


def _refuse_newer(connection: Connection, config: Config) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if found is not None and found not in known:
        raise StoreUnavailableError(
            f"the store was made by a newer planproof (revision {found}; this one knows up to {max(known)}): "
            "upgrade this one"
        )


def _migrate_queue(connection: Connection, last: str | None) -> None:
    """Make procrastinate's tables, or apply those of its migrations that are not here yet."""
    folder = Path(procrastinate.schema.SchemaManager.get_migrations_path())
    shipped = {file.name: file for file in sorted(folder.glob("*.sql"))}
    applied = set(connection.scalars(select(QueueMigration.name)))
    if applied - set(shipped):
        raise StoreUnavailableError(
            f"the store's queue was made by a newer planproof ({max(applied - set(shipped))}): upgrade this one"
        )
    there = connection.scalar(text("SELECT to_regclass('procrastinate_jobs') IS NOT NULL"))
    if there and not applied:
        raise StoreUnavailableError(
            "the store's database has a procrastinate queue that is not planproof's: "
            "give PLANPROOF_STORE_URL a database of its own"
        )
    wanted = [name for name in shipped if name not in applied and (last is None or name <= last)]
    at_once = not there and last is None  # its whole schema, instead of its history
    if at_once:
        _run(connection, procrastinate.schema.SchemaManager.get_schema())
    for name in wanted:
        if not at_once:
            _run(connection, shipped[name].read_text(encoding="utf-8"))
        connection.execute(insert(QueueMigration).values(name=name))


def _run(connection: Connection, script: str) -> None:
    """Run a script of several statements as it is: nothing in it is a parameter."""
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    driver.execute(script.encode(), prepare=False)
