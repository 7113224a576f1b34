"""What the routes share: the optimizer of the running application, and the problems every route may answer with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from api.jobs import Jobs
from api.problems import MEDIA_TYPE
from api.schemas import ProblemModel
from optimizer.pipeline import Optimizer


def _optimizer(request: Request) -> Optimizer:
    optimizer: Optimizer = request.app.state.optimizer
    return optimizer


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


RunningOptimizer = Annotated[Optimizer, Depends(_optimizer)]
RunningJobs = Annotated[Jobs, Depends(_jobs)]

_DESCRIPTIONS = {
    400: "The SQL does not parse, is not one statement, or was refused; or the body is not JSON",
    403: "A source that the settings do not allow",
    404: "No such shadow or job",
    413: "Too large",
    422: "A field is wrong",
    429: "Too many requests",
    503: "The shadow cannot be reached",
    504: "The time limit passed",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that a route may answer with."""
    schema = ProblemModel.model_json_schema()
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
