"""Makes locales of the C library that a source has and this machine lacks, where the machine can make any.

`localedef` compiles them from the sources in /usr/share/i18n (Debian's package `locales`, `glibc-locale-source`
elsewhere) into a folder beside a cluster's data, and the server finds them there by LOCPATH. Nothing of the machine's
own is changed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimizer.collations import libc_language

if TYPE_CHECKING:
    from optimizer.shadow.server.cluster import Cluster

_SOURCES: Final = Path("/usr/share/i18n/locales")
_PROGRAM: Final = Path("/usr/bin/localedef")
_FOLDER: Final = "locale"
_TIMEOUT_S: Final = 60.0
#: Most locales that one source makes us compile, at one or two seconds each.
_MOST: Final = 8
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}_[A-Z]{2}(@[a-z]{2,12})?")


def locale_environment(cluster_folder: Path) -> dict[str, str]:
    """Environment by which a server finds the locales that were made for it; nothing where none can be made.

    With LOCPATH the C library no longer looks into the machine's archive of locales, so those it holds are made, too.

    Parameters:
        cluster_folder: of the cluster, which holds its data folder.
    """
    return {"LOCPATH": str(cluster_folder / _FOLDER)} if _can_make() else {}


def provide_locales(cluster: Cluster, wanted: Iterable[tuple[str, str]]) -> None:
    """Make locales for a cluster; those that cannot be made are left out, and the server then refuses them.

    Parameters:
        cluster: a running one.
        wanted: providers and names of locales, as a source calls them; the names may be anything. Those of ICU are
            only made where the server has no ICU.
    """
    languages = {language: provider for provider, name in wanted if (language := libc_language(name)) is not None}
    if not languages or not _can_make():
        return
    if set(languages.values()) != {"libc"} and _has_icu(cluster):
        languages = {language: provider for language, provider in languages.items() if provider == "libc"}
    folder = cluster.home.parent / _FOLDER
    for language in list(languages)[:_MOST]:
        if _LANGUAGE.fullmatch(language) and (_SOURCES / language).is_file():
            # The C library looks a locale up by its codeset's plain spelling.
            place = folder / f"{language.partition('@')[0]}.utf8{''.join(language.partition('@')[1:])}"
            if not place.is_dir():
                _make(language, place)


def _can_make() -> bool:
    return _PROGRAM.is_file() and _SOURCES.is_dir()


def _has_icu(cluster: Cluster) -> bool:
    """A server without has just the one that every catalog is made with."""
    with cluster.connect() as admin:
        query = "SELECT FROM pg_collation WHERE collprovider = 'i' AND collname LIKE '%-x-icu' LIMIT 1"
        return admin.execute(query).fetchone() is not None


def _make(language: str, place: Path) -> None:
    """Compile one locale, beside its place first: another process may be at it, or read it."""
    place.parent.mkdir(mode=0o755, exist_ok=True)
    place.parent.chmod(0o755)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
    try:
        made = making / place.name
        # It ends with 1 when it only warned; what counts is whether the order of text is there.
        subprocess.run(  # noqa: S603 - a program of the system's, no shell, and a name that was checked
            [_PROGRAM, "--no-archive", "--quiet", "-i", language, "-f", "UTF-8", str(made)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
        if (made / "LC_COLLATE").is_file():
            for path in (made, *made.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            if not place.exists():
                made.rename(place)
    except (OSError, subprocess.TimeoutExpired):
        return  # as if the machine could not make it
    finally:
        shutil.rmtree(making, ignore_errors=True)
