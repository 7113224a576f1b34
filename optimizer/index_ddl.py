"""Reads a CREATE INDEX statement that a user wrote into an `IndexCandidate`.

The text itself never reaches a server: what is run is built anew from the candidate.
"""

from __future__ import annotations

from typing import Any

import postgast
from google.protobuf.message import DecodeError

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, IndexColumn, Table, quote_identifier
from optimizer.errors import SqlError
from optimizer.parse_guard import check_chains, syntax_error
from optimizer.query import check_text

MAX_BYTES = 100_000
_DESCENDING, _NULLS_FIRST, _NULLS_LAST = "SORTBY_DESC", "SORTBY_NULLS_FIRST", "SORTBY_NULLS_LAST"


def parse_index_ddl(text: str, catalog: Catalog) -> IndexCandidate:
    """Read one CREATE INDEX statement.

    The index's name, CONCURRENTLY, IF NOT EXISTS, ONLY and TABLESPACE are not part of a candidate, since none has a say
    in its plan; they are accepted and dropped.

    Parameters:
        text: the statement.
        catalog: where its table is found, along the search path if it has no schema.

    Errors: `SqlError` for anything else than one CREATE INDEX on a table of the catalog.
    """
    statement = index_statement(text)
    if statement.unique:
        raise SqlError("a UNIQUE index changes what the table accepts: leave UNIQUE out to see what the index does")
    table = _table(statement.relation, catalog)
    return IndexCandidate(
        schema=table.schema,
        table=table.name,
        key_columns=tuple(_key(element.index_elem, table, text) for element in statement.index_params),
        method=statement.access_method or "btree",
        include=tuple(_column(e.index_elem.name, table) for e in statement.index_including_params),
        predicate=_expression(statement.where_clause) if statement.HasField("where_clause") else None,
        options=_options(statement.options),
        title="Index given by the user",
        source="user",
    )


def index_statement(text: str) -> Any:
    """Parse one CREATE INDEX statement and return libpg_query's IndexStmt.

    Errors: `SqlError` for anything else; `TooLargeError`.
    """
    check_text(text, MAX_BYTES)
    check_chains(text)
    try:
        statements = postgast.parse(text).stmts
    except postgast.PgQueryError as error:
        raise syntax_error(error, text) from None
    except DecodeError:
        raise SqlError("an expression is nested too deeply for an index: simplify it") from None
    if len(statements) != 1 or statements[0].stmt.WhichOneof("node") != "index_stmt":
        raise SqlError("this is not one CREATE INDEX statement: write CREATE INDEX ON table (column, ...)")
    return statements[0].stmt.index_stmt


def _table(relation: Any, catalog: Catalog) -> Table:
    table = catalog.table(relation.relname, relation.schemaname or None)
    name = ".".join(quote_identifier(part) for part in (relation.schemaname, relation.relname) if part)
    if table is None or relation.catalogname:
        raise SqlError(f"no table {name} is known to the shadow: check the name, or refresh the shadow")
    if table.kind not in ("table", "partitioned table", "materialized view"):
        raise SqlError(f"{name} is a {table.kind}: only tables and materialized views can have indexes")
    return table


def _column(name: str, table: Table) -> str:
    if name not in table.columns:
        raise SqlError(f"column {quote_identifier(name)} does not exist in {table.qualified}")
    return name


def _key(element: Any, table: Table, text: str) -> IndexColumn:
    enum = postgast.pg_query_pb2
    descending = enum.SortByDir.Name(element.ordering) == _DESCENDING
    nulls = enum.SortByNulls.Name(element.nulls_ordering)
    plain = bool(element.name)
    column = _column(element.name, table) if plain else None
    return IndexColumn(
        expression=quote_identifier(element.name) if plain else _expression(element.expr),
        column=column,
        descending=descending,
        nulls_first=nulls == _NULLS_FIRST or (descending and nulls != _NULLS_LAST),
        opclass=".".join(quote_identifier(part.string.sval) for part in element.opclass) or None,
        collation=_collation(element.collation, text),
        opclass_options=_options(element.opclassopts),
    )


def _options(nodes: Any) -> tuple[tuple[str, str], ...]:
    """Read storage parameters, or those of an operator class; which exist and what they take, the server says."""
    options: dict[str, str] = {}
    for node in nodes:
        option = node.def_elem
        if option.defnamespace:
            raise SqlError(f"indexes have no storage parameters {option.defnamespace}.*: name them without a namespace")
        if option.defname in options:
            raise SqlError(f"the parameter {option.defname} is given twice")
        options[option.defname] = _option_value(option)
    return tuple(sorted(options.items()))


def _option_value(option: Any) -> str:
    """The text that PostgreSQL would store (`defGetString`); a parameter without a value is true."""
    kind = option.arg.WhichOneof("node")
    if kind is None:
        return "true"
    value = getattr(option.arg, kind)
    if kind == "integer":
        return str(value.ival)
    if kind == "float":
        return str(value.fval)
    if kind == "boolean":
        return "true" if value.boolval else "false"
    if kind == "string":
        return str(value.sval)
    if kind == "type_name" and len(value.names) == 1:  # a word that is no keyword
        return str(value.names[0].string.sval)
    raise SqlError(f"the value of the parameter {option.defname} is neither a number nor a word: write it in quotes")


def _collation(names: Any, text: str) -> str | None:
    parts = [part.string.sval for part in names]
    if len(parts) > 1 and parts[0] != "pg_catalog":
        raise SqlError(
            f"the collation {'.'.join(parts)} has a schema: name it without, along the search path", line=None
        )
    return parts[-1] if parts else None


def _expression(node: Any) -> str:
    """Print one expression with PostgreSQL's own grammar, as the only output of a SELECT."""
    tree = postgast.parse("SELECT 1")
    tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val.CopyFrom(node)
    return str(postgast.deparse(tree)).removeprefix("SELECT ").strip()
