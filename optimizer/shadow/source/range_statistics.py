"""Statistics of range columns of a source before 17: its `pg_stats` does not show them, so pg_dump leaves them out.

They are in `pg_statistic`, which superusers may read, and members of `pg_read_all_data`. Only PostgreSQL's own range
types are read: a user's could have functions that would run at the source.
"""

# ruff: noqa: S608 - every piece is a constant of this file

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

#: From this version on, `pg_stats` has them.
_SHOWN = 170000
# Multiranges came with 14. 6 is STATISTIC_KIND_RANGE_LENGTH_HISTOGRAM, 7 STATISTIC_KIND_BOUNDS_HISTOGRAM.
_COLUMNS: Final[LiteralString] = """
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid AND t.typtype IN ('r', 'm') AND t.typnamespace = 'pg_catalog'::regnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f')
"""
COUNT: Final[LiteralString] = "SELECT count(*)" + _COLUMNS
STATISTICS: Final[LiteralString] = f"""
SELECT p.schema, p.relation, p.name, s.stainherit,
       max(w.numbers[1]::text) FILTER (WHERE w.kind = 6), max(w.values::text) FILTER (WHERE w.kind = 6),
       max(w.values::text) FILTER (WHERE w.kind = 7)
  FROM (SELECT n.nspname AS schema, c.relname AS relation, a.attname AS name, c.oid, a.attnum {_COLUMNS}) p
  JOIN pg_statistic s ON s.starelid = p.oid AND s.staattnum = p.attnum
 CROSS JOIN LATERAL (
       VALUES (s.stakind1, s.stanumbers1, s.stavalues1), (s.stakind2, s.stanumbers2, s.stavalues2),
              (s.stakind3, s.stanumbers3, s.stavalues3), (s.stakind4, s.stanumbers4, s.stavalues4),
              (s.stakind5, s.stanumbers5, s.stavalues5)) w(kind, numbers, values)
 WHERE w.kind IN (6, 7)
 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
_EFFECT = "conditions on them are estimated by default"
_ARGUMENTS = (("range_empty_frac", "real"), ("range_length_histogram", "text"), ("range_bounds_histogram", "text"))


def read_range_statistics(source: psycopg.Connection[Any], *, redacting: bool) -> tuple[str, tuple[str, ...]]:
    """Read the statistics of range columns that pg_dump does not find.

    Parameters:
        source: a connection with `search_path = pg_catalog`, of any role.
        redacting: whether values are to be left out of some columns: then no range is read.

    Returns: calls of `pg_restore_attribute_stats`, as pg_dump would write them; and a line if there are none for that
        reason, or since the role may not read them.

    Errors: `psycopg.Error`.
    """
    if source.info.server_version >= _SHOWN:
        return "", ()
    with source.cursor(row_factory=tuple_row) as cursor:
        ((count,),) = cursor.execute(COUNT).fetchall()
        ((readable,),) = cursor.execute("SELECT has_table_privilege('pg_statistic', 'SELECT')").fetchall()
        notes = range_notes(count, redacting=redacting, readable=readable)
        if notes or not count:
            return "", notes
        with source.transaction():
            cursor.execute("SELECT set_config('datestyle', 'ISO, YMD', true), set_config('timezone', 'UTC', true)")
            rows = cursor.execute(STATISTICS).fetchall()
    return range_calls(rows), ()


def range_notes(count: int, *, redacting: bool, readable: bool) -> tuple[str, ...]:
    """Say why the statistics of so many range columns are not read, if they are not."""
    if count and redacting:
        return (f"statistics of {count} range columns: left out with what is redacted: {_EFFECT}",)
    if count and not readable:
        return (
            f"statistics of {count} range columns: before 17 PostgreSQL shows them to superusers and members of "
            f"pg_read_all_data only: {_EFFECT}",
        )
    return ()


def range_calls(rows: Iterable[Sequence[Any]]) -> str:
    """Write the rows of `STATISTICS` as calls of `pg_restore_attribute_stats`."""
    return "".join(_call(*row) for row in rows)


def _call(schema: str, relation: str, column: str, inherited: bool, *texts: str | None) -> str:
    named = {"schemaname": schema, "relname": relation, "attname": column}
    pairs = [sql.SQL("{}, {}").format(sql.Literal(name), sql.Literal(value)) for name, value in named.items()]
    pairs.append(sql.SQL("'inherited', {}::boolean").format(sql.Literal("t" if inherited else "f")))
    for (name, kind), text in zip(_ARGUMENTS, texts, strict=True):
        if text is not None:
            pairs.append(sql.SQL("{}, {}::{}").format(sql.Literal(name), sql.Literal(text), sql.SQL(kind)))
    call = sql.SQL("SELECT * FROM pg_catalog.pg_restore_attribute_stats({});\n")
    return call.format(sql.SQL(", ").join(pairs)).as_string()
