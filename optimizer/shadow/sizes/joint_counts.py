"""How many combinations of several columns there are, from the extended statistics (ndistinct) of a database."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

#: By (schema, table): the number of different combinations of each set of columns that is counted.
CountsByTable = Mapping[tuple[str, str], Mapping[frozenset[str], float]]

_COUNTS: LiteralString = """
    SELECT n.nspname::text, c.relname::text, d.stxdndistinct::text,
           (SELECT json_object_agg(a.attnum, a.attname) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum = ANY (s.stxkeys))
      FROM pg_catalog.pg_statistic_ext s
      JOIN pg_catalog.pg_statistic_ext_data d ON d.stxoid = s.oid
      JOIN pg_catalog.pg_class c ON c.oid = s.stxrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE d.stxdndistinct IS NOT NULL"""


def read_joint_counts(connection: psycopg.Connection[Any]) -> CountsByTable:
    """Read all counts that are about columns alone; those with expressions are left out.

    Parameters:
        connection: of a role that may read `pg_statistic_ext_data`.

    Errors: `psycopg.Error`.
    """
    found: defaultdict[tuple[str, str], dict[frozenset[str], float]] = defaultdict(dict)
    with connection.cursor(row_factory=tuple_row) as cursor:
        for schema, table, counts, names in cursor.execute(_COUNTS):
            for numbers, count in json.loads(counts).items():
                known: Mapping[str, str] = names or {}
                places = [number.strip() for number in numbers.split(",")]
                if all(place in known for place in places):
                    found[schema, table][frozenset(known[place] for place in places)] = float(count)
    return found
