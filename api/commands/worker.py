"""`planproof worker`: runs the jobs of the service."""

from __future__ import annotations

import asyncio
import importlib
from typing import Annotated

import typer

from api.settings import read_settings


def worker(
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", min=1, max=64, help="Jobs at once.", show_default="2"),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="S", min=0, max=3_600, help="Seconds that running jobs get at the end.")
    ] = 20,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="Stop when standard input ends.", hidden=True)] = False,
) -> None:
    """Run queued jobs, such as clones that were asked for over HTTP, until interrupted.

    `planproof serve` has a worker of its own unless told `--no-worker`. At SIGTERM the running jobs get some seconds;
    what is not done by then is begun anew by the next worker. A second SIGTERM ends them at once.
    """
    settings = read_settings()
    # Only here, because these take longer to import than most commands run.
    importlib.import_module("api.logs").configure(settings)
    work = importlib.import_module("api.jobs.worker").work
    asyncio.run(work(settings, jobs or settings.job_concurrency, grace, until_eof=until_eof))
