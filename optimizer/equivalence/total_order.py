"""Where a statement's result depends on which of several rows comes first.

LIMIT, OFFSET and DISTINCT ON keep some rows of a sequence. Which ones is only fixed when ORDER BY leaves no ties, or
only ties between rows that are equal in the output. Shown by functional dependencies: columns that the sort keys,
constants and surrounding queries determine, closed under equalities and unique keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from optimizer.catalog import Catalog, identifier_name
from optimizer.equivalence import tree
from optimizer.matching import bare, column_equalities, conjuncts, equality, has_aggregate, where_conjuncts
from optimizer.query import Query
from optimizer.scope import Scope, Source, output_names, scope_at, scopes

#: Aggregates and window functions whose result depends on the order of rows that they are given.
_ORDER_SENSITIVE = frozenset(
    {
        *("array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "xmlagg", "mode"),
        *("row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value"),
    }
)
_Determined = set[tuple[str, str]]


def loose(query: Query, catalog: Catalog, *, nested_only: bool = False) -> str | None:
    """Say which part of a statement keeps rows that no order fixes; None when every one is shown to be fixed.

    Parameters:
        query: the statement.
        catalog: for unique keys.
        nested_only: leave the top-level LIMIT out, which can be judged by the rows that are fixed.
    """
    if not _keeps_some(query.sql):
        return None
    root = query.tree
    if root is None:
        return "LIMIT or DISTINCT ON in a statement whose order cannot be read"
    all_scopes = scopes(root, catalog)
    for node in root.find_all(exp.Select, exp.SetOperation, exp.Subquery):
        if nested_only and node is root:
            distinct_on = _distinct_on(node)
            if not distinct_on:
                continue
        reason = _loose_at(node, all_scopes, catalog)
        if reason is not None:
            return reason
    return None


def order_sensitive(query: Query) -> bool:
    """True when a function in the statement sees rows in an order that may not be fixed."""
    return any(name in _ORDER_SENSITIVE for _, name in tree.calls(tree.statement(query.sql)))


def _keeps_some(sql: str) -> bool:
    for node in tree.walk(tree.statement(sql)):
        if tree.kind(node) != "SelectStmt":
            continue
        on = any(item.WhichOneof("node") is not None for item in node.distinct_clause)
        if node.HasField("limit_count") or node.HasField("limit_offset") or on:
            return True
    return False


def _distinct_on(node: exp.Expr) -> list[exp.Expr]:
    distinct = node.args.get("distinct")
    on = distinct.args.get("on") if isinstance(distinct, exp.Distinct) else None
    return list(on.expressions) if on is not None else []


def _loose_at(node: exp.Expr, all_scopes: tuple[Scope, ...], catalog: Catalog) -> str | None:
    limited = _limited(node)
    distinct_on = _distinct_on(node)
    if not limited and not distinct_on:
        return None
    what = "LIMIT" if limited else "DISTINCT ON"
    if isinstance(node.parent, exp.Exists) and not node.args.get("offset"):
        return None
    select = node
    while isinstance(select, exp.Subquery):
        select = select.this
    if isinstance(select, exp.SetOperation):
        fixed = _covers_output(select, _sort_keys(node), catalog)
        return None if fixed else f"{what} over a set operation without a total order"
    scope = scope_at(select, all_scopes) if isinstance(select, exp.Select) else None
    keys = _sort_keys(node) or (_sort_keys(select) if select is not node else [])
    if scope is None or not _total(scope, keys + ([] if limited else distinct_on), all_scopes):
        return f"{what} without a total order"
    return None


def _limited(node: exp.Expr) -> bool:
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if isinstance(limit, exp.Fetch) and limit.args.get("limit_options") is not None:
        options = limit.args["limit_options"]
        if options.args.get("with_ties"):
            limit = None
    bound = limit.args.get("expression") if isinstance(limit, exp.Limit) else limit
    unlimited = (
        bound is None or isinstance(bound, exp.Null) or (isinstance(bound, exp.Expr) and bound.name.upper() == "ALL")
    )
    skips = offset is not None and offset.expression.sql() != "0"
    return not unlimited or skips


def _sort_keys(node: exp.Expr) -> list[exp.Expr]:
    order = node.args.get("order")
    return [bare(item.this) for item in order.expressions] if order is not None else []


def _covers_output(query: exp.Expr, keys: list[exp.Expr], catalog: Catalog) -> bool:
    """True when the sort keys name all output columns of a set operation, by position or name."""
    names = output_names(query, catalog)
    if names is None:
        return False
    places = {int(k.name) - 1 for k in keys if isinstance(k, exp.Literal) and not k.is_string}
    named = {identifier_name(k.this) for k in keys if isinstance(k, exp.Column) and not k.args.get("table")}
    return all(i in places or (name in named and names.count(name) == 1) for i, name in enumerate(names))


def _total(scope: Scope, keys: list[exp.Expr], all_scopes: tuple[Scope, ...]) -> bool:
    """True when rows with equal sort keys are one row, or equal in the output."""
    select = scope.select
    grouped = has_aggregate(select)
    group = select.args.get("group")
    if grouped and group is None:
        return True  # at most one row
    resolved = [_resolve(key, scope) for key in keys]
    determined: _Determined = set()
    for key in resolved:
        _add(key, scope, determined)
    _close(scope, determined, all_scopes)
    fixed = {key.sql() for key in resolved}
    if all(_is_fixed(item.unalias(), scope, determined, fixed) for item in select.expressions):
        return True
    if grouped:
        plain = group is not None and not any(group.args.get(k) for k in ("rollup", "cube", "grouping_sets", "all"))
        items = group.expressions if group is not None else []
        return plain and all(_is_fixed(_resolve(bare(item), scope), scope, determined, fixed) for item in items)
    whole = bool(scope.sources) and all(_whole(s, determined) for s in scope.sources.values())
    return whole and not any(_returns_set(item, scope.catalog) for item in select.expressions)


def _returns_set(item: exp.Expr, catalog: Catalog) -> bool:
    if list(item.find_all(exp.UDTF)):
        return True
    functions = (catalog.function(identifier_name(call.this)) for call in item.find_all(exp.Anonymous))
    return any(function is None or function.returns_set for function in functions)


def _resolve(key: exp.Expr, scope: Scope) -> exp.Expr:
    """Turn a position or an output name into the expression that it means."""
    items = scope.select.expressions
    if isinstance(key, exp.Literal) and not key.is_string:
        return _output(scope, int(key.name) - 1) or key
    if isinstance(key, exp.Column) and not key.args.get("table"):
        name = identifier_name(key.this)
        for item in items:
            if isinstance(item, exp.Alias) and identifier_name(item.args["alias"]) == name:
                return bare(item.this)
    return key


def _output(scope: Scope, place: int) -> exp.Expr | None:
    """What an output column shows, those of stars included; None where it can't be told."""
    found: list[exp.Expr] = []
    for item in scope.select.expressions:
        if not item.is_star:
            found.append(bare(item.unalias()))
            continue
        wanted = identifier_name(item.args["table"]) if isinstance(item, exp.Column) else None
        for source in (s for s in scope.sources.values() if wanted in (None, s.alias)):
            names = source.columns
            if scope.ambiguous or names is None or len(set(names)) < len(names):
                return found[place] if 0 <= place < len(found) else None
            found += [exp.column(name, table=source.alias, quoted=True) for name in names]
    return found[place] if 0 <= place < len(found) else None


