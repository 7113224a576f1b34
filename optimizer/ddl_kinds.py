"""Which statements of a schema file run, which are left out with a reason, and which are refused.

An allow-list by kind, as PostgreSQL's grammar names it. Whatever is not named here is refused. What runs does so as an
unprivileged owner, so the list guards what that owner could still reach, and what would only fail or mislead.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import postgast

from optimizer.collations import stand_in_statements
from optimizer.ddl_foreign import check_table, server_statements
from optimizer.ddl_functions import tamed
from optimizer.errors import SqlError

# By name: its stub file does not parse, which ends every type check that follows the import.
_pb: Any = importlib.import_module("postgast.pg_query_pb2")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Extensions of the embedded server that give a database types, operators and functions, and no way out of it.
EXTENSIONS: Final = _names(
    "btree_gin btree_gist citext cube earthdistance fuzzystrmatch hstore intarray isn ltree pg_trgm seg "
    "tablefunc unaccent vector bloom dict_int intagg tsm_system_rows tsm_system_time"
)
#: Those that nothing in a plan depends on, and those whose tables get another wrapper (`ddl_foreign.py`).
_PLANLESS: Final = _names(
    "adminpack amcheck auto_explain hypopg pageinspect pg_buffercache pg_cron pg_freespacemap pg_hint_plan pg_prewarm "
    "pg_qualstats pg_repack pg_stat_kcache pg_stat_monitor pg_stat_statements pg_visibility pg_wait_sampling "
    "pg_walinspect pgaudit pgrowlocks pgstattuple postgres_fdw sslinfo"
)
_FOREIGN: Final = _names("postgres_fdw file_fdw")
_WITHOUT: Final = "no plan depends on it"

# For absent extensions that schemas name most: functions of theirs that a default calls, over what is built in.
_STAND_INS: Final = {
    "uuid-ossp": ("uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4"),
    "pgcrypto": ("gen_random_uuid",),
}

_RUN: Final = _names(
    "create_stmt create_table_as_stmt index_stmt view_stmt refresh_mat_view_stmt create_seq_stmt "
    "alter_seq_stmt create_enum_stmt alter_enum_stmt composite_type_stmt create_range_stmt "
    "create_domain_stmt alter_domain_stmt create_trig_stmt create_stats_stmt alter_stats_stmt "
    "create_policy_stmt alter_policy_stmt rename_stmt alter_object_schema_stmt alter_tsconfiguration_stmt"
)

_OWNERSHIP = "a shadow has one owner: roles and rights play no part in plans"
_SKIPPED: Final = {
    "grant_stmt": _OWNERSHIP,
    "grant_role_stmt": _OWNERSHIP,
    "alter_owner_stmt": _OWNERSHIP,
    "alter_default_privileges_stmt": _OWNERSHIP,
    "create_publication_stmt": "replication plays no part in plans",
    "alter_publication_stmt": "replication plays no part in plans",
    "create_subscription_stmt": "replication plays no part in plans",
    "alter_subscription_stmt": "replication plays no part in plans",
    "sec_label_stmt": "security labels play no part in plans",
}

_MEND: Final = {
    "do_stmt": "write out the statements that it would run",
    "select_stmt": "remove it; only setval, set_config('search_path') and pg_restore_*_stats with constants may stand",
    "update_stmt": "give the final rows as INSERT or COPY ... FROM stdin",
    "delete_stmt": "give the final rows as INSERT or COPY ... FROM stdin",
    "truncate_stmt": "give the final rows as INSERT or COPY ... FROM stdin",
    "copy_stmt": "only COPY table FROM stdin with its rows inline may stand",
    "drop_stmt": "remove it and what it drops, or write DROP ... IF EXISTS",
    "createdb_stmt": "a schema file describes one database: remove it, and any \\connect",
}

# Parameters that change what the statements mean.
_KEPT_PARAMETERS: Final = _names(
    "search_path check_function_bodies xmloption default_table_access_method default_toast_compression "
    "timezone datestyle intervalstyle extra_float_digits constraint_exclusion"
)
# Parameters of dumps that change nothing here, or that are not the file's to set.
_DROPPED_PARAMETERS: Final = _names(
    "statement_timeout lock_timeout idle_in_transaction_session_timeout transaction_timeout "
    "client_encoding client_min_messages row_security default_tablespace default_with_oids "
    "escape_string_warning quote_all_identifiers bytea_output synchronous_commit"
)
_ROLE_PARAMETERS: Final = _names("role session_authorization session_replication_role")

_DEFINED: Final = _names("OBJECT_AGGREGATE OBJECT_COLLATION OBJECT_OPERATOR OBJECT_TSCONFIGURATION OBJECT_TSDICTIONARY")
_UNOWNED: Final = _names("OBJECT_EXTENSION OBJECT_DATABASE OBJECT_ROLE OBJECT_TABLESPACE")
_CONSTANT_CALLS: Final = _names("setval pg_restore_relation_stats pg_restore_attribute_stats pg_restore_extended_stats")
_TRIGGER_SWITCHES: Final = _names("AT_EnableTrigAll AT_DisableTrigAll")
_TRANSACTION_EDGES: Final = _names("TRANS_STMT_BEGIN TRANS_STMT_START TRANS_STMT_COMMIT")


class Fate(Enum):
    """What happens to a statement."""

    RUN = auto()
    SKIP = auto()
    EXTENSION = auto()
    COPY = auto()


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is decided about one statement.

    Parameters:
        kind: what a user calls it, for example "CREATE TABLE".
        fate: what happens to it.
        note: why it was left out or changed, for the report; empty where there is nothing to tell.
        statements: the SQL that runs in its place; empty means the user's own text.
        name: the extension, or the table of a COPY.
        schema: the schema of that extension or table, None where none is said.
        columns: the columns of a COPY.
        source: what a script says to have the extension, where that is no CREATE EXTENSION.
    """

    kind: str
    fate: Fate
    note: str = ""
    statements: tuple[str, ...] = ()
    name: str = ""
    schema: str | None = None
    columns: tuple[str, ...] = field(default=())
    source: str = ""


