"""Whether an index that exists already serves what a candidate would.

`IndexCandidate.subsumed_by` compares word by word. Here the words are first made alike: PostgreSQL prints expressions
and predicates in its own way, equality columns may stand in any order, and an index is read in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from sqlglot import exp
from sqlglot.errors import SqlglotError

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Index, IndexColumn, Table, identifier_name
from optimizer.indexing.index_expression import JSON_OPERATORS, TEXT_TYPES, cast_target
from optimizer.indexing.selectivity import NUMBER_TYPES, base_type
from optimizer.memo import remembered
from optimizer.query import parse_expression

#: Names of a table's columns with their types without modifiers.
ColumnTypes = frozenset[tuple[str, str]]
T = TypeVar("T", IndexCandidate, Index)


def served(candidate: IndexCandidate, table: Table, *, free: int, ordered: bool) -> bool:
    """Say whether one of the table's indexes makes the candidate needless.

    Parameters:
        free: how many leading key columns may change places: those that equality fixes.
        ordered: whether the directions of the other key columns matter.
    """
    types = frozenset((name, base_type(column.type)) for name, column in table.columns.items())
    wanted = _normal(candidate, types)
    for existing in table.indexes:
        spelt = _normal_index(existing, types)
        index = _plain_directions(spelt, free if ordered else len(existing.key_columns))
        if any(form.subsumed_by(index) for form in _equal_forms(wanted, index, free)):
            return True
    return False


def _equal_forms(candidate: IndexCandidate, index: Index, free: int) -> Iterator[IndexCandidate]:
    """The candidate with its free columns in the index's order, read forwards and backwards."""
    first, rest = candidate.key_columns[:free], candidate.key_columns[free:]
    leading = index.key_columns[:free]
    if set(leading) == set(first):
        first = leading
    for tail in (rest, tuple(map(_turned, rest))):
        yield replace(candidate, key_columns=(*first, *tail))


def _plain_directions(index: Index, count: int) -> Index:
    plain = tuple(replace(k, descending=False, nulls_first=False) for k in index.key_columns[:count])
    return replace(index, key_columns=(*plain, *index.key_columns[count:]))


def _turned(key: IndexColumn) -> IndexColumn:
    return replace(key, descending=not key.descending, nulls_first=not key.nulls_first)


@lru_cache(maxsize=512)
def _normal_index(index: Index, types: ColumnTypes) -> Index:
    return _normal(index, types)


def _normal(index: T, types: ColumnTypes) -> T:
    keys = tuple(
        replace(k, expression=normal_form(k.expression, types)) if k.column is None else replace(k, expression=k.column)
        for k in index.key_columns
    )
    predicate = normal_form(index.predicate, types) if index.predicate is not None else None
    return replace(index, key_columns=keys, predicate=predicate)


@remembered(most=2_048, longest=2_000)
def normal_form(sql: str, types: ColumnTypes) -> str:
    """Describe an expression so that PostgreSQL's spelling of it and a user's come out alike; only good for comparing.

    Parameters:
        sql: the expression.
        types: of the columns: PostgreSQL writes out the casts that it adds by itself.
    """
    try:
        holder = exp.Paren(this=parse_expression(sql))
    except SqlglotError:
        return sql
    for node in reversed(tuple(holder.walk())):  # children before their parents
        spelt = _respell(node, types)
        if spelt is not node and node is not holder:
            node.replace(spelt)
    return repr(holder.this)


def _respell(node: exp.Expr, types: ColumnTypes) -> exp.Expr:
    """The node in one spelling; its children have theirs already."""
    if isinstance(node, exp.Paren) or (isinstance(node, exp.Cast) and _implicit(node, types)):
        inner: exp.Expr = node.this
        return inner
    if isinstance(node, exp.Identifier):
        return exp.to_identifier(identifier_name(node), quoted=True)
    if isinstance(node, exp.Var):
        return exp.Var(this=node.name.lower())
    if isinstance(node, exp.In) and node.expressions:
        return exp.EQ(this=node.this, expression=exp.Any(this=exp.Array(expressions=node.expressions)))
    if isinstance(node, exp.Array):
        return exp.Array(expressions=node.expressions)
    if isinstance(node, exp.Anonymous) and node.name.upper() == "ALL" and len(node.expressions) == 1:
        return exp.All(this=node.expressions[0])
    if isinstance(node, exp.JSONPath) and len(node.expressions) == 2:  # the root and one key
        return exp.Literal.string(node.expressions[1].name)
    if isinstance(node, JSON_OPERATORS):
        return type(node)(this=node.this, expression=node.expression)
    if isinstance(node, exp.Not) and isinstance(node.this, exp.EQ) and isinstance(node.this.expression, exp.Any):
        return exp.NEQ(this=node.this.this, expression=exp.All(this=node.this.expression.this))
    return node


def _implicit(cast: exp.Cast, types: ColumnTypes) -> bool:
    """A cast that PostgreSQL adds: of a constant, of varchar to text, of one number to the other's type."""
    value, target = cast.this, cast_target(cast)
    if not isinstance(value, exp.Column):
        return isinstance(value, exp.Literal)
    name = identifier_name(value.this)
    if target == "text":
        return any((name, type_) in types for type_ in TEXT_TYPES)
    around = cast.parent
    while isinstance(around, exp.Paren):
        around = around.parent
    if target not in NUMBER_TYPES or not isinstance(around, (exp.Binary, exp.Coalesce, exp.Nullif)):
        return False
    others = {identifier_name(c.this) for c in around.find_all(exp.Column)} - {name}
    constants = (c.name for c in around.find_all(exp.Literal) if not c.is_string)
    of_constants = {"integer" if text.isdecimal() else "numeric" for text in constants}
    return target in of_constants or any((other, target) in types for other in others)
