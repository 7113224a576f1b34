"""DISTINCT over a join that only repeats rows, as EXISTS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.matching import conjunction, conjuncts, has_aggregate, where_conjuncts
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rewriting.uniqueness import is_star, output_places, sources_in, star_sources, tells_rows_apart
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, Source, own_nodes, scopes


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The FROM items that stay and those that move, in order, and the conditions of WHERE and of inner joins.

    Parameters:
        inside: conditions that mention a moved item.
        outside: the other ones, with the item whose ON they stand in (None: WHERE).
    """

    kept: tuple[Source, ...]
    moved: tuple[Source, ...]
    inside: tuple[exp.Expr, ...]
    outside: tuple[tuple[exp.Expr, Source | None], ...]


class DistinctFanOutToExists(RewriteRule):
    """Replace a join that only repeats rows under DISTINCT by EXISTS

    ## What it does
    Where the output of `SELECT DISTINCT` shows only some of the joined tables and contains their key, the other tables
    only filter and repeat rows: they move into `EXISTS (SELECT 1 FROM ... WHERE ...)`, and DISTINCT is dropped.

    ## Why it is slow
    The join makes a row for every partner, and DISTINCT sorts or hashes them all to find the first again. EXISTS stops
    at the first partner.

    ## Example
    ```sql
    SELECT DISTINCT u.id, u.email FROM users u JOIN orders o ON o.user_id = u.id WHERE o.total > 100
    ```

    ## Use instead
    ```sql
    SELECT u.id, u.email FROM users u
    WHERE EXISTS (SELECT 1 FROM orders o WHERE o.user_id = u.id AND o.total > 100)
    ```

    ## Preconditions
    The tables that stay are told apart by the output: their primary keys, or unique keys that cannot be NULL, are
    selected or follow from what is. All joins of the tables that move are inner joins written with ON or with commas
    (no USING or NATURAL, no LATERAL); a LEFT JOIN may stay if its condition mentions no table that moves. The table
    that every column belongs to can be told. No grouping, window, `DISTINCT ON`, or function in the output that may
    return a set. Conditions link the tables that stay with one another and with those that move.
    """

    code: ClassVar[str] = "RW402"
    name: ClassVar[str] = "distinct-fan-out-to-exists"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        all_scopes = ResolvedStatement.of(tree, catalog).scopes
        found = [scope.select for scope in all_scopes if _parts(scope, all_scopes) is not None]
        if found:
            yield Match(tree, tuple(found))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        root, *selects = copied(*match.parts)
        for select in selects:
            all_scopes = scopes(root, catalog)
            scope = next((scope for scope in all_scopes if scope.select is select), None)
            parts = _parts(scope, all_scopes) if scope is not None else None
            if scope is not None and parts is not None:  # else an outer rewrite has moved what this one stood on
                _rebuild(scope.select, parts)
        return root


def _parts(scope: Scope, all_scopes: Sequence[Scope]) -> _Parts | None:
    select = scope.select
    distinct = select.args.get("distinct")
    if distinct is None or distinct.args.get("on") is not None or len(scope.sources) < 2 or has_aggregate(select):
        return None
    if any(True for _ in own_nodes(select, exp.Window, exp.Lateral)):
        return None
    places = output_places(scope)
    shown = _shown(scope, all_scopes)
    if places is None or shown is None:
        return None
    kept = tuple(s for s in scope.sources.values() if s in shown)
    moved = tuple(s for s in scope.sources.values() if s not in shown)
    if not moved or not kept or not _joins_fit(scope, kept, all_scopes):
        return None
    if not tells_rows_apart(scope, places, among={s.alias for s in kept}):
        return None
    return _split(scope, kept, moved, all_scopes)


def _shown(scope: Scope, all_scopes: Sequence[Scope]) -> frozenset[Source] | None:
    """The FROM items that the output mentions; None where a column can't be told."""
    found: set[Source] = set()
    for item in scope.select.expressions:
        value = item.unalias()
        sources = star_sources(value, scope) if is_star(value) else sources_in(value, scope, all_scopes)
        if sources is None:
            return None
        found.update(sources)
    return frozenset(found)


