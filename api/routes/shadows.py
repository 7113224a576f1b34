"""/v1/shadows and the jobs that make them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse

from api.jobs import Work
from api.routes.common import RunningJobs, RunningOptimizer, problems
from api.schemas import JobModel, JobStartedModel, ShadowDetailModel, ShadowModel, ShadowRequest
from api.sources import allowed_dsn
from api.views import readable_records, record_view, shadow_view
from optimizer.errors import InputError, TooLargeError
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.registry import check_name

router = APIRouter(prefix="/v1", tags=["shadows"])
Name = Annotated[str, Path(max_length=200, examples=["production"])]


@router.post("/shadows", status_code=202, response_model=JobStartedModel, responses=problems(403, 413, 422, 429))
def add(request: ShadowRequest, optimizer: RunningOptimizer, jobs: RunningJobs) -> JSONResponse:
    """Make a shadow in the background. DSNs may only name hosts that an operator has listed."""
    settings = optimizer.settings
    check_name(request.name)
    work = _work(request, optimizer.services, settings)
    return JSONResponse({"job": jobs.start(work)}, 202)


def _work(request: ShadowRequest, services: Services, settings: Settings) -> Work:
    """Check the request as far as that goes without a server, and say what the job does."""
    name, schema, stats = request.name, request.schema_, request.stats
    if sum(given is not None for given in (request.from_, schema, request.attach)) != 1:
        raise InputError("give exactly one of from, schema and attach")
    if stats is not None and schema is None:
        raise InputError("stats goes with schema")
    if schema is not None:
        if max(len(schema), len(stats or "")) > settings.max_schema_bytes:
            raise TooLargeError(f"the schema is larger than {settings.max_schema_bytes:,} bytes: send less")
        return lambda _: services.add_files(name, schema, stats)
    if request.attach is not None:
        attach = allowed_dsn(request.attach, settings.allow_http_sources)
        return lambda _: services.add_attached(name, attach)
    source = allowed_dsn(request.from_ or "", settings.allow_http_sources)
    return lambda progress: services.add_hollow(name, source, progress=progress)


@router.get("/shadows", response_model=list[ShadowModel])
def shadows(optimizer: RunningOptimizer) -> JSONResponse:
    """List all shadows; a damaged one is left out and logged."""
    return JSONResponse([record_view(record) for record in readable_records(optimizer.services.registry)])


@router.get("/shadows/{name}", response_model=ShadowDetailModel, responses=problems(404, 422, 503))
def show(name: Name, optimizer: RunningOptimizer) -> JSONResponse:
    """Show one shadow and its tables."""
    services = optimizer.services
    return JSONResponse(shadow_view(services.registry.get(name), services.shadow(name)))


@router.delete("/shadows/{name}", status_code=204, responses=problems(404, 422, 503))
def drop(name: Name, optimizer: RunningOptimizer) -> Response:
    """Forget a shadow; its source is not touched."""
    optimizer.services.drop(name)
    return Response(status_code=204)


@router.get("/jobs/{job_id}", response_model=JobModel, responses=problems(404))
def job(job_id: Annotated[str, Path(max_length=200)], jobs: RunningJobs) -> JSONResponse:
    """How a job is doing."""
    return JSONResponse(jobs.get(job_id))
