"""ORDER BY and LIMIT over a UNION ALL, repeated in its branches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sqlglot import exp

from optimizer.catalog import Catalog, Column, identifier_name
from optimizer.matching import bare, has_aggregate
from optimizer.rewriting.constants import fits, integer, integer_node
from optimizer.rewriting.evaluation import base_type
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rewriting.uniqueness import Place, is_star, may_return_set, place_of, star_sources, tells_rows_apart
from optimizer.rule import Match, RewriteRule, copied
from optimizer.scope import Scope, Source, own_nodes, scope_at


@dataclass(frozen=True, slots=True)
class _Output:
    """One output column of a branch; `place` and `column` are set where it shows a table's column unchanged."""

    name: str | None
    place: Place | None = None
    column: Column | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What `apply` needs.

    Parameters:
        branches: the operands of the UNION ALL.
        keys: ORDER BY's items with the position of the output column that each sorts by, counted from 1.
        limit: the branches' limit.
    """

    branches: tuple[exp.Select, ...]
    keys: tuple[tuple[exp.Ordered, int], ...]
    limit: exp.Expr


class LimitIntoUnionAll(RewriteRule):
    """Push ORDER BY and LIMIT into the branches of UNION ALL

    ## What it does
    Where the first rows of a UNION ALL are wanted, asks each branch for its own first rows only: it repeats ORDER BY in
    every branch, by position, with the LIMIT raised by the OFFSET. The outer ORDER BY, LIMIT and OFFSET stay.

    ## Why it is slow
    PostgreSQL computes every branch to its end and sorts the sum, unless all branches are plain scans of indexes in
    that order. A branch with a LIMIT can stop early, by an index or a top-N sort.

    ## Example
    ```sql
    SELECT id, placed_at FROM orders WHERE status = 'paid'
    UNION ALL
    SELECT id, moved_at FROM movements
    ORDER BY 2 DESC, 1 LIMIT 20
    ```

    ## Use instead
    ```sql
    (SELECT id, placed_at FROM orders WHERE status = 'paid' ORDER BY 2 DESC, 1 LIMIT 20)
    UNION ALL
    (SELECT id, moved_at FROM movements ORDER BY 2 DESC, 1 LIMIT 20)
    ORDER BY 2 DESC, 1 LIMIT 20
    ```

    ## Preconditions
    The sort keys are output columns of the branches that show table columns of one type and collation: a branch sorts
    its own values, not what the UNION casts them to. Within each branch the order is total: the sort keys hold a key of
    the branch's rows, or all of its output. So the rows that each branch gives are determined, and no row that could
    be in the answer is lost. Ties between branches may remain (two tables with the same time and id): what the original
    leaves open there the rewrite leaves open too, and where that shows the verdict is `unknown`. Without a total order
    within a branch the inner LIMIT would cut among equals, and the rule is silent. LIMIT and OFFSET are numbers (or
    LIMIT a parameter, without OFFSET), without WITH TIES. Nothing between the UNION ALL and the LIMIT filters, joins,
    groups or removes rows. A CTE is referred to only once.
    """

    code: ClassVar[str] = "RW302"
    name: ClassVar[str] = "limit-into-union-all"

    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterator[Match]:
        all_scopes = ResolvedStatement.of(tree, catalog).scopes
        found = [parts for node in tree.find_all(exp.Union, exp.Select) if (parts := _parts(node, tree, all_scopes))]
        if found:
            yield Match(tree, tuple(found))

    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        branches = [branch for parts in match.parts for branch in parts.branches]
        root, *copies = copied(*branches)
        remaining = iter(copies)
        for parts in match.parts:
            for _ in parts.branches:
                _limit(next(remaining), parts)
        return root


def _limit(branch: exp.Expr, parts: _Parts) -> None:
    """Give a branch, in a copied tree, an order and a limit, and the parentheses that they need."""
    keys = []
    for ordered, position in parts.keys:
        key = ordered.copy()
        key.set("this", exp.Literal.number(str(position)))
        keys.append(key)
    wrapper = exp.Subquery() if not isinstance(branch.parent, exp.Subquery) else None
    if wrapper is not None:
        branch.replace(wrapper)
        wrapper.set("this", branch)
    branch.set("order", exp.Order(expressions=keys))
    branch.set("limit", exp.Limit(expression=parts.limit.copy()))


def _parts(node: exp.Expr, tree: exp.Expr, all_scopes: Sequence[Scope]) -> _Parts | None:
    order = node.args.get("order")
    limit = _inner_limit(node)
    if order is None or limit is None:
        return None
    if isinstance(node, exp.Union):
        union, names = node, None
    else:
        scope = scope_at(node, all_scopes) if isinstance(node, exp.Select) else None
        source = _only_source(scope, tree) if scope is not None else None
        if scope is None or source is None or not isinstance(source.query, exp.Union):
            return None
        union, names = source.query, (scope, source)
        if any(union.args.get(key) for key in ("order", "limit", "offset")):
            return None
    branches = _branches(union, top=True)
    outputs = [_outputs(branch, all_scopes) for branch in branches] if branches is not None else []
    known = [columns for columns in outputs if columns is not None]
    if not known or len(known) < len(outputs) or len({len(columns) for columns in known}) > 1:
        return None
    first = tuple(column.name for column in known[0])
    positions = _positions(order, first) if names is None else _outer_positions(order, first, *names)
    if positions is None or branches is None or not _same_order(positions, known):
        return None
    total = all(
        _is_total(branch, columns, positions, all_scopes) for branch, columns in zip(branches, known, strict=True)
    )
    return _Parts(branches, tuple(zip(order.expressions, positions, strict=True)), limit) if total else None


def _inner_limit(node: exp.Expr) -> exp.Expr | None:
    """LIMIT plus OFFSET, None where there is no LIMIT or it can't be told."""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if isinstance(limit, exp.Fetch):
        options = limit.args.get("limit_options")
        if options is not None and (options.args.get("with_ties") or options.args.get("percent")):
            return None
        count = limit.args.get("count")
    else:
        count = limit.expression if isinstance(limit, exp.Limit) else None
    if count is None:
        return None
    count = bare(count)
    if offset is None and isinstance(count, exp.Parameter):
        return count
    rows, skipped = integer(count), integer(offset.expression) if offset is not None else 0
    if rows is None or skipped is None or rows < 0 or skipped < 0 or not fits(rows + skipped, "bigint"):
        return None
    return integer_node(rows + skipped)


