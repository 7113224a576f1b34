"""The queries of `shape_reader`; for PostgreSQL 13 to 18, with `search_path = pg_catalog`."""

from __future__ import annotations

from typing import Final, LiteralString

RELATIONS: Final[LiteralString] = """
SELECT c.oid, n.nspname, c.relname,
       CASE c.relkind WHEN 'i' THEN 'index' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
       pg_relation_size(c.oid) / 8192, c.reltuples, c.relpages, c.relallvisible, a.amname
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_am a ON a.oid = c.relam AND c.relkind = 'i'
 WHERE c.relkind IN ('r', 'm', 'i') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
   AND pg_relation_size(c.oid) IS NOT NULL
 ORDER BY 1
"""

# One row a B-tree that the planner may use. `trusted`: reading an entry of it runs no function but PostgreSQL's own
# (built-in functions have no rows in pg_depend), or only with the rights of a role that is no superuser.
BTREES: Final[LiteralString] = """
SELECT i.indexrelid, i.indrelid::regclass::text,
       array(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k ORDER BY k),
       array(SELECT CASE WHEN o.oid <> 0 THEN
                       (SELECT format('%I.%I', n.nspname, l.collname)
                          FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = o.oid) END
               FROM unnest(i.indcollation::oid[]) WITH ORDINALITY o(oid, k) WHERE k <= i.indnkeyatts ORDER BY k),
       array(SELECT (SELECT format('%I.%s', n.nspname, p.oprname)
                       FROM pg_opclass f
                       JOIN pg_amop m ON m.amopfamily = f.opcfamily AND m.amopstrategy = 1
                        AND m.amoplefttype = f.opcintype AND m.amoprighttype = f.opcintype
                       JOIN pg_operator p ON p.oid = m.amopopr
                       JOIN pg_namespace n ON n.oid = p.oprnamespace
                      WHERE f.oid = o.oid)
               FROM unnest(i.indclass::oid[]) WITH ORDINALITY o(oid, k) WHERE k <= i.indnkeyatts ORDER BY k),
       array(SELECT (SELECT format('%I.%s', n.nspname, p.oprname)
                       FROM pg_opclass f
                       JOIN pg_amop m ON m.amopfamily = f.opcfamily AND m.amopstrategy = 5
                        AND m.amoplefttype = f.opcintype AND m.amoprighttype = f.opcintype
                       JOIN pg_operator p ON p.oid = m.amopopr
                       JOIN pg_namespace n ON n.oid = p.oprnamespace
                      WHERE f.oid = o.oid)
               FROM unnest(i.indclass::oid[]) WITH ORDINALITY o(oid, k) WHERE k <= i.indnkeyatts ORDER BY k),
       i.indoption::int2[],
       pg_get_expr(i.indpred, i.indrelid),
       row_security_active(i.indrelid),
       NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
         OR NOT EXISTS (SELECT FROM pg_depend d
                         WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                           AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)),
       format_type(t.atttypid, t.atttypmod),
       CASE WHEN i.indkey[0] = 0 THEN c.relname ELSE (SELECT h.relname FROM pg_class h WHERE h.oid = i.indrelid) END,
       CASE WHEN i.indkey[0] = 0 THEN t.attname
            ELSE (SELECT b.attname FROM pg_attribute b WHERE b.attrelid = i.indrelid AND b.attnum = i.indkey[0]) END,
       n.nspname, CASE WHEN t.attlen > 0 THEN (t.attlen + 7) / 8 * 8 ELSE 24 END
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relpersistence <> 't'
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'
  JOIN pg_attribute t ON t.attrelid = i.indexrelid AND t.attnum = 1
 WHERE i.indisvalid AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
"""

# One row a BRIN index: its table, and the storage parameter where one was given.
BRIN: Final[LiteralString] = """
SELECT i.indexrelid, i.indrelid,
       (SELECT split_part(option, '=', 2)::int FROM unnest(c.reloptions) option WHERE option LIKE 'pages_per_range=%')
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relpersistence <> 't'
  JOIN pg_am a ON a.oid = c.relam AND a.amname = 'brin'
"""

# pageinspect may be installed in any schema, and only a superuser may call it.
PAGEINSPECT: Final[LiteralString] = """
SELECT format('%I', n.nspname)
  FROM pg_extension e
  JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'pageinspect' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
"""

STATISTICS: Final[LiteralString] = """
SELECT most_common_vals::text, histogram_bounds::text
  FROM pg_stats
 WHERE schemaname = %s AND tablename = %s AND attname = %s AND NOT inherited
"""

SETTINGS: Final[LiteralString] = """
SET LOCAL search_path = pg_catalog;
SET LOCAL lock_timeout = 5000;
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL timezone = 'UTC';
SET LOCAL extra_float_digits = 3;
SET LOCAL bytea_output = 'hex';
SET LOCAL jit = off;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;
SET LOCAL enable_incremental_sort = off;
SET LOCAL cpu_operator_cost = 1000
"""
