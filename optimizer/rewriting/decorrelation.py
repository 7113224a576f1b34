"""Scalar subqueries that aggregate the rows equal to a key of the surrounding query: what they are, read from a tree.

    (SELECT sum(i.total) FROM orders AS i WHERE i.user_id = u.id AND i.status = 'paid')

Such a subquery gives the same as joining `SELECT i.user_id, sum(i.total) ... GROUP BY i.user_id`: rows that the
correlation takes for one key are exactly one group, since `=` and GROUP BY use one equality (`same_equality`), NULL
keys equal nothing in both, and a key without rows has no group, which a LEFT JOIN turns into NULL, as an aggregate over
no rows is; count() alone gives 0 there (the COUNT bug of Kim's algorithm: Ganski and Wong, "Optimization of Nested SQL
Queries Revisited", SIGMOD 1987). `grouped_join.py` builds the join.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from optimizer.catalog import identifier_name
from optimizer.matching import equality, is_aggregate, where_conjuncts
from optimizer.rewriting.evaluation import base_type, cannot_fail, same_equality, source_cannot_fail, value_type
from optimizer.rewriting.resolved import ResolvedStatement, has_query, joins_of
from optimizer.scope import Scope, Source, columns_in, own_nodes

_AGGREGATES = (exp.Sum, exp.Avg, exp.Min, exp.Max, exp.Count)
#: Aggregates without a class of their own that give NULL over no rows and don't mind the order of rows.
_NAMED_AGGREGATES = frozenset({"bool_and", "bool_or", "every"})
_CLAUSES_OVER_ROWS = ("with_", "distinct", "group", "having", "windows", "order", "limit", "offset", "laterals")
_FLOATS = ("real", "double precision")


@dataclass(frozen=True, slots=True, eq=False)
class Correlation:
    """One condition `inner = outer` of a subquery's WHERE clause."""

    inner: exp.Expr
    outer: exp.Expr


@dataclass(frozen=True, slots=True, eq=False)
class CorrelatedAggregate:
    """A scalar subquery that can become a join.

    Parameters:
        subquery: its node in the surrounding query.
        select: the query in it.
        scope: of `select`; its parent is the surrounding query's.
        correlations: at least one.
        local: the other conditions of its WHERE clause; they concern its own rows only.
        aggregates: the outermost aggregate calls of its output, FILTER included, left to right.
    """

    subquery: exp.Subquery
    select: exp.Select
    scope: Scope
    correlations: tuple[Correlation, ...]
    local: tuple[exp.Expr, ...]
    aggregates: tuple[exp.Expr, ...]

    @property
    def value(self) -> exp.Expr:
        """The output expression."""
        output: exp.Expr = self.select.expressions[0].unalias()
        return output

    @property
    def counts(self) -> bool:
        """True when one of its aggregates gives 0, not NULL, over no rows."""
        return any(is_count(aggregate) for aggregate in self.aggregates)

    @property
    def outer_sources(self) -> frozenset[Source]:
        """The surrounding query's FROM items that it is correlated with."""
        outer = self.scope.parent
        found = (outer.source_of(c) for pair in self.correlations for c in columns_in(pair.outer)) if outer else ()
        return frozenset(source for source in found if source is not None)


def is_count(aggregate: exp.Expr) -> bool:
    """True for count(), with or without FILTER."""
    return isinstance(aggregate.this if isinstance(aggregate, exp.Filter) else aggregate, exp.Count)


def scalar_subqueries(node: exp.Expr) -> Iterator[exp.Subquery]:
    """Yield an expression's subqueries that stand for one value: not those of IN, ANY and EXISTS, nor nested ones."""
    candidates = [node] if isinstance(node, exp.Subquery) else own_nodes(node, exp.Subquery)
    for found in candidates:
        holder = found.parent
        while isinstance(holder, exp.Subquery):
            holder = holder.parent
        if isinstance(found, exp.Subquery) and not isinstance(holder, (exp.In, exp.Any, exp.All, exp.Exists)):
            yield found


def read_correlated_aggregate(
    subquery: exp.Subquery, outer: Scope, statement: ResolvedStatement
) -> CorrelatedAggregate | None:
    """Read a scalar subquery; None unless all that makes the join equivalent is certain.

    Parameters:
        subquery: a node that `scalar_subqueries` gave.
        outer: scope of the query that it stands in.
        statement: the statement of both.
    """
    select = subquery.this
    scope = statement.scope_of(select)
    extras = (value for key, value in subquery.args.items() if key != "this")
    if scope is None or scope.parent is not outer or any(extras) or not _is_plain(select, scope, statement):
        return None
    aggregates = tuple(outermost_aggregates(select.expressions[0].unalias(), scope))
    if not aggregates or not all(_fit_aggregate(a, scope, statement) for a in aggregates):
        return None
    correlations, local = [], []
    for condition in where_conjuncts(select):
        pair = _correlation(condition, scope, outer, statement)
        if pair is not None:
            correlations.append(pair)
        elif _is_local(condition, scope, statement) and cannot_fail(condition, scope, statement):
            local.append(condition)
        else:
            return None
    if not correlations:
        return None
    return CorrelatedAggregate(subquery, select, scope, tuple(correlations), tuple(local), aggregates)


