"""/v1/shadows: the databases that queries are planned on. Jobs make them (`api/jobs`)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse

from api.jobs.tasks import ADD_SHADOW, REFRESH_SHADOW
from api.routes.bodies import LargeBodyRoute
from api.routes.common import RunningAdmission, RunningJobs, RunningOptimizer, problems
from api.schemas import CloneRequest, JobStartedModel, ShadowDetailModel, ShadowModel, ShadowRequest
from api.sources import allowed_dsn
from api.views import readable_records, record_view, shadow_view
from optimizer.errors import InputError, TooLargeError
from optimizer.settings import Settings
from optimizer.shadow.registry import check_name
from optimizer.shadow.template.clone_options import CloneOptions

router = APIRouter(prefix="/v1", tags=["shadows"], route_class=LargeBodyRoute)
Name = Annotated[str, Path(max_length=200, examples=["production"])]


@router.post("/shadows", status_code=202, response_model=JobStartedModel, responses=problems(403, 413, 422, 429, 503))
def add(request: ShadowRequest, optimizer: RunningOptimizer, jobs: RunningJobs) -> JSONResponse:
    """Make a shadow in the background. DSNs may only name hosts that an operator has listed."""
    check_name(request.name)
    asked = {"name": request.name, **_source(request, optimizer.settings)}
    return _started(jobs.add(ADD_SHADOW, request.name, asked))


@router.post(
    "/shadows/{name}/refresh", status_code=202, response_model=JobStartedModel, responses=problems(404, 422, 429, 503)
)
def refresh(
    name: Name, optimizer: RunningOptimizer, jobs: RunningJobs, request: CloneRequest | None = None
) -> JSONResponse:
    """Read a shadow's server again, in the background: as before, or from now on as the body says."""
    record = optimizer.services.registry.get(name)
    options = request.clone_options if request is not None else {}
    if options and record.kind != "hollow":
        raise InputError("redact_statistics, only_readable and role go with hollow clones")
    record.options.changed(**options)
    return _started(jobs.add(REFRESH_SHADOW, name, {"name": name, "options": options}))


def _source(request: ShadowRequest, settings: Settings) -> dict[str, Any]:
    """Check the request as far as that goes without a server, and say what the shadow is made from."""
    schema, stats = request.schema_, request.stats
    if sum(given is not None for given in (request.from_, schema, request.attach)) != 1:
        raise InputError("give exactly one of from, schema and attach")
    if stats is not None and schema is None:
        raise InputError("stats goes with schema")
    if request.clone_options and request.from_ is None:
        raise InputError("redact_statistics, only_readable and role go with from")
    if schema is not None:
        if max(len(schema), len(stats or "")) > settings.max_schema_bytes:
            raise TooLargeError(f"the schema is larger than {settings.max_schema_bytes:,} bytes: send less")
        return {"schema": schema} | ({} if stats is None else {"stats": stats})
    if request.attach is not None:
        return {"attach": allowed_dsn(request.attach, settings.allow_http_sources)}
    CloneOptions().changed(**request.clone_options)
    source = allowed_dsn(request.from_ or "", settings.allow_http_sources)
    return {"from": source, "options": request.clone_options}


def _started(job_id: str) -> JSONResponse:
    return JSONResponse({"job": job_id}, 202, {"Location": f"/v1/jobs/{job_id}"})


@router.get("/shadows", response_model=list[ShadowModel])
def shadows(optimizer: RunningOptimizer) -> JSONResponse:
    """List all shadows; a damaged one is left out and logged."""
    return JSONResponse([record_view(record) for record in readable_records(optimizer.services.registry)])


@router.get("/shadows/{name}", response_model=ShadowDetailModel, responses=problems(404, 422, 429, 503, 504))
async def show(name: Name, optimizer: RunningOptimizer, admission: RunningAdmission) -> JSONResponse:
    """Show one shadow and its tables."""
    services = optimizer.services

    def view(_left_ms: float) -> dict[str, Any]:
        return shadow_view(services.registry.get(name), services.shadow(name))

    return JSONResponse(await admission.run(view, optimizer.settings.optimize_timeout_ms))


@router.delete("/shadows/{name}", status_code=204, responses=problems(404, 422, 429, 503, 504))
async def drop(name: Name, optimizer: RunningOptimizer, admission: RunningAdmission) -> Response:
    """Forget a shadow; its source is not touched."""
    await admission.run(lambda _left_ms: optimizer.services.drop(name), optimizer.settings.optimize_timeout_ms)
    return Response(status_code=204)
