"""Jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "planproof_jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="queued"),
        sa.Column("step", sa.Text, nullable=False, server_default=""),
        sa.Column("progress", sa.Float, nullable=False, server_default="0"),
        sa.Column("error", JSONB),
        sa.Column("request_bytes", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created", _TIME, nullable=False, server_default=sa.text("now()")),
        sa.Column("started", _TIME),
        sa.Column("ended", _TIME),
        sa.Column("cancel_requested", _TIME),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="state"),
        sa.CheckConstraint("(ended IS NOT NULL) = (state IN ('done', 'failed', 'cancelled'))", name="ended"),
    )
    op.create_index("ix_planproof_jobs_created_id", "planproof_jobs", ["created", "id"])
    op.create_index("ix_planproof_jobs_queue_ended", "planproof_jobs", ["queue", "ended"])
