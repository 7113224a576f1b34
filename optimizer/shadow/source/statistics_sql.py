"""A source's statistics as SQL that restores them, printed by the source itself.

In the form in which pg_dump 18 prints them (`dumpRelationStats_dumper`, pg_dump.c), for PostgreSQL 13 to 18, with
`search_path = pg_catalog`. Each query returns one column of statements. What is redacted never leaves the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.shadow.source import shape_sql
from optimizer.shadow.source.redaction import redaction_clause

_RELATIONS: Final[LiteralString] = """
SELECT concat('SELECT pg_catalog.pg_restore_relation_stats(''version'', ', current_setting('server_version_num'),
              ', ''schemaname'', ', quote_literal(n.nspname), ', ''relname'', ', quote_literal(c.relname),
              ', ''relpages'', ''', c.relpages, '''::integer, ''reltuples'', ''', c.reltuples, '''::real',
              ', ''relallvisible'', ''', c.relallvisible, '''::integer',
              ', ''relallfrozen'', ''' || (to_jsonb(c) ->> 'relallfrozen') || '''::integer', ');')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f', 'i', 'I') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
 ORDER BY c.oid
"""

# The statistics of ranges are in pg_stats since 17. Columns of indexes have no names that would last.
_ATTRIBUTES: Final[LiteralString] = """
SELECT concat('SELECT pg_catalog.pg_restore_attribute_stats(''version'', ', current_setting('server_version_num'),
              ', ''schemaname'', ', quote_literal(s.schemaname), ', ''relname'', ', quote_literal(s.tablename),
              CASE WHEN c.relkind IN ('i', 'I') THEN concat(', ''attnum'', ''', a.attnum, '''::smallint')
                   ELSE concat(', ''attname'', ', quote_literal(s.attname)) END,
              ', ''inherited'', ''', s.inherited, '''::boolean, ''null_frac'', ''', s.null_frac, '''::real',
              ', ''avg_width'', ''', s.avg_width, '''::integer, ''n_distinct'', ''', s.n_distinct, '''::real',
              ', ''correlation'', ''' || s.correlation || '''::real',
              CASE WHEN h.relid IS NULL THEN concat(
                ', ''most_common_vals'', ' || quote_literal(s.most_common_vals::text) || '::text',
                ', ''most_common_freqs'', ' || quote_literal(s.most_common_freqs::text) || '::real[]',
                ', ''histogram_bounds'', ' || quote_literal(s.histogram_bounds::text) || '::text',
                ', ''most_common_elems'', ' || quote_literal(s.most_common_elems::text) || '::text',
                ', ''most_common_elem_freqs'', ' || quote_literal(s.most_common_elem_freqs::text) || '::real[]',
                ', ''elem_count_histogram'', ' || quote_literal(s.elem_count_histogram::text) || '::real[]',
                ', ''range_length_histogram'', ' || quote_literal(r.lengths) || '::text',
                ', ''range_empty_frac'', ''' || r.empty_frac || '''::real',
                ', ''range_bounds_histogram'', ' || quote_literal(r.bounds) || '::text') END, ');')
  FROM pg_stats s
  JOIN pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname AND a.attnum > 0
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_type b ON b.oid = t.typbasetype
  LEFT JOIN hidden h ON h.relid = c.oid AND h.attnum = a.attnum
  LEFT JOIN LATERAL (
    SELECT (SELECT array_agg(v)::text FROM jsonb_array_elements_text(j -> 'range_length_histogram') v) AS lengths,
           j ->> 'range_empty_frac' AS empty_frac,
           (SELECT array_agg(v)::text FROM jsonb_array_elements_text(j -> 'range_bounds_histogram') v) AS bounds
      FROM (SELECT jsonb_strip_nulls(to_jsonb(s)) AS j OFFSET 0) every
  ) r ON 'R' IN (t.typcategory, b.typcategory)
 WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND c.relpersistence <> 't'
 ORDER BY c.oid, a.attnum, s.inherited
"""


def statistics_queries(redacted: Sequence[str]) -> tuple[str, str]:
    """Return the query for the statistics of relations and the one for those of columns.

    Parameters:
        redacted: words of a redaction (`read_words`); none hides nothing.
    """
    return _RELATIONS, f"{redaction_clause(redacted)} {_ATTRIBUTES}"


def read_statistics(connection: psycopg.Connection[Any], redacted: Sequence[str]) -> str:
    """Return a script that restores the statistics of a source.

    Parameters:
        connection: to the source, outside a transaction.
        redacted: as for `statistics_queries`.

    Errors: `psycopg.Error`.
    """
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=tuple_row) as cursor:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(shape_sql.SETTINGS)  # how values are printed
        rows = [row for query in statistics_queries(redacted) for row in cursor.execute(query.encode()).fetchall()]
    return "\n".join(statement for (statement,) in rows) + "\n"