def judge(node: Any, sql: str) -> Ruling:
    """Decide about one statement.

    Parameters:
        node: its outline, from `read_outline`.
        sql: its text.

    Errors: `SqlError` without a place, when it is refused.
    """
    name = node.WhichOneof("node") or ""
    kind = _kind(node, name)
    if name in _RUN:
        return Ruling(kind, Fate.RUN)
    if name in _SKIPPED:
        return Ruling(kind, Fate.SKIP, _SKIPPED[name])
    if name in _CHECKED:
        return _CHECKED[name](getattr(node, name), kind, sql)
    raise _refusal(kind, name)


def _kind(node: Any, name: str) -> str:
    info = postgast.classify_statement(node)
    if info is None or info.action == "UNKNOWN":
        return name.removesuffix("_stmt").replace("_", " ").upper()
    return f"{info.action} {info.object_type}" if info.object_type else info.action


def _refusal(kind: str, name: str) -> SqlError:
    return SqlError(f"{kind} is not accepted in a schema file: {_MEND.get(name, 'remove it')}")


def _function(statement: Any, kind: str, sql: str) -> Ruling:
    text, notes = tamed(statement, kind, sql)
    return Ruling(kind, Fate.RUN, "; ".join(notes), (text,) if notes else ())


def _alter_table(statement: Any, kind: str, _sql: str) -> Ruling:
    changes = {_pb.AlterTableType.Name(command.alter_table_cmd.subtype) for command in statement.cmds}
    for told, reason in (
        (frozenset(("AT_ChangeOwner",)), _OWNERSHIP),
        (frozenset(("AT_SetTableSpace",)), "a shadow has one tablespace"),
        (_TRIGGER_SWITCHES, "switching all triggers takes a superuser"),
    ):
        if changes <= told:
            return Ruling(kind, Fate.SKIP, reason)
        if changes & told:
            raise SqlError(f"{kind} mixes accepted changes with others: write each as a statement of its own")
    return Ruling(kind, Fate.RUN)


def _comment(statement: Any, kind: str, _sql: str) -> Ruling:
    about = _pb.ObjectType.Name(statement.objtype)
    if about in _UNOWNED or (about == "OBJECT_SCHEMA" and statement.object.string.sval == "public"):
        return Ruling(kind, Fate.SKIP, "it is about something that the shadow's owner does not own")
    return Ruling(kind, Fate.RUN)


