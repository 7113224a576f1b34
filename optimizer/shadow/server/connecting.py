"""When a server that refuses a connection is worth another try: it may be full, or on its way up or down."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from optimizer.clock import patience_s
from optimizer.errors import NO_LOCKS_LEFT

#: Seconds for which a connection is tried again.
PATIENCE_S = 10.0
_POLL_S = 0.1
#: What such a server says; its messages are never translated.
_FULL = ("too many clients", "remaining connection slots", "too many connections", NO_LOCKS_LEFT)
_PASSING = (*_FULL, "starting up", "recovery mode", "not accepting connections", "not yet accepting connections")
#: Where it is on this machine is nobody's business.
_SOCKET = re.compile(r'connection to server on socket "[^"]*" failed: ')
#: What stands below the line that matters.
_EXPLAINS = ("DETAIL:", "HINT:", "CONTEXT:", "This probably means the server", "before or while processing")


def attempts() -> Iterator[None]:
    """One turn for each attempt, with a pause in between, as long as there is patience; the first comes at once."""
    end = time.monotonic() + patience_s(PATIENCE_S)
    yield
    while time.monotonic() < end:
        time.sleep(_POLL_S)
        yield


def passes(message: object) -> bool:
    """Tell whether a server that refused with this message may accept soon."""
    return any(sign in str(message) for sign in _PASSING)


def is_full(message: object) -> bool:
    """Tell whether a server that refused with this message is well, and only has too many connections."""
    return any(sign in str(message) for sign in _FULL)


def last_line(message: object) -> str:
    """The line of what a program or a server said that tells what is wrong: the last, but for what only explains it."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_EXPLAINS)]
    return _SOCKET.sub("", (telling or lines or ["no message"])[-1])


def reason_of(message: object) -> str:
    """Say why a server refused a connection, and that trying again may help where it may."""
    return last_line(message) + (": try again" if passes(message) else "")