def _only_source(scope: Scope, tree: exp.Expr) -> Source | None:
    """The derived table or CTE that a query reads, if it does nothing but show, sort and limit its rows."""
    select = scope.select
    if len(scope.sources) != 1 or any(
        select.args.get(key) for key in ("where", "distinct", "joins", "windows", "laterals")
    ):
        return None
    if has_aggregate(select) or any(True for _ in own_nodes(select, exp.Window)):
        return None
    if any(may_return_set(item, scope.catalog) for item in select.expressions if not is_star(item)):
        return None
    (source,) = scope.sources.values()
    if isinstance(source.node, exp.Table):
        references = [
            t for t in tree.find_all(exp.Table) if identifier_name(t.this) == identifier_name(source.node.this)
        ]
        cte = source.query.parent if source.query is not None else None
        if (
            len(references) > 1
            or not isinstance(cte, exp.CTE)
            or cte.parent is None
            or cte.parent.args.get("recursive")
        ):
            return None
    return source


def _branches(node: exp.Expr, *, top: bool = False) -> tuple[exp.Select, ...] | None:
    """The operands of a UNION ALL of any length; None when one is not a SELECT that can take an order and a limit."""
    if isinstance(node, exp.Subquery) and not node.args.get("alias"):
        return _branches(node.this)
    if isinstance(node, exp.Union):
        own = () if top else ("order", "limit", "offset", "with_")
        if node.args.get("distinct") or node.args.get("by_name") or any(node.args.get(key) for key in own):
            return None
        left, right = _branches(node.this), _branches(node.expression)
        return left + right if left is not None and right is not None else None
    refused = ("order", "limit", "offset", "locks", "with_")
    return (node,) if isinstance(node, exp.Select) and not any(node.args.get(key) for key in refused) else None


