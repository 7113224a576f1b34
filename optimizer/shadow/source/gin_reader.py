"""Reads the counters of a source's GIN indexes, which the planner takes from their metapages and SQL cannot see.

No privilege beyond SELECT is needed: `gincostestimate` (selfuncs.c) makes the cost of a bitmap index scan of these
counters and of the number s of entries that a condition looks for. With all cost settings but `random_page_cost` at
nought, that cost is a number of pages:

    pages(s) = pending + s * r + max(ceil(data * s / entries), b),   r = rint(entry_pages ^ 0.15)

Here b are the pages that the rows found take at the least. A condition that every row meets searches all entries, one
that looks for made-up keys any number of them. From 16 on, with nothing but `cpu_operator_cost`, the cost is

    operators(s) = 50 * pages(s) + 50 * (pending + s * r) + s * (2 * ceil(log2(entries)) + 51)

which tells the number of entries exactly. Each r that is possible is tried, and the one kept that agrees best with the
index's size.

What comes out is what the planner would count now: PostgreSQL scales the metapage's numbers, those of the last build or
VACUUM, to the index's present size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from optimizer.shadow.pages.skeleton_gin import GinCounters

#: Entries that the larger condition looks for.
_MANY: Final = 2_000
_OPERATORS_PER_PAGE: Final = 50  # DEFAULT_PAGE_CPU_MULTIPLIER, selfuncs.c
#: gincostestimate's bytes of a page over its bytes for a row.
_ROWS_PER_PAGE: Final = 8192 // 3
#: Entries that a prefix search is taken to meet (gincost_pattern).
_PER_PREFIX: Final = 100
#: Pages that an index is taken to have at the least when its metapage counts no entries.
_LEAST_INVENTED: Final = 10
#: Operator classes whose many keys, each rare, come to no rows at all.
_PRODUCTS: Final = frozenset({"array_ops", "tsvector_ops"})
#: So small that no scan is dearer than one that is forbidden, which costs 1e10 before 18, and two decimals are exact.
_UNIT: Final = 0.01
#: `rint(entry_pages ^ 0.15)` for any number of pages.
_LARGEST_DESCENT: Final = 28
#: Since when costs have a term for each page and descent.
_CPU_COSTS_SINCE: Final = 160000

# One row an index that the planner may use, with its first key column whose operator class is known. Left out, for a
# superuser, where the key or the predicate needs a function that somebody made: planning may run it.
_INDEXES: Final[LiteralString] = """
SELECT DISTINCT ON (i.indexrelid)
       i.indexrelid, c.relname, i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid, k.n::int, false),
       o.opcname, format('OPERATOR(%I.%s)', pn.nspname, p.oprname),
       CASE WHEN et.oid IS NOT NULL THEN format('%I.%I[]', 'pg_catalog', et.typname) END,
       CASE WHEN et.typname = 'uuid' THEN 'U' ELSE et.typcategory::text END,
       pg_get_expr(i.indpred, i.indrelid), pg_relation_size(i.indexrelid) / 8192, c.reltuples, h.reltuples,
       coalesce((SELECT split_part(x, '=', 2)::float8 FROM pg_tablespace t, unnest(t.spcoptions) x
                  WHERE t.oid = coalesce(nullif(c.reltablespace, 0),
                                         (SELECT dattablespace FROM pg_database WHERE datname = current_database()))
                    AND x LIKE 'random_page_cost=%'), 0)
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relpersistence <> 't'
  JOIN pg_class h ON h.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am a ON a.oid = c.relam AND a.amname = 'gin'
  CROSS JOIN LATERAL unnest(i.indclass::oid[]) WITH ORDINALITY k(opclass, n)
  JOIN pg_opclass o ON o.oid = k.opclass
  JOIN (VALUES ('array_ops', 2), ('jsonb_ops', 11), ('jsonb_path_ops', 7), ('tsvector_ops', 1), ('gin_trgm_ops', 3),
               ('gin_hstore_ops', 11)) known(opclass, strategy) ON known.opclass = o.opcname
  JOIN pg_amop m ON m.amopfamily = o.opcfamily AND m.amopstrategy = known.strategy
   AND m.amoplefttype = o.opcintype
  JOIN pg_operator p ON p.oid = m.amopopr
  JOIN pg_namespace pn ON pn.oid = p.oprnamespace
  JOIN pg_attribute b ON b.attrelid = i.indexrelid AND b.attnum = k.n
  LEFT JOIN pg_type et ON o.opcname = 'array_ops' AND et.oid = b.atttypid
 WHERE i.indisvalid AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
   AND (o.opcnamespace = 'pg_catalog'::regnamespace
        OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_opclass'::regclass AND d.objid = o.oid
                      AND d.deptype = 'e'))
   AND (et.oid IS NULL OR et.typnamespace = 'pg_catalog'::regnamespace)
   AND (NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
        OR NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                          AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)))
 ORDER BY i.indexrelid, k.n
