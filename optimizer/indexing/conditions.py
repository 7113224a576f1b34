"""Reads one condition: which table's column it searches, and how.

Operators that a B-tree can serve are listed in the PostgreSQL documentation, "B-Tree Indexes"; the special forms (LIKE
with a fixed prefix, boolean columns, IN, row comparison) in `indxpath.c` and `like_support.c`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.indexing.index_expression import TEXT_TYPES, is_literal, like_prefix, searchable
from optimizer.indexing.lineage import Lineage, pushes_into
from optimizer.indexing.operands import Operand, Operands
from optimizer.indexing.selectivity import (
    any_selectivity,
    base_type,
    between_selectivity,
    equality_selectivity,
    prefix_selectivity,
    range_selectivity,
)
from optimizer.indexing.table_use import Condition, ConditionKind, JoinKey
from optimizer.matching import MIRRORED, RANGE_COMPARISONS, bare, volatility
from optimizer.scope import QUERY_NODES, Scope, Source

Found = Condition | JoinKey
#: Aliases that a condition may search; None stands for all. ON searches only the side that an outer join may drop.
Searched = frozenset[str] | None

_PATTERN_OPCLASSES = {
    "text": "text_pattern_ops",
    "character varying": "varchar_pattern_ops",
    "character": "bpchar_pattern_ops",
}


class ConditionReader:
    """Reads conditions of one statement, and remembers which columns they make equal."""

    def __init__(self, lineage: Lineage, catalog: Catalog) -> None:
        self.lineage = lineage
        self.operands = Operands(lineage, catalog)
        self.catalog = catalog
        #: Pairs of columns that are equal in every row; constants spread over them.
        self.equal: list[tuple[Operand, Operand]] = []

    def read(
        self, scope: Scope, node: exp.Expr, searched: Searched, *, certain: bool = True
    ) -> Iterator[tuple[Source, Found]]:
        """Yield what one condition without AND or OR says of each base table.

        Parameters:
            scope: of the SELECT that it belongs to.
            node: the condition.
            searched: see `Searched`.
            certain: False for a condition that only some rows meet: an arm of an OR.
        """
        node = bare(node)
        if isinstance(node, exp.EQ):
            if certain and searched is None:
                self._note_equal(scope, node)
            found = self._equality(scope, node)
        elif isinstance(node, RANGE_COMPARISONS):
            found = self._range(scope, node)
        elif isinstance(node, exp.In):
            found = self._in(scope, node)
        elif isinstance(node, exp.Between) and not node.args.get("symmetric"):
            found = self._between(scope, node)
        elif isinstance(node, (exp.Like, exp.Escape)):
            found = self._like(scope, node)
        elif isinstance(node, exp.Is):
            found = self._is(scope, node, negated=bool(node.args.get("negate")))
        elif isinstance(node, exp.Column):
            found = self._flag(scope, node, node, value=True)
        elif isinstance(node, exp.NEQ):
            found = self._unequal(scope, node, (node.expression,), node.this)
        elif isinstance(node, exp.Not):
            found = self._not(scope, node)
        else:
            return
        for operand, what in found:
            if searched is None or operand.alias in searched:
                yield operand.source, what

    def merged(
        self, node: exp.Join, left: Operand, right: Operand, searched: Searched
    ) -> Iterator[tuple[Source, Found]]:
        """What JOIN ... USING says of one column that it merges."""
        if searched is None:
            self.equal.append((left, right))
        for one, other in ((left, right), (right, left)):
            if searched is None or one.alias in searched:
                yield one.source, JoinKey(one.key, other.alias, node, one.column, one.distinct)

    def _equality(self, scope: Scope, node: exp.EQ) -> Iterator[tuple[Operand, Found]]:
        left, right = bare(node.this), bare(node.expression)
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            for one, other in zip(left.expressions, right.expressions, strict=False):
                yield from self._equal(scope, node, one, other)
            return
        for one, other in ((left, right), (right, left)):
            if isinstance(other, exp.Any):
                yield from self._any(scope, node, one, bare(other.this))
                return
        if not isinstance(left, exp.All) and not isinstance(right, exp.All):
            yield from self._equal(scope, node, left, right)

    def _equal(self, scope: Scope, node: exp.Expr, left: exp.Expr, right: exp.Expr) -> Iterator[tuple[Operand, Found]]:
        for one, other in ((left, right), (right, left)):
            others = self._others(scope, other)
            if others is None:
                continue
            for operand in self.operands.of(scope, one, joined=bool(others)):
                if operand.alias in others or not self._leaves_alone(scope, operand, other):
                    continue
                if others:
                    yield operand, self._join(operand, node, " and ".join(sorted(others)))
                else:
                    yield operand, self._condition("equality", operand, node, (other,), single=True)
                    yield from self._semi_join(scope, operand, other, node)

    def _note_equal(self, scope: Scope, node: exp.EQ) -> None:
        for left in self.operands.of(scope, node.this, joined=True):
            for right in self.operands.of(scope, node.expression, joined=True):
                if left.column is not None and right.column is not None and left.source is not right.source:
                    self.equal.append((left, right))

    def _semi_join(
        self, scope: Scope, inner: Operand, other: exp.Expr, node: exp.Expr
    ) -> Iterator[tuple[Operand, Found]]:
        """`EXISTS (... inner.x = outer.y)`: the outer table can be searched by what the subquery returns."""
        if scope.parent is None or not _in_positive_exists(scope.select):
            return
        for outer in self.operands.of(scope.parent, other, joined=True):
            yield outer, self._join(outer, node, inner.alias)

    def _range(self, scope: Scope, node: exp.Expr) -> Iterator[tuple[Operand, Found]]:
        left, right = bare(node.this), bare(node.expression)
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            left, right = left.expressions[0], right.expressions[0]  # the first column bounds the scan
        if isinstance(left, (exp.Any, exp.All)) or isinstance(right, (exp.Any, exp.All)):
            return
        for one, other, operator in ((left, right, type(node)), (right, left, MIRRORED[type(node)])):
            if self._others(scope, other) != frozenset():
                continue
            for operand in self.operands.of(scope, one):
                if self._leaves_alone(scope, operand, other):
                    share = (
                        range_selectivity(operand.column, other, below=operator in (exp.LT, exp.LTE))
                        if operand.column is not None
                        else None
                    )
                    yield operand, self._condition("range", operand, node, (other,), selectivity=share)

    def _between(self, scope: Scope, node: exp.Between) -> Iterator[tuple[Operand, Found]]:
        bounds = (node.args["low"], node.args["high"])
        if any(self._others(scope, bound) != frozenset() for bound in bounds):
            return
        for operand in self.operands.of(scope, node.this):
            if all(self._leaves_alone(scope, operand, bound) for bound in bounds):
                share = between_selectivity(operand.column, *bounds)
                yield operand, self._condition("range", operand, node, bounds, selectivity=share)

    def _in(self, scope: Scope, node: exp.In) -> Iterator[tuple[Operand, Found]]:
        query = node.args.get("query")
        if query is not None:
            yield from self._in_query(scope, node, node.this, query)
            return
        left, values = bare(node.this), tuple(node.expressions)
        if isinstance(left, exp.Tuple):
            rows = [bare(v) for v in values]
            columns = zip(*(r.expressions for r in rows if isinstance(r, exp.Tuple)), strict=False)
            for one, column_values in zip(left.expressions, columns, strict=False):
                yield from self._listed(scope, node, one, tuple(column_values))
        else:
            yield from self._listed(scope, node, left, values)

    def _any(self, scope: Scope, node: exp.Expr, left: exp.Expr, array: exp.Expr) -> Iterator[tuple[Operand, Found]]:
        if isinstance(array, (exp.Subquery, *QUERY_NODES)):
            yield from self._in_query(scope, node, left, array)
            return
        yield from self._listed(scope, node, left, tuple(array.expressions) if isinstance(array, exp.Array) else None)

    def _listed(
        self, scope: Scope, node: exp.Expr, left: exp.Expr, values: tuple[exp.Expr, ...] | None
    ) -> Iterator[tuple[Operand, Found]]:
        """One of several values; None for an array that comes as a parameter."""
        if any(self._others(scope, value) != frozenset() for value in values or ()):
            return
        for operand in self.operands.of(scope, left):
            if all(self._leaves_alone(scope, operand, value) for value in values or ()):
                yield (
                    operand,
                    self._condition(
                        "equality",
                        operand,
                        node,
                        values,
                        single=values is not None and len(values) == 1,
                        selectivity=any_selectivity(operand.column, operand.table, values),
                    ),
                )

    def _in_query(
        self, scope: Scope, node: exp.Expr, left: exp.Expr, query: exp.Expr
    ) -> Iterator[tuple[Operand, Found]]:
        """`x IN (SELECT y ...)`: a join by x = y, searched from either side."""
        while isinstance(query, exp.Subquery):
            query = query.this
        outer = bare(left)
        sides = outer.expressions if isinstance(outer, exp.Tuple) else [outer]
        for one in sides:
            for operand in self.operands.of(scope, one, joined=True):
                yield operand, self._join(operand, node, "the subquery")
        inner = self.lineage.scope_of(query) if isinstance(query, exp.Select) else None
        if inner is None or not pushes_into(inner.select):
            return
        for item in inner.select.expressions[: len(sides)]:
            for operand in self.operands.of(inner, item.unalias(), joined=True):
                yield operand, self._join(operand, node, "the outer query")

    def _like(self, scope: Scope, node: exp.Expr) -> Iterator[tuple[Operand, Found]]:
        like = node.this if isinstance(node, exp.Escape) else node
        escape = node.expression.name if isinstance(node, exp.Escape) else "\\"
        pattern = bare(like.expression) if isinstance(like, exp.Like) else None
        if not isinstance(pattern, exp.Literal) or like.args.get("negate"):
            return
        prefix, exact = like_prefix(str(pattern.this), escape)
        for operand in self.operands.of(scope, like.this):
            type_ = base_type(operand.type or "")
            if (
                not prefix
                or type_ not in TEXT_TYPES
                or (operand.column is not None and not operand.column.deterministic)
            ):
                continue
            share = prefix_selectivity(operand.column, prefix)
            if exact:
                yield operand, self._condition("equality", operand, node, (pattern,), single=True, selectivity=share)
            elif operand.collation in ("C", "POSIX"):
                yield operand, self._condition("range", operand, node, (pattern,), selectivity=share)
            elif type_ in _PATTERN_OPCLASSES:
                by_character = operand.with_opclass(_PATTERN_OPCLASSES[type_])
                yield operand, self._condition("range", by_character, node, (pattern,), selectivity=share)

    def _is(self, scope: Scope, node: exp.Is, *, negated: bool) -> Iterator[tuple[Operand, Found]]:
        value = bare(node.expression)
        if isinstance(value, exp.Boolean):
            yield from self._flag(scope, node.this, node, value=bool(value.this), known=not negated)
            return
        if not isinstance(value, exp.Null):
            return
        for operand in self.operands.of(scope, node.this):
            column, local = operand.column, scope.sources[operand.alias]
            if column is None or column.not_null or local.nullable:
                continue  # always or never true, or a question about the join
            share = column.statistics.null_frac if column.statistics is not None else None
            if negated:
                share = 1 - share if share is not None else None
            yield operand, self._condition("other" if negated else "equality", operand, node, (), selectivity=share)

    def _flag(
        self, scope: Scope, column: exp.Expr, node: exp.Expr, *, value: bool, known: bool = True
    ) -> Iterator[tuple[Operand, Found]]:
        """A boolean column as a condition; `known` is False for IS NOT TRUE and IS NOT FALSE."""
        for operand in self.operands.of(scope, column):
            if operand.column is None or operand.column.type != "boolean":
                continue
            share = equality_selectivity(operand.column, operand.table, exp.Boolean(this=value))
            if known:
                yield operand, self._condition("equality", operand, node, (), single=True, selectivity=share)
            else:
                share = 1 - share if share is not None else None
                yield operand, self._condition("other", operand, node, (), selectivity=share)

    def _not(self, scope: Scope, node: exp.Not) -> Iterator[tuple[Operand, Found]]:
        inner = bare(node.this)
        if isinstance(inner, exp.Column):
            yield from self._flag(scope, inner, node, value=False)
        elif isinstance(inner, exp.Is) and not inner.args.get("negate"):
            for operand, found in self._is(scope, inner, negated=True):
                if isinstance(found, Condition):
                    yield operand, self._condition("other", operand, node, (), selectivity=found.selectivity)
        elif isinstance(inner, exp.In) and inner.args.get("query") is None:
            yield from self._unequal(scope, node, tuple(inner.expressions), inner.this)

    def _unequal(
        self, scope: Scope, node: exp.Expr, values: tuple[exp.Expr, ...], column: exp.Expr
    ) -> Iterator[tuple[Operand, Found]]:
        """<> and NOT IN: nothing to search by, but a partial index may leave the unwanted rows out."""
        if not all(map(is_literal, values)):
            return
        for operand in self.operands.of(scope, column):
            if operand.column is None or operand.column.statistics is None:
                continue
            share = any_selectivity(operand.column, operand.table, values)
            if share is not None:
                kept = max(1 - share - operand.column.statistics.null_frac, 0.0)
                yield operand, self._condition("other", operand, node, values, selectivity=kept)

    def _others(self, scope: Scope, node: exp.Expr) -> frozenset[str] | None:
        """The FROM items on the other side of a comparison; None where it can't be told, or changes at every call."""
        found = self.lineage.local_sources(scope, node)
        calls = any(True for _ in node.find_all(exp.Anonymous))
        return None if calls and volatility(node, self.catalog) == "volatile" else found

    def _leaves_alone(self, scope: Scope, operand: Operand, other: exp.Expr) -> bool:
        return searchable(operand.type, self.operands.type_of(scope, other))

    @staticmethod
    def _join(operand: Operand, node: exp.Expr, partner: str) -> JoinKey:
        return JoinKey(operand.key, partner, node, operand.column, operand.distinct)

    @staticmethod
    def _condition(
        kind: ConditionKind,
        operand: Operand,
        node: exp.Expr,
        values: Iterable[exp.Expr] | None,
        *,
        single: bool = False,
        selectivity: float | None = None,
    ) -> Condition:
        known = tuple(values) if values is not None else None
        if selectivity is None and kind == "equality" and single and known and operand.column is not None:
            selectivity = equality_selectivity(operand.column, operand.table, known[0])
        return Condition(
            kind=kind,
            key=operand.key,
            node=node,
            single=single,
            constant=known is not None and all(map(is_literal, known)),
            column=operand.column,
            distinct=operand.distinct,
            selectivity=selectivity,
        )


def _in_positive_exists(select: exp.Select) -> bool:
    node = select.parent
    if not isinstance(node, exp.Exists):
        return False
    node = node.parent
    while isinstance(node, (exp.And, exp.Paren)):
        node = node.parent
    return isinstance(node, exp.Where)
