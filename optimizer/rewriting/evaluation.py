"""What evaluating a piece of SQL gives, and whether it can fail.

A rewrite that computes something for rows the original never reached must know that this cannot raise an error. What is
not listed here may fail: a missed rewrite is no harm, a new error is.
"""

from __future__ import annotations

from sqlglot import exp

from optimizer.catalog import Catalog, Table, identifier_name
from optimizer.matching import COMPARISONS, bare, is_aggregate, type_name
from optimizer.query import Query
from optimizer.rewriting.resolved import ResolvedStatement, filters
from optimizer.scope import Scope, Source, own_nodes

INTEGERS = ("smallint", "integer", "bigint")
EXACT_NUMBERS = frozenset({*INTEGERS, "numeric"})
TEXTS = frozenset({"text", "character varying"})
#: Types whose equality is that of their B-tree operator class, never fails, and means the same in any place.
PLAIN_TYPES = (
    EXACT_NUMBERS
    | TEXTS
    | frozenset(
        {"boolean", "date", "uuid", "character", "bytea", "timestamp without time zone", "timestamp with time zone"}
        | {"time without time zone", "interval"}
    )
)
_ALWAYS_FINE = (exp.Column, exp.Literal, exp.Boolean, exp.Null, exp.Parameter, exp.CurrentDate, exp.CurrentTimestamp)
#: Nodes that cannot fail of themselves, whatever the values below them are.
_TOTAL = (
    *COMPARISONS,
    exp.And,
    exp.Or,
    exp.Not,
    exp.Is,
    exp.Between,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.Paren,
    exp.Coalesce,
    exp.Nullif,
    exp.Greatest,
    exp.Least,
    exp.Case,
    exp.If,
    exp.Filter,
    exp.Where,
    exp.Distinct,
    exp.Tuple,
    exp.Any,
    exp.Array,
    exp.Alias,
    exp.Count,
    exp.Min,
    exp.Max,
)
_TOTAL_FUNCTIONS = frozenset(
    {"lower", "upper", "length", "char_length", "btrim", "ltrim", "rtrim", "md5", "floor", "ceil", "ceiling", "now"}
    | {"bool_and", "bool_or", "every"}
)
_TEXT_FUNCTIONS = frozenset({"lower", "upper", "btrim", "ltrim", "rtrim", "md5"})
_CALENDAR_FIELDS = frozenset({"YEAR", "ISOYEAR", "QUARTER", "MONTH", "WEEK", "DAY", "DOW", "ISODOW", "DOY"})
_CALENDAR_TYPES = ("date", "timestamp without time zone", "timestamp with time zone")
_RELATIONS = ("table", "partitioned table", "materialized view")
_MAX_VIEW_DEPTH = 8


def base_type(type_: str) -> str:
    """A type's name without its modifier: `numeric(10,2)` is numeric, `timestamp(3) ...` keeps its zone."""
    head, bracket, rest = type_.partition("(")
    return head + rest.partition(")")[2] if bracket else head


def value_type(node: exp.Expr, scope: Scope, statement: ResolvedStatement) -> str | None:
    """The type of an expression as `format_type` prints it; None where it is not known for certain.

    Only the types of PLAIN_TYPES, floats, and enums are told: not domains, nor text under a collation that takes
    different strings as equal.
    """
    node = bare(node)
    if isinstance(node, exp.Column):
        return _column_type(scope.source_of(node), identifier_name(node.this), statement)
    if isinstance(node, exp.Literal):
        return None if node.is_string else _number_type(str(node.this))
    if isinstance(node, exp.Cast):
        target = type_name(node)
        return target if base_type(target) in PLAIN_TYPES else None
    if isinstance(node, (exp.Sum, exp.Avg, exp.Count, exp.Min, exp.Max, exp.Filter)):
        return _aggregate_type(node, scope, statement)
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.Div)):
        left = value_type(node.this, scope, statement)
        right = value_type(node.expression, scope, statement)
        return _wider(left, right)
    if isinstance(node, exp.Neg):
        return value_type(node.this, scope, statement)
    if isinstance(node, exp.Coalesce):
        parts = [value_type(part, scope, statement) for part in (node.this, *node.expressions)]
        return parts[0] if len(set(parts)) == 1 else (_wider(*parts) if len(parts) == 2 else None)
    if isinstance(node, exp.Anonymous) and _is_builtin(node, scope.catalog, _TEXT_FUNCTIONS):
        return "text"
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select):
        inner = statement.scope_of(node.this)
        known = inner is not None and len(node.this.expressions) == 1
        return value_type(node.this.expressions[0].unalias(), inner, statement) if inner and known else None
    return None


def same_equality(left: str | None, right: str | None) -> bool:
    """True when `=` between two types is one equality for both: values equal to the same value are equal.

    numeric = real is none such: several numerics equal one real. Nor is text = character: padding counts on one side.
    """
    if left is None or right is None:
        return False
    a, b = base_type(left), base_type(right)
    return (a == b and a not in ("real", "double precision")) or any({a, b} <= kin for kin in (EXACT_NUMBERS, TEXTS))


