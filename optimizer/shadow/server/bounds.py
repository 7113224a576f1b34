"""Bounds on what a schema's owner does while its database is made: time, and disk.

A script's statements, and whatever functions, operators and views of its own the service's statements meet, can lift
every limit of their session's. So a thread looks on over a superuser's connection of its own, and ends the session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg

from optimizer.errors import ShadowUnavailableError, TimeLimitError, TooLargeError
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.template.database import end_session, superuser_connection

_LOOK_EVERY_S: Final = 0.25
#: Seconds on top of a limit of the block's own, whose error says more, before the session is ended here.
GRACE_S: Final = 3.0


@contextmanager
def bounded(cluster: Cluster, owner: psycopg.Connection[Any], *, timeout_s: float, max_bytes: int) -> Iterator[None]:
    """End the owner's session when the block takes too long, or when its database takes too much disk.

    Parameters:
        cluster: where the database is.
        owner: its connection, over which everything in the block runs.
        timeout_s: seconds for the whole block.
        max_bytes: of all files of the database, which must not hold sparse ones yet.

    Errors: `TimeLimitError`, `TooLargeError`, in place of whatever the block raised when its session ended.
    """
    reason: list[TimeLimitError | TooLargeError] = []
    done = threading.Event()
    database, process = owner.info.dbname, owner.info.backend_pid
    deadline = time.monotonic() + timeout_s

    def watch() -> None:
        # Whichever connection is gone, nothing is left to end.
        with suppress(psycopg.Error, ShadowUnavailableError), superuser_connection(cluster, database) as superuser:
            while not done.wait(min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic()))):
                ((size,),) = superuser.execute("SELECT pg_database_size(current_database())").fetchall()
                if size > max_bytes:
                    reason.append(
                        TooLargeError(
                            f"the schema's database takes more than {max_bytes:,} bytes of disk: send fewer rows, or "
                            "raise PLANPROOF_MAX_SCHEMA_DISK_BYTES"
                        )
                    )
                elif time.monotonic() >= deadline:
                    reason.append(
                        TimeLimitError(
                            f"the schema took longer than {timeout_s:g} s to make: simplify it, or send less"
                        )
                    )
                if reason:
                    end_session(superuser, process)
                    return

    watcher = threading.Thread(target=watch, daemon=True, name="planproof-bounds")
    watcher.start()
    try:
        yield
    except Exception as error:
        if reason:
            raise reason[0] from error
        raise
    finally:
        done.set()
        watcher.join()
    if reason:
        raise reason[0]
