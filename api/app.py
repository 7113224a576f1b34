"""The HTTP application.

uvicorn --factory api.app:create_app        # or: planproof serve
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import problems
from api.body_limit import BodyLimit
from api.jobs import Jobs
from api.routes import queries, service, shadows
from api.settings import read_settings
from optimizer.pipeline import Optimizer
from optimizer.services import Services

_DESCRIPTION = """\
Proven advice for slow PostgreSQL queries. Every candidate is planned on a shadow database and compared with the
original; every rewrite is checked to return the same rows. Errors are problem details (RFC 9457).
"""


def create_app(services: Services | None = None) -> FastAPI:
    """Build the application.

    Parameters:
        services: the embedded clusters to use, left open at the end; None opens and closes one's own.

    Errors: `InputError` when the settings in the environment are wrong.
    """
    settings = services.settings if services is not None else read_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = services if services is not None else await run_in_threadpool(Services.open, settings)
        app.state.optimizer = await run_in_threadpool(Optimizer, opened)
        app.state.jobs = Jobs()
        try:
            yield
        finally:
            await run_in_threadpool(app.state.jobs.close)
            await run_in_threadpool(app.state.optimizer.close)
            if services is None:
                await run_in_threadpool(opened.close)

    app = FastAPI(
        title="planproof", version=version("planproof"), description=_DESCRIPTION, lifespan=lifespan, redoc_url=None
    )
    for part in (queries, shadows, service):
        app.include_router(part.router)
    # JSON spells some characters with six, so that a schema at the limit arrives twice as large and more.
    app.add_middleware(BodyLimit, max_bytes=2 * (settings.max_schema_bytes + settings.max_sql_bytes))
    problems.install(app)
    return app
