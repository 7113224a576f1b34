"""Watching jobs: however many clients follow however many jobs, one query every moment asks about all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from api.errors import TooManyJobsError
from optimizer.errors import StoreUnavailableError
from optimizer.store.models import ENDED

View = Mapping[str, Any]

#: Seconds between two looks at the store, and while it is away.
LOOK_S, AWAY_S = 0.3, 2.0
#: Clients of one process.
MAX_WATCHERS = 500


class Watch:
    """The watchers of one process, which all belong to one event loop.

    Parameters:
        read: finds jobs by id; it may block, and raise `StoreUnavailableError`.
    """

    def __init__(self, read: Callable[[Collection[str]], Mapping[str, View]]) -> None:
        self._read = read
        self._watchers: set[_Watcher] = set()
        self._looking: asyncio.Task[None] | None = None

    def follow(self, job: View, seen: int | None) -> AsyncIterator[View]:
        """Iterate over a job's changes until it ends or is forgotten. What a slow reader misses is left out.

        Parameters:
            job: as it is now; comes first.
            seen: the version that the client knows already; nothing up to it comes.

        Errors: `TooManyJobsError`.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyJobsError(f"{MAX_WATCHERS} clients are watching jobs already: ask GET /v1/jobs/ID instead")
        return self._follow(job, seen)

    async def _follow(self, job: View, seen: int | None) -> AsyncIterator[View]:
        watcher = _Watcher(job)
        self._watchers.add(watcher)
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            while True:
                now = watcher.job
                if now is None:
                    return
                if seen is None or now["version"] > seen:
                    seen = now["version"]
                    yield now
                if now["state"] in ENDED:
                    return
                await watcher.changed.wait()
                watcher.changed.clear()
        finally:
            self._watchers.discard(watcher)

    async def _look(self) -> None:
        """Ask the store as long as anybody watches."""
        while self._watchers:
            await asyncio.sleep(LOOK_S)
            wanted = {watcher.id for watcher in self._watchers}
            try:
                found = await asyncio.to_thread(self._read, wanted)
            except StoreUnavailableError:
                await asyncio.sleep(AWAY_S)
                continue
            for watcher in self._watchers:
                if watcher.id in wanted:
                    watcher.tell(found.get(watcher.id))


class _Watcher:
    """One client, and what it may be told next."""

    def __init__(self, job: View) -> None:
        self.id: str = job["id"]
        self.job: View | None = job
        self.changed = asyncio.Event()

    def tell(self, job: View | None) -> None:
        """Note how the job is now; None when it is forgotten."""
        if job is None or self.job is None or job["version"] != self.job["version"]:
            self.job = job
            self.changed.set()
