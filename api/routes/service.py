"""GET /v1/rules, /healthz, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api import metrics as figures
from api.routes.common import RunningAdmission, RunningJobs, RunningOptimizer, RunningReadiness, problems
from api.schemas import HealthModel, ReadyModel, RuleModel
from api.views import rule_view

router = APIRouter(tags=["service"])


@router.get("/v1/rules", response_model=list[RuleModel])
async def rules(optimizer: RunningOptimizer) -> JSONResponse:
    """All rules, those of plugins included."""
    return JSONResponse([rule_view(rule) for rule in optimizer.rules])


@router.get("/healthz", response_model=HealthModel)
async def healthz() -> JSONResponse:
    """The process answers; nothing else is asked. Needs no key."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", response_model=ReadyModel, responses=problems(503))
async def readyz(readiness: RunningReadiness, jobs: RunningJobs) -> JSONResponse:
    """The embedded clusters run, or could be started; 503 while the service is starting them. Needs no key.

    A service whose store of jobs is away is ready all the same: queries need none. `jobs` says how it was found last.
    """
    await readiness.check()
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
