"""Reads schema files that users send, and runs them as an unprivileged owner.

Such a file is hostile until shown otherwise. It is never given to psql: it is cut into statements, each is parsed by
PostgreSQL's own grammar and must be of a kind that is allowed (`ddl_kinds.py`), and each is sent by the extended
protocol, which carries exactly one statement.

    script = read_script(text, max_bytes=settings.max_schema_bytes)
    script.skipped                        # what was left out or changed, and why: to be shown to the user
    apply_script(script, owner_connection, extension_connection=superuser_connection, timeout_s=60)

Both connections are to the same fresh database, in autocommit mode; the owner's is for this script alone, whose SET
commands stay in force on it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from optimizer.ddl_kinds import Fate, Ruling, judge
from optimizer.ddl_pieces import Piece, PieceKind, cut
from optimizer.errors import (
    CROWDED,
    NO_LOCKS_LEFT,
    InputError,
    ShadowUnavailableError,
    SqlError,
    TimeLimitError,
    TooLargeError,
)
from optimizer.foreign import dialect_hint
from optimizer.parse_guard import read_outline

#: Longest single statement, in characters: parsing takes some 100 times its size in memory. COPY rows do not count.
MAX_STATEMENT: Final = 4_000_000
# Whatever in a schema belongs to somebody who is no superuser, and that a script could name.
_FOREIGN_OBJECTS: Final = """
    WITH place AS (SELECT oid FROM pg_namespace WHERE nspname = %s),
         object (schema, owner) AS (
           SELECT pronamespace, proowner FROM pg_proc UNION ALL
           SELECT oprnamespace, oprowner FROM pg_operator UNION ALL
           SELECT typnamespace, typowner FROM pg_type)
    SELECT FROM object JOIN place ON place.oid = schema JOIN pg_roles ON pg_roles.oid = owner WHERE NOT rolsuper"""
_COPY_CHUNK: Final = 1 << 20
_CANCEL_GRACE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement that may run.

    Parameters:
        sql: its text, without the semicolon.
        kind: what a user calls it, for example "CREATE TABLE".
        line: 1-based line of its beginning in the user's file.
        column: 1-based column there.
    """

    sql: str
    kind: str
    line: int
    column: int = 1


