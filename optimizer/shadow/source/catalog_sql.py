"""The queries by which `introspect.py` reads a database, for PostgreSQL 13 to 18.

Each is set-based (one round trip whatever the number of tables), needs no privilege beyond CONNECT, and returns plain
rows. They run with `search_path = pg_catalog`: no operator of the database's own can be picked up, and everything that
the server prints (types, expressions, view queries) names its objects in full.
"""

# ruff: noqa: S608 - every piece is a constant of this file

from __future__ import annotations

from typing import LiteralString

#: Schemas of users. PostgreSQL keeps the prefix `pg_` for itself, temporary schemas included.
_USER_SCHEMA: LiteralString = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_READABLE: LiteralString = "c.relkind IN ('r', 'p', 'v', 'm', 'f')"
#: Plain inheritance, where a query of the parent reads the children too; partitions are another matter.
_ANCESTRY: LiteralString = """
    inheriting AS (
        WITH RECURSIVE below(ancestor, descendant) AS (
            SELECT i.inhparent, i.inhrelid
              FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent AND p.relkind IN ('r', 'f')
            UNION
            SELECT b.ancestor, i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.descendant
        )
        SELECT ancestor, descendant FROM below
    )"""

SESSION: LiteralString = """
    SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, pg_catalog.current_setting('TimeZone'),
           pg_catalog.current_schemas(false)::pg_catalog.text[]"""

RELATIONS: LiteralString = f"""
    SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.reltuples::float8,
           CASE WHEN c.relkind IN ('r', 'm')
                THEN coalesce(nullif(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8, c.relpages)
                ELSE greatest(c.relpages, 0) END::int8,
           c.relrowsecurity,
           CASE WHEN c.relkind IN ('v', 'm') THEN btrim(pg_get_viewdef(c.oid, true), E'; \\n') END,
           CASE WHEN c.relispartition THEN
               (SELECT ARRAY[pn.nspname::text, p.relname::text]
                  FROM pg_inherits h
                  JOIN pg_class p ON p.oid = h.inhparent
                  JOIN pg_namespace pn ON pn.oid = p.relnamespace
                 WHERE h.inhrelid = c.oid) END
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE {_USER_SCHEMA} AND {_READABLE}
     ORDER BY n.nspname, c.relname"""

# attnotnull also stands for a NOT NULL that is NOT VALID (18 and later), and a child may allow NULLs where its
# parent does not (before 18, a primary key's NOT NULL was not inherited).
COLUMNS: LiteralString = f"""
    WITH {_ANCESTRY}
    SELECT a.attrelid::int8, a.attname::text, format_type(a.atttypid, a.atttypmod),
           a.attnotnull
               AND NOT EXISTS (SELECT FROM pg_constraint k
                                WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated
                                  AND k.conkey = ARRAY[a.attnum])
               AND NOT EXISTS (SELECT FROM inheriting h JOIN pg_attribute b ON b.attrelid = h.descendant
                                WHERE h.ancestor = a.attrelid AND b.attname = a.attname AND NOT b.attnotnull),
           a.attnum::int4, t.typtype::text,
           CASE WHEN t.typtype = 'e'
                THEN ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
                END,
           CASE WHEN a.attcollation <> t.typcollation THEN l.collname::text END,
           coalesce(l.collisdeterministic, true),
           pg_get_expr(d.adbin, d.adrelid, true), a.attgenerated <> '', a.attidentity <> ''
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_collation l ON l.oid = a.attcollation
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE {_USER_SCHEMA} AND {_READABLE}
     ORDER BY a.attrelid, a.attnum"""

_COLUMN_NAMES: LiteralString = """
    ARRAY(SELECT a.attname::text FROM unnest(k.{keys}) WITH ORDINALITY AS u(num, place)
            JOIN pg_attribute a ON a.attrelid = k.{relation} AND a.attnum = u.num ORDER BY u.place)"""


