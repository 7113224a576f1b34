"""Operands: the sides of conditions and sort keys that a B-tree could hold, down to the base table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlglot import exp

from optimizer.catalog import Catalog, Column, IndexColumn, Table, identifier_name, quote_identifier
from optimizer.indexing.index_expression import (
    cast_target,
    expression_type,
    indexable,
    orderable,
    too_long,
    unqualified,
)
from optimizer.indexing.lineage import Lineage
from optimizer.indexing.selectivity import distinct_values
from optimizer.matching import bare
from optimizer.scope import QUERY_NODES, Scope, Source


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """A column of one base table, or an expression over it that an index may hold.

    Parameters:
        alias: the FROM item of the query at hand by which it is reached.
        source: the base table's place in the statement, perhaps in a query below.
        key: as an index would hold it.
        column: the catalog's column, None for expressions.
        type: where known.
        distinct: estimated number of distinct values, None where unknown.
    """

    alias: str
    source: Source
    table: Table
    key: IndexColumn
    column: Column | None
    type: str | None
    distinct: float | None

    @property
    def collation(self) -> str | None:
        """The collation's name where it isn't the database's default one."""
        return self.key.collation or (self.column.collation if self.column is not None else None)

    def with_opclass(self, opclass: str) -> Operand:
        """The same operand in an index with another operator class."""
        return replace(self, key=replace(self.key, opclass=opclass))


class Operands:
    """Finds operands in one statement."""

    def __init__(self, lineage: Lineage, catalog: Catalog) -> None:
        self.lineage = lineage
        self.catalog = catalog

    def of(self, scope: Scope, node: exp.Expr, *, joined: bool = False) -> Iterator[Operand]:
        """Yield the base table operands that `node` stands for; several when it reaches into a set operation.

        Parameters:
            scope: of the query that `node` belongs to; operands of surrounding queries are left out.
            joined: see `Lineage.base_columns`.
        """
        node, collation = self._uncast(scope, bare(node)), None
        if isinstance(node, exp.Collate) and isinstance(node.expression, exp.Identifier):
            node, collation = bare(node.this), identifier_name(node.expression)
        if isinstance(node, exp.Column):
            yield from self._columns(scope, node, collation, joined=joined)
        elif collation is None and node.find(exp.Column) is not None:
            yield from self._expression(scope, node)

    def column(self, alias: str, source: Source, name: str, collation: str | None = None) -> Operand | None:
        """The operand for a base table's column; None when no B-tree can hold it."""
        table = source.table
        column = table.columns.get(name) if table is not None else None
        if table is None or column is None or not orderable(column.type) or too_long(column):
            return None
        own = collation if collation != column.collation else None
        key = IndexColumn(quote_identifier(name), name, collation=own)
        return Operand(alias, source, table, key, column, column.type, distinct_values(column, table))

    def type_of(self, scope: Scope, node: exp.Expr) -> str | None:
        """An expression's type, None where it isn't known."""
        return expression_type(node, self.lineage.types(scope))

    def _uncast(self, scope: Scope, node: exp.Expr) -> exp.Expr:
        """Take away a cast that an index on the column doesn't notice: to its own type, between text and varchar."""
        inner = bare(node.this) if isinstance(node, exp.Cast) and not node.to.expressions else None
        if not isinstance(node, exp.Cast) or not isinstance(inner, exp.Column):
            return node
        source, target = self.type_of(scope, inner), cast_target(node)
        return inner if source == target or {source, target} == {"text", "character varying"} else node

    def _columns(self, scope: Scope, node: exp.Column, collation: str | None, *, joined: bool) -> Iterator[Operand]:
        local = self.lineage.source(scope, node)
        if local is None or scope.sources.get(local.alias) is not local:
            return
        for source, name in self.lineage.base_columns(scope, node, joined=joined):
            operand = self.column(local.alias, source, name, collation)
            if operand is not None:
                yield operand

    def _expression(self, scope: Scope, node: exp.Expr) -> Iterator[Operand]:
        if any(True for _ in node.find_all(*QUERY_NODES, exp.Parameter, exp.AggFunc, exp.Window)):
            return
        sources = [self.lineage.source(scope, column) for column in node.find_all(exp.Column)]
        source = sources[0]
        if source is None or source.table is None or any(s is not source for s in sources):
            return
        if scope.sources.get(source.alias) is not source:
            return
        type_ = self.type_of(scope, node)
        if orderable(type_) and indexable(node, self.lineage.types(scope), self.catalog):
            key = IndexColumn(unqualified(node), None)
            yield Operand(source.alias, source, source.table, key, None, type_, None)
