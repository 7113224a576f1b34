"""The physical shape of a source database: what the planner reads from files and B-tree pages, without any rows.

How the hollow shadow's storage is used, in order (`optimizer.shadow.source.shape_reader`, `.storage`, `.index_files`):

    shape = read_shape(source_connection)                 # shape_reader; any role, PostgreSQL 13 to 18, read only
    layout = bind_shape(cluster, owner_connection, shape) # storage; once a revision. The connection is the unprivileged
                                                          # owner's, to the TEMPLATE database after the dump is restored
                                                          # (needs TEMP on it; makes temporary tables and rolls back)
    # both have to_json() / from_json(); keep the layout beside the shadow, its notes go into `not_cloned`
    set_aside(cluster, superuser_connection, layout)      # laid_out; writes the template's files by apply_shape, and
                                                          # takes them out of it

    # per private database, straight after CREATE DATABASE ... TEMPLATE ... STRATEGY FILE_COPY:
    #   1. put_in_place(cluster, template_oid, database_oid)              # laid_out; nobody has planned there yet
    #   2. for hypothetical indexes: lay_out(cluster, database, sized)    # index_files; sized are the indexes that
    #      find_parts(...) found, each with its index_size(...)           # index_methods

No buffer has to be evicted as long as nothing read the index before its pages were written: PostgreSQL writes a new
B-tree past shared buffers, so its metapage enters them only at the first plan. Those of other methods are in shared
buffers at once: `index_files` says how they get another. For a late candidate (relfilenode swap): CREATE INDEX,
`lay_out`, then plan; the same holds.

The planner probes an index's ends only to correct the histogram's (`get_actual_variable_range`, selfuncs.c), and takes
the first matching index by OID, so an existing index over the same column is asked before a hypothetical one. A
hypothetical index without leaf entries makes it keep the histogram's ends; `index_ends.py` says which get entries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optimizer.errors import InputError
from optimizer.shadow.pages.skeleton_brin import BrinRanges
from optimizer.shadow.pages.skeleton_gin import GinCounters

#: Version of the JSON form; a shape of another version has to be read from the source again.
SHAPE_VERSION = 1

StoredKind = Literal["table", "materialized view", "index"]


@dataclass(frozen=True, slots=True)
class RelationShape:
    """One relation that has a file.

    Parameters:
        kind: partitions and unlogged tables are tables; partitioned parents, views and TOAST tables are not held.
        blocks: size of the main fork in blocks of 8 kB.
        rows, pages, all_visible: `reltuples`, `relpages`, `relallvisible` (blocks).
        method: access method of an index, None for others.
        height: of a valid B-tree, levels above the leaves; None for others.
        gin: counters of a GIN index's metapage; None for others, and where they are not known.
        brin: of a BRIN index, what its metapage says; None for others, and where it is not known.
        ends: a B-tree's first and last entry that is not NULL, its first key column only, in index order and in the
            text form of ISO dates; None where there is none, or the planner never looks (partial indexes).
    """

    schema: str
    name: str
    kind: StoredKind
    blocks: int
    rows: float
    pages: int
    all_visible: int
    method: str | None = None
    height: int | None = None
    ends: tuple[str, str] | None = None
    gin: GinCounters | None = None
    brin: BrinRanges | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """All relations of one database, in the order of their OIDs, which decides between indexes of equal cost.

    Parameters:
        server_version_num: of the source.
        notes: one line for each thing that could not be read, with its likely effect.
    """

    server_version_num: int
    relations: tuple[RelationShape, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the JSON form, which `from_json` reads."""
        return json.dumps({"version": SHAPE_VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Shape:
        """Read what `to_json` wrote.

        Errors: `InputError` when it is of another version or damaged.
        """
        raw = read_versioned(text, SHAPE_VERSION, "shape")
        try:
            relations = tuple(_relation(fields) for fields in raw["relations"])
            return cls(raw["server_version_num"], relations, tuple(raw["notes"]))
        except (KeyError, TypeError):
            raise InputError("the shadow's shape is damaged: refresh the shadow") from None


def _relation(fields: Mapping[str, Any]) -> RelationShape:
    ends, gin, brin = (fields.get(name) for name in ("ends", "gin", "brin"))
    known = {
        "ends": tuple(ends) if ends else None,
        "gin": GinCounters(**gin) if gin else None,
        "brin": BrinRanges(**brin) if brin else None,
    }
    return RelationShape(**{**fields, **known})


def read_versioned(text: str, version: int, what: str) -> Mapping[str, Any]:
    """Parse a JSON object and check its `version`.

    Errors: `InputError` naming `what`.
    """
    try:
        raw = json.loads(text)
    except ValueError:
        raise InputError(f"the shadow's {what} is damaged: refresh the shadow") from None
    if not isinstance(raw, dict) or raw.get("version") != version:
        raise InputError(f"the shadow's {what} was written by another version of planproof: refresh the shadow")
    return raw
