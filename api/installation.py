"""A check at start: the four import names must be ours.

planproof's packages have generic names (`optimizer`, `rules`, `plugins`, `api`), which is why it is installed as an
application, in an environment of its own. Where it was not, another distribution's package may stand in for one of
ours, or its files may lie among ours; both would fail later, in confusing ways.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path

NAMES = ("api", "optimizer", "plugins", "rules")
_OURS = "planproof"
_OWNED = re.compile(rf"^({'|'.join(NAMES)})(?:/|\.py,)", re.MULTILINE)


#: A defect in the configuration (sysexits.h, EX_CONFIG).
_EXIT_STATUS = 78


class InstallationError(Exception):
    """planproof shares its environment with a distribution that takes one of its import names.

    Not a `PlanproofError`: where `optimizer` is a stranger's, that class cannot be imported.
    """

    def complain(self) -> int:
        """Print the message on standard error and return the exit status."""
        sys.stderr.write(f"planproof: {self}\n")
        return _EXIT_STATUS


def check_installation(root: Path | None = None, search: list[str] | None = None) -> None:
    """Make sure that no other distribution owns one of the import names.

    Parameters:
        root: the folder that holds our packages; by default this file's grandparent.
        search: folders that imports are looked for in; by default `sys.path`.

    Errors: `InstallationError` naming the package and, where known, the distribution.
    """
    root = root or Path(__file__).resolve().parent.parent
    for name in NAMES:
        spec = PathFinder.find_spec(name, search)
        folder = Path(spec.origin).resolve().parent.parent if spec is not None and spec.origin else None
        if folder != root:
            raise InstallationError(_message(name, f"the one in {folder or 'another place'}"))
    # Two distributions installed into one folder: the later one's files lie among the earlier one's.
    for distribution in distributions(path=[str(root)]):
        record = distribution.read_text("RECORD") or ""
        owned = _OWNED.search(record)
        if owned and distribution.name.lower() != _OURS:
            raise InstallationError(_message(owned[1], f"that of the distribution {distribution.name}"))


def _message(name: str, other: str) -> str:
    return (
        f"the package {name} is not planproof's but {other}: install planproof in an environment of its own, "
        "for instance with `pipx install planproof` or `uv tool install planproof`"
    )
