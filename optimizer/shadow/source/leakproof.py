"""Functions said to be leakproof, whose conditions may be tried below security barriers and policies.

Only a superuser may say so, and the owner of a shadow's objects is none; so the mark is set in the catalog afterwards.
Nothing can leak in a shadow, which holds no rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

#: Functions of a source, beside those of extensions, that are said to be leakproof.
QUERY: Final[LiteralString] = """
SELECT n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proleakproof AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1, 2, 3
"""
_MARK: Final[LiteralString] = """
UPDATE pg_proc p SET proleakproof = true
  FROM pg_namespace n, unnest(%s::text[], %s::text[], %s::text[]) f(schema, name, arguments)
 WHERE n.oid = p.pronamespace AND n.nspname = f.schema AND p.proname = f.name
   AND pg_get_function_identity_arguments(p.oid) = f.arguments
"""


@dataclass(frozen=True, slots=True)
class LeakproofFunction:
    """A function, by schema, name and the argument list that identifies it."""

    schema: str
    name: str
    arguments: str


def read_leakproof(connection: psycopg.Connection[Any]) -> tuple[LeakproofFunction, ...]:
    """Read which functions of a source, beside those of extensions, are said to be leakproof.

    Parameters:
        connection: with `search_path = pg_catalog`.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        return tuple(LeakproofFunction(*row) for row in cursor.execute(QUERY).fetchall())


def mark_leakproof(functions: Iterable[LeakproofFunction], superuser: psycopg.Connection[Any]) -> None:
    """Say the same of a template's functions; one that is missing there is passed over.

    Parameters:
        superuser: to the template, with `search_path = pg_catalog`.

    Errors: `psycopg.Error`.
    """
    columns = [[f.schema, f.name, f.arguments] for f in functions]
    if columns:
        superuser.execute(_MARK, [list(column) for column in zip(*columns, strict=True)])
