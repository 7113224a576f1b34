"""Meets a server that the user names: connecting to it, describing it without its password, dumping it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from optimizer.errors import InputError, ShadowUnavailableError
from optimizer.shadow.server.binaries import Binaries

#: The oldest server that is read.
OLDEST_VERSION_NUM = 130000
CONNECT_TIMEOUT_S = 10
DUMP_TIMEOUT_S = 1800.0
#: How long pg_dump may wait for a table that somebody has locked exclusively.
_LOCK_WAIT = "10s"
#: Nobody at the source is to wait for us, nor we for ever for them: `pg_relation_size` waits for a table's lock, too.
_LIMITS: Final[LiteralString] = """
    SELECT pg_catalog.set_config('lock_timeout', '10s', false),
           pg_catalog.set_config('statement_timeout', '10min', false),
           pg_catalog.set_config('idle_in_transaction_session_timeout', '10min', false)"""
#: Neither libpq's complaint nor where the server is; both go to whoever runs planproof.
_PUBLIC = "the server that the shadow stands for cannot be reached or refuses planproof: its operator's log says why"
#: Options for the schema that pg_dump has had since version 13.
SCHEMA_OPTIONS = (
    "--no-owner",
    "--no-privileges",
    "--no-comments",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--no-tablespaces",
    "--encoding=UTF8",
    f"--lock-wait-timeout={_LOCK_WAIT}",
)
_DUMP_OPTIONS = (*SCHEMA_OPTIONS, "--no-policies", "--no-table-access-method", "--no-toast-compression")


def origin_of(dsn: str) -> str:
    """Describe a connection string for people, without its password: `shop on db.example.org:5432 as reader`.

    Errors: `InputError` when it is no connection string.
    """
    parts = _parts(dsn)
    host = parts.get("host") or parts.get("hostaddr")
    where = f"{host or 'the default host'}:{parts.get('port') or 5432}"
    if parts.get("service"):
        where = f"service {parts['service']}"
    database = parts.get("dbname") or parts.get("user") or "the default database"
    return f"{database} on {where}" + (f" as {parts['user']}" if parts.get("user") else "")


@contextlib.contextmanager
def connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a connection to a source, in autocommit mode, for the length of a block, with limits for its statements.

    Parameters:
        dsn: libpq's connection string or URI; what it leaves out comes from the PG* variables and `~/.pgpass`.

    Errors: `InputError` when it is no connection string or the server is too old; `ShadowUnavailableError` when the
        server cannot be reached, refuses, or goes away inside the block.
    """
    connection = connect(dsn)
    try:
        with connection:
            connection.execute(_LIMITS)
            yield connection
    except psycopg.OperationalError as error:
        text = ": ".join([last_line(error), *_advice(str(error))])
        raise ShadowUnavailableError(f"reading {origin_of(dsn)} failed: {text}", public=_PUBLIC) from error
    except psycopg.Error as error:
        raise InputError(f"reading {origin_of(dsn)} failed: {last_line(error)}") from error


def connect(dsn: str, **options: str) -> psycopg.Connection[Any]:
    """Open a connection to a source, in autocommit mode.

    Parameters:
        dsn: as for `connected`.
        options: further connection parameters.

    Errors: as `connected`.
    """
    origin = origin_of(dsn)
    defaults = {"connect_timeout": str(CONNECT_TIMEOUT_S), "application_name": "planproof"}
    given = _parts(dsn)
    parameters = {k: v for k, v in defaults.items() if k not in given} | {"client_encoding": "UTF8"} | options
    try:
        connection = psycopg.connect(dsn, autocommit=True, **parameters)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise ShadowUnavailableError(
            f"cannot connect to {origin}: {last_line(error)}: check host, port, database, user and password",
            public=_PUBLIC,
            lasting=_lasting(str(error)),
        ) from None  # the cause may quote the connection string
    if connection.info.server_version < OLDEST_VERSION_NUM:
        version = connection.info.parameter_status("server_version")
        connection.close()
        raise InputError(f"{origin} is PostgreSQL {version}: planproof reads 13 and later")
    return connection


