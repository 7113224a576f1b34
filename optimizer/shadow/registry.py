"""The registry: which shadows there are, kept as files so that every process of this user sees the same.

    <root>/NAME/record.json            what the shadow is; replaced in one step, so a reader sees the old or the new one
    <root>/NAME/dsn                    0600, the connection string for refresh, password included
    <root>/NAME/REVISION/schema.sql    what the database is made from, again and again where need be
                        /...           what else the kind keeps: statistics, sizes, the catalog
    <root>/.locks/NAME                 held by whoever adds, refreshes or drops that shadow
    <root>/.locks/NAME.used            held, together with others, by whoever uses it and wants it to stay

The embedded server holds copies only: a cluster that is lost is made anew from these files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from optimizer.clock import patience_s
from optimizer.errors import InputError, ShadowUnavailableError, UnknownShadowError
from optimizer.shadow.port import ShadowKind
from optimizer.shadow.server import watchdog
from optimizer.shadow.template.clone_options import CloneOptions

_NAME = re.compile(r"[a-z0-9_-]{1,40}")
_LOCKS = ".locks"
LOCK_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class ShadowRecord:
    """One registered shadow.

    Parameters:
        name: as the user called it.
        kind: which plugin opens it.
        revision: up to 12 characters that change whenever schema or statistics change.
        created: time of this revision, ISO 8601, UTC.
        origin: where it comes from, for people: a server without password, or a file.
        database: its database in the hollow cluster, empty where there is none.
        server_version: of the source, such as `15.14`; empty where there is no source.
        not_cloned: one line for each thing that could not be carried over, with its likely effect.
        settings: planner settings of the source, by name.
        options: how a hollow shadow was cloned; a refresh does the same.
        planner_major: of the PostgreSQL of this machine's own whose hollow cluster has the database; None is the
            embedded one.
        changes: what the refresh that made this revision found, for people, such as `3 tables changed`.
        folder: the revision's folder; found again at each reading, so that the data folder may be moved.
    """

    name: str
    kind: ShadowKind
    revision: str
    created: str
    origin: str
    database: str = ""
    server_version: str = ""
    not_cloned: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    options: CloneOptions = field(default_factory=CloneOptions)
    planner_major: int | None = None
    changes: str = ""
    folder: Path = Path()

    def read(self, file: str) -> str:
        """Return the text of one of the revision's files.

        Errors: `InputError` when it is gone or damaged; `ShadowUnavailableError` when the whole revision is gone.
        """
        try:
            return (self.folder / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            if not self.folder.is_dir():
                raise ShadowUnavailableError(
                    f"the shadow {self.name!r} was refreshed or dropped meanwhile: try again"
                ) from None
            raise _damaged(self.name, f"{file}: {_reason(error)}") from error


_RECORD = TypeAdapter(ShadowRecord)


class Registry:
    """The shadows below one folder.

    Parameters:
        root: the folder; made when the first shadow is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> tuple[str, ...]:
        """Names of all shadows, damaged ones too, sorted."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(p.parent.name for p in self.root.glob("*/record.json") if _NAME.fullmatch(p.parent.name)))

    def list(self) -> tuple[ShadowRecord, ...]:
        """All shadows, by name.

        Errors: `InputError` for a damaged one.
        """
        return tuple(self.get(name) for name in self.names())

    def get(self, name: str) -> ShadowRecord:
        """Find one shadow.

        Errors: `UnknownShadowError`; `InputError` when its record is damaged or the name is none.
        """
        check_name(name)
        path = self.root / name
        try:
            record = _RECORD.validate_json((path / "record.json").read_bytes())
        except FileNotFoundError:
            raise self._unknown(name) from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "not a record"
            raise _damaged(name, f"record.json: {place}: {first['msg']}") from None
        except OSError as error:
            raise _damaged(name, f"record.json: {_reason(error)}") from error
        if record.name != name or not _NAME.fullmatch(record.revision):
            raise _damaged(name, "record.json is another shadow's")
        return replace(record, folder=path / record.revision)

    def put(self, record: ShadowRecord, files: Mapping[str, str], *, dsn: str | None = None) -> ShadowRecord:
        """Write one revision of a shadow and make it the current one; earlier ones are deleted. Hold `lock`.

        Parameters:
            record: its `folder` is ignored.
            files: texts by file name, written before the record.
            dsn: connection string for refresh; None leaves what is there.

        Returns: the record with its folder.
        """
        check_name(record.name)
        path = self._private(self.root / record.name)
        folder = self._private(path / record.revision)
        for name, text in files.items():
            write_file(folder / name, text)
        if dsn is not None:
            write_file(path / "dsn", dsn)
        write_file(path / "record.json", _RECORD.dump_json(replace(record, folder=Path()), indent=1).decode())
        for old in path.iterdir():
            if old.is_dir() and old.name != record.revision:
                shutil.rmtree(old, ignore_errors=True)
        return replace(record, folder=folder)

    def dsn(self, name: str) -> str:
        """The connection string that a shadow was made from; it must not be shown.

        Errors: `InputError` when none is kept.
        """
        try:
            return (self.root / name / "dsn").read_text(encoding="utf-8")
        except OSError as error:
            raise _damaged(name, f"dsn: {_reason(error)}") from error

    def delete(self, name: str) -> None:
        """Forget a shadow and its files, damaged or not. Hold `lock`.

        Errors: `UnknownShadowError`.
        """
        check_name(name)
        path = self.root / name
        if not path.is_dir():
            raise self._unknown(name)
        # The record goes first: whatever happens next, no reader finds half a shadow.
        (path / "record.json").unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Keep all other processes and threads from changing one shadow.

        Errors: `ShadowUnavailableError` when another keeps it longer than `timeout_s`, or than the request may take.
        """
        check_name(name)
        locks = self._private(self.root / _LOCKS)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(watchdog.locked(locks / name, timeout_s=patience_s(timeout_s)))
            except TimeoutError:
                raise ShadowUnavailableError(
                    f"the shadow {name!r} is being changed by another process: try again when that is done"
                ) from None
            try:
                yield
            finally:
                if not (self.root / name).is_dir():
                    self._forget_locks(name)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Keep a shadow from being dropped to make room, however this process ends. Begin it while holding `lock`."""
        descriptor = watchdog.open_lock(self._private(self.root / _LOCKS) / f"{name}.used")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def in_use(self, name: str) -> bool:
        """Whether any process is inside `using`. Hold `lock`, so that nobody can begin."""
        descriptor = watchdog.open_lock(self._private(self.root / _LOCKS) / f"{name}.used")
        try:
            return not watchdog.try_exclusive(descriptor)
        finally:
            os.close(descriptor)

    def _forget_locks(self, name: str) -> None:
        """Delete the lock files of a shadow that is gone. Whoever waits for one sees that, and makes it anew."""
        for lock in (f"{name}.used", name):
            (self.root / _LOCKS / lock).unlink(missing_ok=True)

    def _private(self, folder: Path) -> Path:
        """Make a folder below the root that only this user may enter, and the root likewise."""
        for each in (*(p for p in reversed(folder.parents) if p.is_relative_to(self.root)), folder):
            if not each.is_dir():
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _unknown(self, name: str) -> UnknownShadowError:
        names = self.names()
        there = f"there are {', '.join(names)}" if names else "there is none yet"
        return UnknownShadowError(
            f"no shadow is named {name!r} ({there}): make it with `planproof shadow add {name} --from DSN`"
        )


def check_name(name: str) -> None:
    """Refuse what cannot name a shadow.

    Errors: `InputError`.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r:.80} cannot name a shadow: use 1 to 40 of a-z, 0-9, _ and -")


def write_file(path: Path, text: str) -> None:
    """Replace a file in one step; only this user may read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _damaged(name: str, what: str) -> InputError:
    return InputError(
        f"the shadow {name!r} is damaged ({what}): drop it with `planproof shadow drop {name}` and add it again"
    )


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
