"""Gives a template the data of its source's extended statistics.

The values are text, and only their types' input functions can read them: so the template's unprivileged owner puts them
into a temporary table with the columns' types, and ANALYZE makes an MCV list of it. The superuser then copies what the
server made, with the source's frequencies, and what `extended_bytes.py` made of numbers; it reads no value itself.
PostgreSQL has no casts to the types of these statistics, so it makes them for the length of one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from optimizer.shadow.source.extended_statistics import ExtendedStatistics
from optimizer.shadow.template.catalog_statistics import NATIVE_VERSION, write_columns
from optimizer.shadow.template.extended_bytes import (
    MAX_ITEMS,
    MalformedError,
    dependencies_bytes,
    ndistinct_bytes,
    renumbered,
    with_frequencies,
)
from optimizer.shadow.template.statistics_calls import attribute_call

#: Objects of one clone; each takes some milliseconds.
MAX_OBJECTS = 2_000

_MADE: LiteralString = """
    SELECT most_common_vals FROM pg_stats_ext
     WHERE statistics_name = 'pp_made' AND statistics_schemaname = pg_my_temp_schema()::regnamespace::text"""
_MADE_OID: LiteralString = """
    SELECT oid::int8 FROM pg_statistic_ext WHERE stxname = 'pp_made' AND stxnamespace = pg_my_temp_schema()"""
_OBJECT: LiteralString = """
    SELECT s.oid::int8, format('%%I.%%I', n.nspname, c.relname), s.stxkind::text[],
           ARRAY(SELECT a.attname::text FROM unnest(s.stxkeys::int2[]) k(num)
                   JOIN pg_attribute a ON a.attrelid = s.stxrelid AND a.attnum = k.num ORDER BY a.attnum),
           ARRAY(SELECT k.num::int4 FROM unnest(s.stxkeys::int2[]) k(num) ORDER BY 1),
           {expressions}
      FROM pg_statistic_ext s
      JOIN pg_namespace n ON n.oid = s.stxnamespace
      JOIN pg_class c ON c.oid = s.stxrelid
     WHERE n.nspname = %s AND s.stxname = %s
       AND EXISTS (SELECT FROM pg_namespace t WHERE t.oid = c.relnamespace AND t.nspname !~ '^pg_')"""

_CASTS: tuple[LiteralString, ...] = ("pg_ndistinct", "pg_dependencies", "pg_mcv_list")

_EXPRESSIONS: LiteralString = "coalesce(pg_get_statisticsobjdef_expressions(s.oid), '{}')"
# The first versions with statistics on expressions, and with those of a table alone beside those with its children.
_WITH_EXPRESSIONS, _WITH_INHERITED = 140000, 150000

_STORE: LiteralString = """
    INSERT INTO pg_statistic_ext_data (stxoid, stxdndistinct, stxddependencies, stxdmcv{columns})
    SELECT %(oid)s, %(ndistinct)s::bytea::pg_ndistinct, %(dependencies)s::bytea::pg_dependencies,
           %(mcv)s::bytea::pg_mcv_list{values}"""
_STORE_EXPRESSIONS: LiteralString = """,
           (SELECT array_agg(a ORDER BY a.staattnum) FROM pg_statistic a
             WHERE a.starelid = %(table)s AND a.staattnum > %(width)s AND NOT a.stainherit)"""

_RESTORABLE = {
    "null_frac": "real",
    "avg_width": "integer",
    "n_distinct": "real",
    "most_common_vals": "text",
    "most_common_freqs": "real[]",
    "histogram_bounds": "text",
    "correlation": "real",
    "most_common_elems": "text",
    "most_common_elem_freqs": "real[]",
    "elem_count_histogram": "real[]",
    "range_length_histogram": "text",
    "range_empty_frac": "real",
    "range_bounds_histogram": "text",
}


@dataclass(frozen=True, slots=True)
class _Target:
    """The statistics object on the template."""

    oid: int
    table: str
    kinds: tuple[str, ...]
    columns: tuple[str, ...]
    numbers: tuple[int, ...]
    expressions: tuple[str, ...]


def restore_extended(
    found: Sequence[ExtendedStatistics], owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]
) -> tuple[str, ...]:
    """Write data of extended statistics; one that does not fit is left without, and told.

    Parameters:
        found: of the source.
        owner: the unprivileged owner's connection to the template, in autocommit mode; the role needs TEMP.
        superuser: to the same database.

    Returns: a line for each that has no data now.

    Errors: `psycopg.OperationalError` when the server goes away.
    """
    notes = []
    for one in found[:MAX_OBJECTS]:
        try:
            _restore(one, owner, superuser)
        except psycopg.OperationalError:
            raise
        except (MalformedError, psycopg.Error) as error:
            why = str(error) if isinstance(error, MalformedError) else error.diag.message_primary
            notes.append(f"extended statistics {one.label}: {why}: estimates are made without their data")
    if len(found) > MAX_OBJECTS:
        notes.append(
            f"extended statistics: {len(found) - MAX_OBJECTS} more than {MAX_OBJECTS} are without their data: "
            "correlated columns are estimated as if they were independent"
        )
    return tuple(notes)


def _restore(one: ExtendedStatistics, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]) -> None:
    target = _find(one, superuser)
    numbers = dict(zip(one.numbers, (target.numbers[target.columns.index(c)] for c in one.columns), strict=True))
    numbers |= {-place: -place for place in range(1, one.expressions + 1)}
    ndistinct = ndistinct_bytes(renumbered(one.ndistinct, numbers)) if one.ndistinct else None
    dependencies = dependencies_bytes(renumbered(one.dependencies, numbers)) if one.dependencies else None
    with _values_table(owner, target) as table:
        mcv = _mcv_bytes(one, target, owner, superuser) if one.mcv else None
        if one.expression_statistics:
            # What ANALYZE found out about the common values alone must not mix with it.
            superuser.execute("DELETE FROM pg_statistic WHERE starelid = %s", [table])
            _restore_expressions(one, target, owner, superuser)
        _check_expressions(one, target, table, superuser)
        with superuser.transaction():
            for name in _CASTS:
                superuser.execute(
                    sql.SQL("CREATE CAST (bytea AS {}) WITHOUT FUNCTION").format(sql.Identifier("pg_catalog", name))
                )
            arguments = {
                "oid": target.oid,
                "inherited": one.inherited,
                "ndistinct": ndistinct,
                "dependencies": dependencies,
                "mcv": mcv,
                "table": table if one.expression_statistics else 0,
                "width": len(target.columns),
            }
            for statement in _store(superuser.info.server_version):
                superuser.execute(statement, arguments)
            for name in _CASTS:
                superuser.execute(sql.SQL("DROP CAST (bytea AS {})").format(sql.Identifier("pg_catalog", name)))


def _store(version: int) -> Iterator[LiteralString]:
    """Yield the statements that put data into the catalog, as a server of that version has it."""
    columns: LiteralString = ""
    values: LiteralString = ""
    delete: LiteralString = "DELETE FROM pg_statistic_ext_data WHERE stxoid = %(oid)s"
    if version >= _WITH_EXPRESSIONS:
        columns, values = ", stxdexpr", _STORE_EXPRESSIONS
    if version >= _WITH_INHERITED:
        columns, values = columns + ", stxdinherit", values + ", %(inherited)s"
        delete = delete + " AND stxdinherit = %(inherited)s"
    yield delete
    yield _STORE.replace("{columns}", columns).replace("{values}", values)


def _find(one: ExtendedStatistics, superuser: psycopg.Connection[Any]) -> _Target:
    with superuser.cursor(row_factory=tuple_row) as cursor:
        expressions: LiteralString = (
            _EXPRESSIONS if superuser.info.server_version >= _WITH_EXPRESSIONS else "'{}'::text[]"
        )
        row = cursor.execute(_OBJECT.replace("{expressions}", expressions), [one.schema, one.name]).fetchone()
    if row is None:
        raise MalformedError("they could not be created here")
    oid, table, kinds, columns, numbers, texts = row
    target = _Target(oid, table, tuple(kinds), tuple(columns), tuple(numbers), tuple(texts))
    same = len(one.columns) == len(one.numbers) and sorted(target.columns) == sorted(one.columns)
    if not same or len(target.expressions) != one.expressions:
        raise MalformedError("they are about other columns here")
    return target


@contextmanager
def _values_table(owner: psycopg.Connection[Any], target: _Target) -> Iterator[int]:
    """Make a temporary table with a column for each column and expression of a statistics object; gives its OID."""
    parts = [*(_quoted(column) for column in target.columns), *(f"({text})" for text in target.expressions)]
    named = ", ".join(f"{part} AS v{place}" for place, part in enumerate(parts, 1))
    owner.execute("SET search_path = pg_catalog")
    # What the server printed itself; run as the owner, whose expressions they are.
    chosen = f"SELECT {named} FROM ONLY {target.table}"  # noqa: S608
    owner.execute(f"CREATE TEMPORARY TABLE pp_values AS {chosen} WITH NO DATA".encode())
    try:
        ((oid,),) = _rows(owner, "SELECT 'pg_temp.pp_values'::regclass::oid::int8")
        yield oid
    finally:
        owner.execute("DROP TABLE pg_temp.pp_values")


def _mcv_bytes(
    one: ExtendedStatistics,
    target: _Target,
    owner: psycopg.Connection[Any],
    superuser: psycopg.Connection[Any],
) -> bytes:
    """Have the server make the MCV list of the values, and give it the source's frequencies and order."""
    order = [one.columns.index(column) for column in target.columns]
    width = len(one.columns) + one.expressions
    order += range(len(one.columns), width)
    if len(one.mcv) > MAX_ITEMS or width < 2 or any(len(item.values) != width for item in one.mcv):
        raise MalformedError("an MCV list of another form")
    rows = [[item.values[place] for place in order] for item in one.mcv]
    marks = sql.SQL(", ").join([sql.Placeholder()] * width)
    columns = [f"v{place}" for place in range(1, width + 1)]
    with owner.cursor(row_factory=tuple_row) as cursor:
        cursor.executemany(sql.SQL("INSERT INTO pg_temp.pp_values VALUES ({})").format(marks), rows)
        cursor.execute(
            f"CREATE STATISTICS pg_temp.pp_made (mcv) ON {', '.join(columns)} FROM pg_temp.pp_values".encode()
        )
        # Each row is a group of its own, and at this target all groups are kept.
        cursor.execute("ALTER STATISTICS pg_temp.pp_made SET STATISTICS 10000")
        cursor.execute("ANALYZE pg_temp.pp_values")
        texts = ", ".join(f"{column}::text" for column in columns)
        # Both in the text form of this session, by which the list's items are found again.
        given = cursor.execute(f"SELECT {texts} FROM pg_temp.pp_values ORDER BY ctid".encode()).fetchall()  # noqa: S608
        made = cursor.execute(_MADE).fetchone()
        ((oid,),) = cursor.execute(_MADE_OID).fetchall()
    listed = [tuple(item) for item in (made[0] if made is not None else None) or ()]
    places = {item: place for place, item in enumerate(listed)}
    if len(places) != len(listed) or len(given) != len(listed) or not all(row in places for row in given):
        raise MalformedError("values that are the same here")
    ((data,),) = _rows(superuser, "SELECT stxdmcv::bytea FROM pg_statistic_ext_data WHERE stxoid = %s", [oid])
    return with_frequencies(
        data, [places[row] for row in given], [(item.frequency, item.base_frequency) for item in one.mcv]
    )


