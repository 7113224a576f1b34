"""What the routes share: parts of the running application, and the problems that routes may answer with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from api.admission import Admission
from api.answers import Answers
from api.jobs.queue import Jobs
from api.problems import MEDIA_TYPE
from api.readiness import Readiness
from optimizer.pipeline import Optimizer


def _optimizer(request: Request) -> Optimizer:
    optimizer: Optimizer = request.app.state.optimizer
    return optimizer


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def _answers(request: Request) -> Answers:
    answers: Answers = request.app.state.answers
    return answers


def _admission(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


RunningOptimizer = Annotated[Optimizer, Depends(_optimizer)]
RunningAnswers = Annotated[Answers, Depends(_answers)]
RunningJobs = Annotated[Jobs, Depends(_jobs)]
RunningAdmission = Annotated[Admission, Depends(_admission)]
RunningReadiness = Annotated[Readiness, Depends(_readiness)]

_DESCRIPTIONS = {
    400: "The SQL does not parse, is not one statement, or was refused; or the body is not JSON",
    401: "No key, or a wrong one",
    403: "A source that the settings do not allow",
    404: "No such shadow or job",
    408: "The body took too long to arrive",
    409: "Not possible in the present state",
    413: "Too large",
    415: "The body is not JSON",
    421: "Sent to a host name that is not the service's",
    422: "A field is wrong",
    429: "Too many requests: the header Retry-After says when to try again",
    500: "A defect of planproof",
    503: "The shadow cannot be reached, or the service is overloaded or stopping",
    504: "The time limit passed",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that a route may answer with, beside those that every route may."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}}},
        }
        for status in statuses
    }
