"""From a catalog and a pair of queries to the model that databases are generated from.

The server itself says which values a type takes (`pg_input_is_valid`) and which a one-column CHECK lets through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from optimizer.catalog import Catalog, Column, Table, quote_identifier
from optimizer.clock import Deadline
from optimizer.equivalence import tree, values
from optimizer.equivalence.constants import Constants, ValueType, number
from optimizer.equivalence.hints import Atom, ColumnKey, Hints, hints_of
from optimizer.equivalence.model import ColumnModel, ForeignKey, Model, TableModel
from optimizer.equivalence.session import Command, Result, Session
from optimizer.query import Query

_MAX_POOL = 60
_MAX_CONSTANTS = 200
_GRACE_S = 0.5
#: Tables filled when a query calls functions of the user's, which may read any of them.
_MAX_FUNCTION_TABLES = 30
#: Tried when a CHECK refuses everything else.
_SHAPES: Final = (
    "a@b.co",
    "+12025550123",
    "abc-123",
    "https://a.b/c",
    "00000",
    "AB",
    "abc",
    "Abcdef1",
    "10",
    "100",
    "12345678",
)

_TYPES_SQL = """
WITH RECURSIVE below AS (
    SELECT n, name, to_regtype(name)::oid AS type, to_regtypemod(name) AS modifier, false AS not_null
      FROM unnest($1::text[]) WITH ORDINALITY AS u(name, n)
    UNION ALL
    SELECT b.n, b.name, t.typbasetype, t.typtypmod, b.not_null OR t.typnotnull
      FROM below b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd')
SELECT b.name, format_type(t.oid, NULL), format_type(t.oid, b.modifier), b.not_null,
       CASE WHEN t.typcategory = 'A' THEN format_type(t.typelem, NULL) END,
       to_json(ARRAY(SELECT e.enumlabel FROM pg_enum e WHERE e.enumtypid = coalesce(nullif(t.typelem, 0), t.oid)
                      ORDER BY e.enumsortorder))
  FROM below b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
"""
_MOMENTS_SQL = """
SELECT v, CASE WHEN pg_input_is_valid(v, 'timestamp')
               THEN to_char(v::timestamp, 'YYYY-MM-DD"T"HH24:MI:SS.US') END,
       CASE WHEN pg_input_is_valid(v, 'interval') THEN extract(epoch FROM v::interval)::text END
  FROM unnest($1::text[]) AS u(v)
"""
_VALID_SQL = """SELECT v FROM unnest($1::text[]) WITH ORDINALITY AS u(v, n) WHERE pg_input_is_valid(v, $2) ORDER BY n"""


def build_model(
    catalog: Catalog, queries: Sequence[Query], session: Session, parameter_types: Sequence[str], deadline: Deadline
) -> Model:
    """Find the tables and values for a pair of queries.

    Parameters:
        catalog: of the schema.
        queries: both.
        session: the loader's, which asks the server about values.
        parameter_types: names of the types of `$1`, `$2`, ...
        deadline: of the verdict; CHECKs and domains are the user's code.

    Errors: `SessionEnded`.
    """
    hints = hints_of(queries, catalog)
    chosen, refresh = needed_tables(catalog, queries)
    asker = _Server(session, deadline)
    constants = _constants(hints, asker)
    names = {c.type for t in chosen for c in t.columns.values()} | set(parameter_types)
    types = asker.types(sorted(names))
    linked = _groups(hints, chosen)
    tables = []
    ordered = _parents_first(chosen)
    for place, table in enumerate(ordered):
        columns = [
            _column(table, column, types, linked, hints, constants)
            for column in table.columns.values()
            if not column.generated
        ]
        made = _table(table, columns, {t.qualified for t in ordered[place + 1 :]}, catalog)
        places = {c.key: i for i, c in enumerate(columns)}
        asked = [(a, o, b) for a, o, b in hints.inequalities if a in places and b in places]
        made.inequalities = tuple((places[a], operator, places[b]) for a, operator, b in asked)
        tables.append(made)
    params = tuple(_parameter(i, types[name][0], constants) for i, name in enumerate(parameter_types))
    _keep_valid([c for t in tables for c in t.columns] + list(params), asker)
    _keep_checked(tables, catalog, asker)
    return Model(tuple(tables), hints, constants, params, refresh)


def needed_tables(catalog: Catalog, queries: Sequence[Query]) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """The tables that queries read or write, with those that their foreign keys need; and materialized views."""
    wanted: dict[str, Table] = {}
    refresh: list[str] = []
    for query in queries:
        found = tree.touched(query.sql, catalog)
        calls = tree.calls(tree.statement(query.sql))
        if any(schema != "pg_catalog" and catalog.function(name, "pg_catalog") is None for schema, name in calls):
            found = [*found, *list(catalog.tables.values())[:_MAX_FUNCTION_TABLES]]
        for table in found:
            if table.kind == "materialized view" and table.qualified not in refresh:
                refresh.insert(0, table.qualified)
            if table.kind in ("table", "partitioned table"):
                wanted[table.qualified] = table
    queue = list(wanted.values())
    while queue:
        for constraint in queue.pop().constraints:
            parent = catalog.table(constraint.referenced_table or "", constraint.referenced_schema)
            if constraint.kind == "foreign key" and parent is not None and parent.qualified not in wanted:
                wanted[parent.qualified] = parent
                queue.append(parent)
    return tuple(wanted.values()), tuple(refresh)


class _Server:
    """Asks the server about types and values."""

    def __init__(self, session: Session, deadline: Deadline) -> None:
        self._session = session
        self._deadline = deadline

    def ask(self, commands: Iterable[Command]) -> list[Result]:
        groups = [[command] for command in commands]
        if not groups:
            return []
        answers = self._session.run(groups, limit_s=self._deadline.remaining_ms / 1000 + _GRACE_S)
        return [answer[0] for answer in answers]

    def types(self, names: Sequence[str]) -> dict[str, tuple[ValueType, bool]]:
        (result,) = self.ask([Command(_TYPES_SQL, (values.array_text(names),))])
        found: dict[str, tuple[ValueType, bool]] = {}
        for row in result.rows:
            name, base, full, not_null, element, labels = (None if v is None else v.decode() for v in row)
            found[str(name)] = (_value_type(str(name), str(base), str(full), element, labels or "[]"), not_null == "t")
        return {name: found.get(name, (ValueType(name, name), False)) for name in names}

    def valid(self, pools: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Keep the texts that each type reads; a type whose input function raises keeps all."""
        names = list(pools)
        results = self.ask(Command(_VALID_SQL, (values.array_text(pools[name]), name)) for name in names)
        return {
            name: list(pools[name]) if result.error else [str((row[0] or b"").decode()) for row in result.rows]
            for name, result in zip(names, results, strict=True)
        }


def _value_type(name: str, base: str, full: str, element: str | None, labels: str) -> ValueType:
    arguments = re.search(r"\((-?\d+)(?:,\s*(-?\d+))?\)", full)
    sizes = tuple(int(a) for a in arguments.groups() if a is not None) if arguments else ()
    listed = tuple(json.loads(labels))
    if element is not None:
        return ValueType(name, base, sizes, (), ValueType(element, element, sizes, listed))
    return ValueType(name, base, sizes, listed)


def _constants(hints: Hints, asker: _Server) -> Constants:
    numbers = tuple(v for t in dict.fromkeys(hints.numbers) if (v := number(t)) is not None)
    numbers += tuple(-v for v in numbers if v > 0)
    strings = [s for s in dict.fromkeys(hints.strings) if len(s) < 2_000][:_MAX_CONSTANTS]
    asked = [*strings, *(f"{s}-01" for s in strings if re.fullmatch(r"\d{4}-\d{2}", s))]
    asked += [f"{s}-01-01" for s in strings if re.fullmatch(r"\d{4}", s)]
    moments: dict[str, datetime] = {}
    spans: list[timedelta] = []
    (result,) = asker.ask([Command(_MOMENTS_SQL, (values.array_text(asked),))])
    for row in result.rows:
        text, moment, span = (None if v is None else v.decode() for v in row)
        if moment is not None and text not in ("now", "today", "tomorrow", "yesterday") and len(moment) == 26:
            key = str(text)
            moments[key if key in strings else key[:4] if key.endswith("-01-01") else key[:-3]] = (
                datetime.fromisoformat(moment)
            )
        elif span is not None and abs(float(span)) < 3e9:
            spans.append(timedelta(seconds=float(span)))
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0) if hints.now else None
    return Constants(numbers[:_MAX_CONSTANTS], tuple(strings), moments, tuple(dict.fromkeys(spans))[:4], now)


