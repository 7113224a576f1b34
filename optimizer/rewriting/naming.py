"""Names that rewrites need: aliases that clash with nothing, and the names that PostgreSQL gives to output columns."""

from __future__ import annotations

import re
from collections.abc import Collection

from sqlglot import exp

from optimizer.candidate import MAX_NAME_BYTES
from optimizer.catalog import identifier_name, quote_identifier

#: The name of an output column that PostgreSQL has no name for.
UNNAMED = "?column?"

#: A name and how firmly it stands: a cast prefers its operand's name over its own only when that is firm.
_Figure = tuple[str | None, bool]

_NAMED_NODES: dict[type[exp.Expr], str] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
    exp.Coalesce: "coalesce",
    exp.Nullif: "nullif",
    exp.Greatest: "greatest",
    exp.Least: "least",
    exp.Exists: "exists",
    exp.Extract: "extract",
    exp.Substring: "substring",
    exp.Overlay: "overlay",
    exp.StrPosition: "position",
    exp.GroupConcat: "string_agg",
    exp.JSONArrayAgg: "json_agg",
    exp.AtTimeZone: "timezone",
    exp.Array: "array",
    exp.CurrentUser: "current_user",
    exp.SessionUser: "session_user",
    exp.Localtimestamp: "localtimestamp",
    exp.CurrentDate: "current_date",
    exp.CurrentTimestamp: "current_timestamp",
    exp.CurrentTime: "current_time",
}
_UNNAMED_NODES = (
    exp.Literal,
    exp.Null,
    exp.Parameter,
    exp.Not,
    exp.And,
    exp.Or,
    exp.Predicate,
    exp.Add,
    exp.Sub,
    exp.Mul,
    exp.Div,
    exp.Mod,
    exp.Neg,
    exp.DPipe,
    exp.JSONExtract,
    exp.JSONExtractScalar,
    exp.JSONBExtract,
    exp.JSONBExtractScalar,
    exp.Pow,
    exp.BitwiseAnd,
    exp.BitwiseOr,
    exp.BitwiseNot,
    exp.BitwiseLeftShift,
    exp.BitwiseRightShift,
    exp.Operator,
)
_TYPE_NAMES = {
    exp.DataType.Type.SMALLINT: "int2",
    exp.DataType.Type.INT: "int4",
    exp.DataType.Type.BIGINT: "int8",
    exp.DataType.Type.DECIMAL: "numeric",
    exp.DataType.Type.FLOAT: "float4",
    exp.DataType.Type.DOUBLE: "float8",
    exp.DataType.Type.TEXT: "text",
    exp.DataType.Type.VARCHAR: "varchar",
    exp.DataType.Type.BOOLEAN: "bool",
    exp.DataType.Type.DATE: "date",
    exp.DataType.Type.TIMESTAMP: "timestamp",
    exp.DataType.Type.TIMESTAMPTZ: "timestamptz",
    exp.DataType.Type.UUID: "uuid",
}


def fresh_alias(tree: exp.Expr, base: str, taken: Collection[str] = ()) -> str:
    """Return a name that no identifier of the statement has, so that nothing can be mistaken for it.

    Parameters:
        tree: any node of the statement; the whole statement is looked at.
        base: the wish; what cannot stand in a plain name becomes an underscore.
        taken: more names to keep away from, such as those made a moment ago.

    Returns: the base itself, or the base with `_2`, `_3`, ...; plain lower case that needs no quotes, at most 63 bytes.
    """
    used = {identifier_name(node) for node in tree.root().find_all(exp.Identifier)} | set(taken)
    stem = re.sub(r"[^a-z0-9_]+", "_", base.lower()).strip("_") or "t"
    stem = stem if stem[0].isalpha() else f"t_{stem}"
    number = 1
    while True:
        suffix = f"_{number}" if number > 1 else ""
        name = stem[: MAX_NAME_BYTES - len(suffix)] + suffix
        if name not in used and quote_identifier(name) == name:
            return name
        number += 1


def identifier(name: str) -> exp.Identifier:
    """Make an identifier node for a name as PostgreSQL stores it, quoted where it must be."""
    return exp.Identifier(this=name, quoted=quote_identifier(name) != name)


def column_of(alias: str, name: str) -> exp.Column:
    """Make a reference to a column of the FROM item called `alias`."""
    return exp.Column(this=identifier(name), table=identifier(alias))


def output_name(item: exp.Expr) -> str | None:
    """Return the name of an item of a SELECT list, None where it cannot be told.

    Source: `FigureColname` in PostgreSQL's src/backend/parser/parse_target.c.
    """
    return _figure(item)[0]


def output_item(node: exp.Expr) -> exp.Expr | None:
    """Return the item of a SELECT list that a node stands in, None for nodes in other clauses."""
    while node.parent is not None and not isinstance(node.parent, exp.Select):
        node = node.parent
    return node if node.parent is not None and node.arg_key == "expressions" else None


def with_output_name(item: exp.Expr, name: str) -> exp.Expr:
    """Return a SELECT item that is called `name`: the item itself where it is so called, else under an alias."""
    if output_name(item) == name:
        return item
    return exp.Alias(this=item.unalias().copy(), alias=identifier(name))


def _figure(node: exp.Expr) -> _Figure:
    if isinstance(node, exp.Alias):
        return identifier_name(node.args["alias"]), True
    if isinstance(node, exp.Column):
        return (None, True) if isinstance(node.this, exp.Star) else (identifier_name(node.this), True)
    if isinstance(node, exp.Dot):
        field = node.expression
        return _figure(field) if isinstance(field, exp.Anonymous) else (identifier_name(field), True)
    if isinstance(node, exp.Anonymous):
        return identifier_name(node.this), True
    if isinstance(node, (exp.Paren, exp.Collate, exp.Filter, exp.Window, exp.WithinGroup, exp.Bracket)):
        return _figure(node.this)
    if isinstance(node, exp.Subquery):
        return _query_name(node), True
    if isinstance(node, exp.Cast):
        name, firm = _figure(node.this)
        return (name, True) if firm or name is None else (_TYPE_NAMES.get(node.to.this), False)
    if isinstance(node, exp.Case):
        default = node.args.get("default")
        name, firm = _figure(default) if default is not None else (UNNAMED, False)
        return (name, True) if firm or name is None else ("case", False)
    if isinstance(node, exp.Trim):
        sides = {"LEADING": "ltrim", "TRAILING": "rtrim"}
        return sides.get(str(node.args.get("position") or "").upper(), "btrim"), True
    if isinstance(node, exp.Interval):
        return "interval", False
    if type(node) in _NAMED_NODES:
        return _NAMED_NODES[type(node)], True
    return (UNNAMED, False) if isinstance(node, _UNNAMED_NODES) else (None, False)


def _query_name(node: exp.Expr) -> str | None:
    """A scalar subquery is called as its column is, even when that has no name."""
    while isinstance(node, (exp.Subquery, exp.SetOperation)):
        node = node.this
    return output_name(node.expressions[0]) if isinstance(node, exp.Select) and node.expressions else None
