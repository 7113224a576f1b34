"""Writes a source's physical shape into a hollow database's files. `shape.py` says in which order to call what.

Nobody plans in the template itself: its files are written once and taken out of it (`laid_out.py`). Private copies are
dropped when the server's generation changes, since crash recovery would put PostgreSQL's own pages back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from optimizer.errors import InputError, ShadowUnavailableError
from optimizer.shadow.pages.leaf import build_leaves
from optimizer.shadow.pages.shape import RelationShape, Shape, read_versioned
from optimizer.shadow.pages.skeleton import (
    BLOCK_BYTES,
    SEGMENT_BLOCKS,
    read_metapage,
    segments,
    skeleton,
    visibility_map,
)
from optimizer.shadow.pages.skeleton_brin import BrinRanges, brin_metapage
from optimizer.shadow.pages.skeleton_gin import GinCounters, gin_metapage
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.btree_size import IndexSize

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
        gin, brin: what the metapage of an index of that method is to say; None leaves it as it was made.
    """

    relfilenode: int
    blocks: int
    height: int | None = None
    leaf: tuple[bytes, ...] = ()
    visible: bool = False
    gin: GinCounters | None = None
    brin: BrinRanges | None = None


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
            return cls(tuple(map(_file_layout, raw["files"])), tuple(raw["notes"]))
        except (KeyError, TypeError, ValueError):
            raise InputError("the shadow's layout is damaged: refresh the shadow") from None


def _file_layout(fields: Mapping[str, Any]) -> FileLayout:
    gin, brin = fields.get("gin"), fields.get("brin")
    known = {
        "leaf": tuple(map(bytes.fromhex, fields["leaf"])),
        "gin": GinCounters(**gin) if gin else None,
        "brin": BrinRanges(**brin) if brin else None,
    }
    return FileLayout(**{**fields, **known})


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
                gin=relation.gin,
                brin=relation.brin,
            )
        )
    return Layout(tuple(files), (*shape.notes, *_notes(missing, shape, len(ends) - len(leaves))))


def apply_shape(cluster: Cluster, database_oid: int, layout: Layout) -> None:
    """Make the files of a template, or a copy of it, as large as the source's, and write skeletons for its B-trees.

    Nothing may have been planned in that database yet. Takes no connection; files are sparse. Doing it again is
    harmless.

    Errors: `ShadowUnavailableError` when the database is not of the layout's template.
    """
    folder = cluster.home / "base" / str(database_oid)
    bits = visibility_map()
    try:
        for file in layout.files:
            path = folder / str(file.relfilenode)
            if file.height is not None:
                _write(path, skeleton(_first_block(path), file.height, file.leaf))
            if file.gin is not None:
                _write(path, gin_metapage(file.gin))
            if file.brin is not None:
                _write(path, brin_metapage(file.brin))
            _extend(cluster, path, file.blocks)
            if file.visible:
                _create(cluster, path.with_name(f"{path.name}_vm"), bits)
    except (OSError, ValueError) as error:
        raise ShadowUnavailableError(f"a hollow database's files do not fit its layout: {error}") from error


def lay_out_index(
    cluster: Cluster, database_oid: int, relfilenode: int, size: IndexSize, leaf: Sequence[bytes] = ()
) -> None:
    """Make a hypothetical B-tree's file look like an index of that size.

    Without leaf entries, the planner takes a column's ends from an existing index that it asks first, or from the
    histogram, as it does without the index.

    Parameters:
        database_oid, relfilenode: of the index; nothing may have read it since CREATE INDEX over no rows.
        size: as `estimate_index` gives it.
        leaf: the first and the last entry, where they are known; the table then needs `show_first_block`.

    Errors: `ShadowUnavailableError` when the file is missing or no B-tree.
    """
    path = cluster.home / "base" / str(database_oid) / str(relfilenode)
    try:
        if size.blocks > 1:
            _write(path, skeleton(_first_block(path), size.height, leaf))
            _extend(cluster, path, max(size.blocks, size.height + 2))
    except (OSError, ValueError) as error:
        raise ShadowUnavailableError(f"a hypothetical index's file cannot be laid out: {error}") from error


def show_first_block(cluster: Cluster, database_oid: int, relfilenode: int) -> None:
    """Give a table without rows a visibility map, if it has none, so that a leaf's entries are believed.

    Errors: `ShadowUnavailableError` when it cannot be written.
    """
    path = cluster.home / "base" / str(database_oid) / f"{relfilenode}_vm"
    try:
        if not path.exists():
            _create(cluster, path, visibility_map())
    except OSError as error:
        raise ShadowUnavailableError(f"a table's visibility map cannot be laid out: {error}") from error


def lay_out_file(cluster: Cluster, database_oid: int, relfilenode: int, blocks: int, metapage: bytes = b"") -> None:
    """Make a hypothetical index's file as large as that many blocks.

    Parameters:
        database_oid, relfilenode: of the index.
        metapage: its block 0; only where no page of the file is in a buffer. Empty leaves the one that is there.

    Errors: `ShadowUnavailableError` when the file is missing.
    """
    path = cluster.home / "base" / str(database_oid) / str(relfilenode)
    try:
        if metapage:
            _write(path, metapage)
        _extend(cluster, path, blocks)
    except OSError as error:
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
    sizes = segments(blocks)
    if path.stat().st_size < sizes[0]:
        os.truncate(path, sizes[0])
    for number, size in enumerate(sizes[1:], 1):  # a hundred thousand of them for 100 TB
        segment = f"{path}.{number}"
        with os.fdopen(os.open(segment, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < size:
                file.truncate(size)
        cluster.chown(Path(segment))
