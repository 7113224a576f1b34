"""What a query's conditions say about each base table: what its index rules stand on.

`table_uses` reads a statement once and gives one `TableUse` for each place in it that reads a table: which columns are
compared for equality, which by a range, which join it and to what, in which order its rows are wanted, and which
columns are read at all. Conditions on views, derived tables and CTEs that PostgreSQL would push down are followed to
the table.
Which clauses a B-tree can serve: PostgreSQL documentation, "Index Types", and `src/backend/optimizer/path/indxpath.c`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.indexing.conditions import ConditionReader, Found, Searched
from optimizer.indexing.lineage import Lineage
from optimizer.indexing.operands import Operand
from optimizer.indexing.orderings import orderings
from optimizer.indexing.reading import WRITES, reading_form
from optimizer.indexing.table_use import Condition, JoinKey, Ordering, TableUse
from optimizer.matching import bare, conjuncts, disjuncts
from optimizer.query import Query
from optimizer.scope import Scope, Source, own_nodes

#: An OR of more arms than this is not looked into.
MAX_ARMS = 8


def table_uses(query: Query, catalog: Catalog) -> tuple[TableUse, ...]:
    """Return what the query says of each base table, in the order of first appearance.

    Empty for statements that sqlglot cannot read.
    """
    known = _readings.get(query)
    if known is None or known.catalog() is not catalog:
        tree = reading_form(query, catalog)
        uses = _Reader(tree, catalog).read() if tree is not None else ()
        known = _Reading(weakref.ref(catalog), uses)
        _readings[query] = known
    return known.uses


@dataclass(frozen=True, slots=True)
class _Reading:
    catalog: weakref.ref[Catalog]
    uses: tuple[TableUse, ...]


#: The rules ask one after another about the same query; the answer lives as long as the query does.
_readings: weakref.WeakKeyDictionary[Query, _Reading] = weakref.WeakKeyDictionary()


@dataclass(slots=True)
class _Gathered:
    """A `TableUse` in the making."""

    source: Source
    conditions: list[Condition] = field(default_factory=list)
    alternatives: list[tuple[Condition, ...]] = field(default_factory=list)
    joins: list[JoinKey] = field(default_factory=list)
    orderings: list[Ordering] = field(default_factory=list)
    referenced: set[str] | None = field(default_factory=set)
    written: frozenset[str] = frozenset()


class _Reader:
    """Reads one statement; a class to carry what has been gathered."""

    def __init__(self, tree: exp.Expr, catalog: Catalog) -> None:
        self.lineage = Lineage(tree, catalog)
        self.conditions = ConditionReader(self.lineage, catalog)
        self.gathered: dict[int, _Gathered] = {
            id(source): _Gathered(source)
            for scope in self.lineage.scopes
            for source in scope.sources.values()
            if source.table is not None
        }

    def read(self) -> tuple[TableUse, ...]:
        for scope in self.lineage.scopes:
            for condition, searched in _conditions_of(scope):
                self._read(scope, condition, searched)
            self._using(scope)
            for source, ordering in orderings(scope, self.conditions.operands):
                self.gathered[id(source)].orderings.append(ordering)
            self._references(scope)
        self._spread_constants()
        return tuple(
            TableUse(
                table=g.source.table,
                alias=g.source.alias,
                conditions=tuple(g.conditions),
                alternatives=tuple(g.alternatives),
                joins=tuple(g.joins),
                orderings=tuple(g.orderings),
                referenced=frozenset(g.referenced) if g.referenced is not None else None,
                written=g.written,
            )
            for g in self.gathered.values()
            if g.source.table is not None
        )

    def _read(self, scope: Scope, condition: exp.Expr, searched: Searched) -> None:
        if isinstance(condition, exp.Or):
            self._disjunction(scope, condition, searched)
            return
        for source, found in self.conditions.read(scope, condition, searched):
            self._keep(self.gathered[id(source)], found)

    def _using(self, scope: Scope) -> None:
        operands = self.conditions.operands
        for join, name, left, right in _merges(scope):
            one, other = operands.column(left.alias, left, name), operands.column(right.alias, right, name)
            if one is not None and other is not None:
                for source, found in self.conditions.merged(join, one, other, _searched(scope, join)):
                    self._keep(self.gathered[id(source)], found)

    def _disjunction(self, scope: Scope, condition: exp.Or, searched: Searched) -> None:
        """What all arms share holds by itself; a table with a condition in every arm can be searched arm by arm."""
        arms = [conjuncts(arm) for arm in disjuncts(condition)]
        shared = set.intersection(*(set(map(_text, arm)) for arm in arms))
        for part in arms[0]:
            if _text(part) in shared:
                self._read(scope, part, searched)
        if len(arms) > MAX_ARMS:
            return
        by_source: dict[int, dict[int, list[Condition]]] = {}
        for number, arm in enumerate(arms):
            for part in arm:
                if _text(part) in shared or isinstance(part, exp.Or):
                    continue
                for source, found in self.conditions.read(scope, part, searched, certain=False):
                    if isinstance(found, Condition) and found.kind != "other":
                        by_source.setdefault(id(source), {}).setdefault(number, []).append(found)
        for key, by_arm in by_source.items():
            if len(by_arm) == len(arms):
                self.gathered[key].alternatives.extend(tuple(by_arm[n]) for n in range(len(arms)))

    @staticmethod
    def _keep(gathered: _Gathered, found: Found) -> None:
        if isinstance(found, JoinKey):
            gathered.joins.append(found)
        else:
            gathered.conditions.append(found)

    def _spread_constants(self) -> None:
        """`a.x = b.y AND a.x = 5` fixes b.y too (equivalence classes, `equivclass.c`)."""
        pending = True
        while pending:
            pending = False
            for pair in self.conditions.equal:
                for known, target in (pair, pair[::-1]):
                    fixed = self._fixed(known)
                    if fixed is None or self._fixed(target) is not None:
                        continue
                    self.gathered[id(target.source)].conditions.append(_spread(fixed, target))
                    pending = True

    def _fixed(self, operand: Operand) -> Condition | None:
        """The condition that gives a column one value."""
        known = self.gathered[id(operand.source)].conditions
        fixing = (c for c in known if c.kind == "equality" and c.single and c.key.column is not None)
        return next((c for c in fixing if c.key.column == operand.key.column), None)

    def _references(self, scope: Scope) -> None:
        """Note which columns of which table this SELECT reads."""
        written = scope.select.meta.get(WRITES)
        if written is not None:
            self._note_target(scope, written)
        if scope.select.args.get("locks"):
            self._whole_rows(scope, None)
        in_exists = isinstance(scope.select.parent, exp.Exists)
        if not in_exists and any(isinstance(item.unalias(), exp.Star) for item in scope.select.expressions):
            self._all_columns(scope, None)
        outputs = {identifier_name(i.args["alias"]) for i in scope.select.expressions if isinstance(i, exp.Alias)}
        for column in own_nodes(scope.select, exp.Column):
            assert isinstance(column, exp.Column)  # noqa: S101 - for the type checker
            if isinstance(column.this, exp.Star):
                self._all_columns(scope, identifier_name(column.args["table"]))
                continue
            source = self.lineage.source(scope, column)
            if source is None and (column.args.get("table") or identifier_name(column.this) not in outputs):
                self._whole_rows(scope, column)
            elif source is None:
                continue  # ORDER BY or GROUP BY names an output column
            elif source.table is not None:
                self._reference(source, identifier_name(column.this))
        for _, name, *sides in _merges(scope):
            for source in sides:
                if source.table is not None:
                    self._reference(source, name)

    def _reference(self, source: Source, name: str) -> None:
        gathered = self.gathered[id(source)]
        if source.table is None or name not in source.table.columns:
            gathered.referenced = None  # ctid and the like, or the whole row
        elif gathered.referenced is not None:
            gathered.referenced.add(name)

    def _all_columns(self, scope: Scope, alias: str | None) -> None:
        for source in scope.sources.values():
            if source.table is not None and alias in (None, source.alias):
                for name in source.table.columns:
                    self._reference(source, name)

    def _whole_rows(self, scope: Scope, column: exp.Column | None) -> None:
        """A name that means nothing known may be a row (`SELECT t FROM t`), or a column of anything here."""
        name = identifier_name(column.this) if column is not None else None
        named = scope.sources.get(name) if name is not None else None
        for source in (named,) if named is not None else scope.sources.values():
            if source.table is not None:
                self.gathered[id(source)].referenced = None

    def _note_target(self, scope: Scope, written: frozenset[str]) -> None:
        target = next(iter(scope.sources.values()))
        if target.table is not None:
            self.gathered[id(target)].written = written
            self.gathered[id(target)].referenced = None  # the row itself is fetched to be changed


def _spread(fixed: Condition, target: Operand) -> Condition:
    share = 1 / target.distinct if target.distinct else None
    moved = replace(fixed, key=target.key, column=target.column, distinct=target.distinct)
    return replace(moved, constant=False, selectivity=share)


def _conditions_of(scope: Scope) -> Iterator[tuple[exp.Expr, Searched]]:
    """Yield the conditions of a SELECT, each with the FROM items that it may search."""
    for clause in ("where", "having"):
        for condition in conjuncts(scope.select.args.get(clause)):
            yield condition, None
    for join in own_nodes(scope.select, exp.Join):
        for condition in conjuncts(join.args.get("on")):
            yield condition, _searched(scope, join)


def _searched(scope: Scope, join: exp.Expr) -> Searched:
    """ON finds partners for the rows that an outer join keeps anyway, so it restricts the other side only."""
    brought = frozenset(s.alias for s in scope.sources.values() if s.join is join)
    side = (join.args.get("side") or "").upper()
    return {"LEFT": brought, "RIGHT": frozenset(scope.sources) - brought, "FULL": frozenset[str]()}.get(side)


def _merges(scope: Scope) -> Iterator[tuple[exp.Join, str, Source, Source]]:
    """Yield each column that USING or NATURAL merges, with the FROM items on both sides."""
    earlier: list[Source] = []
    for source in scope.sources.values():
        join = source.join
        if join is not None:
            names = [identifier_name(bare(name)) for name in join.args.get("using") or ()]
            if (join.args.get("method") or "").upper() == "NATURAL":
                names = [n for n in source.columns or () if any(n in (e.columns or ()) for e in earlier)]
            for name in names:
                left = next((e for e in earlier if name in (e.columns or ())), None)
                if left is not None and name in (source.columns or ()):
                    yield join, name, left, source
        earlier.append(source)


def _text(node: exp.Expr) -> str:
    return node.sql(dialect="postgres")
