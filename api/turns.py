"""One computation for all processes: the turn to compute an answer, by a lock in the Redis that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from optimizer.cache.redis_cache import MAX_CONNECTIONS, TURN_S, RedisCache, Standing, Turn
from optimizer.cache.tiered import TieredCache
from optimizer.clock import Deadline

#: Seconds between two looks at an answer that another process computes: first, and at most.
_POLL_S = (0.02, 0.2)
#: Looks that may fail while waiting.
_PATIENCE = 4

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Made:
    """An answer that was computed.

    Parameters:
        middle: see `api.answers`.
        kept: it is in the cache.
    """

    middle: bytes
    kept: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer that another process computed; `waited` says whether it did so while we waited."""

    middle: bytes
    waited: bool


class Turns:
    """Computes each answer in one process, as long as Redis answers; else in each that is asked.

    Parameters:
        cache: where answers come to be found.
    """

    def __init__(self, cache: TieredCache) -> None:
        self._cache = cache
        # Redis gets threads of its own: its timeouts must not keep others from working.
        self._threads = CapacityLimiter(MAX_CONNECTIONS // 2)

    async def fetched_or_made(
        self, keys: Sequence[str], make: Callable[[], Coroutine[Any, Any, Made]], deadline: Deadline
    ) -> Fetched | Made:
        """Find an answer that another process has kept or is computing; else compute it.

        Parameters:
            keys: of the answer.
            make: computes it, and keeps it if it may be kept.
            deadline: for waiting.

        Errors: `TimeLimitError`, and those of `make`.
        """
        shared = self._cache.shared
        if shared is None:
            return await make()
        pause_s, waited, failures = _POLL_S[0], False, 0
        while True:
            found = await self._in_thread(self._cache.fetch, keys)
            if found is not None:
                return Fetched(found, waited)
            turn = await self._in_thread(shared.take_turn, keys[0])
            if turn.standing is Standing.OURS:
                return await self._in_turn(shared, turn, keys, make)
            failures = failures + 1 if turn.standing is Standing.UNKNOWN else 0
            # Whoever knows that another computes it bears with a Redis that falters.
            if turn.standing is Standing.EVERYBODYS or failures > (_PATIENCE if waited else 0):
                return await make()
            waited = True
            deadline.check("another process was computing the same answer")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_S[1])

    async def _in_turn(
        self, shared: RedisCache, turn: Turn, keys: Sequence[str], make: Callable[[], Coroutine[Any, Any, Made]]
    ) -> Fetched | Made:
        renewing = asyncio.create_task(self._renew(shared, turn))
        kept = False
        try:
            found = await self._in_thread(self._cache.fetch, keys)
            if found is not None:  # another had the turn just before us
                kept = True
                return Fetched(found, waited=True)
            made = await make()
            kept = made.kept
            return made
        finally:
            renewing.cancel()
            await self._in_thread(shared.end_turn, turn, kept=kept)

    async def _renew(self, shared: RedisCache, turn: Turn) -> None:
        while True:
            await asyncio.sleep(TURN_S / 3)
            await self._in_thread(shared.renew, turn)

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await to_thread.run_sync(partial(work, *args, **kwargs), limiter=self._threads)