def _is_fixed(item: exp.Expr, scope: Scope, determined: _Determined, fixed: set[str]) -> bool:
    item = bare(item)
    if item.is_star:
        wanted = identifier_name(item.args["table"]) if isinstance(item, exp.Column) else None
        chosen = [s for s in scope.sources.values() if wanted in (None, s.alias)]
        return all(s.columns is not None and {(s.alias, c) for c in s.columns} <= determined for s in chosen)
    if item.sql() in fixed:
        return True
    if list(item.find_all(exp.Window, exp.AggFunc, exp.Anonymous, exp.Subquery, exp.Select)):
        return False
    return all(_key(c, scope) in determined or scope.is_outer(c) for c in item.find_all(exp.Column))


def _key(column: exp.Column, scope: Scope) -> tuple[str, str]:
    source = scope.local_source(column)
    return (source.alias, identifier_name(column.this)) if source is not None else ("", "")


def _add(key: exp.Expr, scope: Scope, determined: _Determined) -> None:
    if isinstance(key, exp.Column):
        source = scope.local_source(key)
        if source is not None:
            determined.add((source.alias, identifier_name(key.this)))


def _close(scope: Scope, determined: _Determined, all_scopes: tuple[Scope, ...]) -> None:
    """Add what equalities and unique keys determine, until nothing more comes."""
    conditions = list(where_conjuncts(scope.select))
    one_way: list[exp.Expr] = []
    for join in scope.select.args.get("joins") or ():
        side = (join.side or "").upper()
        if side in ("", "INNER"):
            conditions += conjuncts(join.args.get("on"))
        elif side == "LEFT":
            one_way += conjuncts(join.args.get("on"))
    _constants(conditions, scope, determined)
    inner = list(column_equalities(conditions))
    outer = [(a, b) for a, b in column_equalities(one_way)]
    while True:
        before = len(determined)
        for left, right in inner:
            ends = _key(left, scope), _key(right, scope)
            if any(end in determined for end in ends) and all(end[0] for end in ends):
                determined.update(ends)
        for source in scope.sources.values():
            if source.columns is None or _whole(source, determined):
                continue
            here = {name for alias, name in determined if alias == source.alias}
            here |= _by_left_join(source, outer, one_way, scope, determined)
            if any(set(key) <= here for key in _keys_of(source, all_scopes)):
                determined.update((source.alias, name) for name in source.columns)
                determined.add((source.alias, "*"))
        if len(determined) == before:
            return


