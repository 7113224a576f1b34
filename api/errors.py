"""The one table that turns an error's class into an exit status and an HTTP problem (RFC 9457)."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.errors import (
    InputError,
    PlanproofError,
    ShadowUnavailableError,
    SqlError,
    StoreUnavailableError,
    TimeLimitError,
    TooLargeError,
    UnknownShadowError,
)

#: Exit statuses of the command line that are not errors of their own.
EXIT_DONE = 0
EXIT_REFUTED = 1
EXIT_UNKNOWN = 5
#: A defect of planproof itself (sysexits.h, EX_SOFTWARE).
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141


@dataclass(frozen=True, slots=True)
class Problem:
    """How one class of errors looks at the faces.

    Parameters:
        slug: the last part of the problem's `type`, which is `urn:planproof:problem:<slug>`.
        title: the same for every occurrence.
        http_status: of the response.
        exit_status: of the command.
    """

    slug: str
    title: str
    http_status: int
    exit_status: int

    @property
    def type(self) -> str:
        """The problem's URI."""
        return f"urn:planproof:problem:{self.slug}"


class ForbiddenSourceError(InputError):
    """A DSN sent over HTTP names a server that the settings do not allow."""


class TooManyJobsError(PlanproofError):
    """The queue of background jobs is full."""


class ClientGoneError(Exception):
    """The client closed the connection, so nobody reads the answer."""


class BusyError(PlanproofError):
    """Too many requests wait for their turn already.

    Parameters:
        message: one line.
        retry_after_s: seconds after which it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownJobError(InputError):
    """No job of that id is known."""


class AddressInUseError(InputError):
    """The address to serve on cannot be had."""


INTERNAL = Problem("internal", "planproof failed", 500, EXIT_INTERNAL)

#: Looked up along the class's method resolution order, so the most specific entry counts.
TABLE: dict[type[BaseException], Problem] = {
    SqlError: Problem("sql", "The SQL cannot be used", 400, 3),
    TooLargeError: Problem("too-large", "The input is too large", 413, 3),
    UnknownShadowError: Problem("unknown-shadow", "No such shadow", 404, 3),
    UnknownJobError: Problem("unknown-job", "No such job", 404, 3),
    ForbiddenSourceError: Problem("forbidden-source", "That source is not allowed", 403, 3),
    TooManyJobsError: Problem("too-many", "Too many requests", 429, 4),
    BusyError: Problem("too-many", "Too many requests", 429, 4),
    InputError: Problem("input", "The input is wrong", 422, 3),
    ShadowUnavailableError: Problem("shadow-unavailable", "The shadow cannot be reached", 503, 4),
    StoreUnavailableError: Problem("store-unavailable", "The store of jobs cannot be reached", 503, 4),
    TimeLimitError: Problem("time-limit", "The time limit passed", 504, 4),
}


def problem_of(error: BaseException) -> Problem:
    """Return the entry for an error; `INTERNAL` for everything that is not meant for users."""
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), INTERNAL)
