"""DISTINCT over rows that a key already keeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.matching import has_aggregate
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rewriting.uniqueness import output_places, tells_rows_apart
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope


class DistinctOnKey(RewriteRule):
    """Drop DISTINCT where a unique key is selected

    ## What it does
    Removes `DISTINCT` from a query whose output tells its rows apart: it contains the primary key, or a unique key that
    cannot be NULL, of every table it reads, or of tables from which joins and conditions lead to one row of each other
    table (`JOIN cities c ON c.id = u.city_id` adds one city to a user).

    ## Why it is slow
    PostgreSQL tracks no unique keys for DISTINCT: it sorts or hashes every row, though no two can be equal.

    ## Example
    ```sql
    SELECT DISTINCT id, email FROM users
    ```

    ## Use instead
    ```sql
    SELECT id, email FROM users
    ```

    ## Preconditions
    Keys are not deferrable (a deferrable one may be violated inside a transaction), not partial, without a
    nondeterministic collation, and their columns cannot be NULL in the rows compared: they are NOT NULL, or an equality
    rejects NULL. All sources are tables or materialized views; other sources may repeat rows. Equalities count if
    they are in WHERE, in an inner join, or, to find the row of its right side, in a LEFT JOIN. No grouping, no
    `DISTINCT ON`, no function in the output that may return a set.
    """

    code: ClassVar[str] = "RW401"
    name: ClassVar[str] = "distinct-on-key"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        found = [scope.select for scope in ResolvedStatement.of(tree, catalog).scopes if _needless(scope)]
        if found:
            yield Match(tree, tuple(found))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        root, *selects = copied(*match.parts)
        for select in selects:
            select.set("distinct", None)
        return root


def _needless(scope: Scope) -> bool:
    distinct = scope.select.args.get("distinct")
    if distinct is None or distinct.args.get("on") is not None or not scope.sources or has_aggregate(scope.select):
        return False
    places = output_places(scope)
    return places is not None and tells_rows_apart(scope, places)
