"""What a dump leaves out and plans depend on: read at the source, kept with the shadow, added to its template."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import psycopg

from optimizer.errors import InputError
from optimizer.shadow.source.collations import (
    SourceCollation,
    collation_notes,
    collation_statements,
    read_collations,
)
from optimizer.shadow.source.extended_statistics import (
    ExtendedStatistics,
    extended_from_json,
    extended_to_json,
    read_extended,
)
from optimizer.shadow.source.leakproof import LeakproofFunction, mark_leakproof, read_leakproof
from optimizer.shadow.source.row_security import RowSecurity, read_row_security, secure, unset_settings
from optimizer.shadow.template.extended_restore import restore_extended
from optimizer.shadow.template.restore import apply_dump


@dataclass(frozen=True, slots=True)
class Additions:
    """Beside schema and statistics.

    Parameters:
        row_security: as it counts for the role that is meant.
        extended: data of extended statistics.
        leakproof: functions said to be so.
        collations: that columns, indexes and views use.
        notes: what could not be read, with its effect; known once, when the source is read.
    """

    row_security: RowSecurity
    extended: tuple[ExtendedStatistics, ...] = ()
    leakproof: tuple[LeakproofFunction, ...] = ()
    collations: tuple[SourceCollation, ...] = ()
    notes: tuple[str, ...] = ()

    def schema(self) -> str:
        """Statements that belong to the schema itself, behind those of the dump."""
        return self.row_security.marks() + collation_statements(self.collations)

    def locales(self) -> tuple[tuple[str, str], ...]:
        """Providers and locales that the server should have for the collations, as the source calls them."""
        return tuple((one.provider, one.locale) for one in self.collations if one.columns)

    def to_json(self) -> str:
        """Return the JSON form, which `from_json` reads."""
        return json.dumps(
            {
                "row_security": self.row_security.to_json(),
                "extended": extended_to_json(self.extended),
                "leakproof": [asdict(function) for function in self.leakproof],
                "collations": [asdict(collation) for collation in self.collations],
            },
        )

    @classmethod
    def from_json(cls, text: str) -> Additions:
        """Read what `to_json` wrote.

        Errors: `InputError` when it is damaged.
        """
        try:
            raw = json.loads(text)
            leakproof = tuple(LeakproofFunction(**function) for function in raw.get("leakproof", ()))
            collations = tuple(SourceCollation(**collation) for collation in raw.get("collations", ()))
            security, extended = RowSecurity.from_json(raw["row_security"]), extended_from_json(raw["extended"])
            return cls(security, extended, leakproof, collations)
        except (ValueError, KeyError, TypeError):
            raise InputError("the shadow's additions are damaged: refresh the shadow") from None


def read_additions(
    source: psycopg.Connection[Any], role: str, tables: Container[tuple[str, str]], settings: Container[str]
) -> Additions:
    """Read what a dump leaves out.

    Parameters:
        source: a connection with `search_path = pg_catalog`.
        role: whose rights and policies count.
        tables: schemas and names of those that are cloned.
        settings: names of those that sessions of the role begin with.

    Errors: `psycopg.Error`.
    """
    extended, notes = read_extended(source)
    security = read_row_security(source, role)
    cloned = tuple(table for table in security.tables if (table.schema, table.name) in tables)
    security = replace(security, tables=cloned)
    leakproof = read_leakproof(source)
    collations = read_collations(source)
    notes = (*notes, *unset_settings(security, settings), *_table_methods(source))
    return Additions(security, extended, leakproof, collations, notes)


def _table_methods(source: psycopg.Connection[Any]) -> tuple[str, ...]:
    rows = source.execute(
        "SELECT a.amname::text, count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND a.amname <> 'heap'"
        " AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return tuple(
        f"access method {name}: {count} tables are planned as heap tables of their size: costs of reading them differ"
        for name, count in rows
    )


def apply_additions(
    found: Additions, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any], *, max_bytes: int
) -> tuple[str, ...]:
    """Add them to a template in which schema and statistics are.

    Parameters:
        owner: the unprivileged owner's connection.
        superuser: to the same database.
        max_bytes: largest script accepted.

    Returns: what is not as at the source, with its effect.

    Errors: as `apply_dump`; `psycopg.Error`.
    """

    def notes() -> Iterator[str]:
        policies = found.row_security.policies()
        if policies:
            yield from apply_dump(policies, owner, superuser, max_bytes=max_bytes).notes
        yield from collation_notes(found.collations, superuser)
        yield from secure(found.row_security, superuser)
        yield from restore_extended(found.extended, owner, superuser)
        mark_leakproof(found.leakproof, superuser)

    return tuple(notes())
