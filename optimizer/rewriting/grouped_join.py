"""Builds the grouped join that stands for correlated aggregates (see `decorrelation.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from optimizer.catalog import identifier_name
from optimizer.matching import COMPARISONS, bare, conjunction, has_aggregate, is_aggregate, where_conjuncts
from optimizer.rewriting.decorrelation import (
    CorrelatedAggregate,
    is_count,
    outermost_aggregates,
    read_correlated_aggregate,
    scalar_subqueries,
)
from optimizer.rewriting.naming import column_of, fresh_alias, identifier, output_name, with_output_name
from optimizer.rewriting.resolved import ResolvedStatement, is_comma, joins_of
from optimizer.rule import copied
from optimizer.scope import Scope, Source

_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """One subquery to be replaced.

    Parameters:
        aggregate: what it is.
        inner: True when rows without a group may be dropped, since the condition they stand in is not true for NULL.
    """

    aggregate: CorrelatedAggregate
    inner: bool = False


@dataclass(frozen=True, slots=True)
class JoinPlace:
    """Where a LEFT JOIN goes in a list of joins.

    Parameters:
        index: place among the joins that follow the first FROM item.
        crossed: the commas must become CROSS JOIN first, so that ON can see all the items.
    """

    index: int
    crossed: bool = False


def join_place(outer: Scope, sources: Iterable[Source]) -> JoinPlace | None:
    """Find a place where a LEFT JOIN's condition can refer to all of `sources`; None if there is none.

    JOIN binds tighter than the comma, so ON sees the items since the last comma only. Turning commas into CROSS JOIN
    lets it see all, but changes what a RIGHT, FULL, NATURAL or USING join means.
    """
    joins = joins_of(outer.select)
    if not any(map(is_comma, joins)):
        return JoinPlace(len(joins))
    blocks = {_block_of(source.node, outer.select) for source in sources}
    if len(blocks) == 1:
        (block,) = blocks
        return JoinPlace(sum(1 for number in _block_numbers(joins) if number <= block))
    fixed = any(
        (j.side or "").upper() in ("RIGHT", "FULL") or j.args.get("using") or (j.method or "").upper() == "NATURAL"
        for j in joins
    )
    return None if fixed else JoinPlace(len(joins), crossed=True)


def stars_expand(scope: Scope) -> bool:
    """True unless the query selects `*` and that can't be written out as `alias.*` for each FROM item."""
    if not any(isinstance(item, exp.Star) for item in scope.select.expressions):
        return True
    return not scope.ambiguous and not any(alias.startswith("?") for alias in scope.sources)


def selected_aggregates(outer: Scope, statement: ResolvedStatement) -> tuple[CorrelatedAggregate, ...]:
    """The subqueries in a query's SELECT list that a LEFT JOIN to a grouped table can stand for.

    In a query that groups they must stand inside an aggregate: elsewhere the joined columns would have to be grouped
    by.
    """
    if not stars_expand(outer) or outer.select.args.get("laterals"):
        return ()
    found = []
    grouped = has_aggregate(outer.select)
    for item in outer.select.expressions:
        if output_name(item) is None and not isinstance(item, exp.Star):
            continue
        for subquery in scalar_subqueries(item):
            if grouped and not _inside_aggregate(subquery, outer):
                continue
            aggregate = read_correlated_aggregate(subquery, outer, statement)
            if aggregate is not None and join_place(outer, aggregate.outer_sources) is not None:
                found.append(aggregate)
    return tuple(found)