@dataclass(frozen=True, slots=True)
class CopyRows:
    """Rows inline after `COPY table FROM stdin`.

    Parameters:
        header_sql: the COPY statement.
        table: the table's name, with its schema's where one is said, both quoted where needed.
        columns: the columns named; none means all.
        data: the rows, without the final line.
        line: 1-based line of the COPY in the user's file.
        data_line: 1-based line of the first row.
    """

    header_sql: str
    table: str
    columns: tuple[str, ...]
    data: str
    line: int
    data_line: int


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension to create before anything else.

    Parameters:
        name: one of `ddl_kinds.EXTENSIONS`, or one that is not available and has stand-ins.
        schema: where, None for the default.
        line: 1-based line in the user's file.
        stand_ins: what is run instead of creating it.
        source: what a script says to have it, where that is no CREATE EXTENSION.
    """

    name: str
    schema: str | None
    line: int
    stand_ins: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """A schema file, read and allowed.

    Parameters:
        items: what runs, in order.
        extensions: what a superuser creates beforehand.
        skipped: what was left out or changed: (line, kind, reason).
    """

    items: tuple[Statement | CopyRows, ...]
    extensions: tuple[Extension, ...]
    skipped: tuple[tuple[int, str, str], ...]


def decode_sql(data: bytes) -> str:
    """Return the text of an SQL file, which has to be UTF-8 (with or without a byte-order mark).

    Errors: `InputError` that names the first wrong byte, or the format if it is a known other one.
    """
    for magic, advice in (
        (b"PGDMP", "a pg_dump archive: turn it into text with pg_restore -f schema.sql"),
        (b"\x1f\x8b", "compressed with gzip: unpack it first"),
        (b"\xff\xfe", "UTF-16: save it as UTF-8"),
        (b"\xfe\xff", "UTF-16: save it as UTF-8"),
    ):
        if data.startswith(magic):
            raise InputError(f"the file is not SQL text but {advice}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The mark that "utf-8-sig" takes off is not counted in the error.
        offset = error.start + (len(data) - len(error.object))
        raise InputError(f"the file is not UTF-8: byte {offset} is 0x{data[offset]:02x}; save it as UTF-8") from error


def read_script(text: str, *, max_bytes: int) -> Script:
    """Cut, parse and check a script.

    Parameters:
        text: the file.
        max_bytes: largest file accepted.

    Errors: `TooLargeError`; `SqlError` with line and column for what does not parse or is not allowed.
    """
    text = _clean(text, max_bytes)
    items: list[Statement | CopyRows] = []
    extensions: list[Extension] = []
    skipped: list[tuple[int, str, str]] = []
    for piece in cut(text):
        if piece.kind is PieceKind.BACKSLASH:
            _check_backslash(piece, text)
            continue
        ruling = _ruling(piece, text)
        if ruling is None:
            continue
        if ruling.note:
            skipped.append((piece.line, ruling.kind, ruling.note))
        if ruling.fate is Fate.EXTENSION:
            extensions.append(Extension(ruling.name, ruling.schema, piece.line, ruling.statements, ruling.source))
        elif ruling.fate is Fate.COPY:
            items.append(_copy_rows(piece, ruling))
        elif ruling.fate is Fate.RUN:
            column = piece.offset - text.rfind("\n", 0, piece.offset)
            statements = ruling.statements or (piece.text,)
            items.extend(Statement(statement, ruling.kind, piece.line, column) for statement in statements)
    return Script(_without_extension_schemas(items, extensions), tuple(extensions), tuple(skipped))


def apply_script(
    script: Script,
    connection: psycopg.Connection[Any],
    *,
    extension_connection: psycopg.Connection[Any] | None = None,
    timeout_s: float | None = None,
) -> None:
    """Run a script. The first error ends it; what ran before stays, so the database is then to be dropped.

    Parameters:
        script: what `read_script` returned.
        connection: the unprivileged owner's, in autocommit mode (an open `transaction()` block is fine).
        extension_connection: a superuser's to the same database, in autocommit mode; needed if there are extensions,
            which are all created first.
        timeout_s: seconds for the whole script; the running statement is cancelled, and its session ended if that is
            of no avail (over `extension_connection`). None waits.

    Errors: `SqlError` with the place in the user's file and the server's message; `TimeLimitError`;
        `ShadowUnavailableError` when the server went away.
    """
    if not connection.autocommit:
        raise ValueError("apply_script wants a connection in autocommit mode")
    _create_extensions(script.extensions, connection.info.user, extension_connection)
    with _time_limit(connection, extension_connection, timeout_s) as expired:
        for item in script.items:
            try:
                if expired.is_set():
                    raise psycopg.errors.QueryCanceled("between two statements")
                if isinstance(item, CopyRows):
                    _copy(item, connection)
                else:
                    # Binary results force the extended protocol, which takes exactly one statement.
                    connection.execute(item.sql.encode(), prepare=False, binary=True)
            except psycopg.Error as error:
                if expired.is_set() or isinstance(error, psycopg.errors.QueryCanceled):
                    raise TimeLimitError(f"the schema took too long to create (line {item.line})") from error
                raise _translated(error, item) from error


def _clean(text: str, max_bytes: int) -> str:
    """Refuse what PostgreSQL cannot take as text, and take off a byte-order mark."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise SqlError.at_offset("this character is half of a surrogate pair", text, error.start) from error
    if size > max_bytes:
        raise TooLargeError(f"the schema has {size:,} bytes, and the limit is {max_bytes:,}")
    if (offset := text.find("\0")) >= 0:
        raise SqlError.at_offset("a NUL byte cannot stand in SQL", text, offset)
    return text.removeprefix("\ufeff")


def _check_backslash(piece: Piece, text: str) -> None:
    # pg_dump brackets its output with these two against hostile names; they only matter to psql.
    command = piece.text.split(maxsplit=1)[0]
    if command not in ("\\restrict", "\\unrestrict"):
        raise SqlError.at_offset(f"{command} is a command of psql, not SQL: remove it", text, piece.offset)


def _ruling(piece: Piece, text: str) -> Ruling | None:
    """Parse one piece and decide about it; None for one that is only white space to the grammar."""
    if len(piece.text) > MAX_STATEMENT:
        message = f"this statement has more than {MAX_STATEMENT:,} characters: split it, or use COPY ... FROM stdin"
        raise SqlError.at_offset(message, text, piece.offset)
    try:
        nodes = read_outline(piece.text)
        if not nodes:
            return None
        if len(nodes) != 1:
            raise SqlError("this is more than one statement: end each with a semicolon at its end")
        ruling = judge(nodes[0], piece.text)
        if (ruling.fate is Fate.COPY) != (piece.kind is PieceKind.COPY):
            raise SqlError("COPY is only accepted as COPY table FROM stdin, with its rows inline")
    except SqlError as error:
        offset = piece.offset + _offset(piece.text, error)
        hint = dialect_hint(piece.text) if error.line is not None else ""
        raise SqlError.at_offset(f"{error.args[0]}{hint}", text, offset) from error
    return ruling


def _offset(text: str, error: SqlError) -> int:
    """Return the index in `text` of the place that `error` names; 0 without one."""
    if error.line is None or error.column is None:
        return 0
    return sum(len(line) for line in text.split("\n")[: error.line - 1]) + error.line - 1 + error.column - 1


def _copy_rows(piece: Piece, ruling: Ruling) -> CopyRows:
    table = sql.Identifier(*([ruling.schema] if ruling.schema else []), ruling.name).as_string()
    return CopyRows(piece.text, table, ruling.columns, piece.rows, piece.line, piece.rows_line)