def _outputs(branch: exp.Select, all_scopes: Sequence[Scope]) -> list[_Output] | None:
    """A branch's output columns, None where a star hides some."""
    scope = scope_at(branch, all_scopes)
    if scope is None:
        return None
    outputs: list[_Output] = []
    for item in branch.expressions:
        value = item.unalias()
        if is_star(value):
            for source in star_sources(value, scope) or (None,):
                if source is None or source.table is None:
                    return None
                outputs += [_Output(c.name, (source.alias, c.name), c) for c in source.table.columns.values()]
            continue
        if may_return_set(value, scope.catalog):
            return None
        place = place_of(value, scope)
        column = scope.sources[place[0]].column(place[1]) if place is not None else None
        name = identifier_name(item.args["alias"]) if isinstance(item, exp.Alias) else None
        if name is None and isinstance(value, exp.Column):
            name = identifier_name(value.this)
        outputs.append(_Output(name, place, column))
    return outputs


def _positions(order: exp.Expr, names: Sequence[str | None]) -> tuple[int, ...] | None:
    """Where the sort keys of a UNION stand in its output: it may only be sorted by name or position."""
    positions = []
    for ordered in order.expressions:
        key = bare(ordered.this)
        number = integer(key)
        if isinstance(key, exp.Column) and not key.args.get("table") and names.count(identifier_name(key.this)) == 1:
            number = names.index(identifier_name(key.this)) + 1
        if number is None or ordered.args.get("with_fill") or not 1 <= number <= len(names):
            return None
        positions.append(number)
    return tuple(positions)


def _outer_positions(
    order: exp.Expr, names: Sequence[str | None], scope: Scope, source: Source
) -> tuple[int, ...] | None:
    """Where the sort keys of a SELECT over the UNION stand in the UNION's output."""
    columns = source.columns
    if columns is None or len(columns) != len(names):
        return None
    shown: list[tuple[str | None, str | None]] = []  # name and source column of each item of the outer output
    for item in scope.select.expressions:
        value = item.unalias()
        if is_star(value):
            shown += [(name, name) for name in columns]
        else:
            column = _name_in(source, value)
            shown.append((identifier_name(item.args["alias"]) if isinstance(item, exp.Alias) else column, column))
    positions = []
    for ordered in order.expressions:
        key = bare(ordered.this)
        number = integer(key)
        wanted: str | None = None
        if number is not None and 1 <= number <= len(shown):
            wanted = shown[number - 1][1]
        elif isinstance(key, exp.Column):
            name = identifier_name(key.this)
            aliased = [column for alias, column in shown if alias == name and not key.args.get("table")]
            wanted = aliased[0] if aliased else _name_in(source, key)
        if wanted is None or columns.count(wanted) != 1 or ordered.args.get("with_fill"):
            return None
        positions.append(columns.index(wanted) + 1)
    return tuple(positions)


def _name_in(source: Source, node: exp.Expr) -> str | None:
    """Name of a column if it may belong to `source`, the only FROM item; None for others and for expressions."""
    if not isinstance(node, exp.Column):
        return None
    alias = node.args.get("table")
    return identifier_name(node.this) if alias is None or identifier_name(alias) == source.alias else None


def _same_order(positions: Sequence[int], outputs: Sequence[Sequence[_Output]]) -> bool:
    """True when each sort key has one type and collation in all branches."""
    for position in positions:
        kinds = set()
        for columns in outputs:
            column = columns[position - 1].column
            if column is None or column.type_kind not in ("base", "enum"):
                return False
            kinds.add((base_type(column.type), column.collation, column.deterministic))
        if len(kinds) > 1:
            return False
    return True


def _is_total(
    branch: exp.Select, outputs: Sequence[_Output], positions: Sequence[int], all_scopes: Sequence[Scope]
) -> bool:
    """True when rows of the branch that agree in the sort keys are one row, or look alike."""
    if set(positions) == set(range(1, len(outputs) + 1)) and all(_looks_alike(c.column) for c in outputs):
        return True
    scope = scope_at(branch, all_scopes)
    if scope is None or branch.args.get("distinct") or has_aggregate(branch):
        return False
    places = [place for position in positions if (place := outputs[position - 1].place) is not None]
    return tells_rows_apart(scope, places)


def _looks_alike(column: Column | None) -> bool:
    """True for types whose equal values print alike: not numerics without a scale, floats (0 and -0), citext."""
    if column is None or not column.deterministic:
        return False
    return column.type_kind == "enum" or column.type.startswith("numeric(") or base_type(column.type) in _PRINT_ALIKE


_PRINT_ALIKE = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "boolean",
        "text",
        "character varying",
        "character",
        "date",
        "uuid",
        "timestamp without time zone",
        "timestamp with time zone",
    }
)