def _constants(conditions: list[exp.Expr], scope: Scope, determined: _Determined) -> None:
    for condition in conditions:
        sides = equality(condition)
        for column, value in ((sides[0], sides[1]), (sides[1], sides[0])) if sides is not None else ():
            if isinstance(column, exp.Column) and not _local_columns(value, scope):
                _add(column, scope, determined)


def _local_columns(value: exp.Expr, scope: Scope) -> bool:
    if list(value.find_all(exp.Select, exp.Subquery)):
        return True
    return any(not scope.is_outer(c) for c in value.find_all(exp.Column))


def _by_left_join(
    source: Source,
    pairs: list[tuple[exp.Column, exp.Column]],
    one_way: list[exp.Expr],
    scope: Scope,
    known: _Determined,
) -> set[str]:
    """Columns of a LEFT JOIN's right side that are fixed for each left row: the match, or no match, is the same."""
    found: set[str] = set()
    if source.join is None or (source.join.side or "").upper() != "LEFT":
        return found
    for a, b in pairs:
        for mine, other in ((_key(a, scope), _key(b, scope)), (_key(b, scope), _key(a, scope))):
            if mine[0] == source.alias and other[0] != source.alias and other in known:
                found.add(mine[1])
    fixed: _Determined = set()
    _constants([c for c in one_way if c.find_ancestor(exp.Join) is source.join], scope, fixed)
    return found | {name for alias, name in fixed if alias == source.alias}


def _whole(source: Source, determined: _Determined) -> bool:
    return (source.alias, "*") in determined


def _keys_of(source: Source, all_scopes: tuple[Scope, ...]) -> Iterator[tuple[str, ...]]:
    """Column lists that no two rows of a source share."""
    if source.table is not None:
        yield from source.table.unique_keys(not_null=True)
        return
    query = source.query
    while isinstance(query, exp.Subquery):
        query = query.this
    if not isinstance(query, exp.Select) or source.columns is None:
        return
    group = query.args.get("group")
    one_row = (has_aggregate(query) and group is None) or _limit_is_one(query)
    if one_row:
        yield ()
        return
    outputs = dict(zip((item.unalias().sql() for item in query.expressions), source.columns, strict=False))
    if any(item.is_star for item in query.expressions):
        return
    if group is not None and not any(group.args.get(k) for k in ("rollup", "cube", "grouping_sets", "all")):
        names = [outputs.get(_resolve_in(query, item).sql()) for item in group.expressions]
        if names and all(names):
            yield tuple(name for name in names if name is not None)
    if query.args.get("distinct") is not None and not _distinct_on(query):
        yield tuple(source.columns)
    inner = scope_at(query, all_scopes)
    if inner is not None and len(inner.sources) == 1 and group is None:
        (only,) = inner.sources.values()
        for key in only.table.unique_keys(not_null=True) if only.table is not None else ():
            places = {
                identifier_name(value.this): name
                for value, name in zip((i.unalias() for i in query.expressions), source.columns, strict=False)
                if isinstance(value, exp.Column)
            }
            if all(column in places for column in key):
                yield tuple(places[column] for column in key)


def _resolve_in(query: exp.Select, item: exp.Expr) -> exp.Expr:
    item = bare(item)
    if isinstance(item, exp.Literal) and not item.is_string and 0 < int(item.name) <= len(query.expressions):
        return bare(query.expressions[int(item.name) - 1].unalias())
    return item


def _limit_is_one(query: exp.Select) -> bool:
    limit = query.args.get("limit")
    bound = limit.args.get("expression") if isinstance(limit, exp.Limit) else None
    return isinstance(bound, exp.Literal) and bound.name == "1"
