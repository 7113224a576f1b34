"""Page costs that a source gives its tablespaces; a shadow has one tablespace, and one pair of costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

#: Relations of users by what their tablespace says (`get_tablespace_page_costs`, spccache.c), the largest share first.
QUERY: LiteralString = """
    SELECT t.spcname::text,
           (SELECT o.option_value FROM pg_options_to_table(t.spcoptions) o WHERE o.option_name = 'random_page_cost'),
           (SELECT o.option_value FROM pg_options_to_table(t.spcoptions) o WHERE o.option_name = 'seq_page_cost'),
           count(*)
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_database d ON d.datname = current_database()
      JOIN pg_tablespace t ON t.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace)
     WHERE c.relkind IN ('r', 'm', 'i') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
     GROUP BY 1, 2, 3
     ORDER BY sum(c.relpages) DESC, 1"""
_NAMES = ("random_page_cost", "seq_page_cost")


@dataclass(frozen=True, slots=True)
class PageCosts:
    """The costs that count for most of a database, as settings; and what they are wrong for."""

    settings: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_page_costs(connection: psycopg.Connection[Any], settings: Mapping[str, str]) -> PageCosts:
    """Read what tablespaces say of page costs.

    Parameters:
        connection: to the source, with `search_path = pg_catalog`.
        settings: its planner settings, which hold where a tablespace says nothing.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        return page_costs_of(cursor.execute(QUERY).fetchall(), settings)


def page_costs_of(rows: Iterable[tuple[str, str | None, str | None, int]], settings: Mapping[str, str]) -> PageCosts:
    """Say what follows from the rows of `QUERY`; parameters as for `read_page_costs`."""
    told = [
        (name, {n: v for n, v in zip(_NAMES, costs, strict=True) if v is not None}, count)
        for name, *costs, count in rows
    ]
    if not any(costs for _, costs, _ in told):
        return PageCosts()
    _, chosen, _ = told[0]
    effective = {**{n: settings.get(n, "") for n in _NAMES}, **chosen}
    notes = tuple(
        f"tablespace {name}: {count} relations are read with {_said(theirs)} there and with {_said(effective)} here, "
        "so their costs differ"
        for name, costs, count in told
        if (theirs := {**{n: settings.get(n, "") for n in _NAMES}, **costs}) != effective
    )
    return PageCosts(chosen, notes)


def _said(costs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in costs.items())
