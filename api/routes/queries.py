"""POST /v1/optimize, /v1/equivalence, /v1/explain."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.routes.common import RunningOptimizer, problems
from api.schemas import (
    EquivalenceRequest,
    ExplainRequest,
    ExplanationModel,
    OptimizeRequest,
    ReportModel,
    VerdictModel,
)
from api.targets import check_measurable, target
from api.views import explanation_view
from optimizer.equivalence.verdict import Equivalence
from optimizer.pipeline import Options

router = APIRouter(prefix="/v1", tags=["queries"])
_PROBLEMS = problems(400, 404, 413, 422, 503, 504)


@router.post("/optimize", response_model=ReportModel, responses=_PROBLEMS)
def optimize(request: OptimizeRequest, optimizer: RunningOptimizer) -> JSONResponse:
    """Find proven advice for one query."""
    options = Options(
        disable=frozenset(request.disable),
        min_equivalence=Equivalence(request.min_equivalence),
        parameters=None if request.params is None else tuple(request.params),
        measure=request.measure,
        llm=request.llm,
        timeout_ms=request.timeout_ms,
    )
    with target(optimizer.services, request.shadow, request.schema_) as shadow:
        if request.measure:
            check_measurable(shadow)
        return JSONResponse(optimizer.optimize(request.sql, shadow, options).as_dict())


@router.post("/equivalence", response_model=VerdictModel, responses=_PROBLEMS)
def equivalence(request: EquivalenceRequest, optimizer: RunningOptimizer) -> JSONResponse:
    """Check whether two queries return the same rows; `refuted` and `unknown` are answers too, with status 200."""
    with target(optimizer.services, request.shadow, request.schema_) as shadow:
        verdict = optimizer.equivalent(request.left, request.right, shadow.ddl(), request.timeout_ms)
        return JSONResponse(verdict.as_dict())


@router.post("/explain", response_model=ExplanationModel, responses=_PROBLEMS)
def explain(request: ExplainRequest, optimizer: RunningOptimizer) -> JSONResponse:
    """Plan one query with hypothetical indexes."""
    with target(optimizer.services, request.shadow, request.schema_) as shadow:
        return JSONResponse(explanation_view(optimizer.explain(request.sql, shadow, request.indexes)))
