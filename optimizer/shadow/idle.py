"""Planning sessions that a process keeps open between uses, all its shadows together.

Each holds two connections and a planning database that nobody else can use, so what is kept is limited for the whole
process, not for each shadow: hundreds of shadows would take all connections of the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

#: Sessions that a process keeps, and of one shadow.
MAX_IDLE_SESSIONS = 6
MAX_OF_ONE = 2


class Closable(Protocol):
    """What can be kept here."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


S = TypeVar("S", bound=Closable)


class IdleSessions(Generic[S]):
    """The idle sessions of one process. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[object, S]] = []  # the latest used is last

    def take(self, owner: object) -> S | None:
        """Take out the session of `owner` that was used last."""
        with self._lock:
            for place in reversed(range(len(self._kept))):
                if self._kept[place][0] is owner:
                    return self._kept.pop(place)[1]
        return None

    def keep(self, owner: object, session: S, still: Callable[[], bool]) -> None:
        """Keep a session for its owner's next use; the one that was used least recently makes room.

        Parameters:
            owner: who may take it.
            session: nobody else uses it.
            still: asked under the lock whether the owner wants it.
        """
        with self._lock:
            surplus: list[S] = []
            if still():
                self._kept.append((owner, session))
                own = [entry for entry in self._kept if entry[0] is owner]
                doomed = own[0] if len(own) > MAX_OF_ONE else self._kept[0]
                if len(own) > MAX_OF_ONE or len(self._kept) > MAX_IDLE_SESSIONS:
                    self._kept.remove(doomed)
                    surplus.append(doomed[1])
            else:
                surplus.append(session)
        for each in surplus:
            each.close()

    def drop(self, owner: object) -> None:
        """Close what is kept for an owner."""
        with self._lock:
            mine = [session for each, session in self._kept if each is owner]
            self._kept = [entry for entry in self._kept if entry[0] is not owner]
        for session in mine:
            session.close()
