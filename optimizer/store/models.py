"""The tables of the store. A change here needs a revision in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Index, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: In the order in which a job goes through them; it ends in one of the last three.
STATES = ("queued", "running", "done", "failed", "cancelled")
ENDED = STATES[2:]


class Base(DeclarativeBase):
    """The root of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text(), dict[str, Any]: JSONB}  # noqa: RUF012


class QueueMigration(Base):
    """A migration of procrastinate's own tables that was applied here, by the name of its file."""

    __tablename__ = "planproof_queue_migrations"

    name: Mapped[str] = mapped_column(primary_key=True)
    applied: Mapped[datetime] = mapped_column(server_default=text("now()"))


class Job(Base):
    """One job; what it was asked to do is in a file (`api.jobs.requests`), since it may hold a password.

    kind, subject: what is done, and to which shadow.
    queue: the data folder whose workers may run it.
    error: a problem's members, for a failed job.
    version: counts the changes of this row, so that a watcher knows what it has seen.
    attempt: counts the starts; whoever writes about a job names his own, so that a worker that was given up cannot.
    failures: attempts that were lost, or failed in a way that may pass.
    """

    __tablename__ = "planproof_jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    queue: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="queued")
    step: Mapped[str] = mapped_column(server_default="")
    progress: Mapped[float] = mapped_column(server_default="0")
    error: Mapped[dict[str, Any] | None]
    request_bytes: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    attempt: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")
    created: Mapped[datetime] = mapped_column(server_default=text("now()"))
    started: Mapped[datetime | None]
    ended: Mapped[datetime | None]
    cancel_requested: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(f"state IN ({', '.join(repr(state) for state in STATES)})", name="state"),
        CheckConstraint(f"(ended IS NOT NULL) = (state IN ({', '.join(map(repr, ENDED))}))", name="ended"),
        Index(None, "created", "id"),
        Index(None, "queue", "ended"),
    )
