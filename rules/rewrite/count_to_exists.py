"""Counts that are only compared with nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.matching import MIRRORED, bare, conjunction, conjuncts, not_null, where_conjuncts
from optimizer.rewriting.decorrelation import is_one_group, scalar_subqueries
from optimizer.rewriting.evaluation import is_aggregate_of, neighbours_cannot_fail, query_cannot_fail, value_type
from optimizer.rewriting.naming import output_item, output_name, with_output_name
from optimizer.rewriting.resolved import ResolvedStatement, has_query, put_condition
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope

#: `count <comparison> number` that says whether there is a row (True) or none (False).
_MEANINGS: dict[tuple[type[exp.Expr], int], bool] = {
    (exp.GT, 0): True,
    (exp.GTE, 1): True,
    (exp.NEQ, 0): True,
    (exp.EQ, 0): False,
    (exp.LT, 1): False,
    (exp.LTE, 0): False,
}


class CountToExists(RewriteRule):
    """Ask whether a row exists instead of counting all

    ## What it does
    Turns `(SELECT count(*) ...) > 0` into `EXISTS (...)` and `(SELECT count(*) ...) = 0` into `NOT EXISTS (...)`, also
    when written as `>= 1`, `<> 0`, `< 1`, `<= 0` or from the right. A count of a column that can be NULL keeps its
    meaning by `IS NOT NULL`, a FILTER becomes part of WHERE.

    ## Why it is slow
    The count visits every row, and PostgreSQL runs the subquery again for every outer row. EXISTS stops at the first
    row, and in a WHERE clause it becomes a semi-join.

    ## Example
    ```sql
    SELECT u.id FROM users AS u WHERE (SELECT count(*) FROM orders AS o WHERE o.user_id = u.id) > 0
    ```

    ## Use instead
    ```sql
    SELECT u.id FROM users AS u WHERE EXISTS (SELECT 1 FROM orders AS o WHERE o.user_id = u.id)
    ```

    ## Preconditions
    The subquery is one ungrouped count without LIMIT or OFFSET: with GROUP BY it would be NULL, not 0, over no rows.
    The number it is compared with is written out. Nothing in the subquery can raise an error, since EXISTS visits fewer
    rows, nor can a correlated subquery in another condition of WHERE, which may now visit more. No table has row-level
    security, and no query around it has an aggregate that depends on the order of rows, such as a sum of floats.
    """

    code: ClassVar[str] = "RW104"
    name: ClassVar[str] = "count-to-exists"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            for subquery in scalar_subqueries(scope.select):
                comparison = _comparison_of(subquery)
                inner = statement.scope_of(subquery.this)
                if comparison is None or inner is None or not _is_free(scope):
                    continue
                meaning = _meaning(comparison, subquery)
                fine = meaning is not None and neighbours_cannot_fail(comparison, scope, statement)
                if fine and _is_count(inner, statement):
                    yield Match(comparison, (scope, inner, meaning))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        outer, inner, meaning = match.parts
        root, comparison, select = copied(match.node, outer.select)
        rows = inner.select.copy()
        conditions = (*where_conjuncts(inner.select), *_counted(inner))
        rows.set("expressions", [exp.Literal.number(1)])
        rows.set("where", exp.Where(this=conjunction(conditions)) if conditions else None)
        answer: exp.Expr = exp.Exists(this=rows)
        answer = answer if meaning else exp.Not(this=answer)
        put_condition(comparison, answer)
        item = output_item(match.node)
        name = output_name(item) if item is not None else None
        if item is not None and name is not None:  # EXISTS would give its own name to the column
            changed = select.expressions[item.index or 0]
            changed.replace(with_output_name(changed, name))
        return root


def _is_count(inner: Scope, statement: ResolvedStatement) -> bool:
    """True for a query whose only output is a count of its own rows, and that cannot fail."""
    select = inner.select
    if not is_one_group(inner):
        return False
    call = _call(inner)
    if not isinstance(call, exp.Count) or call.expressions or not is_aggregate_of(call, inner, statement):
        return False
    counted = call.this
    if isinstance(counted, exp.Distinct):
        if len(counted.expressions) != 1:
            return False
        counted = counted.expressions[0]
    if not isinstance(counted, (exp.Star, exp.Literal)) and value_type(counted, inner, statement) is None:
        return False  # of a composite value, IS NOT NULL asks more than count() does
    return query_cannot_fail(select, statement)


def _call(inner: Scope) -> exp.Expr:
    value = inner.select.expressions[0].unalias()
    call: exp.Expr = value.this if isinstance(value, exp.Filter) else value
    return call


def _counted(inner: Scope) -> Iterator[exp.Expr]:
    """Conditions that say which rows count: those of FILTER, and that the counted value is not NULL."""
    value = inner.select.expressions[0].unalias()
    if isinstance(value, exp.Filter):
        yield from conjuncts(value.expression)
    counted = _call(inner).this
    if isinstance(counted, exp.Distinct):
        counted = counted.expressions[0]
    if not isinstance(counted, exp.Star) and not not_null(counted, inner):
        yield exp.Is(this=counted.copy(), expression=exp.Null(), negate=True)


def _is_free(scope: Scope) -> bool:
    """True unless the same expression might have to be written alike in GROUP BY, ORDER BY or DISTINCT ON."""
    clauses = (scope.select.args.get(key) for key in ("group", "order", "distinct"))
    return not any(clause is not None and has_query(clause) for clause in clauses)


def _comparison_of(subquery: exp.Expr) -> exp.Expr | None:
    """The comparison that a subquery is one side of."""
    parent = subquery.parent
    while isinstance(parent, (exp.Paren, exp.Subquery)):
        parent = parent.parent
    return parent if type(parent) in MIRRORED else None


def _meaning(comparison: exp.Expr, subquery: exp.Expr) -> bool | None:
    left, right = bare(comparison.this), bare(comparison.expression)
    on_left = any(node is subquery for node in left.walk())
    number = right if on_left else left
    if not isinstance(number, exp.Literal) or number.is_string or number.name not in ("0", "1"):
        return None
    kind = type(comparison) if on_left else MIRRORED[type(comparison)]
    return _MEANINGS.get((kind, int(number.name)))
