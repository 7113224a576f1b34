"""Which tables of a source its role may read: found out before anything is locked, and told with the grants to give.

pg_dump locks each table in ACCESS SHARE mode, which takes USAGE of its schema and SELECT on the whole table
(`LockTableAclCheck`, lockcmds.c; from 16 on UPDATE, DELETE or TRUNCATE do as well, and from 17 on MAINTAIN). Views,
materialized views, sequences, functions and types are not locked, and their catalogs are open to everybody. Statistics
are read through `pg_stats`, which shows columns that the role may SELECT, of tables whose row-level security does not
apply to it; the statistics of an index's expressions belong to the index, on which nobody can be given rights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.errors import ShadowUnavailableError

#: From so many tables of one schema on, one grant for all of them is shorter.
_MANY: Final = 12
#: Characters of grants that an error message has room for; `grants` has them all.
_ROOM: Final = 420

#: One row for each table or materialized view with something missing, names quoted where SQL wants that.
QUERY: Final[LiteralString] = """
WITH relation AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind, has_schema_privilege(n.oid, 'USAGE') AS usable,
         has_table_privilege(c.oid, 'SELECT') AS readable,
         -- The version is asked for first: older ones do not know MAINTAIN.
         has_table_privilege(c.oid, CASE WHEN v.num >= 170000 THEN 'SELECT, UPDATE, DELETE, TRUNCATE, MAINTAIN'
                                         WHEN v.num >= 160000 THEN 'SELECT, UPDATE, DELETE, TRUNCATE'
                                         ELSE 'SELECT' END) AS lockable,
         c.relrowsecurity AND row_security_active(c.oid) AS secured
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
   CROSS JOIN (SELECT current_setting('server_version_num')::int AS num) v
   WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
     AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
     AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), found AS (
  SELECT r.*,
         CASE WHEN r.readable THEN '{}'
              ELSE array(SELECT quote_ident(a.attname) FROM pg_attribute a
                          WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
                            AND NOT has_column_privilege(r.oid, a.attnum, 'SELECT')
                          ORDER BY a.attnum) END AS hidden_columns,
         array(SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                WHERE i.indrelid = r.oid AND i.indexprs IS NOT NULL
                  AND NOT has_table_privilege(i.indexrelid, 'SELECT')
                ORDER BY x.relname) AS hidden_indexes
    FROM relation r
)
SELECT quote_ident(nspname), quote_ident(relname), nspname::text, relname::text, usable, lockable,
       relkind IN ('r', 'p') AND NOT (usable AND lockable), secured, hidden_columns, hidden_indexes
  FROM found
 WHERE relkind IN ('r', 'p') AND NOT (usable AND lockable)
    OR secured OR hidden_columns <> '{}' OR hidden_indexes <> '{}'
 ORDER BY nspname, relname
"""

_ROLE: Final[LiteralString] = "SELECT quote_ident(current_user)"
TABLES: Final[LiteralString] = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
"""
_READ_ALL_DATA: Final = 140000