def convert(outer: Scope, conversions: Sequence[Conversion]) -> exp.Expr:
    """Return the statement with subqueries of one query replaced by joins.

    Subqueries over the same rows share one join. A star is written out, so that it does not take in the new columns,
    and output columns keep their names.

    Parameters:
        outer: the query they stand in; `stars_expand` and, for LEFT JOINs, `join_place` hold of it.
        conversions: at least one.
    """
    root, copy, *subqueries = copied(outer.select, *(c.aggregate.subquery for c in conversions))
    assert isinstance(copy, exp.Select)  # noqa: S101 - narrows the type: it is the copy of a Select
    names = [output_name(item) for item in outer.select.expressions]
    joined: dict[str, _GroupedTable] = {}
    aliases: set[str] = set()
    for conversion, subquery in zip(conversions, subqueries, strict=True):
        signature = _rows_signature(conversion.aggregate)
        if signature not in joined:
            joined[signature] = _GroupedTable.of(conversion.aggregate, outer.select, aliases)
        table = joined[signature]
        table.inner = table.inner or conversion.inner
        _put_value(subquery, table.value_of(conversion, outer.select))
    _join(copy, outer, joined.values())
    items = zip(copy.expressions, names, strict=True)
    copy.set("expressions", [item if name is None else with_output_name(item, name) for item, name in items])
    _expand_star(copy, outer)
    return root


@dataclass(slots=True, eq=False)
class _GroupedTable:
    """A derived table in the making."""

    first: CorrelatedAggregate
    alias: str
    keys: dict[str, str] = field(default_factory=dict)  # SQL of a key to its column's name
    columns: dict[str, str] = field(default_factory=dict)  # SQL of an aggregate to its column's name
    items: list[exp.Expr] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    inner: bool = False

    @classmethod
    def of(cls, aggregate: CorrelatedAggregate, tree: exp.Expr, aliases: set[str]) -> _GroupedTable:
        keys = {pair.inner.sql(): pair.inner for pair in aggregate.correlations}
        first_name = _word(next(iter(keys.values())))
        source = next(iter(aggregate.scope.sources.values()))
        table = source.table.name if source.table is not None else source.alias.lstrip("?0123456789") or "rows"
        made = cls(aggregate, _take(tree, f"{table}_by_{first_name}", aliases))
        for sql, key in keys.items():
            made.keys[sql] = _take(tree, f"{_word(key)}_key", made.names)
            made.items.append(exp.Alias(this=key.copy(), alias=identifier(made.keys[sql])))
        return made

    def value_of(self, conversion: Conversion, tree: exp.Expr) -> exp.Expr:
        """The subquery's value in terms of this table's columns."""
        aggregate = conversion.aggregate
        holder = exp.Paren(this=aggregate.value.copy())
        for call in list(outermost_aggregates(holder.this, aggregate.scope)):
            sql = call.sql()
            if sql not in self.columns:
                self.columns[sql] = _take(tree, _aggregate_word(call), self.names)
                self.items.append(exp.Alias(this=call.copy(), alias=identifier(self.columns[sql])))
            column: exp.Expr = column_of(self.alias, self.columns[sql])
            if is_count(call) and not conversion.inner:
                column = exp.Coalesce(this=column, expressions=[exp.Literal.number(0)])
            call.replace(column)
        value: exp.Expr = holder.this
        return value

    def derived(self) -> exp.Subquery:
        """This table as a FROM item."""
        rows = self.first.select.copy()
        local = conjunction(self.first.local)
        rows.set("expressions", self.items)
        rows.set("where", exp.Where(this=local) if local is not None else None)
        rows.set("group", exp.Group(expressions=[item.this.copy() for item in self.items[: len(self.keys)]]))
        return exp.Subquery(this=rows, alias=exp.TableAlias(this=identifier(self.alias)))

    def conditions(self) -> list[exp.Expr]:
        """What joins a row of the surrounding query to its group."""
        return [
            exp.EQ(this=column_of(self.alias, self.keys[pair.inner.sql()]), expression=pair.outer.copy())
            for pair in self.first.correlations
        ]


