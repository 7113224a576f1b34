"""`planproof serve`: the HTTP service."""

from __future__ import annotations

import importlib
import ipaddress
import os
import resource
import socket
import sys
from typing import Annotated, Any

import typer

from api.errors import AddressInUseError
from api.settings import read_settings
from optimizer.errors import InputError
from optimizer.settings import Settings

_BACKLOG = 1_024
_MOST_FILES = 65_536


def serve(
    host: Annotated[str, typer.Option(metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65_535, help="Port; 0 takes a free one.")] = 8432,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Processes that answer requests.")] = 1,
    grace: Annotated[
        int, typer.Option(metavar="S", min=0, max=3_600, help="Seconds that running requests may take at the end.")
    ] = 30,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Leave the jobs to `planproof worker`, run by somebody else.")
    ] = False,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Serve other machines although no API keys are set.")
    ] = False,
) -> None:
    """Serve HTTP until interrupted. The page for people is at /, the API is described at /openapi.json.

    Other machines are served only where PLANPROOF_API_KEYS holds keys. SIGTERM ends the service when running requests
    are done; SIGHUP puts a fresh process in the place of each.
    """
    settings = read_settings()
    listener = _listen(host, port)
    _check_exposure(listener, settings, allow_anonymous)
    # Only here, because the web framework takes longer to import than most commands run.
    importlib.import_module("api.telemetry").check()
    importlib.import_module("api.access").Access.of(settings.api_keys, settings.allowed_hosts)
    importlib.import_module("optimizer.cache.tiered").TieredCache.of(settings)
    logs = importlib.import_module("api.logs")
    crew = importlib.import_module("api.crew")
    logs.configure(settings)
    _raise_file_limit()
    with importlib.import_module("api.run_folder").run_folder(settings.home) as run:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(run.figures)  # before the library is imported
        gone = importlib.import_module("api.metrics").forget_process
        programs = _programs(listener, run.lock, workers, grace, _names(host), with_worker=not no_worker)
        logs.logger("planproof.serve").info(f"listening on {_url(listener)}")
        status = crew.Crew(programs, grace, gone, stopping=listener.close).run()
    if status:
        raise typer.Exit(status)


def _programs(
    listener: socket.socket, lock: int, workers: int, grace: int, names: tuple[str, ...], *, with_worker: bool
) -> list[Any]:
    crew = importlib.import_module("api.crew")
    inherited = (listener.fileno(), lock)
    command = (sys.executable, "-P", "-m", "api.serving", str(listener.fileno()), str(grace), *names)
    programs = [crew.Program(f"http-{number}", command, inherited) for number in range(1, workers + 1)]
    if with_worker:
        worker = (sys.executable, "-P", "-m", "api.cli", "worker", f"--grace={grace}", "--until-eof")
        programs.append(crew.Program("worker", worker, (lock,), essential=False))
    return programs


def _url(listener: socket.socket) -> str:
    address = listener.getsockname()
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # Python's words hold the address a second time; those for names have numbers of their own.
        said = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise AddressInUseError(
            f"cannot listen on {host} port {port} ({said}): choose others with --host and --port"
        ) from None


def _check_exposure(listener: socket.socket, settings: Settings, allow_anonymous: bool) -> None:
    """Refuse to serve other machines without keys, unless told so.

    Errors: `InputError`.
    """
    address = listener.getsockname()[0]
    if settings.api_keys or allow_anonymous or ipaddress.ip_address(address).is_loopback:
        return
    raise InputError(
        f"{address} can be reached from other machines and no keys are set: set PLANPROOF_API_KEYS, or allow everybody "
        "with --allow-anonymous"
    )


def _names(host: str) -> tuple[str, ...]:
    """The names that `--host` itself gives the service."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return (host,)
    return ()


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
