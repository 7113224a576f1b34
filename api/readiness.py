"""Whether the embedded servers are there: started in the background when the service starts, then asked by probes."""

from __future__ import annotations

import asyncio

from anyio import CapacityLimiter, to_thread

from api.logs import logger
from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

#: Seconds after which a probe has its answer, and while the servers are started for the first time.
PROBE_TIMEOUT_S, START_TIMEOUT_S = 5.0, 1.0
_NEEDED = (ClusterKind.HOLLOW, ClusterKind.SCRATCH)
_PUBLIC = "the embedded servers cannot be used: the service's log says why"
_log = logger("planproof.serve")


class Readiness:
    """Looks after the servers that queries need; one look at a time, however many ask. Belongs to one event loop.

    Parameters:
        supervisor: of the embedded clusters.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._thread = CapacityLimiter(1)
        self._look: asyncio.Task[None] | None = None
        self._was_ready = False

    def start(self) -> None:
        """Begin to start the servers, which takes seconds the first time; why they do not start is logged."""
        self._look = asyncio.create_task(self._looked())
        self._look.add_done_callback(_logged)

    async def check(self) -> None:
        """Return if the servers run, or could be started in time.

        Errors: `ShadowUnavailableError` when they are still starting, do not answer, or cannot be started.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._looked())
            self._look.add_done_callback(_failure)
        await asyncio.wait((self._look,), timeout=PROBE_TIMEOUT_S if self._was_ready else START_TIMEOUT_S)
        if not self._look.done():
            state = "do not answer in time" if self._was_ready else "are starting"
            raise ShadowUnavailableError(f"the embedded servers {state}: try again in some seconds")
        if (error := self._look.exception()) is not None:
            raise error

    async def close(self) -> None:
        """Wait for a look that is under way."""
        if self._look is not None:
            await asyncio.wait((self._look,))

    async def _looked(self) -> None:
        try:
            await to_thread.run_sync(self._connect, limiter=self._thread)
        except ShadowUnavailableError as error:
            raise ShadowUnavailableError(str(error), public=_PUBLIC) from error
        self._was_ready = True

    def _connect(self) -> None:
        for kind in _NEEDED:
            self._supervisor.cluster(kind).connect().close()


def _failure(look: asyncio.Task[None]) -> BaseException | None:
    """What a look failed with; asked for even if the probe has gone, since asyncio complains about errors unseen."""
    return None if look.cancelled() else look.exception()


def _logged(look: asyncio.Task[None]) -> None:
    error = _failure(look)
    if isinstance(error, ShadowUnavailableError):
        _log.warning("the embedded servers cannot be started", reason=str(error))
    elif error is not None:
        _log.error("the embedded servers cannot be started", exc_info=error)
