"""NOT IN over a subquery, where no NULL can be met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.matching import (
    bare,
    conjunction,
    has_aggregate,
    is_plain_select,
    not_null,
    rejects_null,
    where_conjuncts,
)
from optimizer.rewriting.evaluation import (
    cannot_fail,
    neighbours_cannot_fail,
    query_cannot_fail,
    same_equality,
    value_type,
)
from optimizer.rewriting.naming import column_of, fresh_alias, identifier, output_name
from optimizer.rewriting.resolved import ResolvedStatement, put_condition
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, columns_in, own_nodes


class NotInToNotExists(RewriteRule):
    """Use NOT EXISTS, which can be an anti-join, for NOT IN

    ## What it does
    Turns `x NOT IN (SELECT y ...)` and `x <> ALL (SELECT y ...)` into `NOT EXISTS (SELECT 1 ... WHERE y = x)`, for one
    column or a row of several.

    ## Why it is slow
    Because of NULLs, NOT IN is no anti-join to PostgreSQL: it hashes the subquery's whole result if that fits into
    `work_mem`, and otherwise scans it again for every outer row.

    ## Example
    ```sql
    SELECT u.id FROM users AS u WHERE u.id NOT IN (SELECT o.user_id FROM orders AS o)
    ```

    ## Use instead
    ```sql
    SELECT u.id FROM users AS u WHERE NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.user_id = u.id)
    ```

    ## Preconditions
    Neither side can be NULL: by NOT NULL constraints (and no outer join that undoes them), or because WHERE leaves
    NULLs out. If the subquery returned a NULL, NOT IN would be true for no row at all; if the outer value were NULL,
    NOT IN would drop the row that NOT EXISTS keeps. Both sides are columns, or casts that cannot fail, of plain types
    under collations that take only the same bytes as equal. No correlated subquery in another condition of WHERE can
    raise an error, since it may be evaluated for more rows. No table has row-level security, and no query around it has
    an aggregate that depends on the order of rows, such as a sum of floats.
    """

    code: ClassVar[str] = "RW105"
    name: ClassVar[str] = "not-in-to-not-exists"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            for node in own_nodes(scope.select, exp.Not, exp.NEQ):
                pair = _sides(node)
                if pair is None:
                    continue
                inner = statement.scope_of(pair[1])
                if inner is not None and _holds(node, pair[0], scope, inner, statement):
                    yield Match(node, (pair[0], scope, inner))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        values, scope, inner = match.parts
        root, target = copied(match.node)
        items = inner.select.expressions
        if is_plain_select(inner.select) and not has_aggregate(inner.select) and not _shadowed(values, scope, inner):
            rows, found = inner.select.copy(), [item.unalias().copy() for item in items]
        else:
            rows, found = _wrapped(inner.select)
        pairs = zip(found, (_qualified(value, scope) for value in values), strict=True)
        equal = [exp.EQ(this=left, expression=right) for left, right in pairs]
        rows.set("expressions", [exp.Literal.number(1)])
        rows.set("where", exp.Where(this=conjunction((*where_conjuncts(rows), *equal))))
        put_condition(target, exp.Not(this=exp.Exists(this=rows)))
        return root


def _sides(node: exp.Expr) -> tuple[list[exp.Expr], exp.Expr] | None:
    """The values and the query of `values NOT IN (query)` or `value <> ALL (query)`."""
    if isinstance(node, exp.Not):
        inner = bare(node.this)
        query = inner.args.get("query") if isinstance(inner, exp.In) else None
        left = inner.this
    else:
        query = node.expression if isinstance(node.expression, exp.All) else None
        query, left = (query.this if query is not None else None), node.this
    while isinstance(query, exp.Subquery):
        query = query.this
    if not isinstance(query, exp.Select):
        return None
    left = bare(left)
    return (list(left.expressions) if isinstance(left, exp.Tuple) else [left]), query


def _holds(node: exp.Expr, values: list[exp.Expr], scope: Scope, inner: Scope, statement: ResolvedStatement) -> bool:
    """True when neither side can be NULL or fail, and `=` is one equality for both."""
    select = inner.select
    items = [item.unalias() for item in select.expressions]
    if len(items) != len(values) or not inner.sources or inner.parent is not scope:
        return False
    group = select.args.get("group")
    if group is not None and any(value for key, value in group.args.items() if key != "expressions"):
        return False  # ROLLUP and its kin put NULL into columns that have none
    for value, item in zip(values, items, strict=True):
        if not same_equality(value_type(value, scope, statement), value_type(item, inner, statement)):
            return False
    if not query_cannot_fail(select, statement) or not all(cannot_fail(v, scope, statement) for v in values):
        return False
    if not neighbours_cannot_fail(node, scope, statement):
        return False
    conditions = where_conjuncts(scope.select)
    others = tuple(c for c in conditions if c is not node) if any(c is node for c in conditions) else ()
    return all(_never_null(item, inner, where_conjuncts(select)) for item in items) and all(
        _never_null(value, scope, others) for value in values
    )


def _never_null(value: exp.Expr, scope: Scope, conditions: tuple[exp.Expr, ...]) -> bool:
    """True for what is NOT NULL, and for a column that one of the conditions around it rejects NULL for."""
    if not_null(value, scope) and _enforced(value, scope):
        return True
    value = bare(value)
    source = scope.source_of(value) if isinstance(value, exp.Column) else None
    column = source.column(identifier_name(value.this)) if source is not None else None
    if source is None or column is None or scope.sources.get(source.alias) is not source:
        return False
    return any(rejects_null(condition, column, source.alias, scope) for condition in conditions)


def _enforced(value: exp.Expr, scope: Scope) -> bool:
    """False for columns of foreign tables, whose NOT NULL nobody checks."""
    sources = (scope.source_of(column) for column in columns_in(value))
    return not any(s is None or s.table is None or s.table.kind == "foreign table" for s in sources)


def _shadowed(values: list[exp.Expr], scope: Scope, inner: Scope) -> bool:
    """True when a name that the values are qualified with means another table inside the subquery."""
    sources = (scope.source_of(column) for value in values for column in columns_in(value))
    return any(source is not None and source.alias in inner.sources for source in sources)


def _qualified(value: exp.Expr, scope: Scope) -> exp.Expr:
    """A copy whose columns all name their table, so that they mean the same inside the subquery."""
    copy = value.copy()
    for original, column in zip(columns_in(value), columns_in(copy), strict=True):
        source = scope.source_of(original)
        if source is not None and not column.args.get("table"):
            column.set("table", identifier(source.alias))
    return copy


def _wrapped(select: exp.Select) -> tuple[exp.Select, list[exp.Expr]]:
    """The query as a derived table, for what has no WHERE clause to add to or takes the names that are needed."""
    alias = fresh_alias(select, "excluded")
    names: list[str] = []
    for item in select.expressions:
        names.append(fresh_alias(select, f"excluded_{output_name(item) or 'value'}", names))
    table = exp.TableAlias(this=identifier(alias), columns=[identifier(name) for name in names])
    rows = exp.Select(from_=exp.From(this=exp.Subquery(this=select.copy(), alias=table)))
    return rows, [column_of(alias, name) for name in names]
