"""GET /v1/rules, /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api import metrics as figures
from api.routes.common import RunningAdmission, RunningJobs, RunningOptimizer, problems
from api.schemas import HealthModel, ReadyModel, RuleModel
from api.views import rule_view
from optimizer.errors import ShadowUnavailableError
from optimizer.pipeline import Optimizer
from optimizer.shadow.cluster import ClusterKind

router = APIRouter(tags=["service"])

#: A probe that takes longer has its answer.
PROBE_TIMEOUT_S = 5.0


@router.get("/v1/rules", response_model=list[RuleModel])
async def rules(optimizer: RunningOptimizer) -> JSONResponse:
    """All rules, those of plugins included."""
    return JSONResponse([rule_view(rule) for rule in optimizer.rules])


@router.get("/healthz", response_model=HealthModel)
async def healthz() -> JSONResponse:
    """The process answers; nothing else is asked. Needs no key."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", response_model=ReadyModel, responses=problems(503))
async def readyz(optimizer: RunningOptimizer, admission: RunningAdmission, jobs: RunningJobs) -> JSONResponse:
    """The embedded clusters run, or could be started. Needs no key.

    A service whose store of jobs is away is ready all the same: queries need none. `jobs` says how it was found last.
    """
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await admission.probe(partial(_connect, optimizer))
    except TimeoutError:
        raise ShadowUnavailableError(
            f"the embedded servers do not answer within {PROBE_TIMEOUT_S:g} s: look at the service's log"
        ) from None
    return JSONResponse({"status": "ok", "jobs": jobs.store.state})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"}},
)
async def metrics(admission: RunningAdmission, jobs: RunningJobs) -> Response:
    """Figures of all worker processes, for Prometheus. Needs a key where keys are set."""
    await admission.probe(jobs.observe)
    text = await admission.probe(figures.exposition)
    return Response(text, media_type=figures.CONTENT_TYPE_LATEST)


def _connect(optimizer: Optimizer) -> None:
    for kind in (ClusterKind.HOLLOW, ClusterKind.SCRATCH):
        optimizer.services.supervisor.cluster(kind).connect().close()
