"""Comparisons of an expression with constants, in the places where an index could serve them.

"Sargable" (search-argument-able) is the literature's word for a predicate that an index can answer (Selinger et al.,
"Access Path Selection in a Relational Database Management System", 1979). The rules that make predicates sargable share
what is here: finding comparisons, and replacing all of them in one rewrite.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.matching import MIRRORED, bare
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import QUERY_NODES, Scope, own_nodes

_BINARY = (exp.EQ, exp.LT, exp.LTE, exp.GT, exp.GTE)


@dataclass(frozen=True, slots=True, eq=False)
class ConstantComparison:
    """One comparison of an expression with constants.

    Parameters:
        node: the predicate in the tree.
        subject: the side that holds columns, without parentheses.
        operator: EQ, LT, LTE, GT, GTE as if the subject stood on the left; Between; In.
        values: the constant sides: one, two for BETWEEN, all of the list for IN. They hold no columns and no queries,
            but are not otherwise understood.
    """

    node: exp.Expr
    subject: exp.Expr
    operator: type[exp.Expr]
    values: tuple[exp.Expr, ...]

    def over(self, subject: exp.Expr, *values: exp.Expr, mirrored: bool = False) -> exp.Expr:
        """Build the same comparison of another expression with other constants.

        Parameters:
            mirrored: the order is turned round, as by `k - x`; not for BETWEEN, whose bounds must change places.
        """
        if self.operator is exp.Between:
            return exp.Between(this=subject.copy(), low=values[0], high=values[1])
        if self.operator is exp.In:
            return exp.In(this=subject.copy(), expressions=list(values))
        operator = MIRRORED[self.operator] if mirrored else self.operator
        return operator(this=subject.copy(), expression=values[0])


def filters(select: exp.Select) -> Iterator[exp.Expr]:
    """The conditions that decide which rows a query reads: WHERE and the joins' ON. HAVING sees groups, not rows."""
    where = select.args.get("where")
    if where is not None:
        yield where.this
    for join in own_nodes(select, exp.Join):
        if join.args.get("on") is not None:
            yield join.args["on"]


def comparisons(scope: Scope) -> Iterator[ConstantComparison]:
    """Yield every comparison with constants in the filters of one query, at any depth of AND, OR, NOT and CASE."""
    for condition in filters(scope.select):
        for node in (condition, *own_nodes(condition, *_BINARY, exp.Between, exp.In)):
            test = constant_comparison(node)
            if test is not None:
                yield test


def constant_comparison(node: exp.Expr) -> ConstantComparison | None:
    """Read one predicate as a comparison with constants; None for all others."""
    operator: type[exp.Expr] = type(node)
    values: tuple[exp.Expr, ...]
    if isinstance(node, exp.Between) and not node.args.get("symmetric"):
        subject, values = node.this, (node.args["low"], node.args["high"])
    elif isinstance(node, exp.In) and node.expressions and not node.args.get("query"):
        subject, values = node.this, tuple(node.expressions)
    elif isinstance(node, _BINARY):
        subject, values = node.this, (node.expression,)
        if _is_constant(subject):
            subject, values, operator = node.expression, (node.this,), MIRRORED[operator]
    else:
        return None
    if _is_constant(subject) or not all(map(_is_constant, values)):
        return None
    return ConstantComparison(node, bare(subject), operator, values)


def _is_constant(node: exp.Expr) -> bool:
    return not any(True for _ in node.find_all(exp.Column, exp.Star, exp.Any, exp.All, *QUERY_NODES))


def is_filter(node: exp.Expr) -> bool:
    """True where NULL and FALSE do the same: under nothing but AND and OR, in a WHERE or ON."""
    while isinstance(node.parent, (exp.And, exp.Or, exp.Paren)):
        node = node.parent
    parent = node.parent
    return isinstance(parent, exp.Where) or (isinstance(parent, exp.Join) and parent.args.get("on") is node)


def call(node: exp.Expr) -> tuple[str, tuple[exp.Expr, ...]] | None:
    """Name and arguments of a call that may mean PostgreSQL's own function; None for other schemas and quoted names."""
    if isinstance(node, exp.Dot) and isinstance(node.this, exp.Identifier):
        if identifier_name(node.this) != "pg_catalog":
            return None
        node = node.expression
    if isinstance(node, exp.Anonymous) and isinstance(node.this, str):
        return node.this.lower(), tuple(node.expressions)
    return None


class PredicateRule(RewriteRule):
    """A rule that replaces comparisons one by one; all that it can replace in a statement make one rewrite."""

    @abstractmethod
    def replacement(self, test: ConstantComparison, scope: Scope) -> exp.Expr | None:
        """Return a predicate that is true, false and NULL for the same rows, or None.

        Where only truth counts is told by `is_filter`.
        """

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        found: list[tuple[exp.Expr, exp.Expr]] = []
        for scope in ResolvedStatement.of(tree, catalog).scopes:
            for test in comparisons(scope):
                predicate = self.replacement(test, scope)
                if predicate is not None:
                    found.append((test.node, predicate))
        if found:
            yield Match(tree, tuple(found))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        root, *nodes = copied(*(node for node, _ in match.parts))
        for node, (_, predicate) in zip(nodes, match.parts, strict=True):
            node.replace(_wrapped(predicate.copy(), node.parent))
        return root


def _wrapped(predicate: exp.Expr, parent: exp.Expr | None) -> exp.Expr:
    if isinstance(predicate, exp.And) and isinstance(parent, (exp.And, exp.Where, exp.Join, exp.Paren)):
        return predicate
    if isinstance(predicate, exp.Or) and isinstance(parent, (exp.Or, exp.Where, exp.Join, exp.Paren)):
        return predicate
    return exp.Paren(this=predicate) if isinstance(predicate, (exp.And, exp.Or)) else predicate
