"""Canonical form of a statement: PostgreSQL's own parse tree without what cannot change its meaning.

Two statements with equal canonical forms are the same query, for all databases: only places in the text, spellings that
PostgreSQL's grammar maps to one another (`int8` and `bigint`, `.5` and `0.5`, `NOT a IN ...` and `a NOT IN ...`) and
redundant parentheses are taken out. Names, constants and order stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pgparse

from optimizer.errors import SqlError
from optimizer.parse_guard import check_chains

Canonical = tuple[Any, ...]

_PLACES = frozenset({"location", "stmt_len", "stmt_location", "rexpr_list_start", "rexpr_list_end"})
#: A_Expr kinds whose negation has a spelling of its own: kind and operator of the negated form.
_NEGATIONS = {
    ("AEXPR_IN", "="): ("AEXPR_IN", "<>"),
    ("AEXPR_LIKE", "~~"): ("AEXPR_LIKE", "!~~"),
    ("AEXPR_ILIKE", "~~*"): ("AEXPR_ILIKE", "!~~*"),
    ("AEXPR_BETWEEN", "BETWEEN"): ("AEXPR_NOT_BETWEEN", "NOT BETWEEN"),
    ("AEXPR_BETWEEN_SYM", "BETWEEN SYMMETRIC"): ("AEXPR_NOT_BETWEEN_SYM", "NOT BETWEEN SYMMETRIC"),
}
_NEGATED_TESTS = {"IS_TRUE": "IS_NOT_TRUE", "IS_FALSE": "IS_NOT_FALSE", "IS_UNKNOWN": "IS_NOT_UNKNOWN"}
#: INTERVAL_MASK of the fields (src/include/utils/timestamp.h, datetime.h).
_INTERVAL_UNITS = {
    1 << 2: "year",
    1 << 1: "month",
    1 << 3: "day",
    1 << 10: "hour",
    1 << 11: "minute",
    1 << 12: "second",
}
_TOO_DEEP = "expressions are nested too deeply to be compared"


def canonical(sql: str) -> Canonical:
    """Return the canonical form of `sql`; it can be compared and hashed.

    Errors: `SqlError` when PostgreSQL's grammar refuses it, or when it nests deeper than can be compared.
    """
    statements = _parsed(sql)
    try:
        return tuple(map(_value, statements))
    except RecursionError:
        raise SqlError(_TOO_DEEP) from None


def same_query(left: str, right: str) -> bool:
    """Say whether two statements are the same query by their canonical forms (False means: not known to be).

    Errors: as `canonical`.
    """
    return canonical(left) == canonical(right)


def relation_names(sql: str) -> tuple[str, ...]:
    """Names of the relations that a statement reads or writes, as written, without its CTEs, sorted.

    Errors: as `canonical`.
    """
    names: set[str] = set()
    ctes: set[str] = set()
    stack: list[Any] = _parsed(sql)
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            ctes.add(node.get("ctename", ""))
            if isinstance(node.get("relname"), str):
                names.add(".".join(filter(None, (node.get("schemaname"), node["relname"]))))
            stack.extend(node.values())
    return tuple(sorted(names - ctes))


def _parsed(sql: str) -> list[Any]:
    check_chains(sql)
    try:
        return list(pgparse.parse(sql))
    except pgparse.PGQueryError as error:
        raise SqlError(f"does not parse: {error}") from None
    except RecursionError:
        raise SqlError(_TOO_DEEP) from None


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return _node(value)
    if isinstance(value, list):
        return tuple(_value(item) for item in value)
    return value


def _node(node: Mapping[str, Any]) -> Canonical:
    """A node is a dict of one entry, kind to fields; fields are dicts, lists and scalars."""
    if len(node) == 1:
        ((kind, fields),) = node.items()
        if kind == "BoolExpr":
            return _fields(_folded_negation(fields) or node)
        if kind == "TypeCast":
            return _fields({kind: _with_interval_unit(fields)})
    return _fields(node)


def _fields(fields: Mapping[str, Any]) -> Canonical:
    found = []
    for name, value in sorted(fields.items()):
        if name in _PLACES:
            continue
        if name == "fval" and isinstance(value, dict):
            # Decimal keeps the scale: 1.0 and 1.00 are different numerics.
            found.append((name, str(Decimal(value["fval"].replace("_", "")))))
        elif name == "names" and "typemod" in fields:
            found.append((name, _value(_without_pg_catalog(value))))
        else:
            found.append((name, _value(value)))
    return tuple(found)


def _without_pg_catalog(names: list[Any]) -> list[Any]:
    # `bigint` parses as pg_catalog.int8, `int8` as int8; pg_catalog is searched first, so they are one type.
    return names[1:] if len(names) == 2 and names[0] == {"String": {"sval": "pg_catalog"}} else names


def _with_interval_unit(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn interval '90' day into interval '90 day': a whole number with one unit is the same either way."""
    type_name, constant = fields["typeName"], fields["arg"].get("A_Const", {})
    text, modifiers = constant.get("sval", {}).get("sval", ""), type_name.get("typmods", ())
    if type_name.get("names", ())[-1:] != [{"String": {"sval": "interval"}}] or len(modifiers) != 1:
        return fields
    mask = modifiers[0].get("A_Const", {}).get("ival", {}).get("ival")
    if mask not in _INTERVAL_UNITS or not text.isdecimal():
        return fields
    plain_type = {key: value for key, value in type_name.items() if key != "typmods"}
    return {**fields, "arg": {"A_Const": {"sval": {"sval": f"{text} {_INTERVAL_UNITS[mask]}"}}}, "typeName": plain_type}


def _folded_negation(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Turn NOT (a IN ...) into a NOT IN ..., NOT (a IS TRUE) into a IS NOT TRUE: two spellings of one thing.

    NOT (a IS NULL) stays: of a row it is not the same as a IS NOT NULL.
    """
    if fields["boolop"] != "NOT_EXPR":
        return None
    ((kind, inner),) = fields["args"][0].items()
    if kind == "BooleanTest" and inner["booltesttype"] in _NEGATED_TESTS:
        return {kind: {**inner, "booltesttype": _NEGATED_TESTS[inner["booltesttype"]]}}
    if kind != "A_Expr":
        return None
    operator = inner["name"][-1]["String"]["sval"] if len(inner.get("name", ())) == 1 else ""
    negated = _NEGATIONS.get((inner["kind"], operator))
    if negated is None:
        return None
    return {kind: {**inner, "kind": negated[0], "name": [{"String": {"sval": negated[1]}}]}}
