"""`planproof serve`: the HTTP service."""

from __future__ import annotations

import importlib
import socket
from typing import Annotated

import typer

from api.errors import AddressInUseError
from api.settings import read_settings
from api.terminal import complain


def serve(
    host: Annotated[str, typer.Option(metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65_535, help="Port; 0 takes a free one.")] = 8432,
) -> None:
    """Serve HTTP until interrupted. The API is described at /openapi.json and /docs.

    There is no authentication yet: beyond this machine, put it behind a proxy that has it.
    """
    read_settings()
    listener = _listen(host, port)
    # Only here, because the web framework takes longer to import than most commands run.
    uvicorn = importlib.import_module("uvicorn")
    app = importlib.import_module("api.app").create_app()
    address = listener.getsockname()
    shown = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    complain(f"listening on http://{shown}:{address[1]}")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise AddressInUseError(
            f"cannot listen on {host} port {port} ({error.strerror}): choose others with --host and --port"
        ) from None
