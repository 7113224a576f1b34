"""OR between the conditions that join two tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.matching import column_equalities, conjuncts, disjuncts
from optimizer.rewriting.branching import BranchedQuery, read_branched_query
from optimizer.rewriting.evaluation import cannot_fail
from optimizer.rewriting.resolved import ResolvedStatement, filters, has_query
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule
from optimizer.scope import Scope, Source

_MAX_BRANCHES = 4


class OrInJoinToBranches(RewriteRule):
    """Join once for each side of an OR

    ## What it does
    Where two tables are joined by `a.x = b.x OR a.y = b.y`, it joins them once for each side and puts the results
    together by UNION ALL. Each branch leaves out, by `IS NOT TRUE`, the pairs that an earlier branch has.

    ## Why it is slow
    An OR can be neither hashed nor merged, so PostgreSQL compares every row of one table with every row of the other.
    Each branch has an equality of its own and can use a hash join or an index.

    ## Example
    ```sql
    SELECT o.id, u.nickname FROM orders AS o JOIN users AS u ON u.id = o.user_id OR u.badge = o.coupon_id
    ```

    ## Use instead
    ```sql
    SELECT joined.id, joined.nickname FROM (
        SELECT o.id, u.nickname FROM orders AS o JOIN users AS u ON u.id = o.user_id
        UNION ALL
        SELECT o.id, u.nickname FROM orders AS o JOIN users AS u
            ON u.badge = o.coupon_id AND (u.id = o.user_id) IS NOT TRUE) AS joined
    ```

    ## Preconditions
    The OR stands alone among the conditions of an inner join or of WHERE, each of its sides holds an equality between
    columns of the same two tables (not the same one in all), and none can raise an error. For an outer join the
    branches would each add their own unmatched rows, so it is left alone, and so is any query with a RIGHT or FULL join
    behind the OR. It is `NOT (... IS TRUE)`, not NOT, because a comparison with NULL is neither. A query that groups
    names all the columns it reads. No table has row-level security, and no query around it has an aggregate that
    depends on the order of rows, such as a sum of floats.
    """

    code: ClassVar[str] = "RW202"
    name: ClassVar[str] = "or-in-join-to-branches"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            for condition in filters(scope.select):
                if _joins_two_tables(condition, scope, statement):
                    query = read_branched_query(scope, statement)
                    if query is not None:
                        yield Match(condition, query)

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        query: BranchedQuery = match.parts
        arms = disjuncts(match.node)
        # The OR may stand in parentheses of its own; the branches' conditions are joined to their neighbours by AND.
        target = match.node.parent if isinstance(match.node.parent, exp.Paren) else match.node
        narrowed = []
        for number, arm in enumerate(arms):
            parts = [arm.copy(), *(_is_not_true(earlier) for earlier in arms[:number])]
            narrowed.append(exp.and_(*parts, copy=False, wrap=False))
        return query.branched(target, narrowed)


def _is_not_true(condition: exp.Expr) -> exp.Expr:
    is_true = exp.Is(this=exp.Paren(this=condition.copy()), expression=exp.Boolean(this=True))
    return exp.Not(this=is_true)


def _joins_two_tables(condition: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """True for an OR of which each side equates columns of the same two FROM items, and no equality is in all sides.

    One that is in all of them PostgreSQL takes out of the OR and joins by.
    """
    arms = disjuncts(condition) if isinstance(condition, exp.Or) else ()
    if not 2 <= len(arms) <= _MAX_BRANCHES or has_query(condition) or not cannot_fail(condition, scope, statement):
        return False
    sources = statement.sources_in(condition, scope)
    if sources is None or not sources <= set(scope.sources.values()):
        return False
    found = [_equalities(arm, scope) for arm in arms]
    pairs = [frozenset(frozenset(source for source, _ in equality) for equality in arm) for arm in found]
    return bool(frozenset.intersection(*pairs)) and not frozenset.intersection(*found)


def _equalities(arm: exp.Expr, scope: Scope) -> frozenset[frozenset[tuple[Source, str]]]:
    """The equalities between columns of two FROM items that must hold on one side of the OR."""
    found = set()
    for columns in column_equalities(conjuncts(arm)):
        ends = [(source, identifier_name(c.this)) for c in columns if (source := scope.local_source(c)) is not None]
        if len({source for source, _ in ends}) == len(ends) == 2:
            found.add(frozenset(ends))
    return frozenset(found)