def _extension(statement: Any, kind: str, _sql: str) -> Ruling:
    name = statement.extname
    options = {option.def_elem.defname: option.def_elem.arg for option in statement.options}
    schema = options["schema"].string.sval if "schema" in options else None
    if name == "plpgsql":
        return Ruling(kind, Fate.SKIP)
    if name in EXTENSIONS:
        return Ruling(kind, Fate.EXTENSION, name=name, schema=schema)
    prefix = _quoted(schema or "public")
    stand_ins = tuple(
        f"CREATE OR REPLACE FUNCTION {prefix}.{function}() RETURNS pg_catalog.uuid LANGUAGE sql VOLATILE "
        "AS 'SELECT pg_catalog.gen_random_uuid()'"
        for function in _STAND_INS.get(name, ())
    )
    if stand_ins:
        made = ", ".join(_STAND_INS[name])
        note = f"extension {name} is not available; only {made} got a stand-in"
        return Ruling(kind, Fate.EXTENSION, note, stand_ins, name=name, schema=schema)
    effect = _WITHOUT if name in _PLANLESS else "what needs its types, functions, operators or index methods is missing"
    return Ruling(kind, Fate.SKIP, "" if name in _FOREIGN else f"extension {name} is not available: {effect}")


def _schema(statement: Any, kind: str, _sql: str) -> Ruling:
    if statement.schema_elts:
        raise SqlError(f"{kind} with its contents is not accepted: write them as statements of their own")
    name = statement.schemaname or statement.authrole.rolename
    if name == "public":
        return Ruling(kind, Fate.SKIP)
    if name == "":
        raise SqlError(f"{kind} for the current role is not accepted: name the schema")
    missing = "IF NOT EXISTS " if statement.if_not_exists else ""
    note = _OWNERSHIP if statement.HasField("authrole") else ""
    return Ruling(kind, Fate.RUN, note, (f"CREATE SCHEMA {missing}{_quoted(name)}",), schema=name)


def _server(statement: Any, kind: str, _sql: str) -> Ruling:
    statements = server_statements(statement)
    return Ruling(kind, Fate.EXTENSION, "", statements, name=statement.servername, source=statements[2])


def _foreign_table(statement: Any, kind: str, _sql: str) -> Ruling:
    check_table(statement)
    return Ruling(kind, Fate.RUN)


def _cast(statement: Any, kind: str, _sql: str) -> Ruling:
    if not statement.HasField("func") and not statement.inout:
        raise SqlError(f"{kind} WITHOUT FUNCTION is not accepted: it takes a superuser")
    return Ruling(kind, Fate.RUN)


def _drop(statement: Any, kind: str, _sql: str) -> Ruling:
    dropped = _pb.ObjectType.Name(statement.remove_type)
    if not statement.missing_ok:
        raise _refusal(kind, "drop_stmt")
    names = {item.string.sval for item in statement.objects}
    if dropped in _UNOWNED or (dropped == "OBJECT_SCHEMA" and "public" in names):
        return Ruling(kind, Fate.SKIP, "it is not the shadow's owner's to drop")
    return Ruling(kind, Fate.RUN)


def _set(statement: Any, kind: str, _sql: str) -> Ruling:
    name = statement.name.lower()
    plain = _pb.VariableSetKind.Name(statement.kind) in ("VAR_SET_VALUE", "VAR_SET_DEFAULT", "VAR_RESET")
    kind = f"SET {name}"
    if plain and name in _KEPT_PARAMETERS:
        return Ruling(kind, Fate.RUN)
    if plain and name in _DROPPED_PARAMETERS:
        return Ruling(kind, Fate.SKIP)
    if plain and name in _ROLE_PARAMETERS:
        return Ruling(kind, Fate.SKIP, _OWNERSHIP)
    if plain and name == "standard_conforming_strings":
        value = statement.args[0].a_const.sval.sval.lower() if statement.args else "on"
        if value in ("on", "true", "1", "yes", "t"):
            return Ruling(kind, Fate.SKIP)
    raise _refusal(kind.strip(), "variable_set_stmt")


def _transaction(statement: Any, kind: str, _sql: str) -> Ruling:
    if _pb.TransactionStmtKind.Name(statement.kind) not in _TRANSACTION_EDGES:
        raise _refusal(kind, "transaction_stmt")
    return Ruling(kind, Fate.SKIP)