def _restore_expressions(
    one: ExtendedStatistics, target: _Target, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]
) -> None:
    """Have the server read the statistics of the expressions, as it reads those of columns."""
    if len(one.expression_statistics) != len(target.expressions):
        raise MalformedError("statistics of other expressions")
    for place, arguments in enumerate(one.expression_statistics, len(target.columns) + 1):
        values = {name: text for name, text in arguments.items() if name in _RESTORABLE}
        if superuser.info.server_version < NATIVE_VERSION:
            ((schema,),) = _rows(owner, "SELECT pg_my_temp_schema()::regnamespace::text")
            values |= {"schemaname": schema, "relname": "pp_values", "attname": f"v{place}"}
            write_columns([attribute_call(values)], owner, superuser)
            continue
        pairs = [
            sql.SQL("{}, {}::{}").format(sql.Literal(name), sql.Placeholder(), sql.SQL(_RESTORABLE[name]))
            for name in values
        ]
        owner.execute(
            sql.SQL(
                "SELECT pg_restore_attribute_stats('version', current_setting('server_version_num')::integer,"
                " 'schemaname', pg_my_temp_schema()::regnamespace::text, 'relname', 'pp_values', 'attname', {},"
                " 'inherited', false, {})"
            ).format(sql.Literal(f"v{place}"), sql.SQL(", ").join(pairs)),
            list(values.values()),
        )


def _check_expressions(
    one: ExtendedStatistics, target: _Target, table: int, superuser: psycopg.Connection[Any]
) -> None:
    """The planner takes it for granted that there are statistics for each expression, or for none."""
    if one.expression_statistics:
        query: LiteralString = "SELECT count(*) FROM pg_statistic WHERE starelid = %s AND staattnum > %s"
        ((count,),) = _rows(superuser, query, [table, len(target.columns)])
        if count != one.expressions:
            raise MalformedError("statistics of other expressions")


def _rows(
    connection: psycopg.Connection[Any], query: LiteralString, parameters: Sequence[Any] | None = None
) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
