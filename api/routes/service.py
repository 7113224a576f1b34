"""GET /v1/rules, /healthz, /readyz."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.routes.common import RunningOptimizer, problems
from api.schemas import HealthModel, RuleModel
from api.views import rule_view
from optimizer.shadow.cluster import ClusterKind

router = APIRouter(tags=["service"])


@router.get("/v1/rules", response_model=list[RuleModel])
def rules(optimizer: RunningOptimizer) -> JSONResponse:
    """All rules, those of plugins included."""
    return JSONResponse([rule_view(rule) for rule in optimizer.rules])


@router.get("/healthz", response_model=HealthModel)
async def healthz() -> JSONResponse:
    """The process answers; nothing else is asked."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", response_model=HealthModel, responses=problems(503))
def readyz(optimizer: RunningOptimizer) -> JSONResponse:
    """The embedded clusters run, or could be started."""
    for kind in (ClusterKind.HOLLOW, ClusterKind.SCRATCH):
        optimizer.services.supervisor.cluster(kind).connect().close()
    return JSONResponse({"status": "ok"})
