"""Keeps text that would crash libpg_query away from it, and reads trees that are deeper than protobuf allows.

libpg_query walks its tree by recursion without watching the stack: `1+1+1+...` with 20,000 links (40 kB) ends the whole
process, not just the call. Its scanner does not recurse, so tokens are counted before anything is parsed.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import postgast
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from postgast.errors import PgQueryError, check_error
from postgast.native import lib

from optimizer.errors import SqlError

# By name: its stub file does not parse, which ends every type check that follows the import.
_pb: Any = importlib.import_module("postgast.pg_query_pb2")

#: Most tokens on one path of nested lists. A crash took 20,000 links, of two tokens or more, on an 8 MB stack.
MAX_CHAIN: Final = 10_000
#: Most subscripts in a row.
MAX_SUBSCRIPTS: Final = 8
#: Most arrays and subscripts in one statement.
MAX_BRACKETS: Final = 500
_OPEN: Final = frozenset((_pb.ASCII_40, _pb.ASCII_91))
_CLOSE: Final = frozenset((_pb.ASCII_41, _pb.ASCII_93))
_SEPARATORS: Final = frozenset((_pb.ASCII_44, _pb.ASCII_59))
_COMMENTS: Final = frozenset((_pb.SQL_COMMENT, _pb.C_COMMENT))

# Where expressions, joins and rows nest. Left out of the pruned tree, they are skipped without recursion.
_PRUNED: Final = {
    "Node": re.compile(
        "a_expr|bool_expr|sub_link|a_array_expr|a_indirection|case_expr|coalesce_expr|collate_clause|join_expr|"
        "min_max_expr|null_test|range_subselect|row_expr"
    ),
    "SelectStmt": re.compile("larg|rarg|values_lists"),
}


def check_chains(sql: str) -> None:
    """Refuse text whose expressions are chained or nested so long that parsing them would exhaust the stack.

    Errors: `SqlError` with the place; also for text that does not even scan.
    """
    if len(sql) < MAX_CHAIN:
        return
    try:
        tokens = postgast.scan(sql).tokens
    except PgQueryError as error:
        raise syntax_error(error, sql) from error
    levels = [0]
    total = 0
    for token in tokens:
        kind = token.token
        if kind in _COMMENTS:
            continue
        if kind in _OPEN:
            levels.append(0)
        elif kind in _CLOSE and len(levels) > 1:
            total -= levels.pop()
        elif kind in _SEPARATORS:
            total -= levels[-1]
            levels[-1] = 0
        levels[-1] += 1
        total += 1
        if total > MAX_CHAIN:
            before = sql.encode()[: token.start].decode(errors="ignore")
            raise SqlError.at_offset("an expression is chained or nested too long: shorten it", sql, len(before))


def check_subscripts(sql: str) -> None:
    """Refuse text that sqlglot takes minutes for: it tries each subscript that follows another in several ways.

    Its time grows with the cube of their number (400 in a row, 1 kB, took 15 s); PostgreSQL's arrays have 6 dimensions.
    Others take a millisecond or two each.

    Errors: `SqlError` with the place; also for text that does not even scan.
    """
    if sql.count("[") <= MAX_SUBSCRIPTS:
        return
    try:
        tokens = postgast.scan(sql).tokens
    except PgQueryError as error:
        raise syntax_error(error, sql) from error
    if sum(token.token == _pb.ASCII_91 for token in tokens) > MAX_BRACKETS:
        raise SqlError(f"more than {MAX_BRACKETS} arrays and subscripts")
    levels = [_Level()]
    for token in tokens:
        kind = token.token
        if kind in _COMMENTS:
            continue
        level = levels[-1]
        if kind == _pb.ASCII_91:
            level.run = level.run + 1 if level.before == "]" else 1
            if level.run > MAX_SUBSCRIPTS:
                before = sql.encode()[: token.start].decode(errors="ignore")
                raise SqlError.at_offset(f"more than {MAX_SUBSCRIPTS} subscripts in a row", sql, len(before))
        if kind in _OPEN:
            levels.append(_Level())
        elif kind in _CLOSE and len(levels) > 1:
            levels.pop()
            levels[-1].before = "]" if kind == _pb.ASCII_93 else ""
        elif kind == _pb.ASCII_46 and level.before == "]":
            level.before = "."
        else:  # a field of what the subscripts gave goes on with them
            level.before = "]" if level.before == "." else ""


@dataclass(slots=True)
class _Level:
    """Between two brackets: the subscripts in a row so far, and whether the next one would follow them."""

    run: int = 0
    before: str = ""


def read_outline(sql: str) -> list[Any]:
    """Return the statements of `sql` as protobuf nodes without what nests in expressions, joins and rows.

    The full tree (`postgast.parse`) fails at a protobuf depth of 100: some 50 links of `a || b || ...` reach it.

    Errors: `SqlError` with line and column in `sql`.
    """
    check_chains(sql)
    result = lib.pg_query_parse_protobuf(sql.encode())
    try:
        check_error(result)
        tree = _pruned_class().FromString(ctypes.string_at(result.parse_tree.data, result.parse_tree.len))
    except PgQueryError as error:
        raise syntax_error(error, sql) from error
    except DecodeError as error:
        raise SqlError("the statement is nested too deeply: simplify it", line=1, column=1) from error
    finally:
        lib.pg_query_free_protobuf_parse_result(result)
    return [statement.stmt for statement in tree.stmts]


def syntax_error(error: PgQueryError, sql: str) -> SqlError:
    """Return libpg_query's complaint about `sql` as an error with line and column (it counts characters from 1)."""
    message = error.message
    if message.startswith("memory exhausted"):
        message = "nested too deeply"
    if error.cursorpos <= 0:
        return SqlError(message, line=1, column=1)
    return SqlError.at_offset(message, sql, error.cursorpos - 1)


@cache
def _pruned_class() -> Any:
    """Build the message class of a parse result from libpg_query's own description, less what nests."""
    file = descriptor_pb2.FileDescriptorProto()
    _pb.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        if pruned := _PRUNED.get(message.name):
            kept = [part for part in message.field if not pruned.fullmatch(part.name)]
            del message.field[:]
            message.field.extend(kept)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.ParseResult"))
