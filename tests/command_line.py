"""Runs the installed `planproof` command as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "planproof"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    """What one run left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def failed(self, status: int) -> str:
        """Check that it failed as every error must: the right status, one line on stderr. Returns that line."""
        assert self.status == status, (self.status, self.stdout, self.stderr)
        assert "Traceback" not in self.stderr
        assert self.stderr.startswith("planproof: "), self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        assert self.stdout == ""
        return self.stderr.removeprefix("planproof: ").rstrip("\n")


def planproof(
    *arguments: str | Path,
    home: Path,
    stdin: str | bytes = b"",
    env: dict[str, str] | None = None,
    timeout_s: float = 120,
) -> Outcome:
    """Run `planproof` with a data folder of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PLANPROOF_", "PG"))}
    done = subprocess.run(
        [COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        check=False,
        timeout=timeout_s,
        env=clean | {"PLANPROOF_HOME": str(home), "PLANPROOF_CLUSTER_LINGER_S": "10"} | (env or {}),
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
