"""What two queries ask of their tables' values: constants, comparisons, joins, thresholds.

All of it only steers the generator towards databases on which the queries differ if they can; nothing here decides a
verdict, so what cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from sqlglot import exp

from optimizer.catalog import Catalog, Table, identifier_name
from optimizer.equivalence import tree
from optimizer.equivalence.comparisons import (
    COMPARED,
    PREDICATES,
    constant_texts,
    function_around,
    operator_of,
    own,
    own_subquery,
    whole_numbers,
)
from optimizer.matching import COMPARISONS, bare, is_aggregate
from optimizer.query import Query
from optimizer.scope import Scope, Source, own_nodes, scopes

TableKey = tuple[str, str]
ColumnKey = tuple[str, str, str]

_DEEPEST = 8
_NOW = frozenset({"now", "transaction_timestamp", "current_timestamp", "localtimestamp", "age"})
_WITH_CONSTANTS = (exp.Coalesce, exp.Nullif, exp.Case, exp.Anonymous, exp.ArrayContainsAll, exp.JSONBContains)


@dataclass(frozen=True, slots=True)
class Atom:
    """A comparison of one column with constants.

    Parameters:
        column: the base table's column.
        occurrence: which of the statement's FROM items it belongs to.
        operator: `=`, `<`, `like`, `in`, `null`, `not null`, or `other`.
        constants: their texts; `$1` for a parameter.
        bare: True when the column stands alone on its side.
        function: name of the function around the column, lower case.
    """

    column: ColumnKey
    occurrence: int
    operator: str
    constants: tuple[str, ...]
    bare: bool
    function: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """An aggregate, or a number of rows, compared with constants.

    Parameters:
        values: the constants.
        tables: whose rows are counted.
        groups: columns whose rows fall into one group when equal.
        summed: columns that are aggregated.
    """

    values: tuple[int, ...]
    tables: tuple[TableKey, ...]
    groups: tuple[ColumnKey, ...] = ()
    summed: tuple[ColumnKey, ...] = ()


@dataclass(slots=True)
class Hints:
    """Everything read from one or several statements.

    Parameters:
        numbers, strings: constants as written.
        atoms: comparisons with constants.
        links: columns that are to be equal, or not.
        inequalities: columns of one table of which one is to be less than the other.
        thresholds: aggregates compared with constants.
        now: some statement asks for the present.
        references: most tables read by one statement, repeats counted.
    """

    numbers: list[str] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    atoms: list[Atom] = field(default_factory=list)
    links: list[tuple[ColumnKey, ColumnKey]] = field(default_factory=list)
    inequalities: list[tuple[ColumnKey, str, ColumnKey]] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    now: bool = False
    references: int = 0

    def merge(self, other: Hints) -> None:
        """Take in what another statement says, without repeats."""
        for name in ("numbers", "strings", "atoms", "links", "inequalities", "thresholds"):
            mine = getattr(self, name)
            mine += [item for item in dict.fromkeys(getattr(other, name)) if item not in mine]
        self.now = self.now or other.now
        self.references = max(self.references, other.references)


def hints_of(queries: Iterable[Query], catalog: Catalog) -> Hints:
    """Read several statements, and the views that they use.

    Parameters:
        queries: the statements.
        catalog: for names.
    """
    total = Hints()
    for number, query in enumerate(queries):
        total.merge(_Reader(catalog, number * 1000).read(query))
    return total


class _Reader:
    """Reads one statement; a class only to number the FROM items."""

    def __init__(self, catalog: Catalog, first: int) -> None:
        self.catalog = catalog
        self.hints = Hints()
        self.first = first
        self.occurrences: dict[int, int] = {}
        self.scopes: dict[int, Scope] = {}
        self.views: dict[str, Scope] = {}
        self.alive: list[exp.Expr] = []  # ids of nodes are keys, so the trees must live

    def read(self, query: Query) -> Hints:
        self._constants(query.sql)
        tables = tree.touched(query.sql, self.catalog)
        self.hints.references = sum(1 for t in tables if t.definition is None)
        for table in tables:
            if table.definition is not None:
                self._constants(table.definition)
            for constraint in table.constraints:
                if constraint.expression:
                    self._constants(f"SELECT {constraint.expression}")
        root = query.reading_tree
        if root is not None:
            self._statement(root)
        return self.hints

    def _constants(self, sql: str) -> None:
        """Collect all constants from PostgreSQL's own parse tree."""
        try:
            root = tree.statement(sql)
        except tree.TooDeepError:
            return  # a CHECK of a thousand terms: its constants are left out
        for node in tree.walk(root):
            if tree.kind(node) == "A_Const":
                kind = node.WhichOneof("val")
                if kind == "ival":
                    self.hints.numbers.append(str(node.ival.ival))
                elif kind == "fval":
                    self.hints.numbers.append(node.fval.fval)
                elif kind == "sval":
                    self.hints.strings.append(node.sval.sval)
            elif tree.kind(node) == "FuncCall":
                self.hints.now = self.hints.now or tree.strings(node.funcname)[-1] in _NOW
            elif tree.kind(node) == "SQLValueFunction":
                self.hints.now = True

    def _statement(self, root: exp.Expr) -> None:
        self.alive.append(root)
        found = scopes(root, self.catalog)
        self.scopes.update((id(scope.select), scope) for scope in found)
        for scope in found:
            for source in scope.sources.values():
                if source.table is not None and source.table.definition is not None:
                    self._view(source.table)
        for scope in found:
            self._select(scope)
        if isinstance(root, (exp.Update, exp.Delete)):
            self._written(root)

    def _view(self, view: Table) -> None:
        if view.qualified in self.views or len(self.views) > 50:
            return
        query = Query.parse(view.definition or "")
        root = query.reading_tree
        select = root
        while isinstance(select, (exp.SetOperation, exp.Subquery)):
            select = select.this
        if root is None or not isinstance(select, exp.Select):
            return
        self._statement(root)
        self.views[view.qualified] = self.scopes[id(select)]

    def _written(self, root: exp.Expr) -> None:
        """UPDATE and DELETE: read their conditions as those of a SELECT over the same tables."""
        target = root.this if isinstance(root.this, exp.Table) else None
        if target is None:
            return
        select = exp.Select(expressions=[exp.Star()], from_=exp.From(this=target.copy()))
        for name in ("from_", "using"):
            others = root.args.get(name)
            items = [others.this] if isinstance(others, exp.From) else others if isinstance(others, list) else []
            for item in items:
                select.append("joins", exp.Join(this=item.copy()))
        if root.args.get("where") is not None:
            select.set("where", root.args["where"].copy())
        self._statement(select)

    def _select(self, scope: Scope) -> None:
        select = scope.select
        for node in own_nodes(select, *PREDICATES):
            self._predicate(node, scope)
        for node in own_nodes(select, *_WITH_CONSTANTS):
            self._call(node, scope)
        for node in own_nodes(select, exp.Div, exp.Mod):
            for column in own(node.expression, exp.Column):
                for key, occurrence, _ in self._bases(column, scope):
                    self.hints.atoms.append(Atom(key, occurrence, "other", ("0",), False))
        for join in select.args.get("joins") or ():
            self._using(join, scope)
        limits = [select.args.get("limit"), select.args.get("offset")]
        numbers = [n for part in limits if part is not None for n in whole_numbers(part)]
        if numbers:
            self._threshold(numbers, scope, ())

    def _predicate(self, node: exp.Expr, scope: Scope) -> None:
        subqueries = [q for q in node.find_all(exp.Select) if q is not scope.select and own_subquery(q, node)]
        aggregates = [a for a in own(node, exp.AggFunc, exp.Anonymous) if is_aggregate(a, self.catalog)]
        windows = list(own(node, exp.Window))
        numbers = whole_numbers(node)
        if (aggregates or windows) and numbers:
            self._threshold(numbers, scope, [c for a in aggregates for c in a.find_all(exp.Column)])
        for subquery in subqueries:
            inner = self.scopes.get(id(subquery))
            if inner is not None:
                self._with_subquery(node, subquery, scope, inner, numbers)
        if aggregates:
            return
        self._links(node, scope)
        constants = tuple(constant_texts(node))
        for column in (c for c in own(node, exp.Column) if isinstance(c, exp.Column)):
            below = self._aggregate_below(column, scope)
            if below is not None:
                calls = below.select.find_all(exp.AggFunc)
                self._threshold(numbers, below, [c for a in calls for c in a.find_all(exp.Column)])
            operator, alone = operator_of(node, column)
            for key, occurrence, direct in self._bases(column, scope):
                function = function_around(column, node)
                if direct is not None:
                    self.hints.atoms.append(Atom(key, occurrence, operator, constants, alone and direct, function))

    def _call(self, node: exp.Expr, scope: Scope) -> None:
        constants = tuple(constant_texts(node))
        if not constants:
            return
        for column in own(node, exp.Column):
            if isinstance(column, exp.Column):
                for key, occurrence, direct in self._bases(column, scope):
                    if direct is not None:
                        atom = Atom(key, occurrence, "other", constants, False, function_around(column, node))
                        self.hints.atoms.append(atom)

    def _links(self, node: exp.Expr, scope: Scope) -> None:
        """Columns compared with each other, or standing on the two sides of one comparison."""
        if not isinstance(node, (*COMPARISONS, exp.NullSafeEQ, exp.NullSafeNEQ)):
            return
        operator = COMPARED[type(node)]
        left = [k for c in own(node.this, exp.Column) for k, _, d in self._bases(c, scope) if d is not None]
        right = [k for c in own(node.expression, exp.Column) for k, _, d in self._bases(c, scope) if d is not None]
        pairs = [(a, b) for a in left for b in right if a != b]
        if operator in ("=", "<>"):
            self.hints.links += pairs
        elif isinstance(bare(node.this), exp.Column) and isinstance(bare(node.expression), exp.Column):
            self.hints.inequalities += [(a, operator, b) for a, b in pairs if a[:2] == b[:2]]

    def _with_subquery(
        self, node: exp.Expr, subquery: exp.Select, scope: Scope, inner: Scope, numbers: list[int]
    ) -> None:
        outputs = [item.unalias() for item in subquery.expressions[:1]]
        aggregated = any(is_aggregate(a, self.catalog) for o in outputs for a in o.find_all(exp.AggFunc))
        if aggregated:  # with or without a number: a column may be compared with an average
            self._threshold(numbers, inner, [c for o in outputs for c in o.find_all(exp.Column)])
        mine = [k for c in own(node, exp.Column) for k, _, _ in self._bases(c, scope)]
        theirs = [k for o in outputs for c in o.find_all(exp.Column) for k, _, _ in self._bases(c, inner)]
        self.hints.links += [(a, b) for a in mine for b in theirs]

    def _using(self, join: exp.Join, scope: Scope) -> None:
        names = [
            identifier_name(item.this if isinstance(item, exp.Column) else item)
            for item in join.args.get("using") or ()
        ]
        sources = [s for s in scope.sources.values() if s.columns is not None]
        if (join.method or "").upper() == "NATURAL":
            names = [c for s in sources for c in s.columns or ()]
        for name in dict.fromkeys(names):
            owners = [s for s in sources if name in (s.columns or ())]
            keys = [k for s in owners for k, _, _ in self._source_bases(s, name, 0)]
            self.hints.links += pairwise(keys)

    def _threshold(self, numbers: list[int], scope: Scope, summed: Iterable[exp.Expr]) -> None:
        group = scope.select.args.get("group")
        tables = tuple(dict.fromkeys(t for s in scope.sources.values() for t in self._tables_of(s, 0)))
        grouped = [c for item in (group.expressions if group is not None else ()) for c in item.find_all(exp.Column)]
        groups = tuple(k for c in grouped for k, _, _ in self._bases(c, scope))
        values = tuple(k for c in summed if isinstance(c, exp.Column) for k, _, _ in self._bases(c, scope))
        self.hints.thresholds.append(Threshold(tuple(dict.fromkeys(numbers)), tables, groups, values))

    def _aggregate_below(self, column: exp.Column, scope: Scope) -> Scope | None:
        """The grouped query whose aggregate a column of a derived table, CTE or view is."""
        source = scope.source_of(column)
        if source is None or (source.columns is None and source.table is None):
            return None
        if source.table is not None:
            inner, names = self.views.get(source.table.qualified), tuple(source.table.columns)
        else:
            inner, names = self.scopes.get(id(source.query)), source.columns or ()
        name = identifier_name(column.this)
        if inner is None or name not in names or names.index(name) >= len(inner.select.expressions):
            return None
        value = inner.select.expressions[names.index(name)]
        return inner if any(is_aggregate(a, self.catalog) for a in value.find_all(exp.AggFunc)) else None

    def _tables_of(self, source: Source, depth: int) -> Iterator[TableKey]:
        inner: Scope | None = None
        if source.table is not None:
            inner = self.views.get(source.table.qualified)
            if inner is None:
                yield source.table.schema, source.table.name
        elif isinstance(source.query, exp.Select):
            inner = self.scopes.get(id(source.query))
        if inner is not None and depth < _DEEPEST:
            for part in inner.sources.values():
                yield from self._tables_of(part, depth + 1)

    def _bases(self, column: exp.Expr, scope: Scope) -> list[tuple[ColumnKey, int, bool | None]]:
        """Base columns that a reference comes from, with True when it is the column itself, None for an aggregate."""
        if not isinstance(column, exp.Column) or isinstance(column.this, exp.Star):
            return []
        source = scope.source_of(column)
        name = identifier_name(column.this)
        if source is not None:
            return list(self._source_bases(source, name, 0))
        if column.args.get("table"):
            return []
        around: Scope | None = scope
        while around is not None:
            owners = [s for s in around.sources.values() if s.columns is not None and name in s.columns]
            if owners:
                return [base for s in owners for base in self._source_bases(s, name, 0)]
            around = around.parent
        return []

    def _source_bases(self, source: Source, name: str, depth: int) -> Iterator[tuple[ColumnKey, int, bool | None]]:
        if depth > _DEEPEST:
            return
        if source.table is not None and source.table.qualified not in self.views:
            if name in source.table.columns:
                number = self.occurrences.setdefault(id(source.node), self.first + len(self.occurrences))
                yield (source.table.schema, source.table.name, name), number, True
            return
        if source.table is not None:
            inner: list[Scope] = [self.views[source.table.qualified]]
            names: tuple[str, ...] | None = tuple(source.table.columns)
        else:
            inner = [s for q in _branches(source.query) if (s := self.scopes.get(id(q))) is not None]
            names = source.columns
        if names is None or name not in names:
            return
        for scope in inner:
            yield from self._output_bases(scope, names.index(name), name, depth)

    def _output_bases(
        self, scope: Scope, position: int, name: str, depth: int
    ) -> Iterator[tuple[ColumnKey, int, bool | None]]:
        items = scope.select.expressions
        if any(item.is_star for item in items):
            owners = [s for s in scope.sources.values() if s.columns is not None and name in s.columns]
            for owner in owners:
                yield from self._source_bases(owner, name, depth + 1)
            return
        if position >= len(items):
            return
        value = bare(items[position].unalias())
        aggregated = any(is_aggregate(a, self.catalog) for a in value.find_all(exp.AggFunc))
        for column in value.find_all(exp.Column):
            source = scope.source_of(column)
            if source is not None:
                for key, number, direct in self._source_bases(source, identifier_name(column.this), depth + 1):
                    yield key, number, None if aggregated or direct is None else direct and column is value


def _branches(query: exp.Expr | None) -> Iterator[exp.Select]:
    while isinstance(query, exp.Subquery):
        query = query.this
    if isinstance(query, exp.SetOperation):
        yield from _branches(query.left)
        yield from _branches(query.right)
    elif isinstance(query, exp.Select):
        yield query
