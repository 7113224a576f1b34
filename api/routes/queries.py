"""POST /v1/optimize, /v1/equivalence, /v1/explain."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from api.admission import while_connected
from api.answers import Answer, Answers
from api.errors import ClientGoneError
from api.logs import note
from api.metrics import observe_verdict
from api.routes.bodies import LargeBodyRoute
from api.routes.common import RunningAdmission, RunningAnswers, RunningOptimizer, problems
from api.schemas import (
    EquivalenceRequest,
    ExplainRequest,
    ExplanationModel,
    OptimizeRequest,
    ReportModel,
    VerdictModel,
)
from api.targets import target
from api.views import explanation_view
from optimizer.pipeline import Optimizer

_JSON = "application/json"


class RecallingRoute(LargeBodyRoute):
    """Answers a body that was answered before out of memory, before anything reads it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the look into memory before the framework's own handler."""
        handler = super().get_route_handler()

        async def recalling(request: Request) -> Response:
            answers: Answers = request.app.state.answers
            try:
                body = await request.body()
            except ClientDisconnect:
                raise ClientGoneError from None
            known = answers.recall(body, _content_type(request))
            if known is None:
                return await handler(request)
            return _answered(request, known)

        return recalling


router = APIRouter(prefix="/v1", tags=["queries"], route_class=LargeBodyRoute)
_PROBLEMS = problems(400, 404, 413, 422, 429, 503, 504)


async def optimize(request: OptimizeRequest, http: Request, answers: RunningAnswers) -> Response:
    """Find proven advice for one query; `cached` says that it was found for an earlier request, or another's."""
    answer = await while_connected(http, answers.answer(request, await http.body(), _content_type(http)))
    return _answered(http, answer)


router.add_api_route(
    "/optimize",
    optimize,
    methods=["POST"],
    response_model=ReportModel,
    responses=_PROBLEMS,
    route_class_override=RecallingRoute,
)


@router.post("/equivalence", response_model=VerdictModel, responses=_PROBLEMS)
async def equivalence(
    request: EquivalenceRequest, http: Request, optimizer: RunningOptimizer, admission: RunningAdmission
) -> JSONResponse:
    """Check whether two queries return the same rows; `refuted` and `unknown` are answers too, with status 200."""
    work = partial(_judge, optimizer, request)
    verdict = await while_connected(http, admission.run(work, optimizer.settings.optimize_timeout_ms))
    observe_verdict(verdict)
    return JSONResponse(verdict)


@router.post("/explain", response_model=ExplanationModel, responses=_PROBLEMS)
async def explain(
    request: ExplainRequest, http: Request, optimizer: RunningOptimizer, admission: RunningAdmission
) -> JSONResponse:
    """Plan one query with hypothetical indexes."""
    work = partial(_plan, optimizer, request)
    return JSONResponse(await while_connected(http, admission.run(work, optimizer.settings.optimize_timeout_ms)))


def _answered(request: Request, answer: Answer) -> Response:
    note(request.scope, cache=answer.origin, cached=answer.cached, advice=answer.advice)
    return Response(answer.body, media_type=_JSON)


def _judge(optimizer: Optimizer, request: EquivalenceRequest, _left_ms: float) -> dict[str, Any]:
    with target(optimizer.services, request.shadow, request.schema_) as shadow:
        return optimizer.equivalent(request.left, request.right, shadow.ddl(), request.timeout_ms).as_dict()


def _plan(optimizer: Optimizer, request: ExplainRequest, _left_ms: float) -> dict[str, Any]:
    with target(optimizer.services, request.shadow, request.schema_) as shadow:
        return explanation_view(optimizer.explain(request.sql, shadow, request.indexes))


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "")
