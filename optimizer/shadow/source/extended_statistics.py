"""Reads a source's extended statistics with their data, which pg_dump leaves out.

A role that may read `pg_statistic_ext_data` (a superuser, `pg_read_all_data`) gets all of it. Others see, in
`pg_stats_ext` and `pg_stats_ext_exprs`, the statistics of tables that they own. Nothing of what is read is trusted:
`extended_bytes.py` checks numbers, and values go to our server as text, to be read by an unprivileged login.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row
from pydantic import TypeAdapter, ValidationError

from optimizer.errors import InputError
from optimizer.shadow.template.extended_bytes import (
    Combination,
    MalformedError,
    parse_dependencies,
    parse_ndistinct,
    read_dependencies,
    read_ndistinct,
)

#: Arguments of `pg_restore_attribute_stats` by the kind of a slot in `pg_statistic`: for its numbers, and its values.
_SLOTS = {
    1: ("most_common_freqs", "most_common_vals"),
    2: (None, "histogram_bounds"),
    3: ("correlation", None),
    4: ("most_common_elem_freqs", "most_common_elems"),
    5: ("elem_count_histogram", None),
    6: ("range_empty_frac", "range_length_histogram"),
    7: (None, "range_bounds_histogram"),
}
_SINGLE = ("correlation", "range_empty_frac")


@dataclass(frozen=True, slots=True)
class McvItem:
    """One combination of values: their text (None is NULL), how often it is found, and would be by chance."""

    values: tuple[str | None, ...]
    frequency: float
    base_frequency: float


@dataclass(frozen=True, slots=True)
class ExtendedStatistics:
    """The data of one statistics object, of a table alone or with its children.

    Parameters:
        schema, name: of the object.
        columns: the columns that it is about, in the order of their numbers, without expressions.
        numbers: the columns' numbers at the source. The expressions have -1, -2, ...
        expressions: how many there are.
        inherited: whether children are counted in.
        ndistinct, dependencies: by columns' numbers at the source.
        mcv: most common combinations, columns first.
        expression_statistics: for each expression, what `pg_restore_attribute_stats` takes, by argument.
    """

    schema: str
    name: str
    columns: tuple[str, ...]
    numbers: tuple[int, ...]
    expressions: int = 0
    inherited: bool = False
    ndistinct: tuple[Combination, ...] = ()
    dependencies: tuple[Combination, ...] = ()
    mcv: tuple[McvItem, ...] = ()
    expression_statistics: tuple[Mapping[str, str], ...] = field(default=())

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"


_FILE = TypeAdapter(tuple[ExtendedStatistics, ...])


def extended_to_json(found: Sequence[ExtendedStatistics]) -> str:
    """Return the JSON form, which `extended_from_json` reads."""
    return _FILE.dump_json(tuple(found)).decode()


def extended_from_json(text: str) -> tuple[ExtendedStatistics, ...]:
    """Read what `extended_to_json` wrote.

    Errors: `InputError` when it is damaged.
    """
    try:
        return _FILE.validate_json(text)
    except ValidationError:
        raise InputError("the shadow's extended statistics are damaged: refresh the shadow") from None


def read_extended(connection: psycopg.Connection[Any]) -> tuple[tuple[ExtendedStatistics, ...], tuple[str, ...]]:
    """Read the data of all extended statistics that the role may see, and say what it may not.

    Parameters:
        connection: to the source, with `search_path = pg_catalog`, of any role.

    Errors: `psycopg.Error`.
    """
    version = connection.info.server_version
    ((direct,),) = _rows(connection, "SELECT has_table_privilege('pg_statistic_ext_data', 'SELECT')")
    asked = queries(version, direct=direct)
    objects = _rows(connection, asked.objects)
    if not objects:
        return (), ()
    with connection.transaction():
        # Values in the form in which they are read again.
        connection.execute(
            "SELECT set_config('datestyle', 'ISO, YMD', true), set_config('intervalstyle', 'postgres', true),"
            " set_config('extra_float_digits', '3', true), set_config('bytea_output', 'hex', true)"
        )
        data = _rows(connection, asked.data)
        items = _rows(connection, asked.items) if asked.items else []
        expressions = _rows(connection, asked.expressions) if asked.expressions else []
    return extended_of(objects, data, items, expressions, direct=direct)


def extended_of(
    objects: Iterable[Sequence[Any]],
    data: Iterable[Sequence[Any]],
    items: Iterable[Sequence[Any]],
    expressions: Iterable[Sequence[Any]],
    *,
    direct: bool,
) -> tuple[tuple[ExtendedStatistics, ...], tuple[str, ...]]:
    """Put together what `queries` found, and say what it did not.

    Parameters:
        objects, data, items, expressions: rows of these queries.
        direct: as they were asked.
    """
    known = {row[0]: row for row in objects}
    rows, listed = list(data), _items(items)
    described = _expressions(expressions, direct=direct)
    found, notes = [], []
    for oid, inherited, ndistinct, dependencies, *lists in rows:
        _, schema, name, _, columns, numbers, count = known.get(oid, (None, "", "", "", (), (), 0))
        if not schema:
            continue
        try:
            found.append(
                ExtendedStatistics(
                    schema,
                    name,
                    tuple(columns),
                    tuple(numbers),
                    count,
                    inherited,
                    (read_ndistinct if direct else parse_ndistinct)(ndistinct) if ndistinct else (),
                    (read_dependencies if direct else parse_dependencies)(dependencies) if dependencies else (),
                    listed.get((oid, inherited), ()) if direct else _listed(*lists),
                    tuple(described.get((oid, inherited), ())),
                )
            )
        except MalformedError as error:
            notes.append(f"extended statistics {schema}.{name} hold {error}: {_EFFECT}")
    seen = {row[0] for row in rows}
    hidden = sorted(f"{schema}.{name} on {table}" for oid, schema, name, table, *_ in known.values() if oid not in seen)
    if hidden:
        notes.append(_hidden(hidden, direct=direct))
    return tuple(found), tuple(notes)


_EFFECT = "correlated columns are estimated as if they were independent"


def _hidden(names: Sequence[str], *, direct: bool) -> str:
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if direct:
        return f"extended statistics without data at the source ({named}): run ANALYZE there; until then {_EFFECT}"
    return (
        f"extended statistics whose data the role may not read, or that have none ({named}): {_EFFECT}; grant the role "
        "pg_read_all_data, or read as the tables' owner"
    )


def _rows(connection: psycopg.Connection[Any], query: LiteralString) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query).fetchall()


def _items(rows: Iterable[Sequence[Any]]) -> dict[tuple[int, bool], tuple[McvItem, ...]]:
    found: defaultdict[tuple[int, bool], list[McvItem]] = defaultdict(list)
    for oid, inherited, values, frequency, base in rows:
        found[oid, inherited].append(McvItem(tuple(values), frequency, base))
    return {key: _checked(tuple(items)) for key, items in found.items()}


def _listed(values: Any, frequencies: Any, bases: Any) -> tuple[McvItem, ...]:
    items = zip(values or (), frequencies or (), bases or (), strict=True)
    return _checked(tuple(McvItem(tuple(v), f, b) for v, f, b in items))


def _checked(items: tuple[McvItem, ...]) -> tuple[McvItem, ...]:
    # Frequencies of NaN compare false.
    whole = all(0 <= item.frequency <= 1 and 0 <= item.base_frequency <= 1 for item in items)
    return items if whole else ()


def _expressions(rows: Iterable[Sequence[Any]], *, direct: bool) -> dict[tuple[int, bool], list[dict[str, str]]]:
    found: defaultdict[tuple[int, bool], list[dict[str, str]]] = defaultdict(list)
    if direct:
        for oid, inherited, null_frac, width, distinct, *slots in rows:
            arguments = {"null_frac": str(null_frac), "avg_width": str(width), "n_distinct": str(distinct)}
            for kind, numbers, values in zip(slots[0::3], slots[1::3], slots[2::3], strict=True):
                arguments |= _slot(kind, numbers, values)
            found[oid, inherited].append(arguments)
    else:
        for oid, inherited, *texts in rows:
            found[oid, inherited].append({n: t for n, t in zip(_VIEW_ARGUMENTS, texts, strict=True) if t is not None})
    return found


def _slot(kind: int, numbers: str | None, values: str | None) -> dict[str, str]:
    for_numbers, for_values = _SLOTS.get(kind, (None, None))
    found = {}
    if for_numbers is not None and numbers is not None:
        found[for_numbers] = numbers[1:-1] if for_numbers in _SINGLE else numbers
    if for_values is not None and values is not None:
        found[for_values] = values
    return found


@dataclass(frozen=True, slots=True)
class Queries:
    """What is asked about extended statistics; a query that is empty has nothing to find."""

    objects: LiteralString
    data: LiteralString
    items: LiteralString
    expressions: LiteralString


def queries(version: int, *, direct: bool) -> Queries:
    """Return the queries for a source.

    Parameters:
        version: `server_version_num`.
        direct: whether the role may read `pg_statistic_ext_data`; otherwise the views are asked.
    """
    expressions: LiteralString = ""
    if version >= _EXPRESSIONS_SINCE:
        expressions = (
            _DIRECT_EXPRESSIONS.replace("{inherited}", _inherited(version))
            if direct
            else _EXPRESSIONS_BY_VIEW.replace("{inherited}", _view_inherited(version))
        )
    return Queries(
        _objects(version),
        _direct(version) if direct else _by_view(version),
        _DIRECT_ITEMS.replace("{inherited}", _inherited(version)) if direct else "",
        expressions,
    )


_EXPRESSIONS_SINCE = 140000


def _inherited(version: int) -> LiteralString:
    return "d.stxdinherit" if version >= 150000 else "false"


def _view_inherited(version: int) -> LiteralString:
    return "v.inherited" if version >= 150000 else "false"


def _objects(version: int) -> LiteralString:
    # Statistics on expressions are in PostgreSQL 14 and later.
    count: LiteralString = (
        "coalesce(cardinality(pg_get_statisticsobjdef_expressions(s.oid)), 0)" if version >= 140000 else "0"
    )
    return f"""
    SELECT s.oid::int8, n.nspname::text, s.stxname::text, c.relname::text,
           ARRAY(SELECT a.attname::text FROM unnest(s.stxkeys::int2[]) k(num)
                   JOIN pg_attribute a ON a.attrelid = s.stxrelid AND a.attnum = k.num ORDER BY a.attnum),
           ARRAY(SELECT k.num::int4 FROM unnest(s.stxkeys::int2[]) k(num) ORDER BY 1), {count}::int4
      FROM pg_statistic_ext s
      JOIN pg_namespace n ON n.oid = s.stxnamespace
      JOIN pg_class c ON c.oid = s.stxrelid
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""  # noqa: S608 - constants of this file


