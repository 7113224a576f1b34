"""Backup of the store: everything in its database in one file, by PostgreSQL's own pg_dump and pg_restore."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from optimizer.errors import InputError, StoreUnavailableError
from optimizer.shadow.server.binaries import bundled_binaries
from optimizer.store.store import Store

#: How pg_dump's own format begins.
_SIGNATURE = b"PGDMP"


def dump(store: Store, file: Path) -> None:
    """Write the whole store to a file that only this user may read. It may be in use meanwhile.

    Parameters:
        store: whichever the settings name.
        file: is made anew, whole or not at all.

    Errors: `InputError` when the file cannot be written; `StoreUnavailableError`.
    """
    store.prepare()
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _run("pg_dump", store.conninfo(), "--format=custom", "--no-owner", "--no-acl", f"--file={unfinished}")
        unfinished.replace(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def restore(store: Store, file: Path) -> None:
    """Put a dump in the place of what the store holds, wholly or not at all; an older version's is brought up to date.

    Parameters:
        store: whichever the settings name; nothing else may use it meanwhile.
        file: written by `dump`.

    Errors: `InputError` when the file is no dump, or the store is in use; `StoreUnavailableError`.
    """
    try:
        with file.open("rb") as opened:
            signature = opened.read(len(_SIGNATURE))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if signature != _SIGNATURE:
        raise InputError(f"{file} is no dump of a store: `planproof store dump` writes such files")
    conninfo = store.conninfo()
    _check_unused(conninfo)
    options = ("--clean", "--if-exists", "--single-transaction", "--exit-on-error", "--no-owner", "--no-acl")
    _run("pg_restore", conninfo, *options, str(file))
    store.prepare()


def _check_unused(conninfo: str) -> None:
    try:
        with psycopg.connect(conninfo) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchone()
    except psycopg.OperationalError as error:
        raise StoreUnavailableError("the store cannot be reached: try again when its server runs") from error
    if row is not None and row[0]:
        raise InputError(f"the store is in use ({row[0]} connections): stop the service and its workers first")


def _run(program: str, conninfo: str, *arguments: str) -> None:
    """Run a client program against the store; the password travels in the environment."""
    given: dict[str, Any] = conninfo_to_dict(conninfo)
    password = given.pop("password", None)
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}
    if "HOME" in os.environ:
        environment["HOME"] = os.environ["HOME"]  # ~/.pgpass, for a store whose URL has no password
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    outcome = subprocess.run(  # noqa: S603 - a program of ours, no shell
        [bundled_binaries().path(program), f"--dbname={make_conninfo(**given)}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=environment,
    )
    if outcome.returncode != 0:
        lines = [line.strip() for line in outcome.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if "error:" in line), "no message").removeprefix(f"{program}: ")
        raise StoreUnavailableError(f"{program} failed: {said}")