"""

_SETTINGS: Final[LiteralString] = """
SET LOCAL enable_bitmapscan = on;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL seq_page_cost = 0;
SET LOCAL cpu_tuple_cost = 0;
SET LOCAL cpu_index_tuple_cost = 0
"""


@dataclass(frozen=True, slots=True)
class GinIndex:
    """One row of `_INDEXES`.

    Parameters:
        key: the key column or expression.
        operator: with its schema.
        array_type, category: of an array's elements; None for other types.
        blocks, rows, table_rows: size of the file, `reltuples` of the index and of its table.
        page_cost: `random_page_cost` of its tablespace, 0 for the session's.
    """

    oid: int
    name: str
    table: str
    key: str
    opclass: str
    operator: str
    array_type: str | None
    category: str | None
    predicate: str | None
    blocks: int
    rows: float
    table_rows: float
    page_cost: float


@dataclass(frozen=True, slots=True)
class Scan:
    """What a bitmap index scan costs: pages, operators, and the rows that it finds."""

    pages: int
    operators: int
    rows: float


@dataclass(frozen=True, slots=True)
class Probe:
    """The scans of one index: for all entries, for one, for `_MANY`, and where possible for as many prefixes."""

    every: Scan
    one: Scan
    many: Scan
    prefixes: Scan | None


def find_gin(connection: psycopg.Connection[Any]) -> list[GinIndex]:
    """Return the GIN indexes that can be probed, in the order of their OIDs.

    Parameters:
        connection: with `search_path = pg_catalog`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [GinIndex(*row) for row in cursor.execute(_INDEXES).fetchall()]


def read_counters(connection: psycopg.Connection[Any], indexes: Sequence[GinIndex]) -> dict[int, GinCounters]:
    """Read the counters of some indexes with two EXPLAINs.

    Parameters:
        connection: in a transaction with the settings of `shape_sql.SETTINGS`.

    Returns: counters by OID, of those whose scans could be seen.

    Errors: `psycopg.Error`.
    """
    asked = {index.oid: [(index, condition) for condition in _conditions(index)] for index in indexes}
    asked = {oid: conditions for oid, conditions in asked.items() if conditions}
    if not asked:
        return {}
    flat = list(itertools.chain.from_iterable(asked.values()))
    statement = "EXPLAIN (FORMAT JSON) SELECT " + ", ".join(_count(index, condition) for index, condition in flat)
    connection.execute(_SETTINGS)
    pages = _costs(connection, statement, flat, page_cost=_UNIT, operator_cost=0.0)
    operators = _costs(connection, statement, flat, page_cost=0.0, operator_cost=_UNIT)
    scans = {
        oid: [_scan(pages.get((oid, n)), operators.get((oid, n)), index) for n, (index, _) in enumerate(conditions)]
        for oid, conditions in asked.items()
    }
    found: dict[int, GinCounters] = {}
    for index in indexes:
        seen = [scan for scan in scans.get(index.oid, ()) if scan is not None]
        if seen and len(seen) == len(scans[index.oid]):
            probe = Probe(seen[0], seen[1], seen[2], seen[3] if len(seen) > 3 else None)
            counters = solve(index, probe, exact=connection.info.server_version >= _CPU_COSTS_SINCE)
            if counters is not None:
                found[index.oid] = counters
    return found


