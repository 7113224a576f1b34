"""What no clone without rows can plan as its source does: told, so that nobody is misled."""

from __future__ import annotations

from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

# PostgreSQL hashes the OIDs of an enum's labels (`hashenum`, enum.c), which are other ones in another database.
_HASHED_ENUMS: Final[LiteralString] = """
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_partitioned_table p
  JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.partstrat = 'h'
   AND EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum = ANY (p.partattrs) AND t.typtype = 'e')
 ORDER BY 1
"""
# The planner calls such a function for an estimate (`estimate_expression_value`, clauses.c) or for good. What stands in
# quotes in a body counts, too: better one name too many.
_READING_FUNCTIONS: Final[LiteralString] = r"""
SELECT format('%I.%I', n.nspname, f.proname)
  FROM pg_proc f
  JOIN pg_namespace n ON n.oid = f.pronamespace
  JOIN pg_language l ON l.oid = f.prolang
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND l.lanname IN ('sql', 'plpgsql')
   AND f.provolatile <> 'v' AND f.prokind = 'f' AND NOT f.proretset
   AND coalesce(nullif(f.prosrc, ''), pg_get_functiondef(f.oid)) ~* '\mselect\M.*\mfrom\M'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
 ORDER BY 1
"""


def read_limits(source: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Return a line for each limit that a source meets, with its effect.

    Parameters:
        source: a connection with `search_path = pg_catalog`.

    Errors: `psycopg.Error`.
    """
    notes = []
    with source.cursor(row_factory=tuple_row) as cursor:
        enums = [row[0] for row in cursor.execute(_HASHED_ENUMS).fetchall()]
        functions = [row[0] for row in cursor.execute(_READING_FUNCTIONS).fetchall()]
    if enums:
        notes.append(
            f"partitions by the hash of an enum: of {len(enums)} tables (such as {enums[0]}), plans may name another "
            "partition than the source's, as labels hash differently here"
        )
    if functions:
        notes.append(
            f"functions that read tables: {len(functions)} that the planner may call (such as {functions[0]}) find no "
            "rows here: conditions that compare with what they return may be estimated by another value"
        )
    return tuple(notes)
