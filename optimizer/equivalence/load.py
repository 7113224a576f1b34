"""Puts a generated database into a scratch database, and says which of its rows the server accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from optimizer.catalog import quote_identifier
from optimizer.clock import Deadline
from optimizer.equivalence.generate import Database
from optimizer.equivalence.model import Model, TableModel
from optimizer.equivalence.rows import Cells
from optimizer.equivalence.scratch import Lease, Scratch
from optimizer.equivalence.session import Command, Result, SessionEnded

_GRACE_S = 0.5
_FOREIGN_KEY_VIOLATION = "23503"
#: Turns in which rows that point to others of their table are tried again.
_PASSES = 4
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
#: Control characters other than tab and newline, and marks that reorder text.
_CONTROL = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: Databases that were refused as a whole before rows are sent one by one from the start.
_PATIENCE = 3


class Loader:
    """Loads databases over the owner's session of a lease.

    Parameters:
        scratch: opens the session again when it was ended.
        lease: where to load.
        model: the tables.
        deadline: of the verdict; triggers and CHECKs are the user's code, too.
    """

    def __init__(self, scratch: Scratch, lease: Lease, model: Model, deadline: Deadline) -> None:
        self._deadline = deadline
        self._scratch = scratch
        self._lease = lease
        self._model = model
        self._refused = 0
        self._empty()

    def load(self, database: Database) -> None:
        """Replace all rows by those of `database`; rows that the server refuses are left out.

        Errors: `SessionEnded`.
        """
        if self._refused >= _PATIENCE or not self._load_at_once(database):
            self._load_row_by_row(database)

    def accepted(self, database: Database) -> Database:
        """Load a database and return the rows that the server took.

        Errors: `SessionEnded`.
        """
        if self._model.circular and self._load_at_once(database):
            return database
        return self._load_row_by_row(database)

    def _load_at_once(self, database: Database) -> bool:
        """One transaction for all rows; False when the server refused any."""
        deletes = [Command(f"DELETE FROM {t.qualified}") for t in reversed(self._model.tables)]  # noqa: S608
        clear = [self._truncate()] if self._model.circular else deletes
        inserts = [Command(statement) for statement in inserts_sql(self._model, database)]
        batch = [Command("BEGIN"), *clear, *inserts, *self._refresh(), Command("COMMIT")]
        answers = self._run([batch, [Command("ROLLBACK")]])
        refused = any(result.error is not None or result.skipped for result in answers[0])
        self._refused += refused
        return not refused

    def _load_row_by_row(self, database: Database) -> Database:
        self._empty()
        waiting = [(table, row) for table in self._model.tables for row in database.rows.get(table.key, ())]
        kept: dict[tuple[str, str], list[Cells]] = {table.key: [] for table in self._model.tables}
        for _ in range(_PASSES):
            answers = self._run([[Command(insert_sql(table, (row,)))] for table, row in waiting])
            orphans = []
            for (table, row), (result,) in zip(waiting, answers, strict=True):
                if result.error is None and result.affected == 1:
                    kept[table.key].append(row)
                elif result.error is not None and result.error[0] == _FOREIGN_KEY_VIOLATION:
                    orphans.append((table, row))
            if len(orphans) in (0, len(waiting)):
                break
            waiting = orphans  # a row may point to one that came after it
        self._run([[command] for command in self._refresh()])
        return Database(database.label, {k: tuple(v) for k, v in kept.items()}, database.params, database.zone)

    def _empty(self) -> None:
        if self._model.tables:
            self._run([[self._truncate()], *([c] for c in self._refresh())])

    def _truncate(self) -> Command:
        return Command(f"TRUNCATE {', '.join(t.qualified for t in self._model.tables)} CASCADE")

    def _refresh(self) -> Iterator[Command]:
        return (Command(f"REFRESH MATERIALIZED VIEW {name}") for name in self._model.refresh)

    def _run(self, groups: Sequence[Sequence[Command]]) -> list[list[Result]]:
        if not groups:
            return []
        try:
            return self._lease.loader.run(groups, limit_s=self._deadline.remaining_ms / 1000 + _GRACE_S)
        except SessionEnded:
            self._scratch.renew_loader(self._lease)
            raise


def inserts_sql(model: Model, database: Database, *, readable: bool = False) -> list[str]:
    """The INSERTs of a database, parents first; one single statement where foreign keys form a circle.

    Parameters:
        model: the tables.
        database: the rows.
        readable: written for people, and only for rows that were accepted before.
    """
    inserts = [insert_sql(t, database.rows[t.key], readable=readable) for t in model.tables if database.rows.get(t.key)]
    if not model.circular or len(inserts) < 2:
        return inserts
    # Foreign keys are checked at the end of a statement, so the parts of one may point to each other.
    parts = ",\n".join(f"part{n} AS (\n{statement}\n)" for n, statement in enumerate(inserts[:-1]))
    return [f"WITH {parts}\n{inserts[-1]}"]


def insert_sql(table: TableModel, rows: Sequence[Cells], *, readable: bool = False) -> str:
    """One INSERT for all rows of a table, in plain SQL that psql takes, too.

    Parameters:
        table: where to.
        rows: at least one.
        readable: written for people, and only for rows that were accepted before.
    """
    columns = ", ".join(quote_identifier(c.name) for c in table.columns)
    kinds = [c.kind.family if readable else "" for c in table.columns]
    cells = (", ".join(map(_cell, row, kinds)) for row in rows)
    lines = ",\n  ".join(f"({line})" for line in cells)
    overriding = " OVERRIDING SYSTEM VALUE" if table.identity else ""
    conflict = " ON CONFLICT DO NOTHING" if table.tolerant and not readable else ""
    return f"INSERT INTO {table.qualified} ({columns}){overriding} VALUES\n  {lines}{conflict}"


def _cell(value: str | None, family: str) -> str:
    if value is not None and family in ("int", "numeric", "float") and _NUMBER.fullmatch(value):
        return value
    return literal(value)


def literal(value: str | None) -> str:
    """A string constant, or NULL; what a terminal would act on is escaped, so that a replay can be shown and copied."""
    if value is None:
        return "NULL"
    if _CONTROL.search(value):
        escaped = value.replace("\\", "\\\\").replace("'", "''")
        return "E'" + _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", escaped) + "'"
    return "'" + value.replace("'", "''") + "'"
