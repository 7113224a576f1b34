"""Which columns' values a redaction covers, as SQL that is shared by the live clone and the script for production.

For PostgreSQL 13 to 18, with `search_path = pg_catalog`. A named column's values are found elsewhere too, so these are
hidden with it, and what follows from them: the same column of parents, children and partitions; columns tied to it by
foreign keys; columns generated from it; indexes and their expressions; views and materialized views that read it, whose
columns are all taken to hold its values.
"""

from __future__ import annotations

from typing import Final, LiteralString

_USER_SCHEMA: Final[LiteralString] = "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"

#: Relations that have statistics, and views, through which values pass.
_HOLDERS: Final[LiteralString] = "('r', 'p', 'm', 'f', 'i', 'v')"

#: Where the values of one column are found again: (relation, column) to (relation, column); column 0 is any of them.
#: An expression that reads a whole row (a variable without attribute) depends on no column in the eyes of pg_depend.
_EDGES: Final[LiteralString] = """
edge(relid, attnum, relid2, attnum2) AS MATERIALIZED (
  SELECT p.attrelid, p.attnum::int, c.attrelid, c.attnum::int
    FROM pg_inherits i
    JOIN pg_attribute p ON p.attrelid = i.inhparent AND p.attnum > 0
    JOIN pg_attribute c ON c.attrelid = i.inhrelid AND c.attname = p.attname AND c.attnum > 0
  UNION ALL
  SELECT c.attrelid, c.attnum, p.attrelid, p.attnum
    FROM pg_inherits i
    JOIN pg_attribute p ON p.attrelid = i.inhparent AND p.attnum > 0
    JOIN pg_attribute c ON c.attrelid = i.inhrelid AND c.attname = p.attname AND c.attnum > 0
  UNION ALL
  SELECT k.conrelid, u.here, k.confrelid, u.there
    FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey, k.confkey) u(here, there) WHERE k.contype = 'f'
  UNION ALL
  SELECT k.confrelid, u.there, k.conrelid, u.here
    FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey, k.confkey) u(here, there) WHERE k.contype = 'f'
  UNION ALL
  SELECT d.refobjid, d.refobjsubid, d.objid, d.objsubid
    FROM pg_depend d
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.objid = d.refobjid AND d.objsubid > 0 AND d.refobjsubid > 0
  UNION ALL
  SELECT d.refobjid, d.refobjsubid, x.adrelid, x.adnum
    FROM pg_attrdef x
    JOIN pg_attribute a ON a.attrelid = x.adrelid AND a.attnum = x.adnum AND a.attgenerated <> ''
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = x.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.adrelid AND d.refobjsubid > 0
  UNION ALL
  SELECT i.indrelid, k.num, i.indexrelid, k.place::int
    FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place) WHERE k.num > 0
  UNION ALL
  SELECT i.indrelid, u.num, i.indexrelid, k.place::int
    FROM pg_index i
   CROSS JOIN LATERAL (
     SELECT d.refobjsubid FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
     UNION ALL SELECT 0 WHERE i.indexprs::text LIKE '%:varattno 0 %'
   ) u(num)
   CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
   WHERE i.indexprs IS NOT NULL AND k.num = 0
  UNION ALL
  SELECT d.refobjid, CASE WHEN r.ev_action::text LIKE '%:varattno 0 %' THEN 0 ELSE d.refobjsubid END,
         r.ev_class, a.attnum
    FROM pg_rewrite r
    JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    JOIN pg_attribute a ON a.attrelid = r.ev_class AND a.attnum > 0
)"""

#: Types whose values may be text or hold some: all but those known not to, and domains and arrays of these.
_TEXTUAL: Final[LiteralString] = """
root(type, base) AS (
  SELECT oid, oid FROM pg_type
  UNION
  SELECT r.type, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END
    FROM root r JOIN pg_type t ON t.oid = r.base
   WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0)
), textual(type) AS (
  SELECT r.type
    FROM root r JOIN pg_type t ON t.oid = r.base
   WHERE t.typtype <> 'd' AND t.typcategory <> 'A'
     AND t.typcategory NOT IN ('B', 'D', 'E', 'G', 'I', 'N', 'T', 'V')
     AND NOT (t.typcategory = 'R' AND t.oid < 16384)
     AND t.oid <> ALL ('{uuid,macaddr,macaddr8,pg_lsn}'::regtype[])
)"""

