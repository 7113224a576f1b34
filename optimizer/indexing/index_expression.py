"""What one side of a condition must be so that a B-tree can hold it: a column, or an expression that is safe there.

An index may only hold what never changes, so an expression's volatility is judged by types, not by names alone:
`date_trunc` of a `timestamp` is immutable, of a `timestamptz` it depends on the session's time zone. And an index calls
its expression on every row that is ever stored: if that can fail (`code::int`, a division), the index would refuse rows
that the table takes today. So built-in functions, operators and casts count only when they are listed here as neither
changing nor failing (`pg_proc`, `pg_cast`); of users' own functions their declaration is believed.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from optimizer.catalog import Catalog, Column, identifier_name
from optimizer.dialect import PlanproofPostgres
from optimizer.indexing.selectivity import NUMBER_TYPES, base_type
from optimizer.matching import bare, type_name

#: Gives a column reference's type, None where it can't be told.
TypeOf = Callable[[exp.Column], str | None]

#: Average width in bytes from which a column is not proposed as a key.
MAX_KEY_WIDTH = 300
TEXT_TYPES = frozenset({"text", "character varying", "character", "name"})
#: Types that no B-tree can hold: they have no default operator class for it.
_UNORDERED = frozenset(
    {"json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "xid", "cid", "aclitem"}
    | {"jsonpath", "pg_snapshot", "txid_snapshot", "int2vector"}
)
_TIMESTAMP = "timestamp without time zone"
_WITHOUT_ZONE = frozenset({_TIMESTAMP, "interval", "date", "time without time zone"})
#: Functions that are immutable for these types of their second argument only.
_BY_ARGUMENT = {"date_trunc": frozenset({_TIMESTAMP, "interval"}), "date_part": _WITHOUT_ZONE}
_TEXT_FUNCTIONS = frozenset(
    {"lower", "upper", "initcap", "btrim", "ltrim", "rtrim", "replace", "substr", "left", "right", "md5", "reverse"}
    | {"lpad", "rpad", "split_part", "translate", "regexp_replace", "jsonb_extract_path_text", "json_extract_path_text"}
)
#: Further functions that do not fail, whatever they are given.
_TOTAL_FUNCTIONS = _TEXT_FUNCTIONS | frozenset(
    {"length", "char_length", "character_length", "octet_length", "bit_length", "ascii", "strpos", "starts_with"}
    | {"abs", "ceil", "ceiling", "floor", "round", "trunc", "sign", "isfinite", "jsonb_typeof", "json_typeof"}
    | {"array_length", "cardinality", "host", "network", "family", "masklen", "num_nulls", "num_nonnulls"}
)
_WIDENING = ("smallint", "integer", "bigint", "numeric")
_CASTS = (
    {(a, b) for i, a in enumerate(_WIDENING) for b in _WIDENING[i + 1 :]}
    | {(a, b) for a in TEXT_TYPES | NUMBER_TYPES for b in TEXT_TYPES}
    | {(a, "double precision") for a in ("smallint", "integer", "bigint", "real")}
    | {("uuid", "text"), ("boolean", "text"), ("jsonb", "text"), (_TIMESTAMP, "date")}
)
_TRANSPARENT: tuple[type[exp.Expr], ...] = (
    *(exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Neg),
    *(exp.Var, exp.DataType, exp.DataTypeParam),
    *(exp.JSONPath, exp.JSONPathRoot, exp.JSONPathKey, exp.JSONPathSubscript),
)
_JSON = (exp.JSONExtract, exp.JSONBExtract)
_JSON_TEXT = (exp.JSONExtractScalar, exp.JSONBExtractScalar)
#: ->, ->>, #> and #>>, on json and jsonb alike.
JSON_OPERATORS = _JSON + _JSON_TEXT
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
_NUMBER_RANKS = {"smallint": 0, "integer": 0, "bigint": 0, "numeric": 1, "real": 2, "double precision": 2}


def is_literal(node: exp.Expr) -> bool:
    """Say whether an expression is a constant written out: no parameter, no call, nothing of the session's settings."""
    node = bare(node)
    if isinstance(node, (exp.Cast, exp.Neg)):
        return is_literal(node.this)
    return isinstance(node, (exp.Literal, exp.Boolean))


def like_prefix(pattern: str, escape: str = "\\") -> tuple[str, bool]:
    """Return the fixed text that a LIKE pattern begins with, and whether it is the whole pattern."""
    prefix, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        if char in "%_":
            return prefix, False
        if char == escape and escape:
            position += 1
            char = pattern[position : position + 1]
        prefix += char
        position += 1
    return prefix, True


def unqualified(node: exp.Expr) -> str:
    """Print an expression with its columns' qualifiers left out, as an index definition wants it."""
    copy = bare(node).copy()
    for column in copy.find_all(exp.Column):
        for part in ("table", "db", "catalog"):
            column.set(part, None)
    return copy.sql(dialect=PlanproofPostgres)


def too_long(column: Column) -> bool:
    """Say whether a column's values may not fit into an index entry (2,704 bytes at most), going by their average."""
    return column.statistics is not None and column.statistics.avg_width > MAX_KEY_WIDTH


def orderable(type_: str | None) -> bool:
    """Say whether a B-tree can hold the type; unknown types are taken to be orderable, the server decides."""
    return type_ is None or base_type(type_).rstrip("[]") not in _UNORDERED