def dump(
    binaries: Binaries,
    connection: psycopg.Connection[Any],
    *,
    statistics: bool,
    without: Iterable[tuple[str, str]] = (),
) -> str:
    """Run pg_dump for the schema, and the statistics if wanted; no rows.

    Parameters:
        binaries: whose pg_dump to use.
        connection: an open one to the source: the dump goes to that very server.
        statistics: whether column and relation statistics are wanted.
        without: tables to leave out, as (schema, name).

    Errors: `ShadowUnavailableError` with pg_dump's own complaint; `InputError` for a login it cannot use.
    """
    target, environment = _dump_login(connection)
    parts = ("--no-data", "--statistics") if statistics else ("--schema-only",)
    command = [binaries.path("pg_dump"), *parts, *_DUMP_OPTIONS, "--filter=-", f"--dbname={target}"]
    # Nothing of our own environment: it may hold other servers' PG* variables, and secrets.
    environment |= {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}
    try:
        outcome = subprocess.run(  # noqa: S603 - a program of ours, no shell
            command,
            input="".join(f"exclude table {_pattern(schema)}.{_pattern(name)}\n" for schema, name in without).encode(),
            capture_output=True,
            check=False,
            timeout=DUMP_TIMEOUT_S,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise ShadowUnavailableError(f"pg_dump took longer than {DUMP_TIMEOUT_S:g} s and was ended") from error
    except OSError as error:
        raise ShadowUnavailableError(f"pg_dump cannot be run: {error.strerror}") from error
    if outcome.returncode != 0:
        complaint = _complaint(outcome.stderr.decode(errors="replace"))
        raise ShadowUnavailableError(
            f"pg_dump could not read {origin_of(target)}: {complaint}",
            public=_PUBLIC,
            lasting="permission denied" in complaint,
        )
    return outcome.stdout.decode("utf-8", errors="replace")


def _pattern(name: str) -> str:
    """A name in a filter file of pg_dump, where quotes take all special meaning from it (`read_quoted_string`)."""
    return '"' + name.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '""') + '"'


def _complaint(stderr: str) -> str:
    """Return the line that says what went wrong, which is not the last one, and how to mend it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines[-1:] or ["no message"]
    text = errors[-1].removeprefix("pg_dump: ").removeprefix("error: ").removeprefix("query failed: ")
    text = last_line(text).removeprefix("ERROR:  ")
    return ": ".join([text, *_advice(text)])


def _advice(text: str) -> list[str]:
    """How to mend it, where that is known."""
    return [advice for mark, advice in _MENDING.items() if mark in text]


_MENDING = {
    "permission denied": "give the role SELECT on every table (GRANT pg_read_all_data TO ..., on 14 and later)",
    "lock timeout": "somebody holds a table exclusively, such as by ALTER TABLE; try again when that is done",
}


def last_line(error: object) -> str:
    """Return what an error message comes down to: libpq's other lines repeat where it tried to connect, or guess."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # libpq: `connection to server at "db", port 5432 failed: FATAL:  password authentication failed ...`
    for mark in (" failed: FATAL:  ", " failed: "):
        found = [line.split(mark, 1)[1] for line in lines if mark in line]
        if found:
            return found[-1].rpartition(" failed: ")[2]
    return lines[-1] if lines else "no message"


def _lasting(refusal: str) -> bool:
    """Whether every server that was tried refused for good, as far as its words are known: libpq tells no SQLSTATE."""
    refusals = [line for line in refusal.splitlines() if " failed: " in line]
    return bool(refusals) and all(any(mark in line for mark in _LASTING) for line in refusals)


#: What servers and libpq say to a login that will be refused the next time too.
_LASTING = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
    "is not currently accepting connections",
    "does not support SSL, but SSL was required",
    "certificate verify failed",
)


def _parts(dsn: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(dsn)
    except psycopg.Error:
        # libpq's message quotes the string, and with it perhaps the password.
        raise InputError(
            "this is not a connection string: write postgresql://user:password@host:port/database "
            "or host=... dbname=... user=..."
        ) from None


def _dump_login(connection: psycopg.Connection[Any]) -> tuple[str, dict[str, str]]:
    """Return a connection string without secrets for pg_dump's command line, and the environment with the password."""
    wanted: dict[str, Any] = {}
    password = ""
    for option in connection.pgconn.info:
        keyword, value = option.keyword.decode(), option.val.decode() if option.val is not None else ""
        if keyword == "password":
            password = value
        elif not value or option.val == option.compiled or keyword in _OF_THIS_CONNECTION:
            continue
        elif option.dispchar == b"*" or keyword in ("scram_client_key", "scram_server_key"):
            raise InputError(f"pg_dump cannot be given {keyword} secretly: use a login without it")
        else:
            wanted[keyword] = value
    info = connection.info
    wanted |= {"host": info.host, "port": info.port, "user": info.user, "dbname": info.dbname}
    if info.hostaddr and not info.host.startswith(("/", "@")):
        wanted["hostaddr"] = info.hostaddr
    return make_conninfo(**wanted), {"PGPASSWORD": password}


_OF_THIS_CONNECTION = frozenset(
    {
        "host",
        "hostaddr",
        "port",
        "user",
        "dbname",
        "client_encoding",
        "replication",
        "service",
        "servicefile",
        "passfile",
    }
)