def _groups(hints: Hints, tables: Sequence[Table]) -> dict[ColumnKey, int]:
    """Number the sets of columns that joins and foreign keys tie together."""
    links = list(hints.links)
    for table in tables:
        for constraint in table.constraints:
            if constraint.kind == "foreign key":
                parent = (constraint.referenced_schema or "", constraint.referenced_table or "")
                pairs = zip(constraint.columns, constraint.referenced_columns, strict=False)
                links += [((table.schema, table.name, c), (*parent, p)) for c, p in pairs]
    roots: dict[ColumnKey, ColumnKey] = {}

    def root(key: ColumnKey) -> ColumnKey:
        while roots.setdefault(key, key) != key:
            key = roots[key]
        return key

    for a, b in links:
        if a != b:
            roots[root(a)] = root(b)
    numbers: dict[ColumnKey, int] = {}
    for key in list(roots):
        numbers.setdefault(root(key), len(numbers))
    return {key: numbers[root(key)] for key in roots}


def _parents_first(tables: Sequence[Table]) -> list[Table]:
    """Order tables so that foreign keys point backwards, as far as there are no cycles."""
    waiting = {t.qualified: t for t in tables}
    done: list[Table] = []
    while waiting:
        ready = [t for t in waiting.values() if not (_parents(t) - {t.qualified}) & waiting.keys()]
        for table in ready or [next(iter(waiting.values()))]:
            del waiting[table.qualified]
            done += [table]
    return done


