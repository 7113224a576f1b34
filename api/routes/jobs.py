"""/v1/jobs: long work in the background."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from api.jobs.watch import View
from api.routes.common import RunningJobs, problems
from api.schemas import JobModel
from optimizer.store.models import ENDED

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
JobId = Annotated[str, Path(max_length=200, examples=["5f0c3f0b8f5e4a5f9d5d0a8f2f1c7b3e"])]
#: One event of the stream.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "id", "data")},
    "required": ["event", "id", "data"],
}
#: Seconds between two signs of life on a stream that has nothing to say.
HEARTBEAT_S = 15
#: Seconds for a client to take what it is sent; then it counts as gone.
_SEND_S = 30


@router.get("", response_model=list[JobModel], responses=problems(422, 503))
def jobs(jobs: RunningJobs, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> JSONResponse:
    """List the newest jobs, newest first."""
    return JSONResponse(jobs.list(limit))


@router.get("/{job_id}", response_model=JobModel, responses=problems(404, 503))
def job(job_id: JobId, jobs: RunningJobs) -> JSONResponse:
    """How a job is doing."""
    return JSONResponse(jobs.get(job_id))


@router.delete("/{job_id}", response_model=JobModel, responses={202: {"model": JobModel}, **problems(404, 503)})
def cancel(job_id: JobId, jobs: RunningJobs) -> JSONResponse:
    """Cancel a job: 200 with the job when it is over, now or before; 202 while the worker is ending it."""
    shown = jobs.cancel(job_id)
    return JSONResponse(shown, 200 if shown["state"] in ENDED else 202)


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {"description": "Events `progress` and at last `end`; each has the whole job as its data", "content": {
            "text/event-stream": {"schema": EVENT_SCHEMA}}},
        204: {"description": "The job is over, and the client has seen its end: do not connect again"},
        **problems(404, 429, 503),
    },
)  # fmt: skip
async def events(
    job_id: JobId,
    jobs: RunningJobs,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """Follow a job: how it is now, then every change, then its end (server-sent events)."""
    now = await run_in_threadpool(jobs.get, job_id)
    seen = int(last_event_id) if last_event_id is not None and last_event_id.isdecimal() else None
    if now["state"] in ENDED and seen is not None and seen >= now["version"]:
        return Response(status_code=204)  # tells a browser's EventSource to stop
    following = jobs.watch.follow(now, seen)
    return EventSourceResponse(_events(following), ping=HEARTBEAT_S, send_timeout=_SEND_S)


async def _events(following: AsyncIterator[View]) -> AsyncIterator[dict[str, Any]]:
    async for job in following:
        name = "end" if job["state"] in ENDED else "progress"
        yield {"event": name, "id": str(job["version"]), "data": json.dumps(job)}
