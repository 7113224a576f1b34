"""Cuts a script as psql would: at semicolons, psql's own backslash lines, and rows inline after COPY ... FROM stdin.

Nothing here decides what may run: each piece is parsed by PostgreSQL's grammar afterwards and must be one statement, so
a wrong cut can only be refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from optimizer.errors import SqlError

_BLANK = re.compile(r"(?:[ \t\r\n\f\v;]++|--[^\n\r]*+)++")
_BLOCK = re.compile(r"/\*|\*/")
# What can hide a semicolon, and what ends a statement. Everything else is skipped.
_MARK = re.compile(
    r"""
      --[^\n\r]*+
    | (?P<block>/\*)
    # A string with backslash escapes goes on in quotes on the next line.
    | (?<![\w$])[eE]'(?:[^'\\]|\\.|'')*+'(?:[ \t\f\v\r]*+\n\s*+'(?:[^'\\]|\\.|'')*+')*+
    | '[^']*+'
    | "[^"]*+"
    | (?<![\w$])(?P<dollar>\$(?:[^\W\d]\w*+)?+\$)
    | (?P<end>;)
    | (?P<unclosed>['"])
    | (?P<backslash>\\)
    | (?P<atomic>(?<![\w$])begin\s++atomic(?![\w$]))
    | (?P<case>(?<![\w$.])case(?![\w$]))
    | (?P<close>(?<![\w$.])end(?![\w$]))
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_COPY_IN = re.compile(r"copy\b.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
_LONGEST_COPY = 100_000  # characters of its header: 1,600 columns fit
_END_OF_ROWS = re.compile(r"^\\\.\r?$", re.MULTILINE)


class PieceKind(Enum):
    """What a piece is."""

    STATEMENT = auto()
    COPY = auto()
    BACKSLASH = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a script.

    Parameters:
        kind: what it is.
        text: one statement without its semicolon, or the backslash line.
        offset: where it begins in the script, in characters.
        line: 1-based line of its beginning.
        rows: the inline rows after a COPY.
        rows_line: 1-based line of the first row.
    """

    kind: PieceKind
    text: str
    offset: int
    line: int
    rows: str = ""
    rows_line: int = 0


def cut(script: str) -> Iterator[Piece]:
    """Yield the pieces of `script` in order.

    Errors: `SqlError` for a string, comment or COPY block that never ends, and a backslash inside a statement.
    """
    position = line_of = 0
    line = 1
    while True:
        start = _skip_blank(script, position)
        line += script.count("\n", line_of, start)
        line_of = start
        if start >= len(script):
            return
        if script[start] == "\\":
            position = _line_end(script, start)
            yield Piece(PieceKind.BACKSLASH, script[start:position].strip(), start, line)
            continue
        end = _statement_end(script, start)
        text = script[start:end].rstrip()
        position = end + 1
        if len(text) < _LONGEST_COPY and _COPY_IN.match(text):
            first = _line_end(script, end) + 1
            closing = _END_OF_ROWS.search(script, first) if first <= len(script) else None
            if closing is None:
                raise SqlError.at_offset("the rows after this COPY are not ended by a line with \\.", script, start)
            rows_line = line + script.count("\n", start, first)
            yield Piece(PieceKind.COPY, text, start, line, script[first : closing.start()], rows_line)
            position = closing.end()
        else:
            yield Piece(PieceKind.STATEMENT, text, start, line)


def _line_end(script: str, position: int) -> int:
    """Return the index of the next newline, or the script's end."""
    end = script.find("\n", position)
    return len(script) if end < 0 else end


def _skip_blank(script: str, position: int) -> int:
    """Return the index of the next character outside white space, comments and empty statements."""
    while True:
        blank = _BLANK.match(script, position)
        if blank is not None:
            position = blank.end()
        if not script.startswith("/*", position):
            return position
        position = _block_end(script, position)


def _block_end(script: str, start: int) -> int:
    """Return the index after the comment that begins at `start`; comments nest."""
    depth = 0
    for mark in _BLOCK.finditer(script, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    raise SqlError.at_offset("this comment is never closed", script, start)


def _statement_end(script: str, start: int) -> int:
    """Return the index of the semicolon that ends the statement at `start`, or the script's end."""
    position = start
    depth = 0  # of BEGIN ATOMIC ... END function bodies, whose statements have semicolons of their own
    while (mark := _MARK.search(script, position)) is not None:
        position = mark.end()
        match mark.lastgroup:
            case "block":
                position = _block_end(script, mark.start())
            case "dollar":
                closing = script.find(mark.group("dollar"), position)
                if closing < 0:
                    raise SqlError.at_offset("this dollar-quoted string is never closed", script, mark.start())
                position = closing + len(mark.group("dollar"))
            case "end" if depth == 0:
                return mark.start()
            case "unclosed":
                raise SqlError.at_offset("this quote is never closed", script, mark.start())
            case "backslash":
                raise SqlError.at_offset("a backslash cannot stand here: SQL has none", script, mark.start())
            case "atomic":
                depth += 1
            case "case" if depth > 0:
                depth += 1
            case "close" if depth > 0:
                depth -= 1
    return len(script)
