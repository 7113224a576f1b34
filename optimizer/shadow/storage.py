"""Writes a source's physical shape into a hollow database's files. `shape.py` says in which order to call what.

The template itself is never touched: only private copies of it hold hand-made pages, and those are dropped when the
server's generation changes, since crash recovery would put PostgreSQL's own pages back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.errors import InputError, ShadowUnavailableError
from optimizer.shadow.btree_size import IndexSize
from optimizer.shadow.cluster import Cluster
from optimizer.shadow.leaf import build_leaves
from optimizer.shadow.shape import RelationShape, Shape, read_versioned
from optimizer.shadow.skeleton import BLOCK_BYTES, SEGMENT_BLOCKS, read_metapage, segments, skeleton, visibility_map

#: Version of the layout's JSON form.
LAYOUT_VERSION = 1

_FILES: Final[LiteralString] = """
SELECT n.nspname, c.relname, pg_relation_filenode(c.oid), a.amname, coalesce(i.indrelid, 0)::bigint, c.oid::bigint
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_index i ON i.indexrelid = c.oid
  LEFT JOIN pg_am a ON a.oid = c.relam AND c.relkind = 'i'
 WHERE c.relkind IN ('r', 'm', 'i') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
"""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """One relation's files in every copy of the template.

    Parameters:
        relfilenode: the file's number; equal in all copies, since they are copied file by file.
        blocks: size of the main fork.
        height: of a B-tree; None for everything else.
        leaf: a B-tree's leaf entries.
        visible: whether a table needs the visibility map that the probe of an index's end looks at.
    """

    relfilenode: int
    blocks: int
    height: int | None = None
    leaf: tuple[bytes, ...] = ()
    visible: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A shape bound to one template database; `notes` holds the shape's and what could not be bound."""

    files: tuple[FileLayout, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the JSON form, which `from_json` reads."""
        files = [{**asdict(f), "leaf": [entry.hex() for entry in f.leaf]} for f in self.files]
        return json.dumps({"version": LAYOUT_VERSION, "files": files, "notes": self.notes}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what `to_json` wrote.

        Errors: `InputError` when it is of another version or damaged.
        """
        raw = read_versioned(text, LAYOUT_VERSION, "layout")
        try:
            files = tuple(FileLayout(**{**f, "leaf": tuple(map(bytes.fromhex, f["leaf"]))}) for f in raw["files"])
            return cls(files, tuple(raw["notes"]))
        except (KeyError, TypeError, ValueError):
            raise InputError("the shadow's layout is damaged: refresh the shadow") from None


def bind_shape(cluster: Cluster, connection: psycopg.Connection[Any], shape: Shape) -> Layout:
    """Find the files of the shape's relations in a template database, and make the leaf entries of its B-trees.

    Parameters:
        cluster: the hollow cluster.
        connection: the unprivileged owner's, to the template, outside a transaction; the role needs TEMP.
        shape: of the source.

    Errors: `psycopg.Error`, `OSError`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        found = {(schema, name): rest for schema, name, *rest in cursor.execute(_FILES)}
    ends = {(r.schema, r.name): r.ends for r in shape.relations if r.ends is not None and (r.schema, r.name) in found}
    leaves = build_leaves(connection, cluster.home, ends)
    probed = {found[place][2] for place in leaves}
    files, missing = [], []
    for relation in shape.relations:
        place = (relation.schema, relation.name)
        relfilenode, method, _table, oid = found.get(place, (None, None, 0, 0))
        if relfilenode is None or method != relation.method:
            missing.append(relation)
            continue
        least = 0 if relation.height is None or relation.blocks <= 1 else relation.height + 2
        files.append(
            FileLayout(
                relfilenode,
                max(relation.blocks, least),
                relation.height if relation.blocks > 1 else None,
                leaves.get(place, ()),
                visible=oid in probed,
            )
        )
    return Layout(tuple(files), (*shape.notes, *_notes(missing, shape, len(ends) - len(leaves))))


def apply_shape(cluster: Cluster, database_oid: int, layout: Layout) -> None:
    """Make the files of a fresh copy of the template as large as the source's, and write skeletons for its B-trees.

    Nothing may have been planned in that database yet. Takes no connection; files are sparse. Doing it again is
    harmless.

    Errors: `ShadowUnavailableError` when the copy is not of the layout's template.
    """
    folder = cluster.home / "base" / str(database_oid)
    bits = visibility_map()
    try:
        for file in layout.files:
            path = folder / str(file.relfilenode)
            if file.height is not None:
                _write(path, skeleton(_first_block(path), file.height, file.leaf))
            _extend(cluster, path, file.blocks)
            if file.visible:
                _create(cluster, path.with_name(f"{path.name}_vm"), bits)
    except (OSError, ValueError) as error:
        raise ShadowUnavailableError(f"a hollow database's files do not fit its layout: {error}") from error


def lay_out_index(cluster: Cluster, database_oid: int, relfilenode: int, size: IndexSize) -> None:
    """Make a hypothetical B-tree's file look like an index of that size.

    It gets no leaf entries: the planner then takes a column's ends from an existing index that it asks first, or from
    the histogram, as it does without the index; the ends that a real index would reveal are not known.

    Parameters:
        database_oid, relfilenode: of the index; nothing may have read it since CREATE INDEX over no rows.
        size: as `estimate_index` gives it.

    Errors: `ShadowUnavailableError` when the file is missing or no B-tree.
    """
    path = cluster.home / "base" / str(database_oid) / str(relfilenode)
    try:
        if size.blocks > 1:
            _write(path, skeleton(_first_block(path), size.height))
            _extend(cluster, path, max(size.blocks, size.height + 2))
    except (OSError, ValueError) as error:
        raise ShadowUnavailableError(f"a hypothetical index's file cannot be laid out: {error}") from error


def is_intact(cluster: Cluster, database_oid: int, layout: Layout) -> bool:
    """Say whether a copy still looks as `apply_shape` left it; needed after the server was restarted."""
    folder = cluster.home / "base" / str(database_oid)
    try:
        return all(_file_is_intact(folder / str(file.relfilenode), file) for file in layout.files)
    except (OSError, ValueError):
        return False


def _file_is_intact(path: Path, file: FileLayout) -> bool:
    if path.stat().st_size < min(file.blocks, SEGMENT_BLOCKS) * BLOCK_BYTES:
        return False
    if file.height is None:
        return True
    metapage = read_metapage(_first_block(path))
    return (metapage.fast_root, metapage.fast_level) == (1, file.height)


def _notes(missing: Sequence[RelationShape], shape: Shape, without_leaf: int) -> list[str]:
    notes = []
    if missing:
        first = missing[0]
        notes.append(
            f"{len(missing)} relations with a size are not on the shadow (such as {first.kind} {first.schema}."
            f"{first.name}): queries that name them are refused, or plan without that index"
        )
    if without_leaf:
        notes.append(
            f"ends of {without_leaf} B-trees were refused by their types here: predicates past the histogram's ends "
            "may be misjudged"
        )
    gin = sum(r.method == "gin" and r.blocks > 2 for r in shape.relations)
    if gin:
        notes.append(f"entry statistics of {gin} GIN indexes are not cloned: their costs are those of a new index")
    return notes


def _first_block(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BLOCK_BYTES)


def _write(path: Path, pages: bytes) -> None:
    """Overwrite the beginning of an existing file."""
    with path.open("r+b", buffering=0) as file:
        file.write(pages)


def _create(cluster: Cluster, path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        file.write(content)
    cluster.chown(path)


def _extend(cluster: Cluster, path: Path, blocks: int) -> None:
    """Grow a relation's files, never shrink them (a new index of another method already has pages)."""
    for number, size in enumerate(segments(blocks)):
        segment = path if number == 0 else path.with_name(f"{path.name}.{number}")
        if number and not segment.exists():
            _create(cluster, segment, b"")
        if segment.stat().st_size < size:
            os.truncate(segment, size)