def _parents(table: Table) -> set[str]:
    return {
        f"{quote_identifier(c.referenced_schema)}.{quote_identifier(c.referenced_table)}"
        for c in table.constraints
        if c.kind == "foreign key" and c.referenced_schema and c.referenced_table
    }


def _column(
    table: Table,
    column: Column,
    types: Mapping[str, tuple[ValueType, bool]],
    linked: Mapping[ColumnKey, int],
    hints: Hints,
    constants: Constants,
) -> ColumnModel:
    kind, domain_not_null = types[column.type]
    key = (table.schema, table.name, column.name)
    model = ColumnModel(key, kind, column.not_null or domain_not_null, group=linked.get(key))
    own: list[str] = []
    for atom in hints.atoms:
        if atom.column == key:
            own += _from_atom(model, atom, constants)
    model.dense = values.dense(kind)
    model.own = tuple(dict.fromkeys(own))[:_MAX_POOL]
    model.wide = tuple(dict.fromkeys(values.wide(kind, constants)))[: 2 * _MAX_POOL]
    model.ends = values.extremes(kind)
    return model


def _from_atom(model: ColumnModel, atom: Atom, constants: Constants) -> list[str]:
    """Record what satisfies a comparison, and return the constants' neighbours."""
    model.wants_null = model.wants_null or atom.operator == "null"
    params = [int(c[1:]) for c in atom.constants if c.startswith("$") and c[1:].isdigit()]
    texts = [c for c in atom.constants if not c.startswith("$")]
    model.bound.setdefault(atom.occurrence, []).extend((atom.operator, n) for n in params if atom.bare)
    near = [v for text in texts for v in values.around(model.kind, text, constants)]
    if atom.bare:
        model.asked.setdefault(atom.occurrence, []).append((atom.operator, tuple(texts)))
        hits = values.satisfying(model.kind, atom.operator, texts, constants)
    else:
        derived = list(dict.fromkeys(values.derived(model.kind, atom.function, texts, constants)))
        near, hits = [*derived, *near], derived
    if hits:
        model.hits.setdefault(atom.occurrence, []).append(tuple(dict.fromkeys(hits)))
    return near


def _parameter(place: int, kind: ValueType, constants: Constants) -> ColumnModel:
    pool = tuple(dict.fromkeys(values.wide(kind, constants)))[:_MAX_POOL]
    return ColumnModel(("", "", f"${place + 1}"), kind, True, values.dense(kind), (), pool)


