"""Collations by which a source's columns, indexes and views compare text, and what became of them on a shadow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.collations import collation_statement

_PROVIDERS = {"i": "icu", "c": "libc", "b": "builtin", "d": "default"}
_MOST_NAMED = 4

# The column's name depends on the server's version.
_LOCALE: LiteralString = "coalesce(to_jsonb(l) ->> 'colllocale', to_jsonb(l) ->> 'colliculocale', l.collcollate::text)"
_ALL: LiteralString = f"""
    SELECT n.nspname::text, l.collname::text, l.collprovider::text, {_LOCALE}
      FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace"""  # noqa: S608 - pieces of this file
#: Of all collations that a source's objects use, but for those that every server has.
QUERY: LiteralString = f"""
    WITH mine AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
         used (oid, is_column) AS (
           SELECT a.attcollation, c.relkind IN ('r', 'p', 'm', 'f')
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE c.relnamespace IN (SELECT oid FROM mine) AND a.attcollation <> 0 AND NOT a.attisdropped
            UNION ALL
           SELECT t.typcollation, false FROM pg_type t
            WHERE t.typnamespace IN (SELECT oid FROM mine) AND t.typtype = 'd'
            UNION ALL
           SELECT d.refobjid, false FROM pg_depend d WHERE d.refclassid = 'pg_collation'::regclass
            UNION ALL
           SELECT l.oid, false FROM pg_collation l WHERE l.collnamespace IN (SELECT oid FROM mine))
    SELECT n.nspname::text, l.collname::text, l.collprovider::text, {_LOCALE}, l.collisdeterministic,
           (count(*) FILTER (WHERE u.is_column))::int4
      FROM used u JOIN pg_collation l ON l.oid = u.oid JOIN pg_namespace n ON n.oid = l.collnamespace
     WHERE l.collprovider IN ('c', 'i') AND l.collname NOT IN ('C', 'POSIX', 'unicode', 'ucs_basic')
     GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2"""  # noqa: S608 - pieces of this file


@dataclass(frozen=True, slots=True)
class SourceCollation:
    """A collation beside the database's own; `provider` is icu or libc, `columns` how many have it."""

    schema: str
    name: str
    provider: str
    locale: str
    deterministic: bool
    columns: int


def read_collations(connection: psycopg.Connection[Any]) -> tuple[SourceCollation, ...]:
    """Read the collations that a source's objects use, but for those that every server has.

    Parameters:
        connection: with `search_path = pg_catalog`.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        return collations_of(cursor.execute(QUERY).fetchall())


def collations_of(rows: Iterable[tuple[str, str, str, str | None, bool, int]]) -> tuple[SourceCollation, ...]:
    """Return what the rows of `QUERY` say."""
    return tuple(SourceCollation(s, n, _PROVIDERS[p], loc or "", d, count) for s, n, p, loc, d, count in rows)


def collation_statements(found: Iterable[SourceCollation]) -> str:
    """Return statements that make sure that each of them exists; they come before all others of a schema."""
    return "".join(
        f"{collation_statement(o.schema, o.name, o.provider, o.locale, deterministic=o.deterministic)};\n"
        for o in found
    )


def collation_notes(found: Sequence[SourceCollation], superuser: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Say which of them compare otherwise on a template.

    Parameters:
        superuser: to the template.

    Errors: `psycopg.Error`.
    """
    with superuser.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_ALL).fetchall()
    ours = {(schema, name): (_PROVIDERS.get(provider, ""), locale) for schema, name, provider, locale in rows}
    alike: defaultdict[tuple[str, str, bool], list[SourceCollation]] = defaultdict(list)
    for one in found:
        provider, locale = ours.get((one.schema, one.name), ("", ""))
        if provider and (one.provider, _plain(one.locale)) != (provider, _plain(locale or "")):
            alike[one.provider, f"{locale} ({provider})", one.deterministic].append(one)
    return tuple(_line(group, place) for (_, place, _), group in alike.items())


def _line(group: Sequence[SourceCollation], place: str) -> str:
    names = ", ".join(f'"{one.name}"' for one in group[:_MOST_NAMED])
    names += f" and {len(group) - _MOST_NAMED} more" if len(group) > _MOST_NAMED else ""
    columns = sum(one.columns for one in group)
    effect = "text ranges on them are estimated by another order"
    if not group[0].deterministic:
        effect += ", and the server cannot tell which of their texts are equal: no rewrite that reads them is judged"
    return (
        f"collations {names} ({group[0].provider}; {columns} columns) are not in the planning server: {place} stands "
        f"in, so {effect}"
    )


def _plain(locale: str) -> str:
    return locale.lower().replace("-", "").replace("utf8", "").rstrip(".")
