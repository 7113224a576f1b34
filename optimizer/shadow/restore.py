"""Restores a dump statement by statement, so that what cannot be restored is told and hurts nothing else.

A dump is hostile: whoever may create objects at the source writes in it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from optimizer.ddl import Script, Statement, apply_script, read_script
from optimizer.ddl_pieces import Piece, PieceKind, cut
from optimizer.errors import SqlError, TimeLimitError

#: Seconds for a whole dump, after which the owner's session is ended, whatever it does.
RESTORE_TIMEOUT_S = 1800.0
#: Most lines that tell of single statements that could not be cloned.
MAX_NOTES = 40

_EFFECTS = {
    "CREATE TABLE": "queries that read it cannot be planned",
    "CREATE INDEX": "plans are made without it",
    "CREATE VIEW": "queries that read it cannot be planned",
    "CREATE FUNCTION": "queries that call it cannot be planned",
    "CREATE STATISTICS": "estimates are made without it",
    "ALTER TABLE": "what it adds is missing",
    "SELECT pg_restore_relation_stats": "its size is taken from its columns only",
    "SELECT pg_restore_attribute_stats": "estimates for this column are defaults",
}
_PROGRESS_STEP = 0.02
_STATISTICS_PREFIX = "SELECT pg_restore_"


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a dump.

    Parameters:
        schema, statistics: the statements that ran, as scripts that run again without an error.
        notes: a line for each that did not.
    """

    schema: str
    statistics: str
    notes: tuple[str, ...]


def apply_dump(
    text: str,
    owner: psycopg.Connection[Any],
    superuser: psycopg.Connection[Any],
    *,
    max_bytes: int,
    progress: Callable[[float], None] | None = None,
) -> Applied:
    """Run a dump statement by statement; one that is refused is reported and leaves the others unharmed.

    Parameters:
        text: of pg_dump: hostile, since whoever may create objects at the source writes in it.
        owner: the unprivileged owner's connection.
        superuser: for extensions.
        max_bytes: largest dump accepted.
        progress: told the share that is done, 0 to 1.

    Errors: `TooLargeError`, `SqlError` for text that cannot be cut into statements, `ShadowUnavailableError`.
    """
    schema: list[str] = []
    statistics: list[str] = []
    notes: list[str] = []
    told = 0.0
    with _ended_after(RESTORE_TIMEOUT_S, owner, superuser):
        for piece, script, unreadable in _extensions_first(text, max_bytes):
            if progress is not None and piece.offset / len(text) - told >= _PROGRESS_STEP:
                told = piece.offset / len(text)
                progress(told)
            kind = script.items[0].kind if script.items and isinstance(script.items[0], Statement) else ""
            notes += [f"{kind}: {reason}" for _, kind, reason in script.skipped]
            refusal = unreadable or _run(script, owner, superuser)
            if refusal:
                notes.append(f"{_heading(piece.text)}: {refusal}: {_effect(piece.text, kind)}")
            elif script.items or script.extensions:
                (statistics if kind.startswith(_STATISTICS_PREFIX) else schema).append(f"{piece.text};\n")
    return Applied("\n".join(schema), "\n".join(statistics), _limited(list(dict.fromkeys(notes))))


@contextlib.contextmanager
def _ended_after(seconds: float, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """End the owner's session after a time: a function of the dump's may catch all cancellations."""
    process = owner.info.backend_pid
    timer = threading.Timer(seconds, superuser.execute, ["SELECT pg_terminate_backend(%s::int4, 0)", [process]])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _extensions_first(text: str, max_bytes: int) -> Iterator[tuple[Piece, Script, str]]:
    """Read the pieces of a dump, each with the reason if it is refused.

    Extensions come first, with the schemas that they may need: the superuser makes them, before there is any object of
    a user's.
    """
    later = []
    for piece in cut(text):
        if piece.kind is PieceKind.BACKSLASH:
            continue
        try:
            script, refusal = read_script(f"{piece.text};", max_bytes=max_bytes), ""
        except SqlError as error:
            script, refusal = Script((), (), ()), str(error.args[0])
        schema = any(isinstance(item, Statement) and item.kind == "CREATE SCHEMA" for item in script.items)
        if script.extensions or schema:
            yield piece, script, refusal
        else:
            later.append((piece, script, refusal))
    yield from later


def _run(script: Script, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]) -> str:
    """Run one piece; return why it was refused, or nothing. The server's own time limit does for each statement."""
    try:
        run_script(script, owner, superuser, timeout_s=None)
    except (SqlError, TimeLimitError) as error:
        return str(error.args[0])
    return ""


def run_script(
    script: Script, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any], *, timeout_s: float | None
) -> None:
    """Run a script as its owner, its extensions as the superuser, whose search path names no schema for them.

    Errors: as `apply_script`.
    """
    placed = tuple(replace(extension, schema=extension.schema or "public") for extension in script.extensions)
    apply_script(replace(script, extensions=placed), owner, extension_connection=superuser, timeout_s=timeout_s)


def accepted(text: str, *, max_bytes: int) -> str:
    """Leave out of a dump what `optimizer.ddl` would refuse.

    Errors: `TooLargeError`; `SqlError` for text that cannot be cut into statements.
    """
    kept = []
    for piece in cut(text):
        with contextlib.suppress(SqlError):
            script = read_script(f"{piece.text};", max_bytes=max_bytes)
            if script.items or script.extensions:
                kept.append(f"{piece.text};\n")
    return "\n".join(kept)


def _heading(statement: str) -> str:
    """The first words of a statement: enough to know which it is."""
    line = statement.splitlines()[0].rstrip(" (")
    return line if len(line) <= 90 else f"{line[:87]}..."


def _effect(statement: str, kind: str) -> str:
    words = kind or " ".join(statement.split()[:2])
    return _EFFECTS.get(words, "queries that need it cannot be planned")


def _limited(notes: list[str]) -> tuple[str, ...]:
    if len(notes) <= MAX_NOTES:
        return tuple(notes)
    return (*notes[:MAX_NOTES], f"{len(notes) - MAX_NOTES} more statements could not be cloned")