def _table(table: Table, columns: list[ColumnModel], later: set[str], catalog: Catalog) -> TableModel:
    places = {c.name: i for i, c in enumerate(columns)}
    uniques = {tuple(places[c] for c in key) for key in table.unique_keys() if all(c in places for c in key)}
    foreign: list[ForeignKey] = []
    for constraint in table.constraints:
        parent = catalog.table(constraint.referenced_table or "", constraint.referenced_schema)
        if constraint.kind != "foreign key" or parent is None:
            continue
        parent_places = [c.name for c in parent.columns.values() if not c.generated]
        if all(c in places for c in constraint.columns) and set(constraint.referenced_columns) <= set(parent_places):
            foreign.append(
                ForeignKey(
                    tuple(places[c] for c in constraint.columns),
                    (parent.schema, parent.name),
                    tuple(parent_places.index(c) for c in constraint.referenced_columns),
                    parent.qualified in later,
                )
            )
    occurrences = tuple(sorted({o for c in columns for o in (*c.hits, *c.bound)}))
    return TableModel(
        (table.schema, table.name),
        table.qualified,
        tuple(columns),
        tuple(sorted(uniques)),
        tuple(foreign),
        identity=any(c.identity for c in table.columns.values()),
        # ON CONFLICT refuses tables with a deferrable key.
        tolerant=all(i.immediate for i in table.indexes) and not any(c.deferrable for c in table.constraints),
        occurrences=occurrences,
    )


def _keep_valid(columns: Sequence[ColumnModel], asker: _Server) -> None:
    """Drop what the types refuse."""
    pools: dict[str, dict[str, None]] = {}
    for column in columns:
        pool = pools.setdefault(column.kind.name, {})
        hits = (v for lists in column.hits.values() for hit in lists for v in hit)
        pool.update(dict.fromkeys((*column.dense, *column.own, *column.wide, *column.ends, *hits)))
    valid = {name: set(kept) for name, kept in asker.valid({k: tuple(v) for k, v in pools.items()}).items()}
    for column in columns:
        _restrict(column, valid[column.kind.name])


def _restrict(column: ColumnModel, kept: set[str]) -> None:
    for name in ("dense", "own", "wide", "ends"):
        setattr(column, name, tuple(v for v in getattr(column, name) if v in kept))
    column.hits = {
        occurrence: [rest for hit in lists if (rest := tuple(v for v in hit if v in kept))]
        for occurrence, lists in column.hits.items()
    }
    column.dense = column.dense or column.wide[:3]
    column.wide = column.wide or column.dense


def _keep_checked(tables: Sequence[TableModel], catalog: Catalog, asker: _Server) -> None:
    """Drop what one-column CHECK constraints refuse."""
    jobs: list[tuple[ColumnModel, Command]] = []
    for table in tables:
        for constraint in catalog.tables[table.key].constraints:
            if constraint.kind != "check" or len(constraint.columns) != 1 or constraint.expression is None:
                continue
            column = next((c for c in table.columns if c.name == constraint.columns[0]), None)
            if column is not None:
                jobs.append((column, _check_command(column, constraint.expression)))
    for (column, _), result in zip(jobs, asker.ask(command for _, command in jobs), strict=True):
        if result.error is None:
            kept = [(row[0] or b"").decode() for row in result.rows]
            if not any(v in kept for v in column.wide):
                column.wide = column.dense = tuple(kept)[:_MAX_POOL]
            _restrict(column, set(kept))


def _check_command(column: ColumnModel, expression: str) -> Command:
    hits = [v for lists in column.hits.values() for hit in lists for v in hit]
    shapes = _SHAPES if column.kind.family == "text" else ()
    pool = tuple(dict.fromkeys((*column.dense, *column.own, *column.wide, *column.ends, *hits, *shapes)))
    name = quote_identifier(column.name)
    sql = (
        "SELECT pp_u.pp_value FROM unnest($1::text[]) WITH ORDINALITY AS pp_u(pp_value, pp_place), "  # noqa: S608
        f"LATERAL (SELECT pp_u.pp_value::{column.kind.name} AS {name} OFFSET 0) AS pp_checked "
        f"WHERE ({expression}) IS NOT FALSE ORDER BY pp_place"
    )
    return Command(sql, (values.array_text(pool),))