def cannot_fail(node: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """True when evaluating an expression of `scope`'s SELECT certainly raises no error for any row."""
    if isinstance(node, _ALWAYS_FINE):
        return True
    if _is_folded(node, scope.catalog):
        return True
    if isinstance(node, exp.Exists):
        return isinstance(node.this, exp.Select) and query_cannot_fail(node.this, statement)
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        query = node.args["query"].this
        inside = isinstance(query, exp.Select) and query_cannot_fail(query, statement)
        return inside and cannot_fail(node.this, scope, statement)
    if isinstance(node, exp.Subquery):
        return _scalar_cannot_fail(node, statement)
    if isinstance(node, exp.Query):
        return False
    if not (isinstance(node, (*_TOTAL, exp.In)) or _is_total(node, scope, statement)):
        return False
    return all(
        cannot_fail(child, scope, statement)
        for child in node.iter_expressions()
        if not isinstance(child, (exp.Star, exp.DataType, exp.Identifier, exp.Var))
    )


def query_cannot_fail(select: exp.Select, statement: ResolvedStatement) -> bool:
    """True when running a SELECT certainly raises no error, whatever rows its tables hold."""
    scope = statement.scope_of(select)
    if scope is None or any(select.args.get(key) for key in ("limit", "offset", "with_", "windows", "laterals")):
        return False
    if not all(source_cannot_fail(source, statement) for source in scope.sources.values()):
        return False
    parts: list[exp.Expr] = [item for item in select.expressions if not isinstance(item, exp.Star)]
    parts += [join.args["on"] for join in select.args.get("joins") or () if join.args.get("on") is not None]
    parts += [select.args[key].this for key in ("where", "having") if select.args.get(key) is not None]
    for key in ("group", "order"):
        if select.args.get(key) is not None:
            parts += [part.this if isinstance(part, exp.Ordered) else part for part in select.args[key].expressions]
    return all(cannot_fail(part, scope, statement) for part in parts)


def neighbours_cannot_fail(condition: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """True unless a correlated subquery elsewhere in the query's WHERE and inner joins can fail.

    PostgreSQL evaluates conditions with subqueries last, the cheap ones first. When one of them becomes a join, the
    others meet rows that it kept from them before.

    Parameters:
        condition: what is to become a join, anywhere in `scope`'s SELECT.
    """
    conditions = filters(scope.select)
    if not any(node is condition for own in conditions for node in own.walk()):
        return True
    for other in conditions:
        inside = (inner.select for inner in statement.inside(other) if inner.parent is scope)
        correlated = any(statement.sources_outside(query, scope) != frozenset() for query in inside)
        apart = not any(node is condition for node in other.walk())
        if correlated and apart and not cannot_fail(other, scope, statement):
            return False
    return True


def source_cannot_fail(source: Source, statement: ResolvedStatement) -> bool:
    """True when reading a FROM item certainly raises no error: a table, or a view or derived table that cannot fail."""
    if source.table is not None:
        return _table_cannot_fail(source.table, statement.catalog, 0)
    return isinstance(source.query, exp.Select) and query_cannot_fail(source.query, statement)


def _table_cannot_fail(table: Table, catalog: Catalog, depth: int) -> bool:
    if table.kind in _RELATIONS:
        return True
    if table.kind != "view" or table.definition is None or depth >= _MAX_VIEW_DEPTH:
        return False  # a foreign table's server may be away
    tree = Query.parse(table.definition).tree
    if not isinstance(tree, exp.Select):
        return False
    inner = ResolvedStatement.of(tree, catalog)
    views = [s.table for scope in inner.scopes for s in scope.sources.values() if s.table is not None]
    below = all(_table_cannot_fail(view, catalog, depth + 1) for view in views)
    return below and query_cannot_fail(tree, inner)


def _scalar_cannot_fail(node: exp.Subquery, statement: ResolvedStatement) -> bool:
    """A scalar subquery fails when it returns two rows; an ungrouped aggregate returns one."""
    select = node.this
    scope = statement.scope_of(select)
    if scope is None or select.args.get("group") or len(select.expressions) != 1:
        return False
    calls = (call for call in own_nodes(select, exp.AggFunc) if is_aggregate(call, scope.catalog))
    aggregated = any(is_aggregate_of(call, scope, statement) for call in calls)
    return aggregated and query_cannot_fail(select, statement)


def is_aggregate_of(call: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """True when an aggregate call in `scope`'s SELECT aggregates that query's rows.

    A call belongs to the innermost query whose columns it takes, and to the one it stands in if it takes none.
    """
    sources = statement.sources_in(call, scope)
    return sources is not None and (not sources or any(s in sources for s in scope.sources.values()))


def _is_total(node: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """True for a node that cannot fail given its operands' types or that one of them is a fit constant."""
    if isinstance(node, (exp.Like, exp.ILike)):
        pattern = bare(node.expression)
        return isinstance(pattern, exp.Literal) and not str(pattern.this).endswith("\\")
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.Neg)):  # integers overflow
        return base_type(value_type(node, scope, statement) or "") == "numeric"
    if isinstance(node, (exp.Div, exp.Mod)):
        divisor = bare(node.expression)
        if not isinstance(divisor, exp.Literal) or divisor.is_string or not str(divisor.this).strip("0."):
            return False
        return base_type(value_type(node.this, scope, statement) or "") in EXACT_NUMBERS
    if isinstance(node, exp.Cast):
        return _is_total_cast(node, scope, statement)
    if isinstance(node, exp.DPipe):  # of jsonb it may fail
        return any(
            base_type(value_type(side, scope, statement) or "") in TEXTS for side in (node.this, node.expression)
        )
    if isinstance(node, exp.Extract):
        known = value_type(node.expression, scope, statement) in _CALENDAR_TYPES
        return known and node.this.name.upper() in _CALENDAR_FIELDS
    if isinstance(node, (exp.Sum, exp.Avg)):
        argument = node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
        return base_type(value_type(argument, scope, statement) or "") in EXACT_NUMBERS
    if isinstance(node, exp.Anonymous):
        return _is_builtin(node, scope.catalog, _TOTAL_FUNCTIONS)
    return False


def _is_total_cast(node: exp.Cast, scope: Scope, statement: ResolvedStatement) -> bool:
    source, target = value_type(node.this, scope, statement), type_name(node)
    if source is None:
        return False
    if target == "text":
        return True
    kind = base_type(source)
    if kind in INTEGERS and target in INTEGERS:
        return INTEGERS.index(kind) <= INTEGERS.index(target)
    return target == "numeric" and kind in EXACT_NUMBERS


def _is_folded(node: exp.Expr, catalog: Catalog) -> bool:
    """True for a constant that the planner computes beforehand: it fails in every form of the query or in none."""
    if any(True for _ in node.find_all(exp.Column, exp.Parameter, exp.Star, exp.Query, exp.AggFunc, exp.Window)):
        return False
    stable = (exp.CurrentDate, exp.CurrentTimestamp)
    known = all(_is_builtin(call, catalog, _TOTAL_FUNCTIONS) for call in node.find_all(exp.Anonymous))
    return known and isinstance(node, (exp.Cast, exp.Interval, exp.Add, exp.Sub, exp.Mul, exp.Neg, *stable))


def _is_builtin(node: exp.Anonymous, catalog: Catalog, names: frozenset[str]) -> bool:
    """True for a plain call of one of PostgreSQL's own functions: the name is unqualified and nobody shadows it."""
    if isinstance(node.parent, exp.Dot):
        return False
    name = identifier_name(node.this)
    return name in names and not any((schema, name) in catalog.functions for schema in catalog.search_path)


def _column_type(source: Source | None, name: str, statement: ResolvedStatement) -> str | None:
    if source is not None and isinstance(source.query, exp.Select):
        return _derived_type(source, name, statement)
    column = source.column(name) if source is not None else None
    if column is None or not column.deterministic or column.type_kind not in ("base", "enum"):
        return None
    known = column.type_kind == "enum" or base_type(column.type) in PLAIN_TYPES | {"real", "double precision"}
    return column.type if known else None


def _derived_type(source: Source, name: str, statement: ResolvedStatement) -> str | None:
    """The type of a derived table's or CTE's column: that of the expression behind it."""
    inner = statement.scope_of(source.query) if source.query is not None else None
    items = source.query.expressions if isinstance(source.query, exp.Select) else []
    plain = all(not item.is_star for item in items)
    if inner is None or not plain or source.columns is None or source.columns.count(name) != 1:
        return None
    return value_type(items[source.columns.index(name)].unalias(), inner, statement)


def _number_type(text: str) -> str:
    if not text.isdecimal():
        return "numeric"
    return "integer" if int(text) < 2**31 else "bigint" if int(text) < 2**63 else "numeric"


def _aggregate_type(node: exp.Expr, scope: Scope, statement: ResolvedStatement) -> str | None:
    if isinstance(node, exp.Count):
        return "bigint"
    if isinstance(node, exp.Filter):
        return value_type(node.this, scope, statement)
    argument = node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
    type_ = value_type(argument, scope, statement)
    if isinstance(node, (exp.Min, exp.Max)):
        return type_
    kind = base_type(type_ or "")
    if kind not in EXACT_NUMBERS:
        return None
    return "bigint" if isinstance(node, exp.Sum) and kind in ("smallint", "integer") else "numeric"


def _wider(left: str | None, right: str | None) -> str | None:
    """The type of arithmetic between two exact numbers; a numeric's modifier is lost on the way."""
    kinds = {base_type(left or ""), base_type(right or "")}
    if not kinds <= EXACT_NUMBERS:
        return None
    return "numeric" if "numeric" in kinds else max(kinds, key=INTEGERS.index)
