"""The present revision of a shadow, known without reading its record each time."""

from __future__ import annotations

from pathlib import Path

from optimizer.shadow.registry import Registry, ShadowRecord, check_name

_Stamp = tuple[int, int, int, int]


class Revisions:
    """The records of one registry, read again whenever their files change. Safe to share between threads.

    A record is replaced as a whole file, by whichever process changes the shadow, so another revision is another inode
    with another time of change.

    Parameters:
        registry: of the shadows.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, tuple[Path, _Stamp, ShadowRecord]] = {}

    def peek(self, name: str) -> ShadowRecord | None:
        """Return the record if it is known and still in force, else None; one `stat`, microseconds."""
        known = self._known.get(name)
        return known[2] if known is not None and known[1] == _stamp(known[0]) else None

    def read(self, name: str) -> ShadowRecord:
        """Return the record in force.

        Errors: as `Registry.get`.
        """
        # Taken before the record is read: at worst the record is newer than its stamp, and is read once more.
        check_name(name)
        path = self._registry.root / name / "record.json"
        stamp = _stamp(path)
        record = self._registry.get(name)
        if stamp is not None:
            self._known[name] = (path, stamp, record)
        return record


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