def outermost_aggregates(value: exp.Expr, scope: Scope) -> Iterator[exp.Expr]:
    """Yield aggregate calls in an output expression that stand in no other call, FILTER included."""
    node = value.this if isinstance(value, exp.Filter) else value
    if is_aggregate(node, scope.catalog):
        yield value
        return
    for child in value.iter_expressions():
        yield from outermost_aggregates(child, scope)


def is_one_group(scope: Scope) -> bool:
    """True for a query with one output and rows to read, without a clause that groups, orders, cuts or repeats them.

    If its output is an aggregate, it gives exactly one row.
    """
    select = scope.select
    plain = not any(select.args.get(key) for key in _CLAUSES_OVER_ROWS)
    return plain and len(select.expressions) == 1 and bool(scope.sources)


def _is_plain(select: exp.Select, scope: Scope, statement: ResolvedStatement) -> bool:
    """One output of aggregates and constants, over FROM items that cannot fail and are correlated with nothing."""
    if not is_one_group(scope):
        return False
    value = select.expressions[0]
    if has_query(value) or value.find(exp.Window) is not None:
        return False
    aggregated = {id(c) for a in outermost_aggregates(value.unalias(), scope) for c in columns_in(a)}
    if any(id(column) not in aggregated for column in columns_in(value)):
        return False
    if not all(source_cannot_fail(source, statement) for source in scope.sources.values()):
        return False
    if any(str(join.args.get("side") or "").upper() == "FULL" for join in own_nodes(select, exp.Join)):
        return False  # without the correlation, which makes it an outer join, PostgreSQL may have no way to do it
    for item in (select.args["from_"], *joins_of(select)):
        if not _is_local(item, scope, statement):
            return False
        conditions = [join.args["on"] for join in item.find_all(exp.Join) if join.args.get("on") is not None]
        if not all(cannot_fail(condition, scope, statement) for condition in conditions):
            return False
    return True


def _is_local(node: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """True when every column in `node` certainly comes from the subquery itself."""
    own = {id(source) for source in scope.sources.values()}
    for inner in statement.inside(node):
        own |= {id(source) for source in inner.sources.values()}
    return all(source is not None and id(source) in own for _, source in statement.references(node, scope))


def _fit_aggregate(aggregate: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    """An aggregate whose result does not depend on the order of rows and that no row can make fail."""
    call = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
    if isinstance(call, exp.Anonymous):
        if identifier_name(call.this) not in _NAMED_AGGREGATES:
            return False
    elif not isinstance(call, _AGGREGATES):
        return False
    argument = call.this if isinstance(call.this, exp.Expr) else None
    distinct = isinstance(argument, exp.Distinct)
    if argument is not None and distinct:
        if len(argument.expressions) != 1:
            return False
        argument = argument.expressions[0]
    if not _is_local(aggregate, scope, statement) or not cannot_fail(aggregate, scope, statement):
        return False
    if not isinstance(call, (exp.Sum, exp.Avg, exp.Min, exp.Max)):
        return True
    type_ = value_type(argument, scope, statement) if argument is not None else None
    if type_ is None or base_type(type_) in _FLOATS:
        return False
    # Of values that are equal but look different (1.0 and 1.00, 30 days and 1 month) any may be the one that is given.
    return type_ not in ("numeric", "interval") or not (distinct or isinstance(call, (exp.Min, exp.Max)))


def _correlation(condition: exp.Expr, scope: Scope, outer: Scope, statement: ResolvedStatement) -> Correlation | None:
    sides = equality(condition)
    if sides is None or has_query(condition):
        return None
    for inner, other in (sides, sides[::-1]):
        if _belongs(inner, scope, scope, statement) and _belongs(other, outer, scope, statement):
            types = value_type(inner, scope, statement), value_type(other, outer, statement)
            fine = cannot_fail(inner, scope, statement) and cannot_fail(other, outer, statement)
            return Correlation(inner, other) if fine and same_equality(*types) else None
    return None


def _belongs(node: exp.Expr, owner: Scope, scope: Scope, statement: ResolvedStatement) -> bool:
    """True when `node`, which stands in `scope`, has columns and all are `owner`'s."""
    sources = statement.sources_in(node, scope)
    return bool(sources) and all(owner.sources.get(s.alias) is s for s in sources or ())


def is_strict_path(node: exp.Expr, top: exp.Expr) -> bool:
    """True when `top` is certainly NULL wherever `node`, an expression below it, is NULL."""
    strict = (exp.Paren, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.Cast)
    while node is not top:
        parent = node.parent
        if not isinstance(parent, strict):
            return False
        node = parent
    return True