def _conditions(index: GinIndex) -> list[str]:
    """Conditions that look for all entries, for one, for `_MANY`, and for as many prefixes; none if there are none."""
    match index.opclass:
        case "array_ops" if index.category in _ELEMENTS and index.array_type is not None:
            elements = list(itertools.islice(_ELEMENTS[index.category](), _MANY))
            literals = [f"'{{{','.join(some)}}}'::{index.array_type}" for some in ([], elements[:1], elements)]
        case "jsonb_ops" | "gin_hstore_ops":
            literals = [f"'{{{','.join(some)}}}'::text[]" for some in ([], _WORDS[:1], _WORDS)]
        case "jsonb_path_ops":
            quoted = [f'"{word}"' for word in _WORDS]
            literals = ["'{}'::jsonb", *(f"'[{','.join(some)}]'::jsonb" for some in (quoted[:1], quoted))]
        case "tsvector_ops":
            prefixes = "&".join(f"{word}:*" for word in _WORDS)
            texts = (f"!{_WORDS[0]}", _WORDS[0], "&".join(_WORDS), prefixes)
            literals = [f"'{text}'::tsquery" for text in texts]
        case "gin_trgm_ops":
            literals = [f"'{text}'::text" for text in ("%", f"%{_TRIGRAMS[0]}%", f"%{'%'.join(_TRIGRAMS)}%")]
        case _:
            literals = []
    return [f"({index.key}) {index.operator} {literal}" for literal in literals]


def _count(index: GinIndex, condition: str) -> str:
    """SELECT the rows that meet a condition; every piece is what PostgreSQL printed, quoted, or made up above."""
    where = f" AND ({index.predicate})" if index.predicate else ""
    return f"(SELECT count(*) FROM ONLY {index.table} WHERE {condition}{where})"  # noqa: S608


