"""Splits the rows of one FROM clause into branches: `FROM (SELECT ... UNION ALL SELECT ...) AS joined`.

Everything else of the query (output, grouping, order, limit) stays and reads the branches' columns. Each branch repeats
FROM and WHERE with one condition narrowed, so nothing in them needs new names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlglot import exp

from optimizer.catalog import identifier_name
from optimizer.matching import is_aggregate
from optimizer.rewriting.naming import column_of, fresh_alias, identifier, output_name, with_output_name
from optimizer.rewriting.resolved import ResolvedStatement
from optimizer.rule import copied
from optimizer.scope import Scope, Source

#: Clauses that stay with the outer query and read the branches' columns.
_READING_CLAUSES = ("distinct", "group", "having", "windows", "order")


@dataclass(frozen=True, slots=True, eq=False)
class BranchedQuery:
    """A query whose FROM and WHERE can become branches.

    Parameters:
        scope: of the query.
        columns: the columns that the rest of the query reads, in order of first appearance.
        references: those references, with the column each means.
    """

    scope: Scope
    columns: tuple[tuple[Source, str], ...]
    references: tuple[tuple[exp.Column, tuple[Source, str]], ...]

    def branched(self, target: exp.Expr, narrowed: Sequence[exp.Expr]) -> exp.Expr:
        """Return the statement with one branch for each way to narrow a condition; together they are its rows.

        Parameters:
            target: a condition in this query's FROM or WHERE.
            narrowed: what takes its place in each branch; no row meets two of them.
        """
        alias = fresh_alias(self.scope.select, "joined")
        names = self._column_names()
        root, select, *places = copied(self.scope.select, *(column for column, _ in self.references))
        old_names = self._output_names()
        _expand_stars(select, self.scope, alias, names)
        for place, (_, meaning) in zip(places, self.references, strict=True):
            place.replace(column_of(alias, names[meaning]))
        items = [
            item if name is None else with_output_name(item, name)
            for item, name in zip(select.expressions, old_names, strict=True)
        ]
        select.set("expressions", items)
        branches = [self._branch(target, condition, names) for condition in narrowed]
        union: exp.Expr = branches[0]
        for branch in branches[1:]:
            union = exp.Union(this=union, expression=branch, distinct=False)
        rows = exp.Subquery(this=union, alias=exp.TableAlias(this=identifier(alias)))
        select.set("from_", exp.From(this=rows))
        select.set("joins", None)
        select.set("where", None)
        return root

    def _branch(self, target: exp.Expr, condition: exp.Expr, names: dict[tuple[Source, str], str]) -> exp.Select:
        root, select, place = copied(self.scope.select, target)
        del root
        place.replace(condition.copy())
        items: list[exp.Expr] = []
        for meaning in self.columns:
            source, name = meaning
            items.append(with_output_name(column_of(source.alias, name), names[meaning]))
        kept = {key: select.args.get(key) for key in ("from_", "joins", "where")}
        branch = exp.Select(expressions=items or [exp.Literal.number(1)])
        for key, part in kept.items():
            branch.set(key, part)
        return branch

    def _column_names(self) -> dict[tuple[Source, str], str]:
        """Names in the derived table: the columns' own, with their table's where two are called alike."""
        plain = [name for _, name in self.columns]
        names: dict[tuple[Source, str], str] = {}
        for source, name in self.columns:
            own = plain.count(name) == 1
            taken = {*names.values(), *plain}
            names[source, name] = name if own else fresh_alias(self.scope.select, f"{source.alias}_{name}", taken)
        return names

    def _output_names(self) -> list[str | None]:
        names: list[str | None] = []
        for item in self.scope.select.expressions:
            starred = _starred(item, self.scope)
            names += [name for _, name in starred] if starred is not None else [output_name(item)]
        return names


def read_branched_query(scope: Scope, statement: ResolvedStatement) -> BranchedQuery | None:
    """Read a query; None unless all that its other clauses refer to can be told.

    A query that groups must not lean on a primary key for columns that it does not group by: the derived table has
    none.
    """
    select = scope.select
    if scope.ambiguous or select.args.get("laterals") or any(a.startswith("?") for a in scope.sources):
        return None
    read: dict[tuple[Source, str], None] = {}
    references: list[tuple[exp.Column, tuple[Source, str]]] = []
    for item in select.expressions:
        starred = _starred(item, scope)
        if starred is not None:
            if any(s.columns is None or len(set(s.columns)) < len(s.columns) for s in scope.sources.values()):
                return None
            read.update(dict.fromkeys(starred))
        elif output_name(item) is None:
            return None
    for column, source in _read_elsewhere(scope, statement):
        if _is_output_name(column, source, scope):
            continue
        if source is None or isinstance(column.this, exp.Star):
            return None  # perhaps a whole row
        if scope.sources.get(source.alias) is not source:
            continue  # of a query around or inside this one
        meaning = (source, identifier_name(column.this))
        if source.columns is None or meaning[1] not in source.columns:
            return None  # perhaps a system column
        read[meaning] = None
        references.append((column, meaning))
    if not _groups_all(scope, {id(c): m for c, m in references}):
        return None
    return BranchedQuery(scope, tuple(read), tuple(references))


def _read_elsewhere(scope: Scope, statement: ResolvedStatement) -> Iterator[tuple[exp.Column, Source | None]]:
    """References outside FROM and WHERE."""
    select = scope.select
    parts = [item for item in select.expressions if _starred(item, scope) is None]
    for key in _READING_CLAUSES:
        clause = select.args.get(key)
        parts += clause if isinstance(clause, list) else [clause] if clause is not None else []
    for part in parts:
        yield from statement.references(part, scope)


def _starred(item: exp.Expr, scope: Scope) -> tuple[tuple[Source, str], ...] | None:
    """The columns that `*` or `alias.*` stands for; None for other items."""
    if isinstance(item, exp.Star):
        sources = tuple(scope.sources.values())
    elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        found = scope.sources.get(identifier_name(item.args["table"]))
        sources = (found,) if found is not None else ()
    else:
        return None
    return tuple((source, name) for source in sources for name in source.columns or ())


def _expand_stars(select: exp.Expr, scope: Scope, alias: str, names: dict[tuple[Source, str], str]) -> None:
    items: list[exp.Expr] = []
    for item in select.expressions:
        starred = _starred(item, scope)
        items += [item] if starred is None else [column_of(alias, names[meaning]) for meaning in starred]
    select.set("expressions", items)


def _is_output_name(column: exp.Column, source: Source | None, scope: Scope) -> bool:
    """True for a plain name that PostgreSQL takes for an output column (`findTargetlistEntrySQL92`, parse_clause.c).

    In ORDER BY and DISTINCT ON the output's names come first, in GROUP BY those of the FROM clause do.
    """
    if column.args.get("table") or isinstance(column.this, exp.Star):
        return False
    if identifier_name(column.this) not in {output_name(item) for item in scope.select.expressions}:
        return False
    holder = column.parent
    while isinstance(holder, exp.Paren):
        holder = holder.parent
    if isinstance(holder, (exp.Ordered, exp.Tuple)):
        holder = holder.parent
    select = scope.select
    if holder is not None and any(holder is select.args.get(key) for key in ("order", "distinct")):
        return True
    seen = all(s.columns is not None for s in scope.sources.values())
    return holder is not None and holder is select.args.get("group") and source is None and seen


def _groups_all(scope: Scope, meanings: dict[int, tuple[Source, str]]) -> bool:
    """True unless the query groups and reads, outside aggregates, a column that it does not group by as such."""
    select = scope.select
    group = select.args.get("group")
    if group is None:
        return True
    if any(value for key, value in group.args.items() if key != "expressions"):
        return False
    grouped = {meanings.get(id(key)) for key in group.expressions}
    for part in (*select.expressions, *(select.args.get(key) for key in ("having", "order", "distinct"))):
        for column in part.find_all(exp.Column) if part is not None else ():
            meaning = meanings.get(id(column))
            if meaning is None or meaning in grouped:
                continue
            if not _inside_aggregate(column, scope):
                return False
    return True


def _inside_aggregate(node: exp.Expr, scope: Scope) -> bool:
    holder = node.parent
    while holder is not None and holder is not scope.select:
        if is_aggregate(holder, scope.catalog):
            return True
        holder = holder.parent
    return False
