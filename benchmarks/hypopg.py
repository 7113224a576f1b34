"""Debian's PostgreSQL 15 with HypoPG in a folder of its own, for the benchmarks that compare with it.

Packages `postgresql-15` and `postgresql-15-hypopg`; where they are missing, benchmarks leave the comparison out.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

BINARIES = Path("/usr/lib/postgresql/15/bin")
_EXTENSION = Path("/usr/share/postgresql/15/extension/hypopg.control")


def installed() -> bool:
    """Whether both packages are."""
    return (BINARIES / "initdb").exists() and _EXTENSION.exists()


@contextmanager
def server() -> Iterator[str]:
    """Run the server for the block; gives a connection string to its database `postgres`, of a superuser."""
    home = Path(tempfile.mkdtemp(prefix="hypopg-"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **account)

    options = (
        f"-k {home} -c listen_addresses='' -c fsync=off -c synchronous_commit=off -c autovacuum=off -c jit=off"
        " -c shared_buffers=256MB"
    )
    try:
        run(BINARIES / "initdb", "-D", home / "data", "-U", "boss", "--no-sync", "--locale=C.UTF-8", "--auth=trust")
        run(BINARIES / "pg_ctl", "start", "-w", "-s", "-D", home / "data", "-o", options, "-l", home / "log")
        try:
            yield f"host={home} user=boss dbname=postgres"
        finally:
            run(BINARIES / "pg_ctl", "stop", "-s", "-m", "immediate", "-D", home / "data")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def connect(dsn: str) -> psycopg.Connection[Any]:
    """Connect in autocommit mode, with HypoPG installed."""
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute("CREATE EXTENSION IF NOT EXISTS hypopg SCHEMA public")
    return connection
