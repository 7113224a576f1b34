"""Correlated aggregates in a WHERE clause."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.matching import COMPARISONS, MIRRORED, where_conjuncts
from optimizer.rewriting.decorrelation import (
    CorrelatedAggregate,
    is_count,
    is_strict_path,
    read_correlated_aggregate,
    scalar_subqueries,
)
from optimizer.rewriting.evaluation import cannot_fail, neighbours_cannot_fail
from optimizer.rewriting.grouped_join import Conversion, convert, join_place, stars_expand
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule
from optimizer.scope import Scope

_HOLDS = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}


class CorrelatedAggregateToJoin(RewriteRule):
    """Compare with a grouped table instead of aggregating once for each row

    ## What it does
    Replaces a correlated aggregate in the WHERE clause by a join to a derived table that is grouped by the correlated
    columns. Where the condition it stands in cannot be true for NULL the join is an inner one, as a row without a group
    would be dropped anyway; elsewhere (under OR or NOT, inside COALESCE, for most counts) it is a LEFT JOIN.

    ## Why it is slow
    PostgreSQL never turns a scalar subquery into a join: it runs the subquery again for every row that reaches the
    condition.

    ## Example
    ```sql
    SELECT sum(i.price) FROM order_items AS i
    WHERE i.quantity < (SELECT 0.2 * avg(a.quantity) FROM order_items AS a WHERE a.product_id = i.product_id)
    ```

    ## Use instead
    ```sql
    SELECT sum(i.price) FROM order_items AS i
    JOIN (SELECT a.product_id AS product_id_key, avg(a.quantity) AS avg_quantity FROM order_items AS a
          GROUP BY a.product_id) AS order_items_by_product_id
        ON order_items_by_product_id.product_id_key = i.product_id
    WHERE i.quantity < 0.2 * order_items_by_product_id.avg_quantity
    ```

    ## Preconditions
    The subquery is correlated by equality only, between columns whose types share one equality: not text with char(n),
    not a numeric with a float, no nondeterministic collation. Its aggregates don't depend on the order of rows (no sums
    of floats), and neither the subquery nor the condition around it can raise an error, nor a correlated subquery in
    another condition, since all are computed for other rows than before. It has no GROUP BY, LIMIT or FULL JOIN. It
    stands in WHERE, not in the ON clause of a join. No table has row-level security, and no query around it has an
    aggregate that depends on the order of rows, such as a sum of floats.
    """

    code: ClassVar[str] = "RW103"
    name: ClassVar[str] = "correlated-aggregate-to-join"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            found = _conversions(scope, statement)
            if len(found) > 1:
                yield Match(scope.select, (scope, found))
            for conversion in found:
                yield Match(conversion.aggregate.subquery, (scope, (conversion,)))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        scope, conversions = match.parts
        return convert(scope, conversions)


def _conversions(scope: Scope, statement: ResolvedStatement) -> tuple[Conversion, ...]:
    if not stars_expand(scope) or scope.select.args.get("laterals"):
        return ()
    found = []
    for condition in where_conjuncts(scope.select):
        if not neighbours_cannot_fail(condition, scope, statement):
            continue
        for subquery in scalar_subqueries(condition):
            aggregate = read_correlated_aggregate(subquery, scope, statement)
            if aggregate is None or not cannot_fail(condition, scope, statement):
                continue
            inner = _is_false_without_group(aggregate, condition)
            if inner or join_place(scope, aggregate.outer_sources) is not None:
                found.append(Conversion(aggregate, inner))
    return tuple(found)


def _is_false_without_group(aggregate: CorrelatedAggregate, condition: exp.Expr) -> bool:
    """True when the condition cannot hold for a row whose subquery aggregates no rows."""
    if not isinstance(condition, COMPARISONS):
        return False
    left, right = condition.this, condition.expression
    on_left = any(node is aggregate.subquery for node in left.find_all(exp.Subquery))
    side, other = (left, right) if on_left else (right, left)
    if not is_strict_path(aggregate.subquery, side):
        return False
    if side is aggregate.subquery and is_count(aggregate.value):
        compare = type(condition) if on_left else MIRRORED[type(condition)]
        return isinstance(other, exp.Literal) and other.is_int and not _HOLDS[compare](0, int(other.name))
    return any(is_strict_path(call, aggregate.value) for call in aggregate.aggregates if not is_count(call))
