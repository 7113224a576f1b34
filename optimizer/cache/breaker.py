"""A circuit breaker: a server that failed is left alone for a while, so that its outage costs next to nothing."""

from __future__ import annotations

import logging
import threading
import time

#: Seconds for which a server is not asked after its first failure; twice as long after each further one.
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
#: Seconds between two log lines about outages of one server.
_LOG_PAUSE_S = 60.0

_log = logging.getLogger("planproof")


class Breaker:
    """Lets one caller at a time find out whether a server that failed is back; all others go on without it.

    Parameters:
        name: what is failing, for the log; holds no secrets.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pause_s = 0.0
        self._asked_again_at = 0.0
        self._logged_at = float("-inf")
        self._told = False
        self._lock = threading.Lock()

    def may_ask(self) -> bool:
        """Tell whether the server may be asked now; say how it went with `failed` or `worked`."""
        if not self._pause_s:
            return True
        with self._lock:
            if time.monotonic() < self._asked_again_at:
                return False
            self._asked_again_at = time.monotonic() + self._pause_s  # the others wait for what this caller finds
            return True

    def failed(self, error: Exception) -> None:
        """The server did not answer. An outage is logged once."""
        with self._lock:
            now, outage = time.monotonic(), not self._pause_s
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            self._asked_again_at = now + self._pause_s
            told = outage and now - self._logged_at > _LOG_PAUSE_S
            if told:
                self._told, self._logged_at = True, now
        if told:  # by the class alone: a message may repeat what was sent
            _log.warning("%s cannot be used (%s): going on without it", self._name, type(error).__name__)

    def worked(self) -> None:
        """The server answered."""
        if not self._pause_s:
            return
        with self._lock:
            self._pause_s = 0.0
            told, self._told = self._told, False
        if told:
            _log.warning("%s can be used again", self._name)
