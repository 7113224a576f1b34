"""Restores a dump statement by statement, so that what cannot be restored is told and hurts nothing else.

A dump is hostile: whoever may create objects at the source writes in it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import psycopg

from optimizer.collations import tamed_collation
from optimizer.ddl import Script, Statement, apply_script, read_script
from optimizer.ddl_foreign import tamed
from optimizer.ddl_pieces import Piece, PieceKind, cut
from optimizer.errors import SqlError, TimeLimitError
from optimizer.shadow.source.dump_order import Ranks, in_order
from optimizer.shadow.template.catalog_statistics import NATIVE_VERSION, write_statistics
from optimizer.shadow.template.restore_notes import Refused, limited, refusal_notes

#: A piece of a dump, what was read of it, and the reason if it is refused.
_Read = tuple[Piece, Script, str]

#: Seconds for a whole dump, after which the owner's session is ended, whatever it does.
RESTORE_TIMEOUT_S = 1800.0
_PROGRESS_STEP = 0.02
#: Statements of one round trip and transaction, and their characters. Each may lock some relations.
_BATCH = 200
_BATCH_CHARACTERS = 1_000_000
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
    ranks: Ranks = MappingProxyType({}),
) -> Applied:
    """Run a dump statement by statement; one that is refused is reported and leaves the others unharmed.

    Parameters:
        text: of pg_dump: hostile, since whoever may create objects at the source writes in it.
        owner: the unprivileged owner's connection.
        superuser: for extensions.
        max_bytes: largest dump accepted.
        progress: told the share that is done, 0 to 1.
        ranks: the order in which the source made what decides between equal plans; none keeps the dump's.

    Errors: `TooLargeError`, `SqlError` for text that cannot be cut into statements, `ShadowUnavailableError`.
    """
    schema: list[str] = []
    statistics: list[str] = []
    notes: list[str] = []
    lost: list[Refused] = []
    told = 0.0
    # Servers before 18 lack the functions that statistics call: there they are written into the catalog at the end.
    native = owner.info.server_version >= NATIVE_VERSION
    with _ended_after(RESTORE_TIMEOUT_S, owner, superuser):
        for batch in _batches(in_order(_extensions_first(text, max_bytes), lambda read: read[0].text, ranks)):
            offset = batch[0][0].offset
            if progress is not None and offset / len(text) - told >= _PROGRESS_STEP:
                told = offset / len(text)
                progress(told)
            scripts = [script if native else _without_statistics(script) for _, script, _ in batch]
            refusals = _run_all(scripts, owner, superuser)
            for (piece, script, unreadable), refused in zip(batch, refusals, strict=True):
                kind = script.items[0].kind if script.items and isinstance(script.items[0], Statement) else ""
                notes += [f"{kind}: {reason}" for _, kind, reason in script.skipped]
                refusal = unreadable or refused
                if refusal:
                    lost.append(Refused(piece.text, kind, refusal))
                elif script.items or script.extensions:
                    (statistics if kind.startswith(_STATISTICS_PREFIX) else schema).append(f"{piece.text};\n")
        if not native:
            notes += write_statistics(statistics, owner, superuser)
    return Applied("\n".join(schema), "\n".join(statistics), limited([*notes, *refusal_notes(lost)]))


@contextlib.contextmanager
def _ended_after(seconds: float, owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """End the owner's session after a time: a function of the dump's may catch all cancellations."""
    process = owner.info.backend_pid
    timer = threading.Timer(seconds, superuser.execute, ["SELECT pg_terminate_backend(%s::int4)", [process]])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _extensions_first(text: str, max_bytes: int) -> Iterator[_Read]:
    """Read the pieces of a dump, each with the reason if it is refused.

    Extensions come first, with the schemas that they may need: the superuser makes them, before there is any object of
    a user's.
    """
    later = []
    for piece in cut(text):
        if piece.kind is PieceKind.BACKSLASH:
            continue
        tame, loss = tamed(tamed_collation(piece.text))
        piece = replace(piece, text=tame)
        try:
            script, refusal = read_script(f"{tame};", max_bytes=max_bytes), ""
            if loss:
                script = replace(script, skipped=(*script.skipped, (piece.line, "foreign", loss)))
        except SqlError as error:
            script, refusal = Script((), (), ()), str(error.args[0])
        schema = any(isinstance(item, Statement) and item.kind == "CREATE SCHEMA" for item in script.items)
        if script.extensions or schema:
            yield piece, script, refusal
        else:
            later.append((piece, script, refusal))
    yield from later


def _batches(pieces: Iterable[_Read]) -> Iterator[list[_Read]]:
    """Put pieces together that can be sent in one round trip: all but extensions and inline rows."""
    batch: list[_Read] = []
    size = 0
    for piece in pieces:
        plain = not piece[1].extensions and all(isinstance(item, Statement) for item in piece[1].items)
        length = len(piece[0].text)
        if batch and (not plain or len(batch) == _BATCH or size + length > _BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        if plain:
            batch.append(piece)
            size += length
        else:
            yield [piece]
    if batch:
        yield batch


def _run_all(
    scripts: Sequence[Script], owner: psycopg.Connection[Any], superuser: psycopg.Connection[Any]
) -> list[str]:
    """Run the scripts of some pieces in one transaction and round trip; return why each was refused, or nothing.

    If one is refused, so are all: then each half is tried by itself, in order, until the culprit stands alone.
    """
    if len(scripts) == 1:
        return [_run(scripts[0], owner, superuser)]
    statements = [item for script in scripts for item in script.items if isinstance(item, Statement)]
    try:
        # Without a Sync between them, the statements of a pipeline are one transaction.
        with owner.pipeline():
            for statement in statements:
                owner.execute(statement.sql.encode(), prepare=False, binary=True)
    except psycopg.Error:
        middle = len(scripts) // 2
        return _run_all(scripts[:middle], owner, superuser) + _run_all(scripts[middle:], owner, superuser)
    return [""] * len(scripts)


def _without_statistics(script: Script) -> Script:
    """Leave out the calls that set statistics."""
    kept = (i for i in script.items if not isinstance(i, Statement) or not i.kind.startswith(_STATISTICS_PREFIX))
    return replace(script, items=tuple(kept))


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
            tame, _ = tamed(tamed_collation(piece.text))
            script = read_script(f"{tame};", max_bytes=max_bytes)
            if script.items or script.extensions:
                kept.append(f"{tame};\n")
    return "\n".join(kept)
