"""Every error a user can meet, as one small family.

Each message is one line that says what is wrong, where, and how to mend it. The faces translate the class into an exit
status or an HTTP status (`api/errors.py`); nothing else of an exception reaches a user.
"""

from __future__ import annotations

#: Longest message, in characters: what a server says may be as long as whoever wrote its functions likes.
MAX_MESSAGE = 1_000


def one_line(text: str) -> str:
    """Make a text fit for a message: one line, of bounded length, without characters that command a terminal."""
    short = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
    words = " ".join(short.split())
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


class PlanproofError(Exception):
    """The root of all errors that are meant for users.

    Parameters:
        message: one line: what is wrong, where, and how to mend it. See `one_line` for what becomes of a longer one.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class InputError(PlanproofError):
    """The input is bad: a file, a name, an option."""


class SqlError(InputError):
    """The SQL does not parse, is not one statement, or PostgreSQL refused to plan it.

    Parameters:
        message: what is wrong.
        line: 1-based line in the user's text, where known.
        column: 1-based column in that line, where known.
    """

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column

    def __str__(self) -> str:
        place = f" (line {self.line}, column {self.column})" if self.line is not None else ""
        return f"{self.args[0]}{place}"

    @classmethod
    def at_offset(cls, message: str, sql: str, offset: int | None) -> SqlError:
        """Build the error for a character `offset` (0-based) in `sql`; None leaves the place out."""
        if offset is None:
            return cls(message)
        before = sql[: max(offset, 0)]
        return cls(message, line=before.count("\n") + 1, column=len(before) - (before.rfind("\n") + 1) + 1)


class TooLargeError(InputError):
    """The input is larger than a limit in the settings."""


class UnknownShadowError(InputError):
    """No shadow of that name exists."""


class ShadowUnavailableError(PlanproofError):
    """A shadow's server, or one of the embedded clusters, cannot be reached or started.

    Parameters:
        message: one line.
        public: what to tell people who may not know where the server is; None tells them the message.
    """

    def __init__(self, message: str, *, public: str | None = None) -> None:
        super().__init__(message)
        self.public = public


class StoreUnavailableError(PlanproofError):
    """The store, which holds the jobs, cannot be reached, or another version has made it."""


class TimeLimitError(PlanproofError):
    """A statement or a whole request ran past its time limit."""