def constraints(version: int) -> LiteralString:
    """Return the query for constraints.

    Left out: what a parent's constraint does not promise for its children under plain inheritance; the copies of a
    foreign key that PostgreSQL keeps for each partition of the referenced table; and temporal foreign keys, whose rows
    need not have one partner (PERIOD, 18 and later). A foreign key to a table with row-level security counts as not
    validated: the row that it promises may be hidden.

    Parameters:
        version: `server_version_num`.
    """
    nulls_not_distinct: LiteralString = "i.indnullsnotdistinct" if version >= 150000 else "false"
    temporal: LiteralString = "k.conperiod" if version >= 180000 else "false"
    keys: LiteralString = _COLUMN_NAMES.replace("{keys}", "conkey").replace("{relation}", "conrelid")
    referenced: LiteralString = _COLUMN_NAMES.replace("{keys}", "confkey").replace("{relation}", "confrelid")
    return f"""
    WITH {_ANCESTRY}
    SELECT k.conrelid::int8, k.conname::text, k.contype::text, {keys},
           k.convalidated AND NOT (k.contype = 'f' AND r.relrowsecurity), k.condeferrable,
           coalesce({nulls_not_distinct}, false), pg_get_expr(k.conbin, k.conrelid, true),
           rn.nspname::text, r.relname::text, {referenced}
      FROM pg_constraint k
      JOIN pg_class c ON c.oid = k.conrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u')
      LEFT JOIN pg_class r ON r.oid = k.confrelid
      LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
     WHERE {_USER_SCHEMA} AND {_READABLE} AND k.contype IN ('p', 'u', 'f', 'c', 'x')
       AND NOT (k.contype = 'f' AND {temporal})
       AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid)
       AND NOT ((k.contype <> 'c' OR k.connoinherit) AND EXISTS (SELECT FROM inheriting h WHERE h.ancestor = c.oid))
     ORDER BY k.conrelid, k.contype, k.conname"""


# A key's collation is told where it differs from the column's, or for an expression from its type's.
INDEXES: LiteralString = f"""
    WITH {_ANCESTRY}
    SELECT i.indrelid::int8, x.relname::text, xn.nspname::text, m.amname::text,
           ARRAY(SELECT pg_get_indexdef(i.indexrelid, p, true) FROM generate_series(1, i.indnkeyatts) p ORDER BY p),
           ARRAY(SELECT a.attname::text
                   FROM generate_series(0, i.indnkeyatts - 1) p
                   LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p]
                  ORDER BY p),
           ARRAY(SELECT i.indoption[p]::int4 FROM generate_series(0, i.indnkeyatts - 1) p ORDER BY p),
           ARRAY(SELECT CASE WHEN o.opcdefault THEN NULL
                             WHEN pg_opclass_is_visible(o.oid) THEN quote_ident(o.opcname)
                             ELSE quote_ident(s.nspname) || '.' || quote_ident(o.opcname) END
                   FROM generate_series(0, i.indnkeyatts - 1) p
                   JOIN pg_opclass o ON o.oid = i.indclass[p]
                   JOIN pg_namespace s ON s.oid = o.opcnamespace
                  ORDER BY p),
           ARRAY(SELECT l.collname::text
                   FROM generate_series(0, i.indnkeyatts - 1) p
                   JOIN pg_attribute xa ON xa.attrelid = i.indexrelid AND xa.attnum = p + 1
                   JOIN pg_type t ON t.oid = xa.atttypid
                   LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p]
                   LEFT JOIN pg_collation l ON l.oid = i.indcollation[p]
                        AND i.indcollation[p] <> coalesce(a.attcollation, t.typcollation)
                  ORDER BY p),
           ARRAY(SELECT a.attname::text
                   FROM generate_series(i.indnkeyatts::int4, i.indnatts - 1) p
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p]
                  ORDER BY p),
           pg_get_expr(i.indpred, i.indrelid, true),
           i.indisunique AND NOT EXISTS (SELECT FROM inheriting h WHERE h.ancestor = c.oid),
           i.indisvalid AND i.indisready AND i.indislive, i.indimmediate, k.conname::text,
           pg_get_indexdef(i.indexrelid),
           CASE WHEN x.relkind = 'i'
                THEN coalesce(nullif(pg_relation_size(x.oid), 0),
                              x.relpages * current_setting('block_size')::int8)
                ELSE 0 END::int8,
           x.reloptions::text[],
           ARRAY(SELECT array_to_string(xa.attoptions, E'\n')
                   FROM generate_series(0, i.indnkeyatts - 1) p
                   JOIN pg_attribute xa ON xa.attrelid = i.indexrelid AND xa.attnum = p + 1
                  ORDER BY p)
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_class x ON x.oid = i.indexrelid
      JOIN pg_namespace xn ON xn.oid = x.relnamespace
      JOIN pg_am m ON m.oid = x.relam
      LEFT JOIN pg_constraint k
           ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
     WHERE {_USER_SCHEMA} AND {_READABLE}
     ORDER BY i.indrelid, x.relname"""