def _join(select: exp.Select, outer: Scope, tables: Iterable[_GroupedTable]) -> None:
    """Add derived tables to the copied query's FROM clause, LEFT JOINs at places found in the original."""
    joins = list(joins_of(select))
    placed: list[tuple[int, exp.Join]] = []
    inner: list[_GroupedTable] = []
    for table in tables:
        if table.inner:
            inner.append(table)
            continue
        place = join_place(outer, table.first.outer_sources)
        if place is None:
            raise ValueError("no LEFT JOIN can see all the columns that the subquery is correlated with")
        for comma in filter(is_comma, joins if place.crossed else ()):
            comma.set("kind", "CROSS")
        placed.append((place.index, exp.Join(this=table.derived(), side="LEFT", on=conjunction(table.conditions()))))
    placed.sort(key=lambda pair: pair[0])
    for index, join in reversed(placed):
        joins.insert(index, join)
    commas = any(map(is_comma, joins))
    for table in inner:
        if commas:  # ON would not see the items before the last comma
            joins.append(exp.Join(this=table.derived()))
            select.set("where", exp.Where(this=conjunction((*where_conjuncts(select), *table.conditions()))))
        else:
            joins.append(exp.Join(this=table.derived(), on=conjunction(table.conditions())))
    select.set("joins", joins)


def _rows_signature(aggregate: CorrelatedAggregate) -> str:
    select = aggregate.select
    parts = [select.args["from_"], *joins_of(select), select.args["where"]]
    return "\n".join(part.sql(dialect="postgres") for part in parts)


def _put_value(subquery: exp.Expr, value: exp.Expr) -> None:
    parent = subquery.parent
    alone = isinstance(parent, (exp.Alias, exp.Select, exp.Paren, exp.Subquery))
    loose = isinstance(value, (exp.Binary, exp.Unary)) and not isinstance(value, (exp.Paren, exp.Dot))
    if isinstance(value, _ARITHMETIC) and isinstance(parent, COMPARISONS):
        loose = False
    subquery.replace(exp.Paren(this=value) if loose and not alone else value)


def _expand_star(select: exp.Select, scope: Scope) -> None:
    if not any(isinstance(item, exp.Star) for item in select.expressions):
        return
    items: list[exp.Expr] = []
    for item in select.expressions:
        if isinstance(item, exp.Star):
            items += [exp.Column(this=exp.Star(), table=identifier(alias)) for alias in scope.sources]
        else:
            items.append(item)
    select.set("expressions", items)


def _inside_aggregate(node: exp.Expr, outer: Scope) -> bool:
    holder = node.parent
    while holder is not None and holder is not outer.select:
        if is_aggregate(holder, outer.catalog):
            return True
        holder = holder.parent
    return False


def _block_numbers(joins: Sequence[exp.Join]) -> list[int]:
    numbers, block = [], 0
    for join in joins:
        block += is_comma(join)
        numbers.append(block)
    return numbers


def _block_of(node: exp.Expr, select: exp.Select) -> int:
    """Number of the comma-separated FROM item that a source stands in."""
    joins = joins_of(select)
    numbers = _block_numbers(joins)
    holder: exp.Expr | None = node
    while holder is not None and holder.parent is not select:
        holder = holder.parent
    return next((numbers[i] for i, join in enumerate(joins) if join is holder), 0)


def _take(tree: exp.Expr, base: str, taken: set[str]) -> str:
    """Make a fresh name and note it."""
    name = fresh_alias(tree, base, taken)
    taken.add(name)
    return name


def _word(node: exp.Expr) -> str:
    node = bare(node)
    if isinstance(node, exp.Column):
        return identifier_name(node.this)
    column = node.find(exp.Column)
    return identifier_name(column.this) if column is not None else "value"


def _aggregate_word(call: exp.Expr) -> str:
    function = call.this if isinstance(call, exp.Filter) else call
    name = output_name(function) or "value"
    column = function.find(exp.Column)
    if column is not None:
        return f"{name}_{identifier_name(column.this)}"
    return f"{name}_filtered" if isinstance(call, exp.Filter) else f"{name}_all"
