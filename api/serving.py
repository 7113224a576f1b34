"""One HTTP process of `planproof serve`: python -P -m api.serving DESCRIPTOR GRACE_S [HOST NAME]...

The socket is inherited, already listening.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading

import uvicorn

from api import logs
from api.app import create_app
from api.errors import problem_of
from api.protocol import KEEP_ALIVE_S, MAX_HEAD_BYTES, TimedProtocol
from api.settings import read_settings
from api.terminal import complain
from optimizer.errors import PlanproofError

#: Connections that one process serves; descriptors permitting.
MAX_CONNECTIONS = 1_000
_OTHER_FILES = 200
#: Work is done on threads. The event loop gets its turn this often instead of every 5 ms, so that it answers promptly.
SWITCH_INTERVAL_S = 0.000_5


def main() -> None:
    """Serve until SIGTERM; the process's exit status is 0 then."""
    descriptor, grace_s, *hosts = sys.argv[1:]
    # Until uvicorn handles signals there is nothing to finish; it hands them on once it has stopped, when all is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _end_with_parent()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings = read_settings()
    logs.configure(settings)
    config = uvicorn.Config(
        create_app(hosts=hosts),
        http=TimedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=_connections(),
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


def _connections() -> int:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(16, min(MAX_CONNECTIONS, (files - _OTHER_FILES) // 2))


def _end_with_parent() -> None:
    """Stop gracefully once the parent is gone: it holds the other end of our standard input."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="planproof-parent", daemon=True).start()


def run() -> int:
    """Serve, and return the exit status; an error is one line."""
    try:
        main()
    except PlanproofError as error:
        complain(str(error))
        return problem_of(error).exit_status
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


if __name__ == "__main__":
    status = run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads whose requests outlasted the grace period may still be working for somebody who is gone.
    os._exit(status)
