"""Every error a user can meet, as one small family.

Each message is one line that says what is wrong, where, and how to mend it. The faces translate the class into an exit
status or an HTTP status (`api/errors.py`); nothing else of an exception reaches a user.
"""

from __future__ import annotations

#: Longest message, in characters: what a server says may be as long as whoever wrote its functions likes.
MAX_MESSAGE = 1_000
#: PostgreSQL's words when its lock table, which all databases of a server share, is full; and ours.
NO_LOCKS_LEFT = "out of shared memory"
CROWDED = "the shadow's server has no locks left, since some statement takes very many: try again"


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

    def after(self, before: str) -> SqlError:
        """The same error as seen in a longer text, where `before` stands in front of the text that it speaks of."""
        if self.line is None or self.column is None:
            return self
        column = self.column + (len(before) - (before.rfind("\n") + 1) if self.line == 1 else 0)
        return SqlError(str(self.args[0]), line=self.line + before.count("\n"), column=column)

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
        lasting: it will be the same the next time, as with a wrong password.
    """

    def __init__(self, message: str, *, public: str | None = None, lasting: bool = False) -> None:
        super().__init__(message)
        self.public = public
        self.lasting = lasting


class StoreUnavailableError(PlanproofError):
    """The store, which holds the jobs, cannot be reached, or another version has made it."""


class TimeLimitError(PlanproofError):
    """A statement or a whole request ran past its time limit."""
