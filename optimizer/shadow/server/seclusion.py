"""What a database's users need not know of its neighbours: shared catalogs are readable by everybody unless we say no.

The rights on a shared catalog are kept in each database by itself, so that copies of a template inherit them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

#: What the service writes about databases, and the settings that it gives them: search paths name schemas.
NOTES: Final = ("pg_db_role_setting", "pg_shdescription", "pg_shseclabel")
#: Who and what else there is. Queries of these are planned on shadows, but never judged by the gate.
NEIGHBOURS: Final = (
    "pg_database",
    "pg_roles",
    "pg_user",
    "pg_group",
    "pg_auth_members",
    "pg_stat_activity",
    "pg_stat_database",
    "pg_stat_database_conflicts",
    "pg_locks",
)


def hide(superuser: psycopg.Connection[Any], catalogs: Sequence[str]) -> None:
    """Take the right to read some catalogs and views of PostgreSQL's own from everybody in this database.

    Parameters:
        superuser: to a template.
        catalogs: their names.
    """
    names = sql.SQL(", ").join(sql.Identifier("pg_catalog", name) for name in catalogs)
    superuser.execute(sql.SQL("REVOKE SELECT ON {} FROM PUBLIC").format(names))
