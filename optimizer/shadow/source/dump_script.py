"""The shell command that writes, at production, what a shadow is made of, for people who let nobody else connect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from optimizer.errors import InputError
from optimizer.shadow.source.connection import SCHEMA_OPTIONS
from optimizer.shadow.source.script_sql import statements

_END: Final = "PLANPROOF"
_SCRIPT: Final = """\
# Writes schema.sql and stats.sql into this folder: read them, carry them over, then:
#   planproof shadow add NAME --schema schema.sql --stats stats.sql
# Needs bash, and psql and pg_dump of PostgreSQL 13 or later, no older than the server. Where the database is, say as
# always: PGHOST, PGPORT, PGDATABASE, PGUSER, or DSN='host=... dbname=...'; the password may come from ~/.pgpass.
# It reads the catalog, statistics and the first and last entry of indexes, in a read-only transaction, and no other
# rows. {values}
(
set -eu
umask 077
export PGCLIENTENCODING=UTF8
pg_dump --schema-only {options} --file=schema.sql "${{DSN-}}"
psql --no-psqlrc --quiet --no-align --tuples-only --set=ON_ERROR_STOP=1 --output=stats.sql "${{DSN-}}" <<'{end}'
{sql}
{end}
echo 'written: schema.sql and stats.sql'
)
"""
_VALUES: Final = "stats.sql holds sample values of columns: common ones, and bounds of histograms."
_NO_VALUES: Final = "stats.sql holds sample values of columns, except of: {words}."


def dump_script(redacted: Sequence[str] = (), role: str = "") -> str:
    """Return one command for bash.

    Parameters:
        redacted: words of a redaction (`redaction.read_words`): whose values are not to be written.
        role: of the source, whose row-level security counts; empty is the role that runs the command.

    Errors: `InputError` for a role whose name has more than one line.
    """
    if not role.isprintable():
        raise InputError("the name of the role holds characters that a script cannot carry")
    values = _NO_VALUES.format(words=", ".join(redacted)) if redacted else _VALUES
    text = "\n".join(statement.strip("\n") for statement in statements(redacted, role))
    return _SCRIPT.format(options=" ".join(SCHEMA_OPTIONS), values=values, sql=text, end=_END)
