"""DISTINCT over rows that a key already keeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.matching import has_aggregate
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, scopes


class DistinctOnKey(RewriteRule):
    """Drop DISTINCT where a unique key is selected

    ## What it does
    Removes `DISTINCT` from a query over one table whose output contains all columns of a primary key, or of a unique
    key whose columns are all NOT NULL.

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
    The key is not deferrable (a deferrable one may be violated inside a transaction), not partial, and rejects NULL
    (a unique key lets rows with NULLs repeat). The query reads exactly one table: a join can repeat its rows. No
    grouping, no `DISTINCT ON`, no set-returning function in the output.
    """

    code: ClassVar[str] = "RW401"
    name: ClassVar[str] = "distinct-on-key"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        for scope in scopes(tree, catalog):
            distinct = scope.select.args.get("distinct")
            if distinct is not None and distinct.args.get("on") is None and _selects_key(scope):
                yield Match(scope.select)

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        root, select = copied(match.node)
        select.set("distinct", None)
        return root


def _selects_key(scope: Scope) -> bool:
    if len(scope.sources) != 1 or has_aggregate(scope.select):
        return False
    (source,) = scope.sources.values()
    if source.table is None or source.table.kind not in ("table", "partitioned table", "materialized view"):
        return False
    selected: set[str] = set()
    for item in scope.select.expressions:
        value = item.unalias()
        if isinstance(value, exp.Star) or (isinstance(value, exp.Column) and isinstance(value.this, exp.Star)):
            selected.update(source.table.columns)
        elif isinstance(value, exp.Column):
            selected.add(identifier_name(value.this))
        elif not isinstance(value, exp.Literal):
            return False  # it might return a set
    return any(selected.issuperset(key) for key in source.table.unique_keys(not_null=True))