@dataclass(frozen=True, slots=True)
class Unread:
    """A table of which the role may not read everything.

    Parameters:
        schema, table: quoted where SQL wants that.
        place: both as they are in the catalog.
        usable: whether the role has USAGE of the schema.
        lockable: whether it may lock the table.
        refused: pg_dump would fail at it.
        secured: its row-level security applies to the role.
        columns: those that the role may not SELECT.
        indexes: those whose expressions' statistics are not shown to it.
    """

    schema: str
    table: str
    place: tuple[str, str]
    usable: bool
    lockable: bool
    refused: bool
    secured: bool
    columns: tuple[str, ...]
    indexes: tuple[str, ...]

    @property
    def name(self) -> str:
        """With its schema."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may read of a source.

    Parameters:
        role: quoted where SQL wants that.
        tables: how many there are.
        unread: tables of which something is missing, by schema and name.
        server_version_num: of the source.
    """

    role: str
    tables: int
    unread: tuple[Unread, ...]
    server_version_num: int

    @property
    def refused(self) -> tuple[Unread, ...]:
        """The tables at which pg_dump would fail."""
        return tuple(table for table in self.unread if table.refused)

    def check(self) -> None:
        """Refuse to go on when pg_dump would fail.

        Errors: `ShadowUnavailableError` with the grants.
        """
        if not self.refused:
            return
        grants = self.grants()
        shown = [grant for at, grant in enumerate(grants) if sum(map(len, grants[: at + 1])) < _ROOM]
        more = "" if len(shown) == len(grants) else " and more, which `planproof shadow grants --from DSN` prints"
        everything = f" or, for all tables, GRANT pg_read_all_data TO {self.role};" if self._knows_all_data else ""
        raise ShadowUnavailableError(
            f"the role {self.role} may not read {len(self.refused)} of the source's {self.tables} tables, such as "
            f"{self.refused[0].name}: {' '.join(shown)}{more}{everything} or leave them out with --only-readable",
            lasting=True,
        )

    def grants(self) -> tuple[str, ...]:
        """The statements that let the role lock tables and see statistics, and no more than that."""
        wanted = [table for table in self.unread if table.refused or table.columns]
        schemas = dict.fromkeys(table.schema for table in wanted if not table.usable)
        statements = [f"GRANT USAGE ON SCHEMA {', '.join(schemas)} TO {self.role};"] if schemas else []
        few: list[str] = []
        unreadable = (table for table in wanted if table.columns or not table.lockable)
        for schema, tables in groupby(unreadable, key=lambda table: table.schema):
            names = [table.name for table in tables]
            if len(names) < _MANY:
                few += names
            else:
                statements.append(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {self.role};")
        if few:
            statements.append(f"GRANT SELECT ON {', '.join(few)} TO {self.role};")
        return tuple(statements)

    def notes(self) -> tuple[str, ...]:
        """A line for each loss: tables that are left out, and statistics that are not shown to the role."""
        lines = []
        if self.refused:
            lines.append(
                f"tables: {_listed(t.name for t in self.refused)} left out, since the role {self.role} may not read "
                "them: queries that name them are refused, and foreign keys to them are missing"
            )
        return (*lines, *self.blind_spots())

    def blind_spots(self) -> tuple[str, ...]:
        """A line for each kind of statistics that are not shown to the role."""
        seen = [table for table in self.unread if not table.refused]
        secured = [table.name for table in seen if table.secured]
        columns = [table for table in seen if table.columns and not table.secured]
        indexes = [f"{table.schema}.{index}" for table in seen for index in table.indexes]
        lines = []
        if secured:
            lines.append(
                f"row-level security: statistics of {_listed(secured)} are not visible to the role {self.role}: "
                f"estimates there are defaults: ALTER ROLE {self.role} BYPASSRLS, or clone as the owner"
            )
        if columns:
            names = [f"{table.name} ({_listed(table.columns)})" for table in columns]
            lines.append(
                f"statistics: those of {_listed(names)} are not visible to the role {self.role}: estimates there are "
                f"defaults: GRANT SELECT ON {_listed(t.name for t in columns)} TO {self.role}"
            )
        if indexes:
            everything = f"GRANT pg_read_all_data TO {self.role}, or " if self._knows_all_data else ""
            lines.append(
                f"statistics: those of expressions in the indexes {_listed(indexes)} are not visible to the role "
                f"{self.role}: estimates of these expressions are defaults: {everything}clone as the tables' owner"
            )
        return tuple(lines)

    @property
    def _knows_all_data(self) -> bool:
        return self.server_version_num >= _READ_ALL_DATA


def read_rights(connection: psycopg.Connection[Any]) -> Rights:
    """Find out what the connection's role may read; two queries, which lock no table.

    Parameters:
        connection: to the source, PostgreSQL 13 to 18, with `search_path = pg_catalog`.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        ((role,),) = cursor.execute(_ROLE).fetchall()
        ((tables,),) = cursor.execute(TABLES).fetchall()
        rows = cursor.execute(QUERY).fetchall()
    return Rights(role, tables, unread_of(rows), connection.info.server_version)


def unread_of(rows: Iterable[Sequence[Any]]) -> tuple[Unread, ...]:
    """Turn rows of `QUERY` into objects."""
    return tuple(
        Unread(
            schema, table, (raw_schema, raw_table), usable, lockable, refused, secured, tuple(columns), tuple(indexes)
        )
        for schema, table, raw_schema, raw_table, usable, lockable, refused, secured, columns, indexes in rows
    )


def _listed(names: Iterable[str], most: int = 6) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
