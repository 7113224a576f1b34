"""Queries that rules leave alone: their result depends on the order of rows, or they repeat what would be rewritten."""

from __future__ import annotations

from functools import lru_cache

from sqlglot import exp

from optimizer.catalog import identifier_name
from optimizer.matching import is_aggregate
from optimizer.rewriting.evaluation import EXACT_NUMBERS, base_type, value_type
from optimizer.rewriting.resolved import ResolvedStatement, has_query
from optimizer.scope import Scope, own_nodes

_INDIFFERENT = (exp.Count, exp.Min, exp.Max)
_INDIFFERENT_NAMES = frozenset({"bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor", "regr_count"})


@lru_cache(maxsize=1)
def rewritable_scopes(statement: ResolvedStatement) -> tuple[Scope, ...]:
    """Return the scopes whose rows may come in another order, and none of a statement under row-level security.

    Left out too are scopes in which a rewritten query might have to match another one that is written the same.

    Policies may hide rows from one form and not from the other, and add conditions that the tree does not show. The
    last answer is kept, since rules ask one after another.
    """
    if statement.under_row_security:
        return ()
    free = (scope for scope in statement.scopes if not order_matters(scope, statement))
    return tuple(scope for scope in free if not _must_match(scope.select))


def order_matters(scope: Scope, statement: ResolvedStatement) -> bool:
    """True when this query, or one around it, aggregates in a way that depends on the order of rows.

    Sums of floats are such (addition of floats is not associative), and `array_agg` without ORDER BY.
    """
    node: exp.Expr | None = scope.select
    while node is not None:
        if isinstance(node, exp.Select):
            around = statement.scope_of(node)
            if around is None or _aggregates_in_order(around, statement) or _is_array(node):
                return True
        node = node.parent
    return False


def _must_match(select: exp.Expr) -> bool:
    """True when this query, or one around it, has a query in GROUP BY, in DISTINCT ON, or in ORDER BY under DISTINCT.

    PostgreSQL wants such an expression written as it is in the output; a rule changes one place at a time.
    """
    node: exp.Expr | None = select
    while node is not None:
        if isinstance(node, exp.Select) and (node.args.get("distinct") or node.args.get("group")):
            clauses = (node.args.get(key) for key in ("group", "order", "distinct"))
            if any(clause is not None and has_query(clause) for clause in clauses):
                return True
        node = node.parent
    return False


def _aggregates_in_order(scope: Scope, statement: ResolvedStatement) -> bool:
    calls = (call for call in own_nodes(scope.select, exp.AggFunc, exp.Anonymous) if _aggregates(call, scope))
    return any(_takes_order(call, scope, statement) for call in calls)


def _aggregates(call: exp.Expr, scope: Scope) -> bool:
    return is_aggregate(call, scope.catalog) or isinstance(call, (exp.Sum, exp.Avg))  # the latter over a window


def _takes_order(call: exp.Expr, scope: Scope, statement: ResolvedStatement) -> bool:
    if isinstance(call, (exp.Sum, exp.Avg)):
        argument = call.this.expressions[0] if isinstance(call.this, exp.Distinct) else call.this
        return base_type(value_type(argument, scope, statement) or "") not in EXACT_NUMBERS
    if isinstance(call, _INDIFFERENT) or isinstance(call.parent, exp.WithinGroup):
        return False
    if isinstance(call, exp.Anonymous) and identifier_name(call.this) in _INDIFFERENT_NAMES:
        return False
    return call.find(exp.Order) is None


def _is_array(select: exp.Select) -> bool:
    """True for ARRAY(SELECT ...) without ORDER BY."""
    holder = select.parent
    array = isinstance(holder, exp.Array) or (isinstance(holder, exp.Anonymous) and str(holder.this).upper() == "ARRAY")
    return array and select.args.get("order") is None
