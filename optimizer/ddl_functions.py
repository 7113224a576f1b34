"""Functions of a schema file: which languages are accepted, and which options are taken from them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import postgast

from optimizer.errors import SqlError
from optimizer.parse_guard import read_outline

# By name: its stub file does not parse, which ends every type check that follows the import.
_pb: Any = importlib.import_module("postgast.pg_query_pb2")

#: What is told of a function that was said to be leakproof.
NOT_LEAKPROOF: Final = "LEAKPROOF was left out: conditions with it are not tried below security barriers"
# A function with a setting of its own is not inlined into a query, as one with SECURITY DEFINER is not.
_AS_INVOKER: Final = "SECURITY INVOKER SET escape_string_warning TO 'on'"
_NOT_DEFINER: Final = "SECURITY DEFINER became SECURITY INVOKER"


def tamed(statement: Any, kind: str, sql: str) -> tuple[str, tuple[str, ...]]:
    """Return CREATE or ALTER FUNCTION without what an unprivileged owner cannot say, and a note for each change.

    Parameters:
        statement: its node in the outline.
        kind: what a user calls it.
        sql: its text.

    Errors: `SqlError` for languages that are not accepted.
    """
    options = _options(statement)
    if statement.DESCRIPTOR.name == "CreateFunctionStmt":
        language = options["language"].string.sval.lower() if "language" in options else "sql"
        if language not in ("sql", "plpgsql"):
            raise SqlError(f"{kind} in language {language} is not accepted: only sql and plpgsql are")
    notes = []
    # It must not run with its owner's rights when a query is planned.
    if _holds(options, "security"):
        sql = _without(sql, kind, "security", (_pb.SECURITY, _pb.DEFINER), _AS_INVOKER)
        notes.append(_NOT_DEFINER)
    # Only a superuser may say so.
    if _holds(options, "leakproof"):
        sql = _without(sql, kind, "leakproof", (_pb.LEAKPROOF,), "NOT LEAKPROOF")
        notes.append(NOT_LEAKPROOF)
    return sql, tuple(notes)


def _options(statement: Any) -> dict[str, Any]:
    created = statement.DESCRIPTOR.name == "CreateFunctionStmt"
    options = statement.options if created else statement.actions
    return {option.def_elem.defname: option.def_elem.arg for option in options}


def _holds(options: Mapping[str, Any], name: str) -> bool:
    return name in options and bool(options[name].boolean.boolval)


def _without(sql: str, kind: str, option: str, words: tuple[int, ...], instead: str) -> str:
    """Return the statement with an option's words replaced, so that the option does not hold."""
    text, tokens = sql.encode(), postgast.scan(sql).tokens
    for at in range(len(tokens) - len(words) + 1):
        found = tokens[at : at + len(words)]
        if tuple(token.token for token in found) == words:
            changed = (text[: found[0].start] + instead.encode() + text[found[-1].end :]).decode()
            # A name may be such a word, too: then this is no statement, or the option still holds.
            with suppress(SqlError):
                node = read_outline(changed)[0]
                if not _holds(_options(getattr(node, node.WhichOneof("node"))), option):
                    return changed
    raise SqlError(f"{kind} with {option} set is not accepted: remove that option")
