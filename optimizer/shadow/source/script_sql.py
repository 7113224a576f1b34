"""The statements by which psql, at production, writes what planproof reads of a source itself.

The same queries as the live clone's (`shape_sql`, `privileges`, `row_security`, `planner_settings`, `statistics_sql`),
whose rows become lines of JSON. Only what takes more than one query is said anew here: the look at a B-tree's height
and ends, in PL/pgSQL instead of `shape_reader`'s Python. For PostgreSQL 13 to 18, in a read-only transaction, with
`search_path = pg_catalog`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, LiteralString

from psycopg import sql

from optimizer.shadow.source import (
    collations,
    dump_order,
    extended_statistics,
    leakproof,
    page_costs,
    planner_settings,
    privileges,
    range_statistics,
    row_security,
    shape_sql,
)
from optimizer.shadow.source.redaction import redaction_clause
from optimizer.shadow.source.redaction_sql import HIDDEN, UNKNOWN
from optimizer.shadow.source.statistics_sql import statistics_queries

#: What such a line begins with: a comment to everybody else.
PREFIX: Final = "-- planproof: "
#: What stands in the last one.
END: Final = '{"end": true}'
#: Version of the lines.
VERSION: Final = 1

_BEGIN: Final[LiteralString] = """
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
-- Which schemas names are looked up in; from here on, nothing of the database's own is called by accident.
SELECT pg_catalog.set_config('planproof.search_path', pg_catalog.array_to_json(pg_catalog.current_schemas(false))::text,
                             true) IS NULL AS unused \\gset
SET LOCAL search_path = pg_catalog;
SET LOCAL statement_timeout = '10min';"""

_SOURCE: Final[LiteralString] = """
SELECT '{prefix}' || json_build_object('source', json_build_object(
         'version', {version}, 'server_version', current_setting('server_version'),
         'server_version_num', current_setting('server_version_num')::int, 'database', current_database(),
         'block_size', current_setting('block_size')::int, 'role', {role}, 'own', {role} = current_user::text,
         'reader', quote_ident(current_user),
         'direct', has_table_privilege('pg_statistic_ext_data', 'SELECT'),
         'ranges', has_table_privilege('pg_statistic', 'SELECT'),
         'tables', ({tables}), 'search_path', current_setting('planproof.search_path')::json,
         'provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
         'collate', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate::text),
         'ctype', d.datctype, 'encoding', pg_encoding_to_char(d.encoding), 'redacted', {redacted}::json,
         'settings', (SELECT json_object_agg(name, value) FROM ({settings}) s(name, value))))
  FROM pg_database d WHERE d.datname = current_database();"""

# Errors stop psql; what is raised is what the user is to read.
_RAISE: Final[LiteralString] = """
SELECT format('DO %L', format('BEGIN RAISE EXCEPTION USING MESSAGE = %L; END', {message} || string_agg(w.word, ', ')))
  FROM ({words}) w(word) HAVING count(*) > 0 \\gexec"""

_NO_ROLE: Final[LiteralString] = "SELECT {role} WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role})"

_KNOWN: Final[LiteralString] = """
SELECT current_setting('server_version_num')::int >= 150000 AS is_15,
       current_setting('server_version_num')::int >= 140000 AS is_14,
       has_table_privilege('pg_statistic_ext_data', 'SELECT') AS is_direct,
       current_setting('server_version_num')::int < 170000 AS hides_ranges,
       has_table_privilege('pg_statistic', 'SELECT') AS reads_ranges \\gset"""

# What one look at a B-tree is made of; as `shape_reader._Btree`.
_LOOKS: Final[LiteralString] = """
 looks AS (
  SELECT b.*, format(e.entry, o.forwards) AS first_entry, format(e.entry, o.backwards) AS last_entry
    FROM ({btrees}) b(oid, place, keys, collations, less, greater, options, predicate, secured, trusted, key_type,
                      of_table, of_column, schema, key_bytes)
   CROSS JOIN LATERAL (
     SELECT string_agg(concat('(', k.key, ')', ' COLLATE ' || k.ordering, ' USING OPERATOR(',
                              CASE WHEN k.option & 1 = 0 THEN k.less ELSE k.greater END, ') NULLS ',
                              CASE WHEN k.option & 2 = 0 THEN 'LAST' ELSE 'FIRST' END), ', ' ORDER BY k.nr),
            string_agg(concat('(', k.key, ')', ' COLLATE ' || k.ordering, ' USING OPERATOR(',
                              CASE WHEN k.option & 1 = 0 THEN k.greater ELSE k.less END, ') NULLS ',
                              CASE WHEN k.option & 2 = 0 THEN 'FIRST' ELSE 'LAST' END), ', ' ORDER BY k.nr)
       FROM unnest(b.keys, b.collations, b.less, b.greater, b.options::int[])
            WITH ORDINALITY k(key, ordering, less, greater, option, nr)
   ) o(forwards, backwards)
   CROSS JOIN LATERAL (
     SELECT replace(format('SELECT %s FROM ONLY %s WHERE (%s) IS DISTINCT FROM NULL%s', b.keys[1], b.place, b.keys[1],
                           ' AND (' || b.predicate || ')'), '%', '%%') || ' ORDER BY %s LIMIT 1'
   ) e(entry)
 )"""

# Each look is a statement of its own, with its own time limit. Its error, a want of rights above all, leaves a gap. It
# always ends in one: that undoes the block, and with it the locks; a large schema's would be more than a server takes.
_LOOK: Final[LiteralString] = """
DECLARE
  explained json; part json; scans int := 0; seen int; height int; entries record; ends json;
