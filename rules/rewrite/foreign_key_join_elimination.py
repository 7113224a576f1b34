"""Joins that a foreign key makes redundant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog, Constraint, identifier_name
from optimizer.matching import column_equalities, conjunction, conjuncts, where_conjuncts
from optimizer.rewriting.evaluation import same_equality
from optimizer.rewriting.resolved import ResolvedStatement, filters, is_comma, is_outer_join, joins_of
from optimizer.rewriting.row_order import rewritable_scopes
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, Source

_TABLES = ("table", "partitioned table")
_SYSTEM_COLUMNS = frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"})


class ForeignKeyJoinElimination(RewriteRule):
    """Drop a join that finds exactly one row and uses nothing of it

    ## What it does
    Removes a table that is inner-joined along a foreign key when nothing else in the query mentions it.

    ## Why it is slow
    PostgreSQL does not use foreign keys to remove joins: it looks up the referenced row for every referencing one,
    though the constraint promises that there is exactly one.

    ## Example
    ```sql
    SELECT o.id, o.total FROM orders AS o JOIN users AS u ON u.id = o.user_id
    ```

    ## Use instead
    ```sql
    SELECT o.id, o.total FROM orders AS o
    ```

    ## Preconditions
    The foreign key is validated and enforced, not deferrable (a deferrable one may be violated inside a transaction),
    and its columns are NOT NULL. The join equates exactly the key's columns. Neither table is on the side of an outer
    join that may be filled with NULLs. No `*` takes in the dropped table's columns. The referenced table is no view and
    has no row-level security, which could hide the row, nor has any other table of the query. No query around the join
    has an aggregate that depends on the order of rows, such as a sum of floats.
    """

    code: ClassVar[str] = "RW203"
    name: ClassVar[str] = "foreign-key-join-elimination"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        statement = ResolvedStatement.of(tree, catalog)
        for scope in rewritable_scopes(statement):
            if scope.ambiguous or scope.select.args.get("laterals") or len(scope.sources) < 2:
                continue
            if any(isinstance(item, exp.Star) for item in scope.select.expressions):
                continue
            for source in scope.sources.values():
                links = _links(source, scope, statement)
                if links and _is_removable(source, scope):
                    yield Match(scope.select, (source, links))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        source, links = match.parts
        root, select, node, *conditions = copied(match.node, source.node, *links)
        assert isinstance(select, exp.Select)  # noqa: S101 - it is the copy of one
        dropped = {id(condition) for condition in conditions}
        kept = [c for c in where_conjuncts(select) if id(c) not in dropped]
        joins = list(joins_of(select))
        place = next((i for i, join in enumerate(joins) if join.this is node), None)
        leaving = joins[0] if place is None else joins[place]
        if place is None:
            select.set("from_", exp.From(this=leaving.this))
        elif is_comma(leaving) and place + 1 < len(joins) and not is_comma(joins[place + 1]):
            following = joins[place + 1]
            kept += [c for c in conjuncts(following.args.get("on")) if id(c) not in dropped]
            joins[place + 1] = exp.Join(this=following.this)
        joins = [join for join in joins if join is not leaving]
        kept += [c for c in conjuncts(leaving.args.get("on")) if id(c) not in dropped]
        for join in joins:
            on = conjuncts(join.args.get("on"))
            if any(id(c) in dropped for c in on):
                rest = conjunction(c for c in on if id(c) not in dropped)
                join.set("on", rest if rest is not None else exp.Boolean(this=True))
        select.set("joins", joins)
        where = conjunction(kept)
        select.set("where", exp.Where(this=where) if where is not None else None)
        return root


def _links(source: Source, scope: Scope, statement: ResolvedStatement) -> tuple[exp.Expr, ...]:
    """The conditions that join `source` along a foreign key; empty if there is none or something else mentions it."""
    table = source.table
    if table is None or table.kind not in _TABLES or source.nullable:
        return ()
    links: list[exp.Expr] = []
    partners: set[Source] = set()
    pairs: set[tuple[str, str]] = set()
    for condition in filters(scope.select):
        for left, right in column_equalities((condition,)):
            ends = {scope.local_source(left): left, scope.local_source(right): right}
            if source not in ends or len(ends) != 2 or None in ends:
                continue
            (partner,) = ends.keys() - {source}
            if partner is not None:
                links.append(condition)
                partners.add(partner)
                pairs.add((identifier_name(ends[partner].this), identifier_name(ends[source].this)))
    if len(partners) != 1 or len(pairs) != len(links):
        return ()
    (partner,) = partners
    linked = {id(column) for link in links for column in link.find_all(exp.Column)}
    for column, found in statement.references(scope.select, scope):
        if id(column) not in linked and _may_mean(column, found, source):
            return ()
    return tuple(links) if any(_guarantees(key, pairs, partner, source) for key in _foreign_keys(partner)) else ()


def _may_mean(column: exp.Column, found: Source | None, source: Source) -> bool:
    """True unless a reference certainly means something else than `source` or a column of it."""
    if found is not None:
        return found is source
    if column.args.get("table"):
        return identifier_name(column.args["table"]) == source.alias
    name = identifier_name(column.this)
    return name == source.alias or name in _SYSTEM_COLUMNS or name in (source.columns or ())


def _foreign_keys(source: Source) -> Iterator[Constraint]:
    if source.table is None or source.table.kind not in _TABLES or source.nullable:
        return
    yield from (c for c in source.table.constraints if c.kind == "foreign key")


def _guarantees(key: Constraint, pairs: set[tuple[str, str]], partner: Source, source: Source) -> bool:
    """True when a foreign key promises exactly one row of `source` for each row of `partner` joined by `pairs`."""
    assert partner.table is not None and source.table is not None  # noqa: S101 - both were checked by the callers
    if (key.referenced_schema, key.referenced_table) != (source.table.schema, source.table.name):
        return False
    if not key.validated or key.deferrable or pairs != set(zip(key.columns, key.referenced_columns, strict=True)):
        return False
    for name, referenced in pairs:
        own, other = partner.table.columns[name], source.table.columns[referenced]
        if not own.not_null or not own.deterministic or not other.deterministic:
            return False
        if own.type_kind != other.type_kind or not (own.type == other.type or same_equality(own.type, other.type)):
            return False
    return True


def _is_removable(source: Source, scope: Scope) -> bool:
    """True when the FROM clause can do without the item: what it was joined with takes its place."""
    select = scope.select
    joins = joins_of(select)
    if source.node.args.get("joins") or source.node.args.get("only"):
        return False
    if any((join.side or "").upper() in ("RIGHT", "FULL") for join in joins):
        return False
    if select.args["from_"].this is source.node:
        return not is_outer_join(joins[0])
    place = next((i for i, join in enumerate(joins) if join.this is source.node), None)
    if place is None:
        return False  # inside parentheses
    following = joins[place + 1] if is_comma(joins[place]) and place + 1 < len(joins) else None
    return following is None or not is_outer_join(following)
