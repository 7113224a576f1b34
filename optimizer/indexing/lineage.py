"""Lineage: which base table's column a reference means, followed through views, derived tables and CTEs.

A condition on a derived table is one on the table below it only where PostgreSQL would push it down
(`pull_up_subqueries` in prepjointree.c, `subquery_push_qual` in allpaths.c); elsewhere the trail ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.indexing.index_expression import TypeOf
from optimizer.matching import bare, has_aggregate
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.scope import Scope, Source, own_nodes

_MAX_DEPTH = 8


class Lineage:
    """The names of one statement.

    Parameters:
        tree: the statement in its reading form.
        catalog: the tables.
    """

    def __init__(self, tree: exp.Expr, catalog: Catalog) -> None:
        self.scopes = ResolvedStatement.of(tree, catalog).scopes
        self._by_select = {id(scope.select): scope for scope in self.scopes}
        sources = [source for scope in self.scopes for source in scope.sources.values()]
        self._readers = Counter(id(source.query) for source in sources if source.query is not None)

    def scope_of(self, node: exp.Expr) -> Scope | None:
        """The scope of the innermost SELECT around a node, or of the node itself."""
        select = node if isinstance(node, exp.Select) else node.find_ancestor(exp.Select)
        return self._by_select.get(id(select))

    def source(self, scope: Scope, column: exp.Column) -> Source | None:
        """What a reference means. Where names are merged by USING or hidden by a function, the likely owner."""
        found = scope.source_of(column)
        if found is not None or column.args.get("table"):
            return found
        name = identifier_name(column.this)
        around: Scope | None = scope
        while around is not None:
            owners = [s for s in around.sources.values() if s.columns is not None and name in s.columns]
            if owners:
                return owners[0] if len(owners) == 1 or around.ambiguous else None
            around = around.parent
        return None

    def local_sources(self, scope: Scope, node: exp.Expr) -> frozenset[str] | None:
        """Aliases of this query's own FROM items that an expression depends on; None when a name can't be told."""
        found: set[str] = set()
        for column in node.find_all(exp.Column):
            inner = self.scope_of(column)
            if isinstance(column.this, exp.Star) or inner is None:
                continue
            source = self.source(inner, column)
            if source is None:
                return None
            if scope.sources.get(source.alias) is source:
                found.add(source.alias)
        return frozenset(found)

    def base_columns(
        self, scope: Scope, column: exp.Column, *, joined: bool, _depth: int = 0
    ) -> Iterator[tuple[Source, str]]:
        """Yield the base table columns that a condition on `column` reaches.

        Parameters:
            joined: whether the condition compares with another FROM item; those stop at grouping and DISTINCT.

        Yields: the source in its own scope and the column's name; several for a set operation's branches.
        """
        source = self.source(scope, column)
        if source is None or _depth > _MAX_DEPTH:
            return
        name = identifier_name(column.this)
        if source.table is not None:
            if name in source.table.columns:
                yield source, name
            return
        if source.query is None or source.columns is None or name not in source.columns or self._fenced(source):
            return
        position = source.columns.index(name)
        for select in _branches(source.query, joined=joined):
            inner = self._by_select.get(id(select))
            item = _output(inner, position) if inner is not None else None
            if inner is None or not isinstance(item, exp.Column) or _stops(inner.select, item, joined=joined):
                continue
            yield from self.base_columns(inner, item, joined=joined, _depth=_depth + 1)

    def types(self, scope: Scope) -> TypeOf:
        """A function from column references in `scope` to types."""

        def type_of(column: exp.Column) -> str | None:
            source = self.source(scope, column)
            found = source.column(identifier_name(column.this)) if source is not None else None
            return found.type if found is not None else None

        return type_of

    def _fenced(self, source: Source) -> bool:
        """CTEs that are materialized: asked to be, recursive, or read more than once (`SS_process_ctes`)."""
        cte = source.query.parent if source.query is not None else None
        if not isinstance(cte, exp.CTE):
            return False
        recursive = isinstance(cte.parent, exp.With) and bool(cte.parent.args.get("recursive"))
        materialized = cte.args.get("materialized")
        often = self._readers[id(source.query)] > 1 and materialized is not False
        return bool(materialized) or recursive or often


def pushes_into(select: exp.Select) -> bool:
    """Whether a join with the query's output becomes one with the tables it reads: it neither groups nor limits."""
    return not (_limited(select) or select.args.get("distinct") or has_aggregate(select) or select.find(exp.Window))


