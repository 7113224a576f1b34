"""What Alembic runs for every command: the connection, and the transaction, are the caller's (`migrate.py`)."""

from alembic import context

from optimizer.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="planproof_revision",
)
context.run_migrations()
