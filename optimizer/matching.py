"""Predicates that rules share: what is certainly true of a piece of SQL. All err on the side of False or None."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot import exp

from optimizer.catalog import Catalog, Column, Table, Volatility, identifier_name
from optimizer.query import Query
from optimizer.scope import QUERY_NODES, Scope, Source, columns_in, own_nodes

COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)
RANGE_COMPARISONS = (exp.LT, exp.LTE, exp.GT, exp.GTE)
#: The comparison that holds when the two sides change places.
MIRRORED: dict[type[exp.Expr], type[exp.Binary]] = {
    exp.EQ: exp.EQ,
    exp.NEQ: exp.NEQ,
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
}
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg)
_STRICT_NODES = (*COMPARISONS, *_ARITHMETIC, exp.Cast, exp.Like, exp.ILike, exp.Between, exp.DPipe)


def bare(node: exp.Expr) -> exp.Expr:
    """Strip parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def conjuncts(node: exp.Expr | None) -> tuple[exp.Expr, ...]:
    """Split a condition at its top-level ANDs; None gives ()."""
    if node is None:
        return ()
    node = bare(node)
    if isinstance(node, (exp.Where, exp.Having)):
        return conjuncts(node.this)
    if isinstance(node, exp.And):
        return conjuncts(node.left) + conjuncts(node.right)
    return (node,)


def disjuncts(node: exp.Expr) -> tuple[exp.Expr, ...]:
    """Split a condition at its top-level ORs."""
    node = bare(node)
    if isinstance(node, exp.Or):
        return disjuncts(node.left) + disjuncts(node.right)
    return (node,)


def where_conjuncts(select: exp.Select) -> tuple[exp.Expr, ...]:
    """The conditions of a WHERE clause that must all hold."""
    return conjuncts(select.args.get("where"))


def conjunction(conditions: Iterable[exp.Expr]) -> exp.Expr | None:
    """AND copies of the conditions together, wrapping ORs; None for none."""
    items = [exp.paren(c.copy()) if isinstance(c, exp.Or) else c.copy() for c in conditions]
    return exp.and_(*items, copy=False, wrap=False) if items else None


def unfit_for_rewriting(query: Query, catalog: Catalog) -> str | None:
    """Why no rule may rewrite this statement, None when rules may.

    Volatile functions give other results when they run more, fewer or other times; row locks and data-modifying CTEs
    act on the rows that happen to be visited; TABLESAMPLE picks rows by their place.
    """
    tree = query.tree
    if tree is None:
        return query.unreadable or "the statement could not be read"
    if query.kind != "select":
        return f"{query.kind.upper()} statements are planned and indexed, not rewritten"
    if any(True for _ in tree.find_all(exp.Lock)):
        return "it locks rows (FOR UPDATE or FOR SHARE)"
    if any(True for _ in tree.find_all(exp.TableSample)):
        return "it samples a table"
    if any(isinstance(cte.this, exp.DML) for cte in tree.find_all(exp.CTE)):
        return "a CTE changes data"
    if any(True for _ in tree.find_all(exp.Into)):
        return "it creates a table (SELECT INTO)"
    if volatility(tree, catalog) == "volatile":
        return "it calls a volatile function, or one that is not known"
    return None


def volatility(node: exp.Expr, catalog: Catalog, *, _depth: int = 0) -> Volatility:
    """The worst volatility of all functions called in `node` and in the views it reads; unknown functions are volatile.

    Operators are taken for stable: some on timestamptz are, none that PostgreSQL ships is volatile.
    """
    worst: Volatility = "immutable"
    for part in node.walk():
        found: Volatility = "immutable"
        if isinstance(part, exp.Anonymous):
            name = identifier_name(part.this)
            parent = part.parent
            schema = identifier_name(parent.this) if isinstance(parent, exp.Dot) and parent.expression is part else None
            function = catalog.function(name, schema)
            found = function.volatility if function is not None else "volatile"
        elif isinstance(part, (exp.CurrentDate, exp.CurrentTimestamp, exp.CurrentTime, exp.CurrentUser)):
            found = "stable"
        elif isinstance(part, exp.Table):
            table = catalog.resolve(part)
            if table is not None and table.definition is not None and _depth < 8:
                found = _view_volatility(table, catalog, _depth)
        if found == "volatile":
            return "volatile"
        worst = "stable" if "stable" in (worst, found) else worst
    return worst


def _view_volatility(view: Table, catalog: Catalog, depth: int) -> Volatility:
    query = Query.parse(view.definition or "")
    return volatility(query.tree, catalog, _depth=depth + 1) if query.tree is not None else "volatile"


def is_constant(node: exp.Expr, catalog: Catalog) -> bool:
    """True when the expression has one value for the whole statement: no columns, no subqueries, nothing volatile."""
    if any(True for _ in node.find_all(exp.Column, exp.Star, *QUERY_NODES, exp.AggFunc, exp.Window)):
        return False
    return volatility(node, catalog) != "volatile"