BEGIN
  BEGIN
    IF {plannable} THEN
      EXECUTE format('EXPLAIN (FORMAT JSON) SELECT (%s), (%s)', {first_entry}, {last_entry}) INTO explained;
    END IF;
    FOR part IN SELECT CASE p ->> 'Node Type' WHEN 'Limit' THEN p -> 'Plans' -> 0 ELSE p END
                  FROM json_array_elements(explained -> 0 -> 'Plan' -> 'Plans') p LOOP
      IF part ->> 'Node Type' IN ('Index Scan', 'Index Only Scan') AND part -> 'Filter' IS NULL THEN
        scans := scans + 1;
        -- 50 operators a level, each of which costs 1,000 now.
        IF scans = 1 AND part ->> 'Index Name' = {name} THEN
          seen := floor((part ->> 'Startup Cost')::float8 / 50000)::int - 1;
        END IF;
      END IF;
    END LOOP;
    IF scans = 2 AND json_array_length(explained -> 0 -> 'Plan' -> 'Plans') = 2 THEN
      height := seen;
      IF {readable} THEN
        EXECUTE format('SELECT (%s) AS first, (%s) AS last', {first_entry}, {last_entry}) INTO entries;
        ends := json_build_array(entries.first IS DISTINCT FROM NULL AND entries.last IS DISTINCT FROM NULL,
                                 format('%s', entries.first), format('%s', entries.last));
      END IF;
    END IF;
    RAISE EXCEPTION 'seen';
  EXCEPTION WHEN query_canceled OR others THEN
    NULL;
  END;
  PERFORM set_config('planproof.line', '{prefix}' || jsonb_build_object('relation', {shape}::jsonb ||
                     jsonb_build_object('height', height, 'ends', ends, 'wanted', {wanted}))::text, true);
