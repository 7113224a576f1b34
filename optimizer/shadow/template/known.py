"""What a revision of a hollow shadow was made of, kept beside it so that a refresh can tell what has changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from optimizer.ddl_pieces import PieceKind, cut
from optimizer.shadow.source.reading import Reading
from optimizer.shadow.template.catalog_file import catalog_to_json
from optimizer.shadow.template.restore import Applied

#: Files that hold what was read of a source, as the registry keeps them, and what is known of the reading itself.
CATALOG, SHAPE, ORIGIN, ADDITIONS, KNOWN = "catalog.json", "shape.json", "origin.json", "additions.json", "known.json"
_STATISTICS_CALL = re.compile(r"SELECT (?:\* FROM )?(?:pg_catalog\.)?pg_restore_\w+_stats\(")


@dataclass(frozen=True, slots=True)
class Known:
    """A reading in short.

    Parameters:
        schema: digest of the statements that make it, and of the order that decides between equal plans.
        statistics: digest of the calls that set statistics.
        rest: digest of all else that was read.
        refused: how many of these calls were.
        applied: what the dump's statements came to, as `Applied.notes`.
        added: the same of what the dump leaves out.
    """

    schema: str
    statistics: str
    rest: str
    refused: int
    applied: tuple[str, ...]
    added: tuple[str, ...]

    def to_json(self) -> str:
        """Return the JSON form, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Known | None:
        """Read what `to_json` wrote; None for anything else."""
        try:
            raw = json.loads(text)
            known = {**raw, "applied": tuple(raw["applied"]), "added": tuple(raw["added"])}
            return cls(**known)
        except (ValueError, KeyError, TypeError):
            return None


def reading_files(reading: Reading) -> dict[str, str]:
    """Return the files that hold what was read, beside the SQL."""
    return {
        CATALOG: catalog_to_json(reading.catalog),
        SHAPE: reading.shape.to_json(),
        ORIGIN: reading.origin.to_json(),
        ADDITIONS: reading.additions.to_json(),
    }


def split(text: str) -> tuple[list[str], list[str]]:
    """Return a dump's statements: those that make the schema, and those that set statistics.

    Errors: `SqlError` for text that cannot be cut into statements.
    """
    schema: list[str] = []
    statistics: list[str] = []
    for piece in cut(text):
        if piece.kind is not PieceKind.BACKSLASH:
            (statistics if _STATISTICS_CALL.match(piece.text) else schema).append(piece.text + piece.rows)
    return schema, statistics


def know(
    reading: Reading,
    files: Mapping[str, str],
    statements: tuple[list[str], list[str]],
    applied: Applied = Applied("", "", ()),  # noqa: B008 - immutable
    added: tuple[str, ...] = (),
) -> Known:
    """Put a reading in short.

    Parameters:
        files: of that reading.
        statements: its text, split.
        applied, added: what became of them; left out before anything is made.
    """
    order = json.dumps(sorted(reading.ranks, key=lambda place: reading.ranks[place]))
    rest = [files[name] for name in (CATALOG, SHAPE, ORIGIN, ADDITIONS)]
    return Known(
        schema=_digest([*statements[0], order]),
        statistics=_digest(statements[1]),
        rest=_digest([*rest, *reading.notes, reading.version]),
        refused=len(statements[1]) - len(split(applied.statistics)[1]),
        applied=applied.notes,
        added=added,
    )


def _digest(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