def _without_extension_schemas(
    items: list[Statement | CopyRows], extensions: list[Extension]
) -> tuple[Statement | CopyRows, ...]:
    """Leave out the creation of schemas that will exist, because an extension is put there beforehand."""
    made = {f"CREATE SCHEMA {_quoted(extension.schema)}" for extension in extensions if extension.schema}
    return tuple(item for item in items if isinstance(item, CopyRows) or item.sql not in made)


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _create_extensions(
    extensions: tuple[Extension, ...], owner: str, superuser: psycopg.Connection[Any] | None
) -> None:
    """Create extensions before everything else, and from our own text: a superuser runs their scripts."""
    if not extensions:
        return
    if superuser is None:
        raise SqlError("extensions cannot be created on this shadow", line=extensions[0].line, column=1)
    for extension in extensions:
        try:
            _create_extension(extension, owner, superuser)
        except psycopg.Error as error:
            message = f"extension {extension.name}: {error.diag.message_primary or 'the server went away'}"
            raise SqlError(message, line=extension.line, column=1) from error


def _create_extension(extension: Extension, owner: str, superuser: psycopg.Connection[Any]) -> None:
    schema = extension.schema or "public"
    if superuser.execute("SELECT FROM pg_extension WHERE extname = %s", [extension.name]).fetchone() is not None:
        return
    # Its script looks names up in this schema first, and would run functions of the file's as superuser.
    if superuser.execute(_FOREIGN_OBJECTS, [schema]).fetchone() is not None:
        message = f"extension {extension.name} has to be created before other objects of its schema: move it up"
        raise SqlError(message, line=extension.line, column=1)
    place = sql.Identifier(schema)
    if superuser.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is None:
        superuser.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(place, sql.Identifier(owner)))
    if extension.stand_ins:
        for statement in extension.stand_ins:
            superuser.execute(statement.encode())
    else:
        name = sql.Identifier(extension.name)
        superuser.execute(sql.SQL("CREATE EXTENSION {} SCHEMA {} CASCADE").format(name, place))


def _copy(item: CopyRows, connection: psycopg.Connection[Any]) -> None:
    """Send rows. psycopg's own COPY uses the simple protocol, which would take further statements in the header."""
    low = connection.pgconn
    result = low.exec_params(item.header_sql.encode(), None)
    if result.status == ExecStatus.COPY_IN:
        data = item.data.encode()
        nonblocking, low.nonblocking = low.nonblocking, 0
        try:
            for start in range(0, len(data), _COPY_CHUNK):
                low.put_copy_data(data[start : start + _COPY_CHUNK])
            low.put_copy_end()
            while (following := low.get_result()) is not None:
                result = following
        finally:
            low.nonblocking = nonblocking
    if result.status != ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(result)


def _translated(error: psycopg.Error, item: Statement | CopyRows) -> SqlError | ShadowUnavailableError:
    """Return the server's complaint as ours, with the place in the user's file."""
    diagnosis = error.diag
    message = diagnosis.message_primary
    if message is None or diagnosis.severity_nonlocalized in ("FATAL", "PANIC"):
        return ShadowUnavailableError(f"the shadow's server went away while running line {item.line}")
    if message == NO_LOCKS_LEFT:
        return ShadowUnavailableError(CROWDED)
    if diagnosis.message_detail:
        message += f" ({diagnosis.message_detail.splitlines()[0]})"
    if isinstance(item, CopyRows):
        row = re.search(r"\bline (\d+)", diagnosis.context or "")
        return SqlError(message, line=item.data_line + int(row.group(1)) - 1 if row else item.line, column=1)
    line, column = item.line, item.column
    if diagnosis.statement_position is not None:
        before = item.sql[: int(diagnosis.statement_position) - 1]
        if "\n" in before:
            line, column = line + before.count("\n"), len(before) - before.rfind("\n")
        else:
            column += len(before)
    return SqlError(message, line=line, column=column)


@contextmanager
def _time_limit(
    connection: psycopg.Connection[Any], superuser: psycopg.Connection[Any] | None, timeout_s: float | None
) -> Iterator[threading.Event]:
    """Cancel what `connection` runs after a time, from outside: the file itself could lift a server-side timeout."""
    expired, done = threading.Event(), threading.Event()
    process = connection.info.backend_pid

    def watch() -> None:
        if done.wait(timeout_s):
            return
        expired.set()
        with suppress(psycopg.Error):  # whichever connection is gone, nothing is left to end
            connection.cancel_safe(timeout=5)
            # A function may catch a cancellation; it cannot catch the end of its session.
            if not done.wait(_CANCEL_GRACE_S) and superuser is not None:
                superuser.execute("SELECT pg_terminate_backend(%s)", [process])

    thread = threading.Thread(target=watch, daemon=True, name="planproof-ddl-limit")
    if timeout_s is not None:
        thread.start()
    try:
        yield expired
    finally:
        done.set()
        if timeout_s is not None:
            thread.join()
