"""Name resolution: which table or derived table a column reference means.

sqlglot's own scope module wants qualified columns, and qualifying changes what is printed. This one reads the tree as
the user wrote it and follows PostgreSQL's rules: the innermost query that has a matching column wins; a name that
matches twice in one query is ambiguous and resolves to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from optimizer.catalog import Catalog, Column, Table, identifier_name
from optimizer.rewriting.naming import output_name

#: Nodes that open a query of their own.
QUERY_NODES = (exp.Select, exp.SetOperation, exp.Values)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One item of a FROM clause.

    Parameters:
        alias: the name columns are qualified with.
        node: the table reference, subquery or function in the tree.
        table: the relation, None for derived tables, CTEs, functions and unknown names.
        query: the query of a derived table or CTE, None otherwise.
        columns: names of its columns, None where they cannot be told (functions, unknown tables, `SELECT *` of such).
        nullable: True when an outer join may fill it with NULLs.
        join: the join that brings it in; None for the items of FROM itself.
    """

    alias: str
    node: exp.Expr
    table: Table | None
    query: exp.Expr | None
    columns: tuple[str, ...] | None
    nullable: bool = False
    join: exp.Join | None = None

    def column(self, name: str) -> Column | None:
        """The catalog's column of that name; None for derived tables and unknown names."""
        return self.table.columns.get(name) if self.table is not None else None


@dataclass(frozen=True, eq=False)
class Scope:
    """One SELECT with what its names mean.

    Parameters:
        select: the SELECT node.
        sources: by alias, in FROM order.
        parent: the scope whose columns this one may refer to (a subquery's surrounding query); None at the top, in
            CTEs and in derived tables that are not LATERAL.
        catalog: for functions and types.
    """

    select: exp.Select
    sources: Mapping[str, Source]
    parent: Scope | None
    catalog: Catalog
    ambiguous: bool = False
    _local: dict[int, Source | None] = field(default_factory=dict, repr=False)

    def source_of(self, column: exp.Column) -> Source | None:
        """The source that a column reference means, here or in a surrounding query; None when it can't be told."""
        scope: Scope | None = self
        while scope is not None:
            known, source = scope._lookup(column)
            if known:
                return source
            scope = scope.parent
        return None

    def local_source(self, column: exp.Column) -> Source | None:
        """The source in this very query, None for outer references and names that can't be told."""
        source = self.source_of(column)
        return source if source is not None and self.sources.get(source.alias) is source else None

    def is_outer(self, column: exp.Column) -> bool:
        """True only when the column certainly belongs to a surrounding query."""
        source = self.source_of(column)
        return source is not None and self.sources.get(source.alias) is not source

    def catalog_column(self, column: exp.Column) -> Column | None:
        """The catalog's column that a reference means; None for derived columns and names that can't be told."""
        source = self.source_of(column)
        return source.column(identifier_name(column.this)) if source is not None else None

    def _lookup(self, column: exp.Column) -> tuple[bool, Source | None]:
        """Look in this query only: (True, source); (True, None) for ambiguous or unknowable; (False, None): absent."""
        name = identifier_name(column.this)
        if column.args.get("table"):
            alias = identifier_name(column.args["table"])
            schema = column.args.get("db")
            source = self.sources.get(alias)
            if source is None:
                return False, None
            if schema is not None and (source.table is None or source.table.schema != identifier_name(schema)):
                return True, None
            return True, source
        if self.ambiguous:
            return True, None
        owners = [s for s in self.sources.values() if s.columns is not None and name in s.columns]
        if any(s.columns is None for s in self.sources.values()):
            return True, None  # it might be a column of the source we cannot see into
        if len(owners) > 1:
            return True, None  # ambiguous, or merged by USING or NATURAL
        return (True, owners[0]) if owners else (False, None)


def scopes(tree: exp.Expr, catalog: Catalog) -> tuple[Scope, ...]:
    """Return the scopes of all SELECTs in a statement, outermost first."""
    return tuple(_Builder(catalog).visit(tree, None, {}))


def scope_at(select: exp.Select, all_scopes: Iterable[Scope]) -> Scope | None:
    """Find the scope of one SELECT node."""
    return next((scope for scope in all_scopes if scope.select is select), None)


