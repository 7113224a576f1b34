"""Reads a `Catalog` from any PostgreSQL, 13 to 18, as any role that may connect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from optimizer.catalog import (
    Catalog,
    Column,
    ColumnStatistics,
    Constraint,
    Function,
    Index,
    IndexColumn,
    Table,
)
from optimizer.shadow.source import catalog_sql

#: From that many tables on, statistics are read in short form: a full list for each column would take gigabytes.
LARGE_SCHEMA_TABLES = 2_000
#: Common values and histogram bounds kept of each column in short form.
SHORT_STATISTICS = 10

_RELATION_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}
_TYPE_KINDS = {
    "b": "base",
    "e": "enum",
    "d": "domain",
    "c": "composite",
    "r": "range",
    "p": "pseudo",
    "m": "multirange",
}
_CONSTRAINT_KINDS = {"p": "primary key", "u": "unique", "f": "foreign key", "c": "check", "x": "exclude"}
_VOLATILITIES = {1: "immutable", 2: "stable", 3: "volatile"}
_DESCENDING, _NULLS_FIRST = 1, 2  # INDOPTION_* in pg_index.h

_Key = tuple[str, str]


def read_catalog(connection: psycopg.Connection[Any]) -> Catalog:
    """Read all relations outside PostgreSQL's own schemas, and all functions, in one snapshot.

    Types, expressions and view queries come with schema-qualified names, except those of pg_catalog. Sizes are those
    of the files, and for empty files what the last VACUUM or ANALYZE recorded. Statistics are those that the role may
    see; of a schema of `LARGE_SCHEMA_TABLES` tables or more, only `SHORT_STATISTICS` values a list.

    Parameters:
        connection: to the database, of any role, in any transaction state but a failed one.

    Errors: `psycopg.Error`.
    """
    fresh = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction():
        if fresh:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        ((version, time_zone, search_path),) = _rows(connection, catalog_sql.SESSION)
        connection.execute("SET LOCAL search_path = pg_catalog")
        relations = _rows(connection, catalog_sql.RELATIONS)
        short = SHORT_STATISTICS if len(relations) >= LARGE_SCHEMA_TABLES else None
        statistics = _statistics(_rows(connection, catalog_sql.statistics(short), {"most": short} if short else None))
        names: dict[int, _Key] = {row[0]: (row[1], row[2]) for row in relations}
        columns = _columns(_rows(connection, catalog_sql.COLUMNS), names, statistics)
        constraints = _constraints(_rows(connection, catalog_sql.constraints(version)))
        indexes = _indexes(_rows(connection, catalog_sql.INDEXES), names)
        functions = _functions(_rows(connection, catalog_sql.FUNCTIONS))
    tables = {
        (schema, name): Table(
            schema=schema,
            name=name,
            kind=_RELATION_KINDS[kind],  # type: ignore[arg-type]
            columns=columns.get(oid, {}),
            constraints=tuple(constraints.get(oid, ())),
            indexes=tuple(indexes.get(oid, ())),
            rows=rows,
            pages=pages,
            row_security=row_security,
            definition=definition,
            parent=(parent[0], parent[1]) if parent else None,
        )
        for oid, schema, name, kind, rows, pages, row_security, definition, parent in relations
    }
    return Catalog(
        tables=tables,
        functions=functions,
        search_path=tuple(search_path),
        server_version_num=version,
        time_zone=time_zone,
    )


def _rows(
    connection: psycopg.Connection[Any], query: LiteralString, parameters: Mapping[str, Any] | None = None
) -> Sequence[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def _statistics(rows: Sequence[tuple[Any, ...]]) -> dict[tuple[str, str, str], ColumnStatistics]:
    return {
        (schema, table, column): ColumnStatistics(
            null_frac=null_frac,
            avg_width=avg_width,
            n_distinct=n_distinct,
            correlation=correlation,
            most_common_vals=tuple(common or ()),
            most_common_freqs=tuple(shares or ()),
            histogram_bounds=tuple(bounds or ()),
            most_common_elems=tuple(elements or ()),
            most_common_elem_freqs=tuple(element_shares or ()),
            elem_count_histogram=tuple(element_counts or ()),
        )
        for schema, table, column, null_frac, avg_width, n_distinct, correlation, *lists in rows
        for common, shares, bounds, elements, element_shares, element_counts in (lists,)
    }


def _columns(
    rows: Sequence[tuple[Any, ...]],
    names: Mapping[int, _Key],
    statistics: Mapping[tuple[str, str, str], ColumnStatistics],
) -> dict[int, dict[str, Column]]:
    found: defaultdict[int, dict[str, Column]] = defaultdict(dict)
    for oid, name, type_, not_null, position, kind, labels, collation, deterministic, *rest in rows:
        default, generated, identity = rest
        found[oid][name] = Column(
            name=name,
            type=type_,
            not_null=not_null,
            position=position,
            type_kind=_TYPE_KINDS[kind],  # type: ignore[arg-type]
            enum_labels=tuple(labels or ()),
            collation=collation,
            deterministic=deterministic,
            default=default,
            generated=generated,
            identity=identity,
            statistics=statistics.get((*names[oid], name)) if oid in names else None,
        )
    return found


def _constraints(rows: Sequence[tuple[Any, ...]]) -> dict[int, list[Constraint]]:
    found: defaultdict[int, list[Constraint]] = defaultdict(list)
    for oid, name, kind, columns, validated, deferrable, nulls_not_distinct, expression, *referenced in rows:
        schema, table, referenced_columns = referenced
        found[oid].append(
            Constraint(
                name=name,
                kind=_CONSTRAINT_KINDS[kind],  # type: ignore[arg-type]
                columns=tuple(columns),
                validated=validated,
                deferrable=deferrable,
                nulls_not_distinct=nulls_not_distinct,
                expression=expression,
                referenced_schema=schema,
                referenced_table=table,
                referenced_columns=tuple(referenced_columns or ()),
            )
        )
    return found


def _indexes(rows: Sequence[tuple[Any, ...]], names: Mapping[int, _Key]) -> dict[int, list[Index]]:
    found: defaultdict[int, list[Index]] = defaultdict(list)
    for oid, name, schema, method, expressions, columns, options, opclasses, collations, *rest in rows:
        include, predicate, unique, valid, immediate, constraint, definition, size_bytes, storage, parameters = rest
        keys = zip(expressions, columns, options, opclasses, collations, parameters, strict=True)
        found[oid].append(
            Index(
                name=name,
                schema=schema,
                table=names[oid][1],
                method=method,
                key_columns=tuple(_index_column(*key) for key in keys),
                include=tuple(include),
                predicate=predicate,
                unique=unique,
                valid=valid,
                immediate=immediate,
                constraint=constraint,
                definition=definition,
                size_bytes=size_bytes,
                options=_options(storage),
            )
        )
    return found


def _index_column(
    expression: str,
    column: str | None,
    options: int,
    opclass: str | None,
    collation: str | None,
    parameters: str | None,
) -> IndexColumn:
    # pg_get_indexdef wraps an expression in parentheses unless it is a function call, which never begins with one.
    bare = expression[1:-1] if column is None and expression.startswith("(") else expression
    return IndexColumn(
        expression=bare,
        column=column,
        descending=bool(options & _DESCENDING),
        nulls_first=bool(options & _NULLS_FIRST),
        opclass=opclass,
        collation=collation,
        opclass_options=_options(parameters.split("\n") if parameters else None),
    )


def _options(texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Read `name=value` texts as `pg_class.reloptions` and `pg_attribute.attoptions` hold them."""
    return tuple(sorted((name, value) for name, _, value in (text.partition("=") for text in texts or ())))


def _functions(rows: Sequence[tuple[Any, ...]]) -> dict[_Key, Function]:
    return {
        (schema, name): Function(
            volatility=_VOLATILITIES[volatility],  # type: ignore[arg-type]
            strict=strict,
            aggregate=aggregate,
            returns_set=returns_set,
        )
        for schema, name, volatility, strict, aggregate, returns_set in rows
    }
