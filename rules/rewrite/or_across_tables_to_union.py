"""OR over conditions on different tables of a join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.matching import bare, column_equalities, conjunction, disjuncts
from optimizer.rewriting.evaluation import cannot_fail
from optimizer.rewriting.naming import column_of
from optimizer.rewriting.resolved import ResolvedStatement, filters, has_query, put_condition
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, Source

_MAX_BRANCHES = 4


class OrAcrossTablesToUnion(RewriteRule):
    """Find the rows of each side of an OR by itself

    ## What it does
    Where WHERE holds `a.x = 1 OR b.y = 2` over joined tables, it replaces the OR by `(a.id, b.id) IN (...)`: the
    primary keys of the joined rows that meet the one condition UNION those that meet the other. The rest of the query
    stays as it is.

    ## Why it is slow
    PostgreSQL combines indexes for an OR only within one table. Across tables it joins everything first and filters
    afterwards. Each branch of the UNION has a condition on one table that an index can serve.

    ## Example
    ```sql
    SELECT o.id, u.email FROM orders AS o JOIN users AS u ON u.id = o.user_id
    WHERE o.code = 'AB' OR u.email = 'ana@example.org'
    ```

    ## Use instead
    ```sql
    SELECT o.id, u.email FROM orders AS o JOIN users AS u ON u.id = o.user_id
    WHERE (o.id, u.id) IN (
        SELECT o.id, u.id FROM orders AS o JOIN users AS u ON u.id = o.user_id WHERE o.code = 'AB'
        UNION
        SELECT o.id, u.id FROM orders AS o JOIN users AS u ON u.id = o.user_id WHERE u.email = 'ana@example.org')
    ```

    ## Preconditions
    Every table in the OR has a primary key or another unique key that is NOT NULL and not deferrable: without one,
    equal rows could not be told apart. The OR stands alone among the conditions of WHERE or of an inner join; each of
    its sides concerns one table, no outer join fills that table with NULLs, and equalities join the tables. Conditions
    that are repeated cannot raise an error, since each side is now evaluated for rows that the other side had already
    let through. No table has row-level security, and no query around it has an aggregate that depends on the order of
    rows, such as a sum of floats.
    """

    code: ClassVar[str] = "RW201"
    name: ClassVar[str] = "or-across-tables-to-union"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            conditions = filters(scope.select)
            for condition in conditions:
                arms = _arms(condition, scope, statement)
                others = [c for c in conditions if c is not condition]
                joined = _joined(tuple(arms), others, scope, statement) if arms else None
                if joined is not None:
                    yield Match(condition, (arms, joined))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        arms, joined = match.parts
        root, target = copied(match.node)
        keys = [column_of(source.alias, name) for source in arms for name in _key(source)]
        branches = [joined.branch(keys, conditions) for conditions in arms.values()]
        union = branches[0]
        for branch in branches[1:]:
            union = exp.Union(this=union, expression=branch, distinct=True)
        row = exp.Tuple(expressions=[key.copy() for key in keys])
        # target is an OR; its parentheses, if it has any, would only wrap the new condition again.
        place = target.parent if isinstance(target.parent, exp.Paren) else target
        put_condition(place, exp.In(this=row, query=exp.Subquery(this=union)))
        return root


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """FROM items in an order in which each is joined by equality to those before it, and the conditions that hold."""

    sources: tuple[Source, ...]
    conditions: tuple[tuple[exp.Expr, frozenset[Source]], ...]

    def branch(self, keys: Sequence[exp.Expr], filter_: Sequence[exp.Expr]) -> exp.Select:
        """The keys of the joined rows that meet one side of the OR."""
        seen: set[Source] = {self.sources[0]}
        left = list(self.conditions)
        select = exp.Select(expressions=[k.copy() for k in keys], from_=exp.From(this=_plain(self.sources[0])))
        joins = []
        for source in self.sources[1:]:
            seen.add(source)
            on = [c for c, needs in left if len(needs) > 1 and needs <= seen]
            left = [(c, needs) for c, needs in left if len(needs) < 2 or not needs <= seen]
            joins.append(exp.Join(this=_plain(source), on=conjunction(on)))
        select.set("joins", joins)
        where = conjunction((*(c for c, _ in left), _either(filter_)))
        select.set("where", exp.Where(this=where))
        return select


def _arms(condition: exp.Expr, scope: Scope, statement: ResolvedStatement) -> dict[Source, list[exp.Expr]]:
    """The sides of an OR by the table that each concerns; empty unless there are several tables and all is certain."""
    if not isinstance(condition, exp.Or):
        return {}
    arms: dict[Source, list[exp.Expr]] = {}
    for part in disjuncts(condition):
        sources = None if has_query(part) else statement.sources_in(part, scope)
        if sources is None or len(sources) != 1 or not cannot_fail(part, scope, statement):
            return {}
        (source,) = sources
        if not _is_keyed(source, scope):
            return {}
        arms.setdefault(source, []).append(part)
    return arms if 2 <= len(arms) <= _MAX_BRANCHES else {}


def _is_keyed(source: Source, scope: Scope) -> bool:
    own = scope.sources.get(source.alias) is source and not source.nullable and source.table is not None
    return own and source.table is not None and source.table.kind != "foreign table" and bool(_key(source))


def _key(source: Source) -> tuple[str, ...]:
    if source.table is None:
        return ()
    return source.table.primary_key or next(iter(source.table.unique_keys(not_null=True)), ())


def _joined(
    wanted: tuple[Source, ...], conditions: Sequence[exp.Expr], scope: Scope, statement: ResolvedStatement
) -> _Joined | None:
    """Join the wanted tables to each other, if need be by way of others; None if equalities don't connect them."""
    usable = []
    tables = {s for s in scope.sources.values() if s.table is not None and not s.nullable}
    for condition in conditions:
        sources = None if has_query(condition) else statement.sources_in(condition, scope)
        if sources and sources <= tables and cannot_fail(condition, scope, statement):
            usable.append((condition, sources))
    links = [
        frozenset(s for c in pair if (s := scope.local_source(c)) is not None)
        for pair in column_equalities(condition for condition, _ in usable)
    ]
    for among in (frozenset(wanted), frozenset(tables)):
        order = _connected(wanted, among, links)
        if order is not None:
            chosen = frozenset(order)
            return _Joined(order, tuple((c, needs) for c, needs in usable if needs <= chosen))
    return None


def _connected(
    wanted: tuple[Source, ...], among: frozenset[Source], links: Sequence[frozenset[Source]]
) -> tuple[Source, ...] | None:
    order = [wanted[0]]
    while not set(wanted) <= set(order):
        ends = {end for link in links if link & set(order) for end in link & among} - set(order)
        if not ends:
            return None
        order.append(min(ends, key=lambda s: (s not in wanted, s.alias)))
    return tuple(order)


def _plain(source: Source) -> exp.Expr:
    """A copy of a table reference without the joins that may hang on it."""
    node = source.node.copy()
    node.set("joins", None)
    return node


def _either(conditions: Sequence[exp.Expr]) -> exp.Expr:
    parts = [exp.paren(bare(c).copy()) if isinstance(bare(c), exp.And) else c.copy() for c in conditions]
    return exp.or_(*parts, copy=False, wrap=False) if len(parts) > 1 else parts[0]
