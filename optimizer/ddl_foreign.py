"""Foreign servers and tables of a clone: they stay foreign, and lead nowhere.

The planner asks a table's foreign data wrapper for its plan. `postgres_fdw` needs no connection for that as long as it
is not told to ask the remote server for estimates. So every server of a clone is one of `postgres_fdw` with a name of
ours, whose address cannot exist and which nobody has a user mapping for; of its options only those stay that plans
depend on. Other wrappers are not available: `file_fdw`, for one, opens files while it plans.

`tamed` makes a dump's statements such ones; no others are accepted from anybody.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import postgast

from optimizer.errors import SqlError

WRAPPER: Final = "postgres_fdw"
_SCHEMA: Final = "planproof_foreign"
# A folder for sockets that can never be: what stands before it is no folder.
_NOWHERE: Final = "/dev/null/nowhere"
_SERVER: Final = re.compile(r"planproof_[0-9a-f]{12}")
_LONGEST: Final = 500_000
_COST, _SWITCH = re.compile(r"\d{1,9}(\.\d{1,9})?"), re.compile(r"true|false|on|off|yes|no|1|0")
_OPTIONS: Final = {
    "fdw_startup_cost": _COST,
    "fdw_tuple_cost": _COST,
    "async_capable": _SWITCH,
    "updatable": _SWITCH,
    "host": re.compile(re.escape(_NOWHERE)),
}
_TRUE: Final = ("true", "on", "yes", "1")
_FOREIGN: Final = re.compile(r"CREATE (SERVER|FOREIGN TABLE) ")


def tamed(sql: str) -> tuple[str, str]:
    """Make a statement of pg_dump about what is foreign one that is accepted.

    Parameters:
        sql: any statement.

    Returns: the statement, and what is lost; unchanged and nothing where there is nothing to tame.
    """
    if _FOREIGN.match(sql) is None or len(sql) > _LONGEST:
        return sql, ""
    try:
        tree = postgast.parse(sql)
        node = tree.stmts[0].stmt
        if node.WhichOneof("node") == "create_foreign_server_stmt":
            return _tamed_server(node.create_foreign_server_stmt)
        asks = _tame_table(node.create_foreign_table_stmt)
        return postgast.deparse(tree), asks
    except (postgast.PgQueryError, RecursionError, ValueError):  # too deep, which DecodeError says as a ValueError
        return sql, ""  # it is refused as it is


def server_statements(statement: Any) -> tuple[str, ...]:
    """Return what a superuser runs for a CREATE SERVER that was tamed.

    Parameters:
        statement: its tree, of libpg_query.

    Errors: `SqlError` without a place for any other server.
    """
    options = _values(statement.options)
    known = all(name in _OPTIONS and _OPTIONS[name].fullmatch(value) for name, value in options.items())
    if (
        not _SERVER.fullmatch(statement.servername)
        or statement.fdwname != WRAPPER
        or "host" not in options
        or not known
    ):
        raise SqlError("CREATE SERVER is not accepted in a schema file: leave it out, with its tables")
    return (
        f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}",
        f"CREATE EXTENSION IF NOT EXISTS {WRAPPER} SCHEMA {_SCHEMA}",
        _server(statement.servername, options),
        f"GRANT USAGE ON FOREIGN SERVER {statement.servername} TO PUBLIC",
    )


def check_table(statement: Any) -> None:
    """Refuse a CREATE FOREIGN TABLE that was not tamed.

    Errors: `SqlError` without a place.
    """
    columns = [element.column_def for element in statement.base_stmt.table_elts if element.HasField("column_def")]
    if not _SERVER.fullmatch(statement.servername) or statement.options or any(c.fdwoptions for c in columns):
        raise SqlError("CREATE FOREIGN TABLE is not accepted in a schema file: write it as a plain table")


def _tamed_server(statement: Any) -> tuple[str, str]:
    given = _values(statement.options)
    known = statement.fdwname == WRAPPER
    kept = {n: given[n] for n, shape in _OPTIONS.items() if known and n in given and shape.fullmatch(given[n])}
    note = ""
    if not known:
        note = (
            f"server {statement.servername} is of {statement.fdwname}: its tables are planned as {WRAPPER} plans them"
        )
    elif given.get("use_remote_estimate", "").lower() in _TRUE:
        note = f"server {statement.servername} asks the remote server for estimates: here local statistics stand in"
    elif given.get("extensions"):
        note = (
            f"server {statement.servername} runs what belongs to {given['extensions']} remotely: here conditions with "
            "it are planned locally"
        )
    return _server(_name(statement.servername), {**kept, "host": _NOWHERE}), note


def _tame_table(statement: Any) -> str:
    asks = _values(statement.options).get("use_remote_estimate", "").lower() in _TRUE
    del statement.options[:]
    for element in statement.base_stmt.table_elts:
        if element.HasField("column_def"):
            del element.column_def.fdwoptions[:]
    statement.servername = _name(statement.servername)
    name = statement.base_stmt.relation.relname
    return f"table {name} asks the remote server for estimates: here local statistics stand in" if asks else ""


def _server(name: str, options: dict[str, str]) -> str:
    listed = ", ".join(f"{option} '{value}'" for option, value in sorted(options.items()))
    return f"CREATE SERVER {name} FOREIGN DATA WRAPPER {WRAPPER} OPTIONS ({listed})"


def _name(name: str) -> str:
    return name if _SERVER.fullmatch(name) else f"planproof_{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _values(options: Any) -> dict[str, str]:
    return {o.def_elem.defname: str(o.def_elem.arg.string.sval) for o in options}
