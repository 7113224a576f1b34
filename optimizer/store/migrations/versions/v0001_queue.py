"""What is known of procrastinate's own tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "planproof_queue_migrations",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("applied", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