_NAMED: Final[LiteralString] = """
seed(relid, attnum) AS (
  SELECT a.attrelid, a.attnum::int
    FROM named w
    JOIN pg_class c ON c.relname = w.relation AND c.relkind IN ('r', 'p', 'm', 'f', 'v')
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = coalesce(w.schema, n.nspname)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.attribute AND a.attnum > 0 AND NOT a.attisdropped
   WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
), reached(relid, attnum) AS (
  SELECT relid, attnum FROM seed
  UNION
  SELECT e.relid2, e.attnum2 FROM reached h JOIN edge e ON e.relid = h.relid AND e.attnum IN (h.attnum, 0)
)"""

#: Named columns that do not exist, as the user wrote them; in the scope of `hidden_columns`.
UNKNOWN: Final[LiteralString] = """
SELECT w.word FROM named w
 WHERE w.word IS NOT NULL AND NOT EXISTS (
   SELECT FROM pg_class c
     JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = coalesce(w.schema, n.nspname)
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.attribute AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relname = w.relation AND c.relkind IN ('r', 'p', 'm', 'f', 'v')
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_')
"""

#: What is hidden: columns of tables and materialized views; indexes by their first key column; extended statistics.
#: In the scope of `hidden_columns`.
HIDDEN: Final[LiteralString] = """
SELECT CASE WHEN c.relkind = 'i' THEN 'index' ELSE 'column' END, n.nspname::text, c.relname::text, a.attname::text
  FROM hidden h
  JOIN pg_class c ON c.oid = h.relid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = h.relid AND a.attnum = h.attnum
 WHERE c.relkind IN ('r', 'p', 'm', 'f') OR (c.relkind = 'i' AND a.attnum = 1)
UNION ALL
SELECT 'statistics', n.nspname::text, s.stxname::text, ''
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
 WHERE s.oid IN (SELECT oid FROM hidden_statistics)
 ORDER BY 1, 2, 3, 4
"""

_HIDDEN_STATISTICS: Final[LiteralString] = """
hidden_statistics(oid) AS (
  SELECT d.objid
    FROM pg_depend d
    JOIN hidden h ON h.relid = d.refobjid AND d.refobjsubid IN (h.attnum, 0)
   WHERE d.classid = 'pg_statistic_ext'::regclass AND d.refclassid = 'pg_class'::regclass
)"""


def hidden_columns(named: str, *, text: bool, everything: bool) -> str:
    """Return the WITH clause that defines `named`, `hidden(relid, attnum)` and `hidden_statistics(oid)`.

    Parameters:
        named: rows of VALUES (word, schema or NULL, relation, attribute), as SQL; empty names nothing.
        text: whether all columns are covered that may hold text.
        everything: whether all columns are covered.
    """
    rows = named or "(NULL::text, NULL::text, NULL::text, NULL::text)"
    parts = [f"named(word, schema, relation, attribute) AS (VALUES {rows})"]
    found = []
    if named:
        parts += [_EDGES, _NAMED]
        found.append("SELECT relid, attnum FROM reached")
    if text or everything:
        if not everything:
            parts.append(_TEXTUAL)
        kept = "" if everything else " AND a.atttypid IN (SELECT type FROM textual)"
        found.append(
            "SELECT a.attrelid, a.attnum::int FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"  # noqa: S608
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN {_HOLDERS} AND {_USER_SCHEMA}{kept}"
        )
    union = "\n  UNION\n  ".join(found or ["SELECT 0::oid, 0 WHERE false"])
    parts += [f"hidden(relid, attnum) AS (\n  {union}\n)", _HIDDEN_STATISTICS]
    return "WITH RECURSIVE " + ", ".join(part.strip() for part in parts)
