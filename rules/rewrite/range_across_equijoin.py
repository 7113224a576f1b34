"""A range or IN condition on one side of an equijoin, copied to the other side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog, Column, identifier_name
from optimizer.matching import bare, column_equalities, conjuncts, equality, has_aggregate, is_constant, where_conjuncts
from optimizer.rewriting.constants import INTEGER_RANGES, integer
from optimizer.rewriting.evaluation import PLAIN_TYPES, base_type
from optimizer.rewriting.naming import column_of
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rewriting.sargable import ConstantComparison, constant_comparison
from optimizer.rewriting.uniqueness import Place, place_of, using_pairs
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, Source, own_nodes

_ORDERED = PLAIN_TYPES | {"real", "double precision"}


@dataclass(frozen=True, slots=True, eq=False)
class _Condition:
    """A condition on one column that may be copied to a column equal to it."""

    place: Place
    test: ConstantComparison

    def on(self, place: Place) -> exp.Expr:
        """Build the same condition on another column."""
        return self.test.over(column_of(*place), *(value.copy() for value in self.test.values))

    @property
    def key(self) -> str:
        """Equal for equal conditions, whatever their column."""
        return self.on(("", "")).sql(dialect="postgres")

    @property
    def whole_numbers(self) -> bool:
        """True when the constants are integers, which compare alike with every integer type."""
        return all(integer(value) is not None for value in self.test.values)


@dataclass(slots=True)
class _Facts:
    """What holds for every row that a query's FROM and WHERE let through.

    Parameters:
        conditions: those that may be copied.
        classes: each place with all places equal to it, itself included.
        fixed: places that equal a constant.
    """

    conditions: list[_Condition] = field(default_factory=list)
    classes: dict[Place, set[Place]] = field(default_factory=dict)
    fixed: set[Place] = field(default_factory=set)

    @property
    def certain(self) -> set[str]:
        """Aliases of FROM items whose rows are there, not filled with NULLs: what is known of them rejects NULL."""
        return {alias for alias, _ in (*(c.place for c in self.conditions), *self.classes, *self.fixed)}

    def equate(self, left: Place, right: Place) -> None:
        """Note that two columns are equal."""
        merged = self.equal_to(left) | self.equal_to(right)
        for place in merged:
            self.classes[place] = merged

    def equal_to(self, place: Place) -> set[Place]:
        """All columns known to be equal to one, itself included."""
        return self.classes.get(place, {place})

    def on_equal(self, place: Place) -> Iterator[_Condition]:
        """The conditions on a column and on those equal to it; none where it equals a constant, which says more."""
        members = self.equal_to(place)
        if members.isdisjoint(self.fixed):
            yield from (c for c in self.conditions if c.place in members)


#: Where a condition is to be added, and the condition.
_Addition = tuple[exp.Expr, exp.Expr]


class RangeAcrossEquijoin(RewriteRule):
    """Copy a range to the other side of a join

    ## What it does
    Where columns are joined by equality and one of them is limited by `<`, `<=`, `>`, `>=`, `BETWEEN`, `IN (...)` or
    `= ANY (...)`, it limits the other ones too: in WHERE for inner joins, in ON for the nullable side of a LEFT JOIN,
    and inside `EXISTS` and `IN` subqueries that are tied to the column.

    ## Why it is slow
    PostgreSQL carries constants across equalities, and nothing else: the other table is read whole, or looked up row
    by row, though only a part of it can find a partner.

    ## Example
    ```sql
    SELECT * FROM orders o JOIN order_items i ON i.order_id = o.id WHERE o.id BETWEEN 100 AND 200
    ```

    ## Use instead
    ```sql
    SELECT * FROM orders o JOIN order_items i ON i.order_id = o.id
    WHERE o.id BETWEEN 100 AND 200 AND i.order_id BETWEEN 100 AND 200
    ```

    ## Preconditions
    Both columns have one type and one deterministic collation; integer types may differ if the constants are whole
    numbers. The equality and the range hold for every row of the result: they stand in WHERE, in an inner join that no
    outer join fills with NULLs, or in the LEFT JOIN itself. The preserved side of a LEFT JOIN is never limited by a
    condition in its ON. A column that equals a constant is left alone, and a condition that is there already is not
    repeated.
    """

    code: ClassVar[str] = "RW301"
    name: ClassVar[str] = "range-across-equijoin"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        inherited: defaultdict[int, list[_Condition]] = defaultdict(list)
        additions: list[_Addition] = []
        all_scopes = ResolvedStatement.of(tree, catalog).scopes
        for scope in all_scopes:
            facts = _facts(scope)
            present = {(c.place, c.key) for c in facts.conditions}
            facts.conditions += inherited[id(scope.select)]
            additions += _in_where(scope, facts, present)
            for join in scope.select.args.get("joins") or ():
                additions += _in_left_join(join, scope, facts, present)
            for inner, condition in _for_subqueries(scope, facts, all_scopes):
                inherited[id(inner.select)].append(condition)
        if additions:
            yield Match(tree, tuple(additions))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        places = {id(anchor): anchor for anchor, _ in match.parts}
        root, *copies = copied(*places.values())
        anchors = dict(zip(places, copies, strict=True))
        for original, condition in match.parts:
            anchor = anchors[id(original)]
            holder, key = anchor, "on"
            if isinstance(anchor, exp.Select):
                if not anchor.args.get("where"):
                    anchor.set("where", exp.Where(this=condition.copy()))
                    continue
                holder, key = anchor.args["where"], "this"
            before = holder.args[key]
            both = exp.And(expression=condition.copy())
            holder.set(key, both)
            both.set("this", exp.Paren(this=before) if isinstance(before, exp.Or) else before)
        return root


def _facts(scope: Scope) -> _Facts:
    joins = list(scope.select.args.get("joins") or ())
    facts = _Facts()
    _add(facts, where_conjuncts(scope.select), scope)
    for join in joins:
        if _is_inner(join):
            _add(facts, (c for c in conjuncts(join.args.get("on")) if not _may_be_filled(c, scope)), scope)
            for left, right in using_pairs(join, scope):
                if not any(scope.sources[alias].nullable for alias, _ in (left, right)):
                    facts.equate(left, right)
    # A condition on the right side of a LEFT JOIN leaves only rows for which the join found a partner.
    waiting = [(join, source) for join in joins if (source := _right_side(join, scope)) is not None]
    while met := [(join, source) for join, source in waiting if source.alias in facts.certain]:
        waiting = [pair for pair in waiting if pair not in met]
        for join, _ in met:
            _add(facts, conjuncts(join.args.get("on")), scope)
    return facts


def _is_inner(join: exp.Join) -> bool:
    return not join.side and not join.method and (join.kind or "").upper() in ("", "INNER", "CROSS")


def _right_side(join: exp.Join, scope: Scope) -> Source | None:
    """The table on the right side of a LEFT JOIN with ON; None for other joins."""
    if (join.side or "").upper() != "LEFT" or join.args.get("on") is None or join.this.args.get("joins"):
        return None
    return next((s for s in scope.sources.values() if s.join is join and s.node is join.this), None)


def _may_be_filled(condition: exp.Expr, scope: Scope) -> bool:
    sources = [scope.local_source(c) for c in condition.find_all(exp.Column)]
    return any(source is None or source.nullable for source in sources)


def _add(facts: _Facts, conditions: Iterable[exp.Expr], scope: Scope) -> None:
    for condition in conditions:
        found = _condition(condition, scope)
        if found is not None:
            facts.conditions.append(found)
        for left, right in _equal_places((condition,), scope):
            facts.equate(left, right)
        sides = equality(condition)
        for column, other in (sides, sides[::-1]) if sides is not None else ():
            place = place_of(column, scope)
            if place is not None and is_constant(other, scope.catalog):
                facts.fixed.add(place)
        if isinstance(condition, exp.In) and len(condition.expressions) == 1 and found is not None:
            facts.fixed.add(found.place)  # PostgreSQL reads it as an equality


def _equal_places(conditions: Iterable[exp.Expr], scope: Scope) -> Iterator[tuple[Place, Place]]:
    for left, right in column_equalities(conditions):
        places = place_of(left, scope), place_of(right, scope)
        if places[0] is not None and places[1] is not None and _comparable(places[0], places[1], scope, scope):
            yield places[0], places[1]


def _column(place: Place, scope: Scope) -> Column | None:
    return scope.sources[place[0]].column(place[1])


def _comparable(left: Place, right: Place, left_scope: Scope, right_scope: Scope) -> bool:
    """True when `=` between the columns, and their order, are those of one operator family and collation."""
    a, b = _column(left, left_scope), _column(right, right_scope)
    if a is None or b is None or not (a.deterministic and b.deterministic) or a.collation != b.collation:
        return False
    if a.type_kind == "enum":
        return a.type == b.type
    if a.type_kind != "base" or b.type_kind != "base":
        return False
    same = base_type(a.type) == base_type(b.type) and base_type(a.type) in _ORDERED
    return same or (a.type in INTEGER_RANGES and b.type in INTEGER_RANGES)


def _condition(node: exp.Expr, scope: Scope) -> _Condition | None:
    """Read a condition that may be copied."""
    node = bare(node)
    test = constant_comparison(node)
    if isinstance(node, exp.EQ):
        array = isinstance(node.expression, exp.Any) and is_constant(node.expression, scope.catalog)
        test = ConstantComparison(node, bare(node.this), exp.EQ, (node.expression,)) if array else None
    place = place_of(test.subject, scope) if test is not None else None
    if test is None or place is None:
        return None
    plain = all(is_constant(v, scope.catalog) and not any(True for _ in v.find_all(exp.Collate)) for v in test.values)
    return _Condition(place, test) if plain else None


def _fits(condition: _Condition, place: Place, from_: Scope, to: Scope) -> bool:
    old, new = _column(condition.place, from_), _column(place, to)
    return (
        old is not None and new is not None and (base_type(old.type) == base_type(new.type) or condition.whole_numbers)
    )


def _in_where(scope: Scope, facts: _Facts, present: set[tuple[Place, str]]) -> Iterator[_Addition]:
    for condition in tuple(facts.conditions):
        if not facts.fixed.isdisjoint(facts.equal_to(condition.place)):
            continue
        for place in sorted(facts.equal_to(condition.place)):
            if (place, condition.key) not in present and _fits(condition, place, scope, scope):
                present.add((place, condition.key))
                yield scope.select, condition.on(place)


def _in_left_join(join: exp.Join, scope: Scope, facts: _Facts, present: set[tuple[Place, str]]) -> Iterator[_Addition]:
    right = _right_side(join, scope)
    if right is None:
        return
    conditions = conjuncts(join.args["on"])
    own = [found for c in conditions if (found := _condition(c, scope)) is not None]
    there = present | {(c.place, c.key) for c in own}
    certain = facts.certain
    for pair in _equal_places(conditions, scope):
        for near, far in (pair, pair[::-1]):
            if far[0] != right.alias or near[0] == right.alias:
                continue
            preserved = not scope.sources[near[0]].nullable or near[0] in certain
            known = [*(c for c in own if c.place == near), *(facts.on_equal(near) if preserved else ())]
            for condition in known:
                if (far, condition.key) not in there and _fits(condition, far, scope, scope):
                    there.add((far, condition.key))
                    yield join, condition.on(far)


def _for_subqueries(scope: Scope, facts: _Facts, all_scopes: Iterable[Scope]) -> Iterator[tuple[Scope, _Condition]]:
    """Conditions that a row of this query brings into a subquery of its WHERE, on the subquery's own columns."""
    by_select = {id(inner.select): inner for inner in all_scopes if inner.parent is scope}
    for outer, inner, place in (*_exists_ties(scope, by_select), *_in_ties(scope, by_select)):
        for condition in facts.on_equal(outer):
            if _comparable(outer, place, scope, inner) and _fits(condition, place, scope, inner):
                yield inner, _Condition(place, condition.test)