def _direct(version: int) -> LiteralString:
    return f"""
    SELECT d.stxoid::int8, {_inherited(version)}, d.stxdndistinct::bytea, d.stxddependencies::bytea
      FROM pg_statistic_ext_data d ORDER BY 1, 2"""  # noqa: S608 - constants of this file


_DIRECT_ITEMS: LiteralString = """
    SELECT d.stxoid::int8, {inherited}, m.values::text[], m.frequency, m.base_frequency
      FROM pg_statistic_ext_data d CROSS JOIN LATERAL pg_mcv_list_items(d.stxdmcv) m
     ORDER BY 1, 2, m.index"""

_DIRECT_EXPRESSIONS: LiteralString = """
    SELECT d.stxoid::int8, {inherited}, e.stanullfrac, e.stawidth, e.stadistinct,
           e.stakind1::int4, e.stanumbers1::text, e.stavalues1::text,
           e.stakind2::int4, e.stanumbers2::text, e.stavalues2::text,
           e.stakind3::int4, e.stanumbers3::text, e.stavalues3::text,
           e.stakind4::int4, e.stanumbers4::text, e.stavalues4::text,
           e.stakind5::int4, e.stanumbers5::text, e.stavalues5::text
      FROM pg_statistic_ext_data d CROSS JOIN LATERAL unnest(d.stxdexpr) WITH ORDINALITY e
     WHERE d.stxdexpr IS NOT NULL
     ORDER BY 1, 2, e.ordinality"""