def not_null(node: exp.Expr, scope: Scope) -> bool:
    """True when the expression is certainly never NULL for a row that this query's FROM and joins produce."""
    node = bare(node)
    if isinstance(node, exp.Literal):
        return True
    if isinstance(node, exp.Boolean):
        return True
    if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
        source = scope.source_of(node)
        column = source.column(identifier_name(node.this)) if source is not None else None
        return source is not None and column is not None and column.not_null and not source.nullable
    if isinstance(node, exp.Coalesce):
        return any(not_null(part, scope) for part in (node.this, *node.expressions))
    if isinstance(node, exp.Count):
        return True
    if isinstance(node, exp.Cast):
        return not_null(node.this, scope) and type_name(node) in _TOTAL_CASTS
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.Neg)):
        return all(not_null(part, scope) for part in node.iter_expressions())
    return False


_TOTAL_CASTS = frozenset({"smallint", "integer", "bigint", "numeric", "text", "date", "real", "double precision"})


def rejects_null(condition: exp.Expr, column_is: Column | None, alias: str, scope: Scope) -> bool:
    """True when the condition cannot be true for a row in which all columns of source `alias` are NULL.

    `column_is` narrows it to one column of that source.
    """
    for part in conjuncts(condition):
        part = bare(part)
        if isinstance(part, exp.Not) and isinstance(part.this, exp.Is) and isinstance(part.this.expression, exp.Null):
            operands: Iterable[exp.Expr] = (part.this.this,)
        elif isinstance(part, exp.Is) and part.args.get("negate") and isinstance(part.expression, exp.Null):
            operands = (part.this,)
        elif _compares_with_all(part):
            continue  # true for NULL over no rows
        elif isinstance(part, (*COMPARISONS, exp.Like, exp.ILike, exp.Between, exp.In)):
            operands = (part.this, part.expression) if isinstance(part, exp.Binary) else (part.this,)
        else:
            continue
        for operand in operands:
            if operand is not None and _strict_in(operand, column_is, alias, scope):
                return True
    return False


def _compares_with_all(part: exp.Expr) -> bool:
    """True for `x <> ALL (...)`, over a query or an array."""
    sides = (part.this, part.expression) if isinstance(part, COMPARISONS) else ()
    return any(
        isinstance(side, exp.All) or (isinstance(side, exp.Anonymous) and str(side.this).upper() == "ALL")
        for side in sides
    )


def _strict_in(node: exp.Expr, column: Column | None, alias: str, scope: Scope) -> bool:
    node = bare(node)
    if isinstance(node, exp.Column):
        source = scope.source_of(node)
        wanted = column is None or identifier_name(node.this) == column.name
        return source is not None and source.alias == alias and wanted
    if isinstance(node, _STRICT_NODES):
        return any(_strict_in(part, column, alias, scope) for part in node.iter_expressions())
    return False


def equality(condition: exp.Expr) -> tuple[exp.Expr, exp.Expr] | None:
    """Both sides of `a = b`, parentheses stripped; None for anything else, `= ANY (...)` included."""
    condition = bare(condition)
    if not isinstance(condition, exp.EQ):
        return None
    left, right = bare(condition.this), bare(condition.expression)
    if isinstance(left, (exp.Any, exp.All)) or isinstance(right, (exp.Any, exp.All)):
        return None
    return left, right


def column_equalities(conditions: Iterable[exp.Expr]) -> Iterator[tuple[exp.Column, exp.Column]]:
    """The conditions of the form column = column."""
    for condition in conditions:
        sides = equality(condition)
        if sides is not None and isinstance(sides[0], exp.Column) and isinstance(sides[1], exp.Column):
            yield sides[0], sides[1]


def columns_of(source: Source, node: exp.Expr, scope: Scope) -> frozenset[str]:
    """Names of `source`'s columns that `node` mentions, at any depth."""
    return frozenset(
        identifier_name(c.this) for c in columns_in(node) if c is not None and scope.source_of(c) is source
    )


def type_name(node: exp.Cast) -> str:
    """A cast's target as `format_type` prints it, for the types that rules know; otherwise as written."""
    name = node.to.sql(dialect="postgres").lower()
    return _TYPE_ALIASES.get(name, name)


_TYPE_ALIASES = {
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "int2": "smallint",
    "decimal": "numeric",
    "float8": "double precision",
    "float4": "real",
    "bool": "boolean",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "varchar": "character varying",
}


def has_aggregate(select: exp.Select) -> bool:
    """True when the query groups: GROUP BY, HAVING, or an aggregate of its own in its output."""
    if select.args.get("group") or select.args.get("having"):
        return True
    return any(is_aggregate(node, None) for node in own_nodes(select, exp.AggFunc, exp.Anonymous))


def is_aggregate(node: exp.Expr, catalog: Catalog | None) -> bool:
    """True for an aggregate call that is not a window function."""
    if isinstance(node.parent, exp.Window) and node.parent.this is node:
        return False
    if isinstance(node, exp.AggFunc):
        return True
    if isinstance(node, exp.Anonymous) and catalog is not None:
        function = catalog.function(identifier_name(node.this))
        return function is not None and function.aggregate
    return False


def is_plain_select(node: exp.Expr) -> bool:
    """True for a SELECT with nothing but output, FROM, joins and WHERE."""
    extras = ("with_", "distinct", "group", "having", "windows", "qualify", "order", "limit", "offset", "locks")
    return isinstance(node, exp.Select) and not any(node.args.get(key) for key in extras)
