"""Which output columns tell the rows of a join apart.

The closure of functional dependencies over keys and equalities (Paulley, "Exploiting Functional Dependence in Query
Optimization", 2000), with NULLs and outer joins minded: a set of known columns determines a table's row when it holds
one of the table's keys, equalities make further columns known, and so on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlglot import exp

from optimizer.catalog import Catalog, Table, identifier_name
from optimizer.matching import bare, conjuncts, equality, type_name, where_conjuncts
from optimizer.rewriting.evaluation import same_equality
from optimizer.scope import QUERY_NODES, Scope, Source, columns_in, scope_at

#: A column of a FROM item: the item's alias and the column's name.
Place = tuple[str, str]

_STORED = ("table", "partitioned table", "materialized view")
_SINGLE_VALUED = (
    exp.And,
    exp.Or,
    exp.Cast,
    exp.Case,
    exp.If,
    exp.Coalesce,
    exp.Nullif,
    exp.Greatest,
    exp.Least,
    exp.Extract,
    exp.AggFunc,
    exp.CurrentDate,
    exp.CurrentTimestamp,
)


@dataclass(frozen=True, slots=True)
class _Equality:
    """`left = right` (None: a constant) holds wherever `right`'s row is not filled with NULLs by an outer join."""

    left: Place | None
    right: Place


def tells_rows_apart(scope: Scope, known: Iterable[Place], among: Collection[str] | None = None) -> bool:
    """True when no two rows of the query's FROM, after WHERE, agree in all `known` columns.

    Parameters:
        scope: the query; its grouping and output don't count.
        known: columns, such as those of the output.
        among: aliases to look at, as if the others were not joined; by default all.
    """
    wanted = set(scope.sources if among is None else among)
    equalities = [e for e in _equalities(scope) if {p[0] for p in (e.left, e.right) if p is not None} <= wanted]
    columns = {place for place in known if place[0] in wanted}
    certain: set[Place] = set()  # known, and not NULL in a row that is there
    fixed: set[str] = set()
    grown = True
    while grown:
        grown = False
        for e in equalities:
            if (e.left is None or e.left in columns) and e.right not in certain:
                columns.add(e.right)
                certain.add(e.right)
                grown = True
        for alias in wanted - fixed:
            table = scope.sources[alias].table
            if table is not None and any(_has_key(table, alias, key, columns, certain) for key in _keys(table)):
                fixed.add(alias)
                columns.update((alias, name) for name in table.columns)
                grown = True
    return fixed == wanted


def _keys(table: Table) -> Iterator[tuple[str, ...]]:
    if table.kind not in _STORED:
        return
    for key in table.unique_keys():
        if all(table.columns[name].deterministic for name in key):
            yield key


def _has_key(table: Table, alias: str, key: tuple[str, ...], columns: set[Place], certain: set[Place]) -> bool:
    return all((alias, name) in columns and (table.columns[name].not_null or (alias, name) in certain) for name in key)


def _equalities(scope: Scope) -> Iterator[_Equality]:
    for condition in where_conjuncts(scope.select):
        yield from _both_ways(condition, scope)
    for join in scope.select.args.get("joins") or ():
        side = (join.side or "").upper()
        inner = side == "" and (join.kind or "").upper() in ("", "INNER", "CROSS") and not join.method
        conditions = conjuncts(join.args.get("on"))
        pairs = [pair for condition in conditions for pair in _both_ways(condition, scope)]
        pairs += [_Equality(*pair) for two in using_pairs(join, scope) for pair in (two, two[::-1])]
        if inner:
            yield from (e for e in pairs if not any(scope.sources[p[0]].nullable for p in (e.left, e.right) if p))
        elif side == "LEFT" and isinstance(join.this, (exp.Table, exp.Subquery)) and not join.this.args.get("joins"):
            yield from (e for e in pairs if _fills(join, e, scope))


def _fills(join: exp.Join, e: _Equality, scope: Scope) -> bool:
    """True when the equality finds the row that a LEFT JOIN adds to a row of its left side."""
    left = scope.sources[e.left[0]] if e.left is not None else None
    return scope.sources[e.right[0]].join is join and (left is None or left.join is not join)


def _both_ways(condition: exp.Expr, scope: Scope) -> Iterator[_Equality]:
    sides = equality(condition)
    if sides is None:
        return
    for left, right in (sides, sides[::-1]):
        place = place_of(right, scope)
        if place is None:
            continue
        column = scope.sources[place[0]].column(place[1])
        type_ = column.type if column is not None else ""
        if _is_literal(left, type_):
            yield _Equality(None, place)
        elif isinstance(left, exp.Column) and same_equality(_column_type(left, scope), type_):
            # A surrounding query's column is one value for each run of the subquery.
            other = place_of(left, scope)
            if other is not None or scope.is_outer(left):
                yield _Equality(other, place)


