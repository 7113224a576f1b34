"""A statement with the meaning of its names worked out once, for rules that move parts of it about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from optimizer.catalog import Catalog, Table
from optimizer.matching import conjuncts
from optimizer.query import Query
from optimizer.scope import Scope, Source, own_nodes, scopes

_MAX_VIEW_DEPTH = 8
#: Parents among whose operands any condition but OR stands without parentheses.
_LOOSE_PARENTS = (exp.And, exp.Or, exp.Where, exp.Having, exp.Paren, exp.Join, exp.If, exp.Alias, exp.Select)


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedStatement:
    """One statement and the scopes of all its SELECTs.

    Parameters:
        tree: the statement's root.
        scopes: outermost first.
    """

    tree: exp.Expr
    catalog: Catalog
    scopes: tuple[Scope, ...]
    _by_select: Mapping[int, Scope]
    #: Answers of `inside`, each with its node, so that no other node can come to have the same id.
    _inside: dict[int, tuple[exp.Expr, tuple[Scope, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: exp.Expr, catalog: Catalog) -> ResolvedStatement:
        """Resolve a whole statement. The last one is kept: rules ask one after another about the same tree."""
        last = _LAST.get("statement")
        if last is not None and last.tree is tree and last.catalog is catalog:
            return last
        found = scopes(tree, catalog)
        made = cls(tree, catalog, found, {id(scope.select): scope for scope in found})
        _LAST["statement"] = made
        return made

    @property
    def under_row_security(self) -> bool:
        """True when it reads a table, perhaps through a view, whose policies may hide rows."""
        tables = (source.table for scope in self.scopes for source in scope.sources.values())
        return any(table is not None and _under_row_security(table, self.catalog, 0) for table in tables)

    def scope_of(self, select: exp.Expr) -> Scope | None:
        """The scope of one SELECT node."""
        return self._by_select.get(id(select))

    def inside(self, node: exp.Expr) -> tuple[Scope, ...]:
        """Scopes of the SELECTs in `node`, itself included."""
        known = self._inside.get(id(node))
        if known is None:
            found = (self.scope_of(select) for select in node.find_all(exp.Select))
            known = self._inside[id(node)] = (node, tuple(scope for scope in found if scope is not None))
        return known[1]

    def references(self, node: exp.Expr, scope: Scope) -> Iterator[tuple[exp.Column, Source | None]]:
        """Yield every column reference in `node`, subqueries included, with the source it means.

        Parameters:
            node: an expression, clause or query that stands in `scope`'s SELECT.

        Returns: pairs; None for what can't be told: ambiguous names, whole rows, output names in ORDER BY, and names in
        places that no scope covers.
        """
        owners = {id(column): scope for column in own_nodes(node, exp.Column)} if not _is_query(node) else {}
        if isinstance(node, exp.Column):
            owners[id(node)] = scope
        for inner in self.inside(node):
            owners.update({id(column): inner for column in own_nodes(inner.select, exp.Column)})
        for column in node.find_all(exp.Column):
            owner = owners.get(id(column))
            yield column, owner.source_of(column) if owner is not None else None

    def sources_outside(self, query: exp.Expr, scope: Scope) -> frozenset[Source] | None:
        """Sources that a query refers to and that are not its own: what it is correlated with.

        Parameters:
            query: a query in an expression of `scope`'s SELECT.

        Returns: None when a reference can't be told.
        """
        own = {id(source) for inner in self.inside(query) for source in inner.sources.values()}
        found = set()
        for _, source in self.references(query, scope):
            if source is None:
                return None
            if id(source) not in own:
                found.add(source)
        return frozenset(found)

    def sources_in(self, node: exp.Expr, scope: Scope) -> frozenset[Source] | None:
        """Sources that an expression without subqueries refers to; None when a reference can't be told."""
        found = set()
        for _, source in self.references(node, scope):
            if source is None:
                return None
            found.add(source)
        return frozenset(found)


_LAST: dict[str, ResolvedStatement] = {}


def has_query(node: exp.Expr) -> bool:
    """True when a query stands in the expression."""
    return node.find(exp.Query) is not None


def is_comma(join: exp.Join) -> bool:
    """True for an item of a FROM list after a comma."""
    return not any(join.args.get(key) for key in ("kind", "side", "method", "on", "using")) and not join.args.get(
        "global_"
    )


def is_outer_join(join: exp.Join) -> bool:
    """True for LEFT, RIGHT and FULL joins."""
    return (join.side or "").upper() in ("LEFT", "RIGHT", "FULL")


def joins_of(select: exp.Select) -> tuple[exp.Join, ...]:
    """The joins and comma items that follow the first FROM item."""
    return tuple(select.args.get("joins") or ())


def filters(select: exp.Select) -> tuple[exp.Expr, ...]:
    """The conditions that every row of the FROM clause must meet: of WHERE, and of inner joins that act as WHERE does.

    The ON condition of an inner join is such a one unless a later RIGHT or FULL join brings its rows back; joins nested
    in parentheses are left out.
    """
    found = conjuncts(select.args.get("where"))
    joins = joins_of(select)
    if any((join.side or "").upper() in ("RIGHT", "FULL") for join in joins):
        return found
    for join in joins:
        if not is_outer_join(join) and join.args.get("on") is not None:
            found += conjuncts(join.args["on"])
    return found


def put_condition(target: exp.Expr, condition: exp.Expr) -> None:
    """Put a condition in the place of a node, in parentheses where its neighbours could bind tighter."""
    loose = isinstance(target.parent, _LOOSE_PARENTS) or target.parent is None
    target.replace(condition if loose else exp.Paren(this=condition))


def _under_row_security(table: Table, catalog: Catalog, depth: int) -> bool:
    if table.row_security or table.definition is None or table.kind != "view":
        return table.row_security
    tree = Query.parse(table.definition).tree if depth < _MAX_VIEW_DEPTH else None
    if tree is None:
        return True
    found = (catalog.resolve(node) for node in tree.find_all(exp.Table))
    return any(below is not None and _under_row_security(below, catalog, depth + 1) for below in found)


def _is_query(node: exp.Expr) -> bool:
    return isinstance(node, (exp.Select, exp.SetOperation, exp.Values)) or (
        isinstance(node, exp.Subquery) and _is_query(node.this)
    )