def statistics(most_values: int | None) -> LiteralString:
    """Return the query for column statistics, its values in text form.

    anyarray has no cast to text[], so the values go through their text form: the same syntax, read back by the server.
    Where there are statistics with and without children, those with them are read: they describe what a query reads.

    Parameters:
        most_values: longest list of common values, and of histogram bounds (evenly picked, both ends kept), or None for
            all of them, and those of elements, too; the query then has the parameter `most` or none.
    """
    common: LiteralString = "s.most_common_vals::text::text[]"
    shares: LiteralString = "s.most_common_freqs::float8[]"
    bounds: LiteralString = "h.bounds"
    elements: LiteralString = """s.most_common_elems::text::text[], s.most_common_elem_freqs::float8[],
           s.elem_count_histogram::float8[]"""
    if most_values is not None:
        elements = "NULL::text[], NULL::float8[], NULL::float8[]"
        common = f"({common})[:%(most)s]"
        shares = f"({shares})[:%(most)s]"
        bounds = """
            CASE WHEN cardinality(h.bounds) > %(most)s
                 THEN ARRAY(SELECT h.bounds[1 + p * (cardinality(h.bounds) - 1) / (%(most)s - 1)]
                              FROM generate_series(0, %(most)s - 1) p ORDER BY p)
                 ELSE h.bounds END"""
    return f"""
    SELECT s.schemaname::text, s.tablename::text, s.attname::text, s.null_frac::float8, s.avg_width,
           s.n_distinct::float8, s.correlation::float8, {common}, {shares}, {bounds},
           {elements}
      FROM (SELECT *, row_number() OVER (PARTITION BY schemaname, tablename, attname ORDER BY inherited DESC) AS pick
              FROM pg_stats n WHERE n.schemaname !~ '^pg_' AND n.schemaname <> 'information_schema') s
     -- OFFSET 0: the values are parsed once, not for each of their uses.
     CROSS JOIN LATERAL (SELECT s.histogram_bounds::text::text[] AS bounds OFFSET 0) h
     WHERE s.pick = 1"""


# Functions that SQL cannot call (their arguments are internal) are left out, and procedures.
FUNCTIONS: LiteralString = """
    SELECT n.nspname::text, f.proname::text, max(array_position(ARRAY['i', 's', 'v'], f.provolatile::text)),
           bool_and(f.proisstrict), bool_or(f.prokind = 'a'), bool_or(f.proretset)
      FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
     WHERE f.prokind <> 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_(toast|temp)'
       AND f.prorettype <> ALL (ARRAY['internal', 'trigger', 'event_trigger', 'language_handler', 'fdw_handler',
                                      'index_am_handler', 'table_am_handler', 'tsm_handler']::regtype[])
       AND NOT 'internal'::regtype = ANY (f.proargtypes)
     GROUP BY n.nspname, f.proname"""
