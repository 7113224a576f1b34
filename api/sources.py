"""Which servers a DSN sent over HTTP may name: those that the settings allow, and nothing that reaches around them."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.errors import ForbiddenSourceError
from optimizer.errors import InputError

#: Parameters of libpq that cannot name another server, a file of ours or a program.
_HARMLESS = frozenset(
    {"host", "port", "dbname", "user", "password", "sslmode", "connect_timeout", "application_name", "channel_binding"}
)


def allowed_dsn(dsn: str, hosts: tuple[str, ...]) -> str:
    """Check a DSN against the list of allowed hosts.

    Parameters:
        dsn: a libpq connection string or URI.
        hosts: hosts that may be named (the setting `allow_http_sources`).

    Returns: the DSN, put together anew from the parts that were checked.

    Errors: `InputError` when it is no DSN, `ForbiddenSourceError`; neither repeats any of it but the host.
    """
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except (psycopg.Error, ValueError):
        # libpq's message repeats parts of the string, the password among them.
        raise InputError("the connection string cannot be read: write postgresql://user@host:port/database") from None
    refused = sorted(set(parts) - _HARMLESS)
    if refused:
        raise ForbiddenSourceError(f"a connection string sent over HTTP may not set {', '.join(refused)}")
    for host in parts.get("host", "").split(","):
        if not host or host not in hosts:
            raise ForbiddenSourceError(
                f"the host {host or '(none)'} is not allowed: an operator can list it in PLANPROOF_ALLOW_HTTP_SOURCES"
            )
    if "=" in parts.get("dbname", "") or "://" in parts.get("dbname", ""):
        raise ForbiddenSourceError("the database's name is itself a connection string")
    return make_conninfo(**parts)