def output_names(
    query: exp.Expr, catalog: Catalog, ctes: Mapping[str, exp.CTE] | None = None
) -> tuple[str, ...] | None:
    """Names of a query's output columns, None where they can't be told."""
    builder = _Builder(catalog)
    return builder.output_names(query, dict(ctes or {}))


def own_nodes(select: exp.Expr, *types: type[exp.Expr]) -> Iterator[exp.Expr]:
    """Yield nodes of `types` that belong to this query itself, not to a subquery, derived table or CTE inside it."""
    stack = list(select.iter_expressions(reverse=True))
    while stack:
        node = stack.pop()
        if isinstance(node, types):
            yield node
        if not isinstance(node, (*QUERY_NODES, exp.With)):
            stack.extend(node.iter_expressions(reverse=True))


def columns_in(node: exp.Expr) -> tuple[exp.Column, ...]:
    """All column references in an expression, those inside subqueries included."""
    return tuple(c for c in node.find_all(exp.Column) if not isinstance(c.this, exp.Star))


class _Builder:
    """Walks a statement once; a class only to carry the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def visit(self, node: exp.Expr, parent: Scope | None, ctes: dict[str, exp.CTE]) -> Iterator[Scope]:
        """Yield scopes below `node`, which stands inside `parent`."""
        visible = dict(ctes)
        with_ = node.args.get("with_")
        if with_ is not None:
            for cte in with_.expressions:
                name = identifier_name(cte.args["alias"].this)
                if with_.args.get("recursive"):
                    visible[name] = cte
                # A CTE may refer to surrounding queries' columns, never to its own query's FROM.
                yield from self.visit(cte.this, parent, visible)
                visible[name] = cte
        if isinstance(node, exp.Select):
            yield from self._select(node, parent, visible)
            return
        for child in node.iter_expressions():
            if not isinstance(child, exp.With):
                yield from self.visit(child, parent, visible)

    def _select(self, select: exp.Select, parent: Scope | None, ctes: dict[str, exp.CTE]) -> Iterator[Scope]:
        sources, ambiguous = self._sources(select, ctes)
        scope = Scope(select, sources, parent, self.catalog, ambiguous)
        yield scope
        for child in select.iter_expressions():
            if isinstance(child, exp.With):
                continue
            if isinstance(child, (exp.From, exp.Join, exp.Lateral)):
                yield from self._from_item(child, scope, parent, ctes)
            else:
                yield from self.visit(child, scope, ctes)

    def _from_item(
        self, item: exp.Expr, scope: Scope, parent: Scope | None, ctes: dict[str, exp.CTE]
    ) -> Iterator[Scope]:
        """Derived tables see the surrounding query only; LATERAL ones, functions and ON conditions see this one too."""
        for child in item.iter_expressions():
            lateral = isinstance(child, exp.Lateral) or isinstance(item, exp.Lateral)
            if isinstance(child, (exp.Subquery, exp.Table)) and not lateral:
                for inner in child.iter_expressions():
                    if isinstance(inner, exp.Join):  # FROM (a JOIN b ON ...) and table-attached joins
                        yield from self._from_item(inner, scope, parent, ctes)
                    elif isinstance(inner, (exp.Subquery, exp.Table)) and not isinstance(inner.this, QUERY_NODES):
                        yield from self._from_item(exp_from(inner), scope, parent, ctes)
                    else:
                        yield from self.visit(inner, parent, ctes)
            else:
                yield from self.visit(child, scope, ctes)

    def _sources(self, select: exp.Select, ctes: dict[str, exp.CTE]) -> tuple[dict[str, Source], bool]:
        found: list[Source] = []
        ambiguous = False
        from_ = select.args.get("from_")
        if from_ is not None:
            found += self._item(from_.this, ctes, None)
        for lateral in select.args.get("laterals") or ():
            found += self._item(lateral, ctes, None)
        for join in select.args.get("joins") or ():
            ambiguous = ambiguous or bool(join.args.get("using")) or (join.method or "").upper() == "NATURAL"
            found = self._joined(found, join, ctes)
        names = [s.alias for s in found]
        return {s.alias: s for s in found}, ambiguous or len(set(names)) < len(names)

    def _joined(self, left: list[Source], join: exp.Join, ctes: dict[str, exp.CTE]) -> list[Source]:
        right = self._item(join.this, ctes, join)
        side = (join.side or "").upper()
        if side in ("RIGHT", "FULL"):
            left = [_nullable(s) for s in left]
        if side in ("LEFT", "FULL"):
            right = [_nullable(s) for s in right]
        return left + right

    def _item(self, node: exp.Expr, ctes: dict[str, exp.CTE], join: exp.Join | None) -> list[Source]:
        own = self._single(node, ctes, join)
        for inner in node.args.get("joins") or ():
            own = self._joined(own, inner, ctes)
        return own

    def _single(self, node: exp.Expr, ctes: dict[str, exp.CTE], join: exp.Join | None) -> list[Source]:
        alias_node = node.args.get("alias")
        alias_name = alias_node.this if isinstance(alias_node, exp.TableAlias) else None
        renamed = tuple(
            identifier_name(getattr(c, "this", c) if isinstance(c, exp.ColumnDef) else c)
            for c in (alias_node.columns if isinstance(alias_node, exp.TableAlias) else ())
        )
        if isinstance(node, exp.Subquery) and not isinstance(node.this, QUERY_NODES):
            return self._item(node.this, ctes, join)  # FROM (a JOIN b ...)
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            name = identifier_name(node.this)
            alias = identifier_name(alias_name) if alias_name is not None else name
            cte = ctes.get(name) if not node.args.get("db") else None
            if cte is not None:
                columns = self.output_names(cte.this, {k: v for k, v in ctes.items() if v is not cte})
                named = tuple(identifier_name(c) for c in cte.args["alias"].columns)
                return [Source(alias, node, None, cte.this, _renamed(_renamed(columns, named), renamed), join=join)]
            table = self.catalog.resolve(node)
            columns = tuple(table.columns) if table is not None else None
            if renamed:
                table = None  # its columns go by other names here: treat it as opaque
            return [Source(alias, node, table, None, _renamed(columns, renamed), join=join)]
        query = node.this if isinstance(node, (exp.Subquery, exp.Lateral)) else None
        while isinstance(query, exp.Subquery):
            query = query.this
        alias = identifier_name(alias_name) if alias_name is not None else f"?{id(node)}"
        if isinstance(query, QUERY_NODES):
            columns = _renamed(self.output_names(query, ctes), renamed)
            return [Source(alias, node, None, query, columns, join=join)]
        return [Source(alias, node, None, None, None, join=join)]

    def output_names(self, query: exp.Expr, ctes: dict[str, exp.CTE]) -> tuple[str, ...] | None:
        while isinstance(query, (exp.SetOperation, exp.Subquery)):
            query = query.this
        if not isinstance(query, exp.Select):
            return None
        inner = dict(ctes)
        with_ = query.args.get("with_")
        for cte in with_.expressions if with_ is not None else ():
            inner[identifier_name(cte.args["alias"].this)] = cte
        names: list[str] = []
        for item in query.expressions:
            expanded = self._item_names(item, query, inner)
            if expanded is None:
                return None
            names += expanded
        return tuple(names)

    def _item_names(self, item: exp.Expr, select: exp.Select, ctes: dict[str, exp.CTE]) -> list[str] | None:
        if isinstance(item, exp.Alias):
            return [identifier_name(item.args["alias"])]
        if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
            sources, ambiguous = self._sources(select, ctes)
            wanted = identifier_name(item.args["table"]) if isinstance(item, exp.Column) else None
            chosen = [s for a, s in sources.items() if wanted in (None, a)]
            if (ambiguous and wanted is None) or any(s.columns is None for s in chosen):
                return None
            return [c for s in chosen for c in s.columns or ()]
        name = output_name(item)
        return [name] if name is not None else None


def exp_from(item: exp.Expr) -> exp.Expr:
    """Wrap a FROM item for `_from_item` without changing its place in the tree."""
    wrapper = exp.From()
    wrapper.args["this"] = item  # not set(): that would re-parent the user's tree
    return wrapper


def _nullable(source: Source) -> Source:
    return Source(source.alias, source.node, source.table, source.query, source.columns, True, source.join)


def _renamed(columns: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    if not names:
        return columns
    return names + (columns or ())[len(names) :] if columns is not None else None
