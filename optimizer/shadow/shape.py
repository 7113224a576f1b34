"""The physical shape of a source database: what the planner reads from files and B-tree pages, without any rows.

How the hollow shadow's storage is used, in order (`optimizer.shadow.shape_reader`, `.storage`, `.btree_size`):

    shape = read_shape(source_connection)                 # shape_reader; any role, PostgreSQL 13 to 18, read only
    layout = bind_shape(cluster, owner_connection, shape) # storage; once a revision. The connection is the unprivileged
                                                          # owner's, to the TEMPLATE database after the dump is restored
                                                          # (needs TEMP on it; makes temporary tables and rolls back)
    # both have to_json() / from_json(); keep the layout beside the shadow, its notes go into `not_cloned`

    # per private database, straight after CREATE DATABASE ... TEMPLATE ... STRATEGY FILE_COPY:
    #   1. create the hypothetical indexes you want (tables are empty; do not EXPLAIN yet: that reads metapages into
    #      shared buffers), commit, disconnect or keep the connection without planning anything
    #   2. apply_shape(cluster, database_oid, layout)     # storage; file writes only, nobody has planned there yet
    #   3. per hypothetical index: lay_out_index(cluster, database_oid, relfilenode, size), where
    #      size = estimate_index(candidate, table, catalog, rows=..., key_types=...)    # btree_size
    #      and UPDATE pg_class SET reltuples = size.tuples, relpages = size.blocks for it

No buffer has to be evicted as long as nothing read the index before its pages were written: PostgreSQL 17 and later
write a new index past shared buffers, so a metapage enters them only at the first plan. If something has planned there,
evict first (`pg_buffercache_evict_relation`). For a late candidate (relfilenode swap): CREATE INDEX, `lay_out_index`,
then plan; the same holds.

Hypothetical indexes need no leaf tuples. The planner probes an index's ends only to correct the histogram's ends
(`get_actual_variable_range`, selfuncs.c); an empty leaf makes it keep the histogram's, and it takes the first matching
index by OID, so an existing index over the same column is asked before a hypothetical one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optimizer.errors import InputError

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
            relations = tuple(
                RelationShape(**{**r, "ends": tuple(r["ends"]) if r["ends"] else None}) for r in raw["relations"]
            )
            return cls(raw["server_version_num"], relations, tuple(raw["notes"]))
        except (KeyError, TypeError):
            raise InputError("the shadow's shape is damaged: refresh the shadow") from None


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
