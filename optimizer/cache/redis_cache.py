"""The cache in Redis, shared by all processes, and the turns by which they compute each answer once.

    planproof:report:KEY   the sealed value, with an expiry
    planproof:turn:KEY     held by the process that computes it, renewed while it does
    planproof:alone:KEY    for a moment: it was computed and is not to be kept, so nobody waits for another's

Redis is never needed: what fails is a miss, and a server that fails is left alone for some seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from pydantic import SecretStr
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, LockError, RedisError, ResponseError
from redis.lock import Lock
from redis.retry import Retry

from optimizer.cache.breaker import Breaker
from optimizer.cache.envelope import seal, unseal
from optimizer.cache.port import Kept
from optimizer.errors import InputError

#: Seconds for a connection and for an answer; a Redis that takes longer is no help.
CONNECT_TIMEOUT_S = 0.05
TIMEOUT_S = 0.075
#: More than the threads that ask, so that nobody waits for a connection, and no crowd can open more.
MAX_CONNECTIONS = 64
#: Seconds after which a turn that is not renewed, since its process died, goes to another process.
TURN_S = 10.0
_ALONE_MS = 2_000
_PREFIX = "planproof:"

_T = TypeVar("_T")
_log = logging.getLogger("planproof")


class Standing(Enum):
    """Whose turn it is to compute an answer: ours, another process's, everybody's, or Redis does not say."""

    OURS = 1
    ANOTHERS = 2
    EVERYBODYS = 3
    UNKNOWN = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """The outcome of asking for the turn to compute an answer."""

    standing: Standing
    key: str = ""
    lock: Lock | None = None


class RedisCache:
    """A cache in Redis. Connects when it is first asked.

    Parameters:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.

    Errors: `InputError` for a URL that is none.
    """

    def __init__(self, url: SecretStr) -> None:
        try:
            self._pool = ConnectionPool.from_url(
                url.get_secret_value(),
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=TIMEOUT_S,
                max_connections=MAX_CONNECTIONS,
                protocol=2,
                # A connection that Redis closed while it lay idle is opened again; what is slow is not asked twice.
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            )
        except (ValueError, TypeError):  # without its message, which repeats parts of the URL
            raise InputError(
                "the environment variable PLANPROOF_REDIS_URL is wrong: use redis://HOST:PORT/DB, "
                "rediss://HOST:PORT/DB or unix:///PATH, with :PASSWORD@ before the host if there is one"
            ) from None
        self._client = Redis(connection_pool=self._pool)
        self._name = f"the cache in Redis at {_place(self._pool.connection_kwargs)}"
        self._breaker = Breaker(self._name)
        self._complained: set[str] = set()

    def get(self, key: str) -> Kept | None:
        """Return what was put under the key by any process."""

        def both(client: Redis) -> tuple[bytes, int] | None:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.get(_report(key))
                pipeline.pttl(_report(key))
                data, left_ms = pipeline.execute()
            # What has no expiry is not ours.
            return (data, left_ms) if isinstance(data, bytes) and left_ms > 0 else None

        found = self._ask(both, None)
        value = unseal(key, found[0]) if found is not None else None
        return Kept(value, found[1] / 1000) if found is not None and value is not None else None

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for all processes."""
        data = seal(key, value)
        if data is not None and ttl_s >= 0.001:
            self._ask(lambda client: client.set(_report(key), data, px=int(ttl_s * 1000)), None)

    def take_turn(self, key: str) -> Turn:
        """Ask for the turn to compute an answer; does not wait for it.

        Parameters:
            key: of the answer. Ask `get` again once the turn is ours: another may just have had it.
        """
        lock = Lock(self._client, f"{_PREFIX}turn:{key}", timeout=TURN_S, thread_local=False)

        def ask(client: Redis) -> Turn:
            if lock.acquire(blocking=False):
                return Turn(Standing.OURS, key, lock)
            alone = client.exists(f"{_PREFIX}alone:{key}")
            return Turn(Standing.EVERYBODYS if alone else Standing.ANOTHERS)

        return self._ask(ask, Turn(Standing.UNKNOWN))

    def renew(self, turn: Turn) -> None:
        """Keep a turn of ours for another `TURN_S` seconds."""
        if turn.lock is not None:
            lock = turn.lock
            self._ask(lambda _: lock.reacquire(), None)

    def end_turn(self, turn: Turn, *, kept: bool) -> None:
        """Give a turn of ours back.

        Parameters:
            kept: the answer was put; else those who wait for it compute it themselves, all at once.
        """
        if turn.lock is None:
            return
        lock = turn.lock
        if not kept:
            self._ask(lambda client: client.set(f"{_PREFIX}alone:{turn.key}", b"1", px=_ALONE_MS), None)
        self._ask(lambda _: lock.release(), None)

    def close(self) -> None:
        """Close the connections."""
        self._pool.disconnect()

    def _ask(self, work: Callable[[Redis], _T], otherwise: _T) -> _T:
        """Ask Redis, unless it has just failed."""
        if not self._breaker.may_ask():
            return otherwise
        try:
            answer = work(self._client)
        except LockError:  # the turn is not ours any more: it ran out, or Redis restarted
            answer = otherwise
        except ResponseError as error:  # it runs, and refuses: a value of another type, no memory, no permission
            self._complain_once(error)
            answer = otherwise
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return otherwise
        self._breaker.worked()
        return answer

    def _complain_once(self, error: ResponseError) -> None:
        kind = type(error).__name__
        if kind not in self._complained:
            self._complained.add(kind)
            _log.warning("%s refused a command (%s); this is logged once", self._name, kind)


def _report(key: str) -> str:
    return f"{_PREFIX}report:{key}"


def _place(arguments: dict[str, Any]) -> str:
    """Where the server is, without user and password."""
    if "path" in arguments:
        return str(arguments["path"])
    return f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"
