"""Canonical form of a statement: PostgreSQL's own parse tree without what cannot change its meaning.

Two statements with equal canonical forms are the same query, for all databases: only places in the text, spellings that
PostgreSQL's grammar maps to one another (`int8` and `bigint`, `.5` and `0.5`, `NOT a IN ...` and `a NOT IN ...`) and
redundant parentheses are taken out. Names, constants and order stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import postgast
from google.protobuf.message import Message

Canonical = tuple[Any, ...]

_PLACES = frozenset(
    {"location", "stmt_len", "stmt_location", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end"}
)
#: A_Expr kinds whose negation has a spelling of its own; libpg_query keeps the negated operator in the name.
_NEGATED = {
    "=": "<>",
    "~~": "!~~",
    "~~*": "!~~*",
    "BETWEEN": "NOT BETWEEN",
    "BETWEEN SYMMETRIC": "NOT BETWEEN SYMMETRIC",
}
_NEGATABLE_KINDS = frozenset({"AEXPR_IN", "AEXPR_LIKE", "AEXPR_ILIKE", "AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM"})
_NEGATED_KIND = {"AEXPR_BETWEEN": "AEXPR_NOT_BETWEEN", "AEXPR_BETWEEN_SYM": "AEXPR_NOT_BETWEEN_SYM"}


def canonical(sql: str) -> Canonical:
    """Return the canonical form of `sql`.

    Errors: `postgast.PgQueryError` when PostgreSQL's grammar refuses it.
    """
    return _node(postgast.parse(sql))


def same_query(left: str, right: str) -> bool:
    """Say whether two statements are the same query by their canonical forms (False means: not known to be)."""
    return canonical(left) == canonical(right)


def _node(message: Message) -> Canonical:
    name = message.DESCRIPTOR.name
    if name == "Node":  # a wrapper around one of many kinds
        kind = message.WhichOneof("node")
        return _node(getattr(message, kind)) if kind else ()
    if name == "BoolExpr":
        negated = _fold_negation(message)
        if negated is not None:
            return negated
    return (name, *_fields(message, name))


def _fields(message: Message, name: str) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        if field.name in _PLACES:
            continue
        if field.message_type is None:
            yield field.name, _scalar(name, field.name, value)
        elif field.is_repeated:
            items = tuple(_node(item) for item in value)
            yield field.name, _without_pg_catalog(items) if (name, field.name) == ("TypeName", "names") else items
        else:
            yield field.name, _node(value)


def _scalar(message: str, field: str, value: Any) -> Any:
    if (message, field) == ("Float", "fval") and not str(value).lower().startswith("0x"):
        number = Decimal(str(value).replace("_", ""))
        return str(number)  # keeps the scale: 1.0 and 1.00 are different numerics
    return tuple(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else value


def _without_pg_catalog(names: tuple[Canonical, ...]) -> tuple[Canonical, ...]:
    # `bigint` parses as pg_catalog.int8, `int8` as int8; pg_catalog is searched first, so they are one type.
    catalog = ("String", ("sval", "pg_catalog"))
    return names[1:] if len(names) == 2 and names[0] == catalog else names


def _fold_negation(message: Any) -> Canonical | None:
    """Turn NOT (a IN ...) into a NOT IN ...: the same by definition, two spellings in the grammar."""
    node_types = postgast.pg_query_pb2
    if node_types.BoolExprType.Name(message.boolop) != "NOT_EXPR" or message.args[0].WhichOneof("node") != "a_expr":
        return None
    inner = message.args[0].a_expr
    kind = node_types.A_Expr_Kind.Name(inner.kind)
    operator = inner.name[-1].string.sval if inner.name else ""
    if kind not in _NEGATABLE_KINDS or operator not in _NEGATED or len(inner.name) != 1:
        return None
    copy = type(inner)()
    copy.CopyFrom(inner)
    copy.name[0].string.sval = _NEGATED[operator]
    copy.kind = node_types.A_Expr_Kind.Value(_NEGATED_KIND.get(kind, kind))
    return ("A_Expr", *_fields(copy, "A_Expr"))
