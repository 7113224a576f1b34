"""The role of a source that a shadow plans for: that it exists, and what its sessions begin with.

Sessions take each setting from the first of these that has it: what is set for the role in the database, for the role,
for the database, for everybody (`ALTER ROLE`, `ALTER DATABASE`), the server's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.errors import InputError

# In the order in which a later one overrides.
_DEFAULTS: LiteralString = """
    SELECT unnest(s.setconfig) FROM pg_db_role_setting s
     WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
       AND (s.setrole = 0 OR s.setrole = (SELECT oid FROM pg_roles WHERE rolname = %s))
     ORDER BY s.setrole <> 0, s.setdatabase <> 0"""
# What a policy or a function asks for by a constant name, in functions wherever these words stand.
_APPLICATIONS: LiteralString = r"""
    SELECT DISTINCT m[1], current_setting(m[1], true)
      FROM (SELECT pg_get_expr(polqual, polrelid) || ' ' || coalesce(pg_get_expr(polwithcheck, polrelid), '')
              FROM pg_policy
            UNION ALL
            SELECT f.prosrc FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
             WHERE f.prosrc LIKE '%current_setting%' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
           AS texts(body), regexp_matches(body, 'current_setting\(\s*''([a-zA-Z_][\w]*\.[\w.]+)''', 'g') AS m
     ORDER BY 1 LIMIT 50"""
_OURS = "planproof."
_PATH: LiteralString = """
    SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname = ANY (%s)
       AND n.nspname NOT LIKE 'pg\\_%%' AND has_schema_privilege(%s::text, n.oid, 'USAGE')"""


def named_role(source: psycopg.Connection[Any], role: str) -> str:
    """Return the role that is meant.

    Parameters:
        source: a connection with `search_path = pg_catalog`.
        role: its name; empty is the connection's own.

    Errors: `InputError` when there is no such role; `psycopg.Error`.
    """
    rows = _rows(
        source, "SELECT rolname::text FROM pg_roles WHERE rolname = coalesce(nullif(%s, ''), current_user)", [role]
    )
    if not rows:
        raise InputError(f"there is no role {role!r} at the source: name one of those that \\du lists there")
    return str(rows[0][0])


def session_settings(source: psycopg.Connection[Any], role: str, own: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that sessions of a role begin with.

    Parameters:
        source: a connection with `search_path = pg_catalog`.
        role: a role of the source.
        own: the settings that the connection itself began with.

    Returns: `own`, changed where the role's sessions get other values; and settings of applications, which have a dot
        in their names, as far as policies or functions read them and they are set for the role, the database, or the
        connection.

    Errors: `psycopg.Error`.
    """
    login = _login(source)
    for_role, for_login = _defaults(source, role), _defaults(source, login)
    found = dict(own)
    if role != login:
        changed = {name for name in own if for_role.get(name.lower()) != for_login.get(name.lower())}
        for name, boot in _rows(source, "SELECT name, boot_val FROM pg_settings WHERE name = ANY (%s)", [[*changed]]):
            # What the configuration file says is behind the login's own setting, where it cannot be seen.
            found[name] = for_role.get(name.lower(), boot)
    for name, value in _rows(source, _APPLICATIONS, []):
        if (known := for_role.get(name.lower(), value)) and not name.lower().startswith(_OURS):
            found[name] = known
    return found


def search_path(source: psycopg.Connection[Any], role: str, own: Sequence[str]) -> tuple[str, ...]:
    """Return the schemas that a role finds unqualified names in, in order.

    Parameters:
        source: a connection with `search_path = pg_catalog`.
        role: a role of the source.
        own: those of the connection itself, as it began.

    Errors: `psycopg.Error`.
    """
    if role == _login(source):
        return tuple(own)
    ((reset, boot),) = _rows(source, "SELECT reset_val, boot_val FROM pg_settings WHERE name = 'search_path'", [])
    unset = boot if "search_path" in _defaults(source, _login(source)) else reset
    setting = _defaults(source, role).get("search_path", unset)
    names = [role if name == "$user" else name for name in split_path(setting)]
    usable = {row[0] for row in _rows(source, _PATH, [names, role])}
    return tuple(dict.fromkeys(name for name in names if name in usable))


def _login(source: psycopg.Connection[Any]) -> str:
    ((login,),) = _rows(source, "SELECT session_user::text", [])
    return str(login)


def _defaults(source: psycopg.Connection[Any], role: str) -> dict[str, str]:
    """What is set for a role's sessions in this database, by the names in lower case."""
    texts = [row[0] for row in _rows(source, _DEFAULTS, [role])]
    return {name.lower(): value for name, _, value in (text.partition("=") for text in texts)}


def _rows(source: psycopg.Connection[Any], query: LiteralString, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with source.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query, parameters or None).fetchall()


def split_path(setting: str) -> tuple[str, ...]:
    """Cut a list of names as `SplitIdentifierString` (varlena.c) does: quoted ones stay as they are.

    Returns: the names; none when it is not a list of names.
    """
    names: list[str] = []
    rest = setting.strip()
    while rest:
        if rest.startswith('"'):
            end = 1
            while (end := rest.find('"', end)) >= 0 and rest[end : end + 2] == '""':
                end += 2
            if end < 0:
                return ()
            names.append(rest[1:end].replace('""', '"'))
            rest = rest[end + 1 :].lstrip()
        else:
            name, comma, rest = rest.partition(",")
            names.append(name.strip().lower())
            rest = comma + rest
        if rest and not rest.startswith(","):
            return ()
        rest = rest[1:].lstrip()
    return tuple(name for name in names if name)