def _branches(query: exp.Expr, *, joined: bool) -> Iterator[exp.Select]:
    """The SELECTs of a set operation that a condition is pushed into."""
    while isinstance(query, (exp.Subquery, exp.Paren)):
        query = query.this
    if isinstance(query, exp.Select):
        yield query
    elif isinstance(query, exp.SetOperation) and not _limited(query):
        if joined and not (isinstance(query, exp.Union) and query.args.get("distinct") is False):
            return
        yield from _branches(query.this, joined=joined)
        yield from _branches(query.expression, joined=joined)


def _output(scope: Scope, position: int) -> exp.Expr | None:
    """The expression behind an output column, `*` expanded."""
    for item in scope.select.expressions:
        width, expanded = 1, item.unalias()
        if isinstance(expanded, exp.Star) or (isinstance(expanded, exp.Column) and isinstance(expanded.this, exp.Star)):
            wanted = identifier_name(expanded.args["table"]) if isinstance(expanded, exp.Column) else None
            names = _star(scope.sources.values(), wanted)
            if names is None:
                return None
            width = len(names)
            if position < width:
                alias, name = names[position]
                return exp.column(exp.to_identifier(name, quoted=True), exp.to_identifier(alias, quoted=True))
        elif position == 0:
            return bare(expanded)
        position -= width
    return None


def _star(sources: Iterable[Source], wanted: str | None) -> list[tuple[str, str]] | None:
    chosen = [s for s in sources if wanted in (None, s.alias)]
    if any(s.columns is None for s in chosen):
        return None
    return [(s.alias, name) for s in chosen for name in s.columns or ()]


def _stops(select: exp.Select, item: exp.Column, *, joined: bool) -> bool:
    """Whether a condition on an output column stays outside of the query: it would change what the query returns."""
    if _limited(select):
        return True
    distinct = select.args.get("distinct")
    windows = tuple(own_nodes(select, exp.Window))
    if joined and (distinct is not None or windows or has_aggregate(select)):
        return True
    if distinct is not None and distinct.args.get("on") is not None and not _among(item, distinct.args["on"]):
        return True
    if any(not _among(item, *(w.args.get("partition_by") or ())) for w in windows):
        return True
    if has_aggregate(select):
        group = select.args.get("group")
        return group is None or not (_among(item, *group.expressions) or _position_of(select, item, group))
    return False


def _among(item: exp.Column, *nodes: exp.Expr) -> bool:
    name = identifier_name(item.this)
    return any(
        isinstance(part, exp.Column) and not isinstance(part.this, exp.Star) and identifier_name(part.this) == name
        for node in nodes
        for part in (node.expressions if isinstance(node, exp.Tuple) else (node,))
    )


def _position_of(select: exp.Select, item: exp.Column, group: exp.Expr) -> bool:
    """GROUP BY 1, or GROUP BY the output's alias."""
    for place, output in enumerate(select.expressions, start=1):
        if bare(output.unalias()) is item:
            alias = output.alias.lower() if isinstance(output, exp.Alias) else None
            return any(
                (isinstance(g, exp.Literal) and str(g.this) == str(place))
                or (alias is not None and isinstance(g, exp.Column) and identifier_name(g.this) == alias)
                for g in group.expressions
            )
    return False


def _limited(query: exp.Expr) -> bool:
    return bool(query.args.get("limit") or query.args.get("offset"))
