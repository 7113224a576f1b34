"""Correlated counts in a SELECT list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.rewriting.grouped_join import Conversion, convert, selected_aggregates
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule


class ScalarCountToJoin(RewriteRule):
    """Join grouped counts instead of counting once for each row

    ## What it does
    Replaces a correlated subquery in the SELECT list that counts by a LEFT JOIN to a derived table that is grouped by
    the correlated columns. A row without partners has no group, so its count is `COALESCE(n, 0)`. Several counts are
    also offered all at once; those over the same rows share one derived table.

    ## Why it is slow
    PostgreSQL never turns a scalar subquery into a join: it counts again for every row of the outer query.

    ## Example
    ```sql
    SELECT u.id, (SELECT count(*) FROM orders AS o WHERE o.user_id = u.id) AS orders FROM users AS u
    ```

    ## Use instead
    ```sql
    SELECT u.id, COALESCE(orders_by_user_id.count_all, 0) AS orders
    FROM users AS u
    LEFT JOIN (SELECT o.user_id AS user_id_key, count(*) AS count_all FROM orders AS o GROUP BY o.user_id)
        AS orders_by_user_id ON orders_by_user_id.user_id_key = u.id
    ```

    ## Preconditions
    The subquery is correlated by equality only, between columns whose types share one equality: not text with char(n),
    not a numeric with a float, no nondeterministic collation. Nothing in it can raise an error, since groups are
    computed that the original never visited. It has no GROUP BY, LIMIT or FULL JOIN, and takes no column of the outer
    query elsewhere. The outer query does not group, unless the subquery stands inside one of its aggregates. No table
    has row-level security, and no query around it has an aggregate that depends on the order of rows, such as a sum of
    floats.
    """

    code: ClassVar[str] = "RW102"
    name: ClassVar[str] = "scalar-count-to-join"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            found = selected_aggregates(scope, statement)
            if len(found) > 1 and all(aggregate.counts for aggregate in found):
                yield Match(scope.select, (scope, found))
            for aggregate in found:
                if aggregate.counts:
                    yield Match(aggregate.subquery, (scope, (aggregate,)))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        scope, aggregates = match.parts
        return convert(scope, [Conversion(aggregate) for aggregate in aggregates])
