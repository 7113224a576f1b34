"""A schema as the gate uses it: the script without rows, its catalog, and the constraints that may be broken.

A deferrable constraint may be violated inside a transaction, where queries see it; a NOT VALID one may always have
been. So the gate's databases are made without both, and nothing may rely on them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import LiteralString

from optimizer.catalog import Catalog
from optimizer.ddl import Script, Statement, read_script

#: Changes when databases are prepared in another way, so that templates of older versions are not used.
_LAYOUT = "2"
#: Kinds of statements that fill tables or tell statistics.
_NOT_SCHEMA = frozenset({"INSERT", "SELECT", "ANALYZE", "REFRESH"})

#: Constraints that a query may find broken, with the commands that remove them, children before what they inherit.
BREAKABLE_SQL: LiteralString = """
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname),
           k.conrelid::regclass::text, k.conname::text,
           CASE WHEN k.condeferrable THEN 'deferrable' ELSE 'not valid' END
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (k.condeferrable OR NOT k.convalidated) AND k.conislocal AND k.conparentid = 0
       AND k.contype IN ('p', 'u', 'f', 'c', 'x', 'n')
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     ORDER BY k.contype, 1"""


@dataclass(frozen=True, slots=True)
class Breakable:
    """A constraint that was taken out: the table, its name, and `deferrable` or `not valid`."""

    table: str
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class GateSchema:
    """A schema for which a template database exists.

    Parameters:
        key: hash of its text.
        script: the statements without rows and statistics.
        catalog: read from the template.
        search_path: the setting that queries run with.
        breakable: constraints taken out.
        disk_bytes: most that a database of it may take.
    """

    key: str
    script: Script
    catalog: Catalog
    search_path: str
    breakable: tuple[Breakable, ...]
    disk_bytes: int


def schema_key(ddl: str) -> str:
    """Return the hash by which templates are found again."""
    return hashlib.sha256(f"{_LAYOUT}\0{ddl}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def schema_script(ddl: str, max_bytes: int) -> Script:
    """Read a script and leave out rows and statistics.

    Parameters:
        ddl: the text.
        max_bytes: largest text accepted.

    Errors: those of `read_script`.
    """
    script = read_script(ddl, max_bytes=max_bytes)
    items = tuple(
        item for item in script.items if isinstance(item, Statement) and item.kind.split()[0] not in _NOT_SCHEMA
    )
    return Script(items, script.extensions, script.skipped)