#: A column of a query, the scope of a subquery in its WHERE, and a column there that equals the former.
_Tie = tuple[Place, Scope, Place]


def _exists_ties(scope: Scope, by_select: Mapping[int, Scope]) -> Iterator[_Tie]:
    """`EXISTS (SELECT ... WHERE there = here)`, negated or not."""
    where = scope.select.args.get("where")
    for exists in own_nodes(where, exp.Exists) if where is not None else ():
        inner = by_select.get(id(exists.this))
        if inner is None:
            continue
        for pair in column_equalities(where_conjuncts(inner.select)):
            for here, there in (pair, pair[::-1]):
                source, place = inner.source_of(here), place_of(there, inner)
                if source is not None and place is not None and scope.sources.get(source.alias) is source:
                    yield (source.alias, identifier_name(here.this)), inner, place


def _in_ties(scope: Scope, by_select: Mapping[int, Scope]) -> Iterator[_Tie]:
    """`here IN (SELECT there ...)` as a condition that must hold; negated, the NULLs of `there` would count."""
    for condition in where_conjuncts(scope.select):
        query = condition.args.get("query") if isinstance(condition, exp.In) else None
        inner = by_select.get(id(query.this)) if isinstance(query, exp.Subquery) else None
        if inner is None or has_aggregate(inner.select) or len(inner.select.expressions) != 1:
            continue
        distinct = inner.select.args.get("distinct")
        picks = any(inner.select.args.get(key) for key in ("limit", "offset"))
        outer = place_of(condition.this, scope)
        place = place_of(inner.select.expressions[0].unalias(), inner)
        if outer is not None and place is not None and not picks and (distinct is None or not distinct.args.get("on")):
            yield outer, inner, place
