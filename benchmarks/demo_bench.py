"""Where the time of `make demo` goes, from nothing and again.

    python benchmarks/demo_bench.py [--skip-install] [--scale 1]

Copies the tree, installs it there as `make demo` does, and runs the demo twice in a data folder of its own. Then prints
seconds by phase: install, start (imports, and starting the servers), fill, clone, optimize, prove.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("install", "start", "fill", "clone", "optimize", "prove")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--skip-install", action="store_true", help="use this environment instead of a new one")
    parser.add_argument("--scale", type=float, default=1.0, help="as of `planproof demo`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        work = Path(folder)
        work.chmod(0o711)
        command, install = Path(sys.executable).parent / "planproof", 0.0
        if not arguments.skip_install:
            tree = work / "tree"
            _copy(tree)
            begin = time.perf_counter()
            _run(["make", "--silent", ".venv/.installed"], cwd=tree)
            install = time.perf_counter() - begin
            command = tree / ".venv" / "bin" / "planproof"
        home = work / "home"
        try:
            first = {"install": install} | _demo(command, home, arguments.scale)
            again = {"install": 0.0} | _demo(command, home, arguments.scale)
        finally:
            supervisor = Supervisor(Settings(home=home))
            supervisor.stop_all()
            supervisor.close()
    print(f"{'phase':<10}{'first, s':>10}{'again, s':>10}")
    for phase in PHASES:
        print(f"{phase:<10}{first[phase]:>10.1f}{again[phase]:>10.1f}")
    print(f"{'total':<10}{sum(first.values()):>10.1f}{sum(again.values()):>10.1f}")


def _copy(target: Path) -> None:
    """Copy what git would have in a clone, changes that are not committed included."""
    listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _demo(command: Path, home: Path, scale: float) -> dict[str, float]:
    """Run the demo; `start` is what no phase of it counts."""
    begin = time.perf_counter()
    printed = _run([command, "demo", "--json", "--scale", str(scale)], env={"PLANPROOF_HOME": str(home)})
    total = time.perf_counter() - begin
    answer: dict[str, Any] = json.loads(printed)
    wrong = [q["name"] for q in answer["queries"] if q["proof"] is None or not q["proof"]["same_rows"]]
    if wrong:
        sys.exit(f"no advice, or advice whose proof fails: {', '.join(wrong)}")
    seconds: dict[str, float] = answer["seconds"]
    return {"start": total - sum(seconds.values())} | seconds


def _run(command: list[Any], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