def indexable(node: exp.Expr, type_of: TypeOf, catalog: Catalog) -> bool:
    """Say whether an expression of columns and constants may stand in an index: it neither changes nor fails."""
    return all(_indexable_node(part, type_of, catalog) for part in node.walk())


def expression_type(node: exp.Expr, type_of: TypeOf) -> str | None:
    """The type of an expression without its modifier; None where it isn't known, as for a quoted constant."""
    node = bare(node)
    if isinstance(node, exp.Column):
        type_ = type_of(node)
        return base_type(type_) if type_ is not None else None
    if isinstance(node, exp.Literal):
        return None if node.is_string else ("integer" if str(node.this).isdecimal() else "numeric")
    if isinstance(node, exp.Cast):
        return cast_target(node)
    if isinstance(node, (*_JSON_TEXT, exp.Trim, exp.Substring, exp.DPipe)):
        return "text"
    if isinstance(node, exp.Extract):
        return "numeric"
    if isinstance(node, exp.AtTimeZone):
        flipped = {_TIMESTAMP: "timestamp with time zone", "timestamp with time zone": _TIMESTAMP}
        return flipped.get(expression_type(node.this, type_of) or "")
    if isinstance(node, (exp.Neg, exp.Coalesce, *_JSON)):
        return expression_type(node.this, type_of)
    if isinstance(node, _ARITHMETIC):
        return _wider(expression_type(node.this, type_of), expression_type(node.expression, type_of))
    if isinstance(node, exp.Anonymous):
        return _call_type(node, type_of)
    return None


def cast_target(node: exp.Cast) -> str:
    """A cast's target type without its modifier: `varchar(10)` is character varying."""
    base = base_type(type_name(node))
    return {"varchar": "character varying", "char": "character", "decimal": "numeric"}.get(base, base)


def searchable(key: str | None, other: str | None) -> bool:
    """Say whether a comparison leaves the key as it is: comparing an integer with a numeric casts the integer."""
    key_base, other_base = base_type(key or ""), base_type(other or "")
    if key_base in _NUMBER_RANKS and other_base in _NUMBER_RANKS:
        return _NUMBER_RANKS[key_base] >= _NUMBER_RANKS[other_base]
    return not (key_base == "character" and other_base == "text")


def _indexable_node(node: exp.Expr, type_of: TypeOf, catalog: Catalog) -> bool:
    if isinstance(node, (*_TRANSPARENT, *JSON_OPERATORS)):
        return True
    if isinstance(node, exp.Cast):
        return _safe_cast(node, type_of)
    if isinstance(node, (exp.Div, exp.Mod)):
        divisor = bare(node.expression)
        by_number = isinstance(divisor, exp.Literal) and not divisor.is_string and divisor.name.strip("0.") != ""
        return by_number and expression_type(node.this, type_of) in NUMBER_TYPES
    if isinstance(node, _ARITHMETIC):  # of integers it overflows
        return expression_type(node, type_of) in ("numeric", "double precision")
    if isinstance(node, exp.DPipe):  # of other types it would call their output functions
        operands: tuple[exp.Expr, exp.Expr] = (node.this, node.expression)
        return all(isinstance(bare(o), exp.Literal) or expression_type(o, type_of) in TEXT_TYPES for o in operands)
    if isinstance(node, (exp.Trim, exp.Substring)):
        return expression_type(node.this, type_of) in TEXT_TYPES
    if isinstance(node, exp.Extract):
        return expression_type(node.expression, type_of) in _WITHOUT_ZONE
    if isinstance(node, exp.AtTimeZone):
        zone_given = isinstance(node.args.get("zone"), exp.Literal)
        return zone_given and expression_type(node, type_of) is not None
    if isinstance(node, exp.Anonymous):
        return _indexable_call(node, type_of, catalog)
    return isinstance(node, (exp.Coalesce, exp.Nullif))


def _safe_cast(node: exp.Cast, type_of: TypeOf) -> bool:
    source, target = expression_type(node.this, type_of), cast_target(node)
    if isinstance(bare(node.this), exp.Literal):
        return target in NUMBER_TYPES | TEXT_TYPES
    rounds = target == "numeric" and bool(node.to.expressions)  # numeric(10,2) refuses what is larger
    return not rounds and (source == target or (source, target) in _CASTS)


def _indexable_call(node: exp.Anonymous, type_of: TypeOf, catalog: Catalog) -> bool:
    if isinstance(node.parent, exp.Dot):
        return False  # a schema-qualified call: rare, and its name means another function
    name = identifier_name(node.this)
    if name in _BY_ARGUMENT and len(node.expressions) == 2:
        return expression_type(node.expressions[1], type_of) in _BY_ARGUMENT[name]
    function = catalog.function(name)
    if function is None or function.aggregate or function.returns_set:
        return False
    built_in = ("pg_catalog", name) in catalog.functions
    return function.volatility == "immutable" and (name in _TOTAL_FUNCTIONS or not built_in)


def _call_type(node: exp.Anonymous, type_of: TypeOf) -> str | None:
    name = identifier_name(node.this)
    if name in _TEXT_FUNCTIONS:
        return "text"
    if name in _BY_ARGUMENT and len(node.expressions) == 2:
        return expression_type(node.expressions[1], type_of) if name == "date_trunc" else "double precision"
    if name in ("length", "char_length", "octet_length"):
        return "integer"
    return None


def _wider(left: str | None, right: str | None) -> str | None:
    if left not in _NUMBER_RANKS or right not in _NUMBER_RANKS:
        return None
    return max(left, right, key=lambda t: (_NUMBER_RANKS[t], t == "bigint"))
