"""`planproof worker` with shorter waits: as a script, so that it can be killed as the real one can."""

from __future__ import annotations

import sys

from api.commands import application
from api.jobs import attempt, worker

worker.HEARTBEAT_S, worker.STALLED_S = 0.5, 4.0
attempt.RETRY_AFTER_S = (0, 1)

if __name__ == "__main__":
    sys.exit(application.run())
