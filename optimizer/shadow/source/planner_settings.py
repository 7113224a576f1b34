"""The settings of a source that decide its plans, and how a planning database gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

#: Rows of name and value. Beside the planner's own: what it counts with, and what decides how a query's constants are
#: read. A number without a unit is taken in the setting's own, which for some is a block of 8 kB. Extensions' settings
#: are in no view before their library is loaded.
QUERY: LiteralString = """
    SELECT name, setting || CASE unit WHEN '8kB' THEN '' ELSE coalesce(unit, '') END FROM pg_settings
     WHERE category LIKE 'Query Tuning%'
        OR name IN ('work_mem', 'hash_mem_multiplier', 'max_parallel_workers_per_gather', 'TimeZone', 'DateStyle',
                    'parallel_leader_participation', 'IntervalStyle', 'array_nulls', 'transform_null_equals',
                    'row_security', 'standard_conforming_strings', 'backslash_quote', 'extra_float_digits',
                    'bytea_output', 'xmloption', 'default_text_search_config', 'debug_parallel_query')
    UNION ALL
    SELECT name, current_setting(name, true)
      FROM unnest(ARRAY['hnsw.ef_search', 'hnsw.iterative_scan', 'hnsw.max_scan_tuples', 'ivfflat.probes',
                        'ivfflat.iterative_scan', 'ivfflat.max_probes', 'pg_trgm.similarity_threshold',
                        'pg_trgm.word_similarity_threshold', 'pg_trgm.strict_word_similarity_threshold']) name
     WHERE current_setting(name, true) <> ''"""
_JIT_PREFIX = "jit"


def read_settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Read a source's planner settings as its sessions get them, by name, in a form that SET takes.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        return dict(cursor.execute(QUERY).fetchall())


def carried_settings(
    wanted: Mapping[str, str], search_path: Sequence[str], connection: psycopg.Connection[Any]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Choose which settings a planning database needs: those in which the source differs from our server.

    Parameters:
        wanted: the source's, by name.
        search_path: its schemas, resolved.
        connection: to our server.

    Returns: the settings, and a line for each that our server does not have or refuses.

    Errors: `psycopg.Error`.
    """
    ours = read_settings(connection)
    differing = {n: v for n, v in wanted.items() if ours.get(n) != v and not n.startswith(_JIT_PREFIX)}
    notes = []
    if wanted.get("jit") == "on":
        notes.append("jit: not available on shadows; it changes run times, not plans or their costs")
    carried = {"search_path": ", ".join(sql.Identifier(schema).as_string() for schema in search_path)}
    for name, value in sorted(differing.items()):
        refusal = "this setting does not exist in the planner's version"
        if name in ours or "." in name:  # the latter are an application's own, which any server takes
            refusal = _refusal(connection, name, value)
        if refusal:
            notes.append(f"setting {name} = {value}: {refusal}; plans are made with {ours.get(name, 'none')}")
        else:
            carried[name] = value
    return carried, tuple(notes)


def apply_settings(connection: psycopg.Connection[Any], database: str, settings: Mapping[str, str]) -> None:
    """Make settings the default of a database's sessions.

    Parameters:
        connection: a superuser's, in autocommit mode.

    Errors: `psycopg.Error`.
    """
    for name, value in settings.items():
        # search_path is a list; quoted as one string it would name one schema.
        text = sql.SQL(value or "''") if name == "search_path" else sql.Literal(value)
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(sql.Identifier(database), sql.Identifier(name), text)
        )


def _refusal(connection: psycopg.Connection[Any], name: str, value: str) -> str:
    """Try a setting; return why our server does not take it, or nothing."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
    except psycopg.Error as error:
        return error.diag.message_primary or "refused"
    return ""