def _is_literal(node: exp.Expr, type_: str) -> bool:
    """True for a constant that only one value of the type equals (many a numeric equals one float)."""
    if isinstance(node, exp.Cast):
        return same_equality(type_name(node), type_) and _is_literal(bare(node.this), type_)
    if isinstance(node, exp.Neg):
        return _is_literal(bare(node.this), type_)
    return isinstance(node, (exp.Literal, exp.Parameter, exp.Boolean))


def _column_type(column: exp.Column, scope: Scope) -> str | None:
    known = scope.catalog_column(column)
    return known.type if known is not None else None


def using_pairs(join: exp.Join, scope: Scope) -> Iterator[tuple[Place, Place]]:
    """The columns that USING equates, left and right, where both are known and share one equality."""
    sources = list(scope.sources.values())
    right = next((s for s in sources if s.join is join), None)
    if right is None:
        return
    for identifier in join.args.get("using") or ():
        name = identifier_name(identifier)
        owners = [s for s in sources[: sources.index(right)] if s.columns is None or name in s.columns]
        left_column, right_column = (owners[0].column(name) if len(owners) == 1 else None), right.column(name)
        if left_column is None or right_column is None or not same_equality(left_column.type, right_column.type):
            continue
        yield (owners[0].alias, name), (right.alias, name)


def place_of(node: exp.Expr, scope: Scope) -> Place | None:
    """The place of a column of this very query's tables; None for everything else."""
    node = bare(node)
    source = scope.local_source(node) if isinstance(node, exp.Column) else None
    if source is None:
        return None
    name = identifier_name(node.this)
    return (source.alias, name) if source.column(name) is not None else None


def output_places(scope: Scope) -> frozenset[Place] | None:
    """The columns that a query's output shows unchanged; None when an output expression may return a set of rows."""
    places: set[Place] = set()
    for item in scope.select.expressions:
        value = item.unalias()
        if is_star(value):
            for source in star_sources(value, scope) or ():
                places.update((source.alias, name) for name in (source.table.columns if source.table else ()))
        elif (place := place_of(value, scope)) is not None:
            places.add(place)
        elif may_return_set(value, scope.catalog):
            return None
    return frozenset(places)


def is_star(node: exp.Expr) -> bool:
    """True for `*` and `t.*`."""
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def star_sources(star: exp.Expr, scope: Scope) -> tuple[Source, ...] | None:
    """The FROM items that a star stands for, in order; None where columns are merged by USING or NATURAL."""
    if isinstance(star, exp.Column):
        source = scope.sources.get(identifier_name(star.args["table"]))
        return (source,) if source is not None else None
    return tuple(scope.sources.values()) if not scope.ambiguous else None


def sources_in(node: exp.Expr, scope: Scope, all_scopes: Sequence[Scope]) -> frozenset[Source] | None:
    """The FROM items of `scope` that an expression mentions, in subqueries too; None where a column can't be told.

    Parameters:
        all_scopes: of the whole statement, as `scopes` gives them.
    """
    found: set[Source] = set()
    for column in columns_in(node):
        query = column.find_ancestor(exp.Select)
        owner = scope_at(query, all_scopes) if query is not None else None
        source = owner.source_of(column) if owner is not None else None
        if source is None:
            return None
        if scope.sources.get(source.alias) is source:
            found.add(source)
    for star in node.find_all(exp.Column):
        if isinstance(star.this, exp.Star):
            named = scope.sources.get(identifier_name(star.args["table"]))
            found.update((named,) if named is not None else ())
    return frozenset(found)


def may_return_set(node: exp.Expr, catalog: Catalog) -> bool:
    """True unless the expression certainly gives one value for a row (`unnest` and its like give several)."""
    for part in node.walk(prune=lambda n: isinstance(n, QUERY_NODES)):
        if isinstance(part, exp.Anonymous):
            parent = part.parent
            dotted = isinstance(parent, exp.Dot) and parent.expression is part
            schema = identifier_name(parent.this) if isinstance(parent, exp.Dot) and dotted else None
            function = catalog.function(identifier_name(part.this), schema)
            if function is None or function.returns_set:
                return True
        elif isinstance(part, exp.UDTF) or (isinstance(part, exp.Func) and not isinstance(part, _SINGLE_VALUED)):
            return True
    return False
