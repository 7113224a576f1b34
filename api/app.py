"""The HTTP application.

uvicorn --factory api.app:create_app        # or: planproof serve
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import openapi, problems, telemetry
from api.access import Access, AccessCheck
from api.admission import Admission
from api.answers import Answers
from api.body_limit import BodyLimit
from api.headers import SafeHeaders, new_request_id, proper_request_id
from api.jobs.queue import Jobs
from api.observed import Observed
from api.readiness import Readiness
from api.routes import jobs, page, queries, service, shadows
from api.settings import read_settings
from optimizer.cache.tiered import TieredCache
from optimizer.pipeline import Optimizer
from optimizer.services import Services
from optimizer.settings import Settings


def create_app(services: Services | None = None, *, hosts: Iterable[str] = ()) -> FastAPI:
    """Build the application.

    Parameters:
        services: the embedded clusters to use, left open at the end; None opens and closes one's own.
        hosts: names that the service goes by, beside those in the settings.

    Errors: `InputError` when the settings in the environment are wrong.
    """
    settings = services.settings if services is not None else read_settings()
    cache = TieredCache.of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = services if services is not None else await run_in_threadpool(Services.open, settings)
        app.state.optimizer = await run_in_threadpool(Optimizer, opened)
        app.state.admission = Admission(settings.max_running, settings.max_waiting)
        app.state.answers = await Answers.of(app.state.optimizer, app.state.admission, cache)
        app.state.jobs = Jobs(settings, opened.supervisor)
        app.state.readiness = Readiness(opened.supervisor)
        app.state.readiness.start()
        try:
            yield
        finally:
            await app.state.readiness.close()
            await run_in_threadpool(app.state.jobs.close)
            await run_in_threadpool(app.state.optimizer.close)
            await run_in_threadpool(cache.close)
            if services is None:
                await run_in_threadpool(opened.close)
            await run_in_threadpool(telemetry.flush)

    app = FastAPI(
        title="planproof",
        version=version("planproof"),
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )
    for part in (queries, shadows, jobs, service, page):
        app.include_router(part.router)
    _protect(app, settings, hosts)
    problems.install(app)
    openapi.install(app, keys=bool(settings.api_keys))
    telemetry.install(app)
    return app


def _protect(app: FastAPI, settings: Settings, hosts: Iterable[str]) -> None:
    """Put the middleware around the routes; the last one added is the outermost."""
    # JSON spells some characters with six, so that a schema at the limit arrives twice as large and more.
    app.add_middleware(BodyLimit, max_bytes=2 * (settings.max_schema_bytes + settings.max_sql_bytes))
    app.add_middleware(AccessCheck, access=Access.of(settings.api_keys, (*settings.allowed_hosts, *hosts)))
    app.add_middleware(SafeHeaders)
    app.add_middleware(Observed)
    app.add_middleware(CorrelationIdMiddleware, generator=new_request_id, validator=proper_request_id)
