"""The laid-out files of a template, kept once and linked into each of its copies.

CREATE DATABASE copies every file of its template, and makes sparse files real. So a hollow template keeps its catalogs
only. The files of its tables and indexes are laid out once, while nobody is connected and no page of them is in a
buffer, and set aside in a folder of their own; a copy gets each of them as a hard link, whatever its size.

    <data>/planproof_files/OID/FILE     of the template with that OID; the names are those in `base/OID`

No server ever writes to them. Nobody executes anything in a hollow copy; DROP DATABASE unlinks; hypothetical indexes
are files of the copy's own; and recovery after a crash begins with removing and copying again what it would write to.
The exception is a function of the schema's that runs while an index on an expression is made: it has all rights of the
tables' owner. A session in which that may happen gets a copy with files of its own (`own`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.errors import ShadowUnavailableError
from optimizer.shadow.pages.skeleton import BLOCK_BYTES, without_height
from optimizer.shadow.pages.storage import Layout, apply_shape
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.server.orphans import SET_ASIDE

_REMOVED: Final = ".removed"
_CHUNK: Final = 1 << 20

# Nothing that is planned reads a TOAST table. Their files would be a third of all.
_TOAST: Final[LiteralString] = """
SELECT f.relfilenode::int8
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.reltoastrelid
  JOIN pg_catalog.pg_class f ON f.oid IN (c.reltoastrelid, i.indexrelid)
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""


@dataclass(frozen=True, slots=True)
class Laid:
    """The laid-out files of a template that another one was copied from."""

    template_oid: int
    layout: Layout


def set_aside(cluster: Cluster, superuser: psycopg.Connection[Any], layout: Layout, before: Laid | None = None) -> None:
    """Lay out the files of a template and take them out of it.

    Parameters:
        superuser: a connection to the template, in which nobody changes anything from now on.
        layout: of that template.
        before: where it was copied from, if so: it has no files of its own, and what has not changed is shared.

    Errors: `psycopg.Error`; `ShadowUnavailableError`.
    """
    with superuser.cursor(row_factory=tuple_row) as cursor:
        ((oid,),) = cursor.execute(
            "SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
        ).fetchall()
        toast = {str(row[0]) for row in cursor.execute(_TOAST)}
        cursor.execute("CHECKPOINT")  # afterwards no dirty buffer is left that would be written to one of the files
    laid_out = {str(file.relfilenode) for file in layout.files}
    source, target = cluster.home / "base" / str(oid), _folder(cluster, oid)
    changed = layout
    if before is not None:
        known = frozenset(before.layout.files)
        changed = replace(layout, files=tuple(file for file in layout.files if file not in known))
        with _failing("made again"):
            for file in changed.files:
                _as_made(cluster, _folder(cluster, before.template_oid), source, str(file.relfilenode))
    apply_shape(cluster, oid, changed)
    with _failing("set aside"):
        remove(cluster, oid)
        _make_folder(cluster, target)
        for name in os.listdir(source):  # noqa: PTH208 - Path objects would take as long as the work itself
            number = _number(name)
            if number in laid_out and not name.endswith("_init"):
                (source / name).rename(target / name)
            elif number in toast and not name.endswith("_init"):
                (source / name).unlink()
        if before is not None:
            alike = laid_out - {str(file.relfilenode) for file in changed.files}
            _share(cluster, _folder(cluster, before.template_oid), target, alike)


def _share(cluster: Cluster, source: Path, target: Path, numbers: Container[str]) -> None:
    """Link the files with some numbers from one folder into another."""
    with _opened(source) as original, _opened(target) as copy:
        for name in os.listdir(source):  # noqa: PTH208 - as above
            if _number(name) in numbers and not _link(name, original, copy):
                _copy(cluster, source / name, target / name)


def _as_made(cluster: Cluster, laid_out: Path, folder: Path, name: str) -> None:
    """Make a relation's file again as it was before it was laid out: a table's empty, an index's with its first pages.

    The pages of other indexes than B-trees are overwritten when they are laid out, or as they were.
    """
    source = laid_out / name
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with source.open("rb", buffering=0) as original, os.fdopen(descriptor, "wb", buffering=0) as made:
        first = original.read(BLOCK_BYTES)
        try:
            made.write(without_height(first))
        except ValueError:
            for start, end in _extents(original.fileno(), os.fstat(original.fileno()).st_size):
                os.pwrite(made.fileno(), os.pread(original.fileno(), end - start, start), start)
    cluster.chown(folder / name)


def put_in_place(cluster: Cluster, template_oid: int, copy_oid: int, *, own: bool = False) -> None:
    """Give a fresh copy of a template its laid-out files. Nobody may have connected to the copy yet.

    Parameters:
        own: the copy's files are to be its own, not links.

    Errors: `ShadowUnavailableError`, also when the template is dropped meanwhile.
    """
    folder, copy = _folder(cluster, template_oid), cluster.home / "base" / str(copy_oid)
    with _failing("put in place"), _opened(folder) as source, _opened(copy) as target:
        for name in os.listdir(source):  # noqa: PTH208 - as above
            if own or not _link(name, source, target):
                _copy(cluster, folder / name, copy / name)
        if not os.path.samestat(os.fstat(source), folder.stat()):  # else the list may have been cut short
            raise FileNotFoundError(0, "the shadow was refreshed or dropped meanwhile: try again")


def disk_bytes(cluster: Cluster, template_oid: int) -> int:
    """Disk space that the laid-out files of a template take; 0 where there are none."""
    folder = _folder(cluster, template_oid)
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_blocks * 512 for entry in entries)


def is_set_aside(cluster: Cluster, template_oid: int) -> bool:
    """Whether the files of a template are there."""
    return _folder(cluster, template_oid).is_dir()


def remove(cluster: Cluster, template_oid: int) -> None:
    """Delete the files of a template, if there are any; links to them stay."""
    folder = _folder(cluster, template_oid)
    doomed = folder.with_name(f"{folder.name}{_REMOVED}")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.is_dir():
        folder.rename(doomed)  # whoever is at it sees that at once
        shutil.rmtree(doomed, ignore_errors=True)


def _number(name: str) -> str:
    """The relation's number in the name of any of its files."""
    return name.partition("_")[0].partition(".")[0]


def _folder(cluster: Cluster, template_oid: int) -> Path:
    return cluster.home / SET_ASIDE / str(template_oid)


def _make_folder(cluster: Cluster, folder: Path) -> None:
    for each in (folder.parent, folder):
        if not each.is_dir():
            each.mkdir(mode=0o700)
            cluster.chown(each)


def _link(name: str, source: int, target: int) -> bool:
    """Link a file; False where the file system does not, or not that often."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target)
    except FileExistsError:  # recovery after a crash has put PostgreSQL's own back into the template
        os.unlink(name, dir_fd=target)
        return _link(name, source, target)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _copy(cluster: Cluster, source: Path, target: Path) -> None:
    """Copy a sparse file, and its holes as holes."""
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb", buffering=0) as original, os.fdopen(descriptor, "wb", buffering=0) as copy:
        size = os.fstat(original.fileno()).st_size
        for start, end in _extents(original.fileno(), size):
            for at in range(start, end, _CHUNK):
                os.pwrite(copy.fileno(), os.pread(original.fileno(), min(_CHUNK, end - at), at), at)
        os.truncate(copy.fileno(), size)
    cluster.chown(target)


def _extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # ENXIO: holes up to the end
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _failing(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShadowUnavailableError(f"a shadow's laid-out files cannot be {doing}: {error.strerror}") from error