END"""

_SHAPE: Final[LiteralString] = """
{hidden}, {looks}
(SELECT {settings}, NULL) UNION ALL
(SELECT CASE WHEN b.oid IS NOT NULL AND r.blocks > 1 THEN format('DO %L', {look}) END,
       CASE WHEN b.oid IS NOT NULL AND r.blocks > 1 THEN 'SELECT current_setting(''planproof.line'')'
            ELSE format('SELECT %L', '{prefix}' || json_build_object('relation', j.shape)) END
  FROM ({relations}) r(oid, schema, name, kind, blocks, rows, pages, all_visible, method)
  LEFT JOIN looks b ON b.oid = r.oid
  LEFT JOIN hidden h ON h.relid = r.oid AND h.attnum = 1
 CROSS JOIN LATERAL (
   SELECT json_build_object('oid', r.oid::int8, 'schema', r.schema, 'name', r.name, 'kind', r.kind,
                            'blocks', r.blocks, 'rows', r.rows, 'pages', r.pages,
                            'all_visible', r.all_visible, 'method', r.method,
                            -- A B-tree of one block is nothing but its metapage.
                            'height', CASE WHEN b.oid IS NOT NULL AND r.blocks <= 1 THEN 0 END,
                            'key_bytes', b.key_bytes)
 ) j(shape)
 ORDER BY r.oid) \\gexec"""


def statements(redacted: Sequence[str], role: str) -> Iterator[str]:
    """Yield what psql runs, in order.

    Parameters:
        redacted: words of a redaction (`read_words`).
        role: whose row-level security counts; empty is the role that runs the script.
    """
    yield _BEGIN
    clause = redaction_clause(redacted)
    yield _filled(_RAISE, message="'planproof: there is no column '", words=f"{clause} {UNKNOWN}")
    counted = _literal(role) if role else "current_user::text"
    yield _filled(_RAISE, message="'planproof: there is no role '", words=_NO_ROLE.replace("{role}", counted))
    words = f"array_to_json(ARRAY[{', '.join(map(_literal, redacted))}]::text[])"
    yield _filled(
        _SOURCE,
        version=str(VERSION),
        role=counted,
        redacted=words,
        settings=planner_settings.QUERY,
        tables=privileges.TABLES,
    )
    yield _recorded("unread", privileges.QUERY, 10)
    for name, query, columns in zip(("secured", "policies", "views"), row_security.QUERIES, (4, 6, 2), strict=True):
        yield _recorded(name, query.replace("%s", counted), columns)
    if redacted:
        yield _recorded("redacted", f"{clause} {HIDDEN}", 4)
    yield _recorded("ranks", dump_order.RANKS, 4)
    yield _recorded("page_costs", page_costs.QUERY, 4)
    yield _recorded("collations", collations.QUERY, 6)
    yield _recorded("leakproof", leakproof.QUERY, 3)
    yield _recorded("brin", f"SELECT i::int8, t::int8, p FROM ({shape_sql.BRIN}) b(i, t, p)", 3)  # noqa: S608
    look = _filled(
        "format({body}, b.first_entry, b.last_entry, r.name, {readable}, j.shape, {wanted}, {plannable})",
        body=_literal(_look_template()),
        readable="CASE WHEN b.predicate IS NULL AND h.relid IS NULL AND b.trusted AND NOT b.secured"
        " THEN 'true' ELSE 'false' END",
        # Planning runs functions, too: those that a predicate calls with constants.
        plannable="CASE WHEN b.trusted THEN 'true' ELSE 'false' END",
        wanted="CASE WHEN b.predicate IS NULL AND h.relid IS NULL THEN 'true' ELSE 'false' END",
    )
    looks = _filled(_LOOKS, btrees=shape_sql.BTREES)
    # The first of the statements that are made here: the limit is for a look, not for what finds all indexes.
    settings = _literal(f"{shape_sql.SETTINGS.strip()};\nSET LOCAL statement_timeout = '1s'")
    yield _filled(_SHAPE, hidden=clause, looks=looks, look=look, relations=shape_sql.RELATIONS, settings=settings)
    yield "SET LOCAL statement_timeout = '10min';"
    yield from _extended(clause)
    yield from _ranges(redacted)
    for query in statistics_queries(redacted):
        yield query.strip() + ";"
    yield f"SELECT '{PREFIX}{END}';\nROLLBACK;"


def _look_template() -> str:
    """The look as a template of `format()`, whose places are numbered."""
    doubled = _LOOK.strip().replace("%", "%%")
    places = {
        "first_entry": "%1$L",
        "last_entry": "%2$L",
        "name": "%3$L",
        "readable": "%4$s",
        "shape": "%5$L",
        "wanted": "%6$s",
        "plannable": "%7$s",
    }
    return _filled(doubled, **places)


def _extended(clause: str) -> Iterator[str]:
    """Yield what records extended statistics, by the source's version and the role's rights; both are known to psql."""
    yield _KNOWN
    for condition, direct in (("\\if :is_direct", True), ("\\else", False)):
        yield condition
        for branch, version in (("\\if :is_15", 150000), ("\\elif :is_14", 140000), ("\\else", 130000)):
            yield branch
            asked = extended_statistics.queries(version, direct=direct)
            yield _recorded("objects", asked.objects, 7)
            # The views show common values beside the rest.
            yield _recorded("data", asked.data, 4 if direct else 7, clause, values=() if direct else (4, 5, 6))
            for name, query, columns in (("items", asked.items, 5), ("expressions", asked.expressions, 20)):
                if query:
                    yield _recorded(name, query, columns if direct else 12, clause, shown="AND NOT {hidden}")
        yield "\\endif"
    yield "\\endif"


def _ranges(redacted: Sequence[str]) -> Iterator[str]:
    """Yield what records statistics of ranges, which pg_stats does not show before 17."""
    yield "\\if :hides_ranges"
    yield _recorded("range_columns", range_statistics.COUNT, 1)
    if not redacted:
        yield "\\if :reads_ranges"
        yield _recorded("range_statistics", range_statistics.STATISTICS, 7)
        yield "\\endif"
    yield "\\endif"


def _recorded(
    name: str, query: str, columns: int, clause: str = "", *, values: Collection[int] = (), shown: str = ""
) -> str:
    """Each row of a query as a line.

    Parameters:
        name: of the kind of line.
        query, columns: what is asked, and how many columns it has.
        clause: of a redaction; the first column is then the OID of an extended statistics object.
        values: columns that are not shown of hidden objects.
        shown: a condition.
    """
    hidden = "c0 IN (SELECT oid FROM hidden_statistics)"
    names = [f"c{at}" for at in range(columns)]
    told = [f"CASE WHEN NOT {hidden} THEN {n} END" if at in values else n for at, n in enumerate(names)]
    return (
        f"{clause} SELECT '{PREFIX}' || json_build_object('{name}', json_build_array({', '.join(told)}))\n"  # noqa: S608
        f"  FROM ({query.strip()}) q({', '.join(names)}) WHERE true {shown.format(hidden=hidden)};"
    ).strip()


def _filled(template: str, **parts: str) -> str:
    """Put parts into their places; templates hold braces of their own, and percent signs."""
    for name, part in {"prefix": PREFIX, **parts}.items():
        template = template.replace("{" + name + "}", part)
    return template


def _literal(text: str) -> str:
    return sql.Literal(text).as_string().strip()
