"""The catalog: what rules may know of a database, read once from a shadow and never changed.

Names are kept as PostgreSQL stores them (case-folded unless quoted). Fields follow `pg_class`, `pg_attribute`,
`pg_constraint`, `pg_index` and `pg_stats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import postgast
from sqlglot import exp

from optimizer.memo import remembered

RelationKind = Literal["table", "partitioned table", "view", "materialized view", "foreign table"]
ConstraintKind = Literal["primary key", "unique", "foreign key", "check", "exclude"]
Volatility = Literal["immutable", "stable", "volatile"]


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """One row of `pg_stats`.

    Parameters:
        null_frac: share of NULLs, 0 to 1.
        avg_width: average stored width in bytes.
        n_distinct: as PostgreSQL stores it: a count, or when negative minus the share of distinct values.
        correlation: of physical to logical order, None where unknown.
        most_common_vals, most_common_freqs: values in text form and their shares.
        histogram_bounds: values in text form.
        most_common_elems, most_common_elem_freqs: of arrays and tsvectors, elements in text form and the shares of rows
            that hold them; behind those come the least and the greatest share, and for arrays that of NULL elements.
        elem_count_histogram: of arrays, bounds of the number of different elements a row, behind them its average.
    """

    null_frac: float
    avg_width: int
    n_distinct: float
    correlation: float | None = None
    most_common_vals: tuple[str, ...] = ()
    most_common_freqs: tuple[float, ...] = ()
    histogram_bounds: tuple[str, ...] = ()
    most_common_elems: tuple[str, ...] = ()
    most_common_elem_freqs: tuple[float, ...] = ()
    elem_count_histogram: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Parameters:
        type: as `format_type` prints it: `integer`, `numeric(10,2)`, `timestamp without time zone`.
        type_kind: `pg_type.typtype` in words: base, enum, domain, composite, range.
        collation: name where it is not the type's default; None otherwise.
        deterministic: False for a nondeterministic collation (equal values with different bytes).
        default: default expression, None without.
        generated: True for GENERATED ALWAYS AS (...) columns.
        identity: True for identity columns.
    """

    name: str
    type: str
    not_null: bool
    position: int
    type_kind: Literal["base", "enum", "domain", "composite", "range", "pseudo", "multirange"] = "base"
    enum_labels: tuple[str, ...] = ()
    collation: str | None = None
    deterministic: bool = True
    default: str | None = None
    generated: bool = False
    identity: bool = False
    statistics: ColumnStatistics | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint; `expression` is set for CHECK, the `referenced_*` fields for foreign keys.

    It is not `validated` if a query may find it broken: NOT VALID ones, and foreign keys to tables with row-level
    security, which may hide the row that is referenced.
    """

    name: str
    kind: ConstraintKind
    columns: tuple[str, ...]
    validated: bool = True
    deferrable: bool = False
    nulls_not_distinct: bool = False
    expression: str | None = None
    referenced_schema: str | None = None
    referenced_table: str | None = None
    referenced_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """One key column of an index.

    Parameters:
        expression: the column's name as SQL would write it, or the expression as PostgreSQL prints it.
        column: the plain column's name, None for an expression.
        opclass_options: parameters of the operator class, as names and values.
    """

    expression: str
    column: str | None
    descending: bool = False
    nulls_first: bool = False
    opclass: str | None = None
    collation: str | None = None
    opclass_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """One existing index; `definition` is `pg_get_indexdef`, `size_bytes` its size at the source.

    `options` are its storage parameters, as names and values.
    """

    name: str
    schema: str
    table: str
    method: str
    key_columns: tuple[IndexColumn, ...]
    include: tuple[str, ...] = ()
    predicate: str | None = None
    unique: bool = False
    valid: bool = True
    immediate: bool = True
    constraint: str | None = None
    definition: str = ""
    size_bytes: int = 0
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One relation that a query can read.

    Parameters:
        rows: `reltuples` (-1 where never analyzed).
        pages: size of the main fork in 8 kB blocks.
        row_security: True where row-level security is on.
        definition: the view's query for views, None otherwise.
        parent: schema and name of the partitioned table of which this is a partition, None for others.
    """

    schema: str
    name: str
    kind: RelationKind
    columns: Mapping[str, Column]
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[Index, ...] = ()
    rows: float = -1
    pages: int = 0
    row_security: bool = False
    definition: str | None = None
    parent: tuple[str, str] | None = None

    @property
    def qualified(self) -> str:
        """`schema.name`, quoted where needed."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    @property
    def primary_key(self) -> tuple[str, ...] | None:
        """Columns of the primary key, None without one or when it is deferrable."""
        return next((c.columns for c in self.constraints if c.kind == "primary key" and not c.deferrable), None)

    def unique_keys(self, *, not_null: bool = False) -> Iterator[tuple[str, ...]]:
        """Column lists that no two rows share.

        Deferrable, partial, expression, invalid and INCLUDE-only uniqueness does not count. A unique key lets rows with
        NULLs repeat (unless NULLS NOT DISTINCT), so with `not_null` only keys whose columns all reject NULL are given.
        Keys with a nondeterministic collation count: PostgreSQL compares them by the same collation everywhere.
        """
        for columns in self._unique_column_lists():
            if not not_null or all(self.columns[c].not_null for c in columns):
                yield columns

    def _unique_column_lists(self) -> Iterator[tuple[str, ...]]:
        seen: set[tuple[str, ...]] = set()
        for constraint in self.constraints:
            if constraint.kind in ("primary key", "unique") and not constraint.deferrable:
                seen.add(constraint.columns)
                yield constraint.columns
        for index in self.indexes:
            plain = tuple(k.column for k in index.key_columns if k.column is not None)
            whole = len(plain) == len(index.key_columns) and index.predicate is None
            if index.unique and index.valid and index.immediate and whole and plain not in seen:
                seen.add(plain)
                yield plain


@dataclass(frozen=True, slots=True)
class Function:
    """What is known of all functions of one name: the worst volatility, and whether all are strict."""

    volatility: Volatility
    strict: bool
    aggregate: bool = False
    returns_set: bool = False


@dataclass(frozen=True)
class Catalog:
    """All relations of one shadow.

    Parameters:
        tables: by (schema, name).
        functions: user functions by (schema, name); built-in ones by ("pg_catalog", name).
        search_path: schemas searched for unqualified names, in order.
        server_version_num: of the source, as `server_version_num` gives it (180004).
        time_zone: the TimeZone setting that the source's sessions get.
    """

    tables: Mapping[tuple[str, str], Table]
    functions: Mapping[tuple[str, str], Function] = field(default_factory=dict)
    search_path: Sequence[str] = ("public",)
    server_version_num: int = 180000
    time_zone: str = "UTC"

    def table(self, name: str, schema: str | None = None) -> Table | None:
        """Find a relation as PostgreSQL would: in `schema`, else along the search path (pg_catalog is not held)."""
        if schema is not None:
            return self.tables.get((schema, name))
        return next((t for s in self.search_path if (t := self.tables.get((s, name))) is not None), None)

    def partitions(self, table: Table) -> tuple[Table, ...]:
        """Return the partitions right below a partitioned table, by schema and name."""
        place = (table.schema, table.name)
        return tuple(child for _, child in sorted(self.tables.items()) if child.parent == place)

    def resolve(self, node: exp.Table) -> Table | None:
        """Find the relation that a table reference names; None for functions, other databases and unknown names."""
        if not isinstance(node.this, exp.Identifier) or node.args.get("catalog"):
            return None
        schema = node.args.get("db")
        return self.table(identifier_name(node.this), identifier_name(schema) if schema else None)

    def function(self, name: str, schema: str | None = None) -> Function | None:
        """Find what is certain of a function's name, whichever overload a call may mean: the worst of all that fit."""
        schemas = (schema,) if schema is not None else ("pg_catalog", *self.search_path)
        found = [f for s in dict.fromkeys(schemas) if (f := self.functions.get((s, name))) is not None]
        if len(found) < 2:
            return found[0] if found else None
        order = ("immutable", "stable", "volatile")
        return Function(
            volatility=max((f.volatility for f in found), key=order.index),
            strict=all(f.strict for f in found),
            aggregate=any(f.aggregate for f in found),
            returns_set=any(f.returns_set for f in found),
        )


def identifier_name(node: exp.Expr | str) -> str:
    """Return a name as PostgreSQL stores it: unquoted identifiers folded to lower case."""
    if isinstance(node, exp.Identifier):
        return str(node.this) if node.args.get("quoted") else str(node.this).lower()
    return str(node).lower()


_PLAIN_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz_")
_PLAIN_NAME_REST = _PLAIN_NAME_FIRST | frozenset("0123456789$")
_FREE_KEYWORDS = frozenset({"NO_KEYWORD", "UNRESERVED_KEYWORD"})


@remembered(most=16_384, longest=64)
def quote_identifier(name: str) -> str:
    """Quote a name where PostgreSQL's `quote_ident` does: not plain lower case, or a keyword that is not free."""
    plain = bool(name) and name[0] in _PLAIN_NAME_FIRST and all(c in _PLAIN_NAME_REST for c in name)
    if plain:
        kind = postgast.scan(name).tokens[0].keyword_kind
        if postgast.pg_query_pb2.KeywordKind.Name(kind) in _FREE_KEYWORDS:
            return name
    return '"' + name.replace('"', '""') + '"'