def _by_view(version: int) -> LiteralString:
    return f"""
    SELECT s.oid::int8, {_view_inherited(version)}, v.n_distinct::text, v.dependencies::text,
           v.most_common_vals, v.most_common_freqs, v.most_common_base_freqs
      FROM pg_stats_ext v
      JOIN pg_namespace n ON n.nspname = v.statistics_schemaname
      JOIN pg_statistic_ext s ON s.stxnamespace = n.oid AND s.stxname = v.statistics_name
     ORDER BY 1, 2"""  # noqa: S608 - constants of this file


_VIEW_ARGUMENTS = (
    "null_frac",
    "avg_width",
    "n_distinct",
    "most_common_vals",
    "most_common_freqs",
    "histogram_bounds",
    "correlation",
    "most_common_elems",
    "most_common_elem_freqs",
    "elem_count_histogram",
)
# The view numbers nothing, but shows the expressions of an object in their order.
_EXPRESSIONS_BY_VIEW: LiteralString = """
    SELECT s.oid::int8, {inherited}, v.null_frac::text, v.avg_width::text, v.n_distinct::text,
           v.most_common_vals::text, v.most_common_freqs::text, v.histogram_bounds::text, v.correlation::text,
           v.most_common_elems::text, v.most_common_elem_freqs::text, v.elem_count_histogram::text
      FROM pg_stats_ext_exprs v
      JOIN pg_namespace n ON n.nspname = v.statistics_schemaname
      JOIN pg_statistic_ext s ON s.stxnamespace = n.oid AND s.stxname = v.statistics_name
     ORDER BY 1, 2, array_position(pg_get_statisticsobjdef_expressions(s.oid), v.expr)"""