def _define(statement: Any, kind: str, sql: str) -> Ruling:
    if _pb.ObjectType.Name(statement.kind) not in _DEFINED:
        raise _refusal(kind, "define_stmt")
    if _pb.ObjectType.Name(statement.kind) == "OBJECT_COLLATION" and (made := stand_in_statements(statement)):
        *schema, name = (part.string.sval for part in statement.defnames)
        return Ruling(kind, Fate.EXTENSION, "", made, name=f"collation {name}", schema=schema[0], source=sql)
    return Ruling(kind, Fate.RUN)


def _vacuum(statement: Any, kind: str, _sql: str) -> Ruling:
    if statement.is_vacuumcmd:
        return Ruling("VACUUM", Fate.SKIP, "a fresh database needs none; write ANALYZE for statistics")
    return Ruling("ANALYZE", Fate.RUN)


def _copy(statement: Any, kind: str, _sql: str) -> Ruling:
    from_rows = statement.is_from and not statement.is_program and not statement.filename
    if not from_rows or not statement.HasField("relation"):
        raise _refusal(kind, "copy_stmt")
    columns = tuple(column.string.sval for column in statement.attlist)
    relation = statement.relation
    return Ruling(kind, Fate.COPY, name=relation.relname, schema=relation.schemaname or None, columns=columns)


def _select(statement: Any, kind: str, _sql: str) -> Ruling:
    """Let through the calls that dumps make, of functions known and with constants only."""
    shape = {part.name for part, _ in statement.ListFields()} - {"limit_option", "op"}
    simple = _pb.SetOperation.Name(statement.op) == "SETOP_NONE" and len(statement.target_list) == 1
    if not simple or not shape <= {"target_list", "from_clause"}:
        raise _refusal(kind, "select_stmt")
    call = statement.target_list[0].res_target.val.func_call
    if statement.from_clause:
        functions = statement.from_clause[0].range_function.functions
        if len(statement.from_clause) != 1 or len(functions) != 1 or not _is_star(statement.target_list[0]):
            raise _refusal(kind, "select_stmt")
        call = functions[0].list.items[0].func_call
    path = [part.string.sval for part in call.funcname]
    if path[:-1] not in ([], ["pg_catalog"]) or not all(_is_constant(argument) for argument in call.args):
        raise _refusal(kind, "select_stmt")
    if path and path[-1] in _CONSTANT_CALLS:
        return Ruling(f"SELECT {path[-1]}", Fate.RUN)
    if path and path[-1] == "set_config" and call.args[0].a_const.sval.sval.lower() == "search_path":
        return Ruling("SET search_path", Fate.RUN)
    raise _refusal(kind, "select_stmt")


def _insert(statement: Any, kind: str, _sql: str) -> Ruling:
    # Nobody reads what comes back, and there is no end to how much a few words can ask for.
    if statement.HasField("returning_clause"):
        raise SqlError(f"{kind} with RETURNING is not accepted in a schema file: leave RETURNING out")
    return Ruling(kind, Fate.RUN)


def _is_star(target: Any) -> bool:
    fields = target.res_target.val.column_ref.fields
    return len(fields) == 1 and fields[0].WhichOneof("node") == "a_star"


def _is_constant(node: Any) -> bool:
    while node.WhichOneof("node") == "type_cast":
        node = node.type_cast.arg
    return bool(node.WhichOneof("node") == "a_const")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


_CHECKED: Final[dict[str, Callable[[Any, str, str], Ruling]]] = {
    "create_function_stmt": _function,
    "alter_function_stmt": _function,
    "alter_table_stmt": _alter_table,
    "comment_stmt": _comment,
    "create_extension_stmt": _extension,
    "create_schema_stmt": _schema,
    "create_foreign_server_stmt": _server,
    "create_foreign_table_stmt": _foreign_table,
    "create_cast_stmt": _cast,
    "drop_stmt": _drop,
    "variable_set_stmt": _set,
    "transaction_stmt": _transaction,
    "define_stmt": _define,
    "vacuum_stmt": _vacuum,
    "copy_stmt": _copy,
    "select_stmt": _select,
    "insert_stmt": _insert,
}