def _costs(
    connection: psycopg.Connection[Any],
    statement: str,
    asked: Sequence[tuple[GinIndex, str]],
    *,
    page_cost: float,
    operator_cost: float,
) -> dict[tuple[int, int], Mapping[str, Any]]:
    """EXPLAIN with these costs; return the bitmap index scans by OID and number of the condition."""
    connection.execute(
        sql.SQL("SET LOCAL random_page_cost = {}; SET LOCAL cpu_operator_cost = {}").format(page_cost, operator_cost)
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        ((explained,),) = cursor.execute(statement.encode(connection.info.encoding)).fetchall()
    parts = explained[0]["Plan"].get("Plans", ())
    found: dict[tuple[int, int], Mapping[str, Any]] = {}
    numbers: dict[int, Iterator[int]] = {}
    if len(parts) != len(asked):
        return found
    for (index, _), part in zip(asked, parts, strict=True):
        number = next(numbers.setdefault(index.oid, itertools.count()))
        heap = part["Plans"][0] if part.get("Plans") else part
        scan = heap["Plans"][0] if heap["Node Type"] == "Bitmap Heap Scan" else heap
        if scan["Node Type"] == "Bitmap Index Scan" and scan["Index Name"] == index.name:
            found[index.oid, number] = scan
    return found


def _scan(pages: Mapping[str, Any] | None, operators: Mapping[str, Any] | None, index: GinIndex) -> Scan | None:
    if pages is None or operators is None:
        return None
    # The tablespace's cost counts in both, whatever the session's.
    counted = round(pages["Total Cost"] / (index.page_cost or _UNIT))
    return Scan(
        counted, round((operators["Total Cost"] - counted * index.page_cost) / _UNIT), float(pages["Plan Rows"])
    )


def solve(index: GinIndex, probe: Probe, *, exact: bool) -> GinCounters | None:
    """Find the counters from which the planner makes these costs.

    Parameters:
        exact: whether operators are charged for pages and descents, as 16 and later do.

    Returns: None when there are none, or the planner made them up, as it does for a new index.
    """
    found = []
    for descent in range(1, _LARGEST_DESCENT + 1):
        counters = _with_descent(index, probe, descent, exact=exact)
        if counters is not None:
            # No page is counted whose number decides nothing: what the index's size leaves is what there are.
            least, most = (math.ceil((descent - 0.5) ** (1 / 0.15)), math.floor((descent + 0.5) ** (1 / 0.15)))
            pages = min(max(counters.entry_pages, least), most)
            found.append((abs(pages - counters.entry_pages), replace(counters, entry_pages=pages)))
    if not found:
        return None
    best = min(found, key=lambda candidate: candidate[0])[1]
    if index.blocks < _LEAST_INVENTED and best.entries == _invented(best.pending_pages):
        return None
    return best


def _with_descent(index: GinIndex, probe: Probe, descent: int, *, exact: bool) -> GinCounters | None:
    """Solve for a given r; None when there is no solution."""
    share = index.rows / index.table_rows if index.predicate and index.table_rows > 0 else 1.0
    every, one, many = (math.ceil(scan.rows * share / _ROWS_PER_PAGE) for scan in (probe.every, probe.one, probe.many))
    if index.opclass in _PRODUCTS:
        many = 0
    # How many data pages the made-up keys come to.
    step = probe.many.pages - probe.one.pages - (_MANY - 1) * descent
    ratio = max(0.0, step / (_MANY - 1))
    pending = probe.one.pages - descent - max(math.ceil(ratio), one)
    if step < min(0, many - one) or not 0 <= pending < max(index.blocks, 1):
        return None
    rest = probe.every.pages - pending
    if exact:
        operators = probe.every.operators - _OPERATORS_PER_PAGE * (probe.every.pages + pending)
        entries = _entries(operators, descent)
    else:
        entries = max(1, round((rest - every) / descent))
        if ratio * entries > every:
            entries = max(1, round(rest / (descent + ratio)))
    if entries is None:
        return None
    data = rest - entries * descent
    if data < 0 or abs(data - ratio * entries) > max(2 * entries / _MANY, every) + 1:
        return None
    if data <= every:  # hidden behind the pages that the rows take
        made_up = probe.many.pages - pending - _MANY * descent
        data = min(data, max(1, round((made_up - 0.5) * entries / _MANY))) if made_up > many else 0
    pages = index.blocks - 1 - pending - data
    if probe.prefixes is not None:
        scale = min(1.0, _PER_PREFIX * _MANY / entries)
        pages = round((probe.prefixes.pages - pending - _MANY * descent - math.ceil(data * scale)) / scale)
    return GinCounters(pending, index.blocks, max(pages, 1), data, entries) if data < index.blocks else None


def _entries(operators: int, descent: int) -> int | None:
    """The n for which a search of all n entries costs that many operators, if there is one."""
    for levels in range(64):
        n, rest = divmod(operators, 2 * levels + _OPERATORS_PER_PAGE * (1 + descent) + 1)
        if not rest and n >= 1 and math.ceil(math.log(n) / math.log(2)) == levels:
            return n
    return None


def _invented(pending: int) -> int:
    """How many entries the planner takes a small index to have whose metapage counts none."""
    return math.floor((_LEAST_INVENTED - pending) * 0.9) * 100


def _words(length: int) -> Iterator[str]:
    return map("".join, itertools.product("qxzjkvwybfghmpu", repeat=length))


def _numbers() -> Iterator[str]:
    return map(str, range(_MANY))


def _dates() -> Iterator[str]:
    return (f"{1000 + n}-01-01" for n in range(_MANY))


def _uuids() -> Iterator[str]:
    return (f"00000000-0000-0000-0000-{n:012}" for n in range(_MANY))


#: By `typcategory`: numbers, strings, times, and uuid.
_ELEMENTS: Final = {"N": _numbers, "S": _numbers, "D": _dates, "U": _uuids}
_WORDS: Final = list(itertools.islice(_words(5), _MANY))
_TRIGRAMS: Final = list(itertools.islice(_words(3), _MANY))