def _joins_fit(scope: Scope, kept: Sequence[Source], all_scopes: Sequence[Scope]) -> bool:
    """True when every join is an inner one, or a LEFT JOIN that stays and needs nothing that moves."""
    from_ = scope.select.args.get("from_")
    joins = scope.select.args.get("joins") or ()
    items = [from_.this if from_ is not None else None, *(join.this for join in joins)]
    if [s.node for s in scope.sources.values()] != items:
        return False  # parenthesized joins
    for source in scope.sources.values():
        plain = isinstance(source.node, exp.Subquery) or (source.columns is not None and source.node.name)
        join = source.join
        if not plain or (join is not None and (join.args.get("using") or join.method)):
            return False
        side = (join.side or "").upper() if join is not None else ""
        if side == "LEFT":
            needed = sources_in(join.args["on"], scope, all_scopes) if join is not None else None
            if needed is None or source not in kept or not needed <= set(kept):
                return False
        elif side or (join is not None and (join.kind or "").upper() not in ("", "INNER", "CROSS")):
            return False
    first = kept[0].join
    return first is None or not first.side


def _split(
    scope: Scope, kept: tuple[Source, ...], moved: tuple[Source, ...], all_scopes: Sequence[Scope]
) -> _Parts | None:
    conditions: list[tuple[exp.Expr, Source | None]] = []
    links: list[frozenset[Source]] = []
    for source in scope.sources.values():
        on = conjuncts(source.join.args.get("on")) if source.join is not None else ()
        if source.join is not None and source.join.side:
            links += [(sources_in(c, scope, all_scopes) or frozenset()) | {source} for c in on]
        else:
            conditions += [(c, source) for c in on]
    conditions += [(c, None) for c in where_conjuncts(scope.select)]
    inside: list[exp.Expr] = []
    outside: list[tuple[exp.Expr, Source | None]] = []
    linked = False
    for condition, home in conditions:
        mentioned = sources_in(condition, scope, all_scopes)
        if mentioned is None:
            return None
        if mentioned.isdisjoint(moved):
            outside.append((condition, home))
            links.append(mentioned)
        else:
            inside.append(condition)
            linked = linked or not mentioned.isdisjoint(kept)
    return _Parts(kept, moved, tuple(inside), tuple(outside)) if linked and _connected(kept, links) else None


def _connected(kept: Sequence[Source], links: Sequence[frozenset[Source]]) -> bool:
    """True when conditions lead from each kept item to each other; a cross join would cost more than it saves."""
    reached = {kept[0]}
    while grown := [link for link in links if link & reached and not link <= reached]:
        reached.update(*grown)
    return reached.issuperset(kept)


def _rebuild(select: exp.Select, parts: _Parts) -> None:
    """Change a copy of the query in place."""
    joins: list[exp.Expr] = []
    in_where = [condition for condition, home in parts.outside if home is None]
    homes = set(parts.kept[1:])
    in_where += [condition for condition, home in parts.outside if home is not None and home not in homes]
    for source in parts.kept[1:]:
        if source.join is not None and (source.join.side or not source.join.args.get("on")):
            joins.append(source.join)
            continue
        on = conjunction(condition for condition, home in parts.outside if home is source)
        joins.append(exp.Join(this=source.node, on=on) if on is not None else exp.Join(this=source.node, kind="CROSS"))
    first, *others = parts.moved
    partner = exp.Select(
        expressions=[exp.Literal.number("1")],
        from_=exp.From(this=first.node),
        joins=[exp.Join(this=source.node) for source in others],
        where=exp.Where(this=conjunction(parts.inside)),
    )
    where = conjunction(in_where)
    exists = exp.Exists(this=partner)
    select.set("distinct", None)
    select.set("from_", exp.From(this=parts.kept[0].node))
    select.set("joins", joins)
    select.set("where", exp.Where(this=exists if where is None else exp.And(this=where, expression=exists)))
