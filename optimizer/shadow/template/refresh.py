"""Refreshes a hollow shadow: reads its source again, and makes anew only what has changed.

    nothing                       the shadow stays as it is, and so do the answers that were found on it
    statistics and sizes only     its template is copied, and gets the statistics and files that have changed
    anything else                 a new clone

What is made in the second way plans as a new clone does: the registry says what the template of the present revision
was made of, and whatever is not certain to come to the same is a reason for a new clone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, LiteralString

import psycopg

from optimizer.errors import InputError, SqlError
from optimizer.settings import Settings
from optimizer.shadow.pages.laid_out import Laid
from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.pages.storage import Layout
from optimizer.shadow.registry import ShadowRecord
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.additions import Additions
from optimizer.shadow.source.reading import Origin, Progress, Reading, read_source
from optimizer.shadow.template.catalog_statistics import NATIVE_VERSION
from optimizer.shadow.template.clone import (
    LAYOUT,
    SCHEMA,
    STATISTICS,
    Cloned,
    build_clone,
    cloned,
    find_template,
    finish,
    undone_on_error,
)
from optimizer.shadow.template.database import copied_template, template_facts
from optimizer.shadow.template.extended_restore import restore_extended
from optimizer.shadow.template.known import ADDITIONS, KNOWN, ORIGIN, SHAPE, Known, know, reading_files, split
from optimizer.shadow.template.restore import Applied, apply_dump
from optimizer.shadow.template.statistics_calls import AttributeCall, read_call

_RELATION = re.compile(r"'relname',\s*'((?:[^']|'')*)'")
_EXTENDED = "extended statistics"
_CLEAR: LiteralString = """
SELECT pg_catalog.pg_clear_attribute_stats(n.nspname::text, c.relname::text, a.attname::text, %(inherited)s)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE n.nspname = %(schema)s AND c.relname = %(relation)s AND (a.attname = %(name)s OR a.attnum = %(number)s)"""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What came of a refresh.

    Parameters:
        cloned: for the registry; None when nothing has changed.
        changes: for people.
    """

    cloned: Cloned | None
    changes: str


@dataclass(frozen=True, slots=True)
class _Column:
    """A column whose statistics are set by one or several calls; of an index it is known by its number."""

    schema: str
    relation: str
    column: str | int
    inherited: bool


@dataclass(frozen=True, slots=True)
class _Before:
    """The present revision.

    Parameters:
        known: of the reading that it was made of.
        statistics: the calls that set statistics, those alone that were not refused.
        template_oid, layout: of its template.
    """

    record: ShadowRecord
    known: Known
    shape: Shape
    additions: Additions
    statistics: tuple[str, ...]
    template_oid: int
    layout: Layout


def refresh_source(
    cluster: Cluster, record: ShadowRecord, database: str, dsn: str, settings: Settings, progress: Progress
) -> Refreshed:
    """Read a source again, and make a template of what it tells now, unless that is what the shadow has already.

    Parameters:
        cluster: the hollow cluster that the shadow has its template in.
        record: the present revision, whose lock we hold. It stays as it is.
        database: name for the new template.
        dsn: the source.

    Errors: `InputError`, `ShadowUnavailableError`.
    """
    reading = read_source(dsn, record.options, progress)
    statements = split(reading.text)
    known = _known(record)
    now = know(reading, reading_files(reading), statements)
    if known is not None and (known.schema, known.statistics, known.rest) == (now.schema, now.statistics, now.rest):
        return Refreshed(None, "nothing has changed")
    if known is not None and known.schema == now.schema:
        before = _before(cluster, record, known)
        if before is not None and _is_simple(before, reading):
            with suppress(_NotSimpleError):
                return _changed(cluster, before, database, reading, statements, settings, progress)
    return Refreshed(build_clone(cluster, database, reading, settings, progress), "cloned anew")


class _NotSimpleError(Exception):
    """A call that sets statistics was refused: what that means is told by a new clone."""


def _known(record: ShadowRecord) -> Known | None:
    return Known.from_json(record.read(KNOWN)) if (record.folder / KNOWN).is_file() else None


def _before(cluster: Cluster, record: ShadowRecord, known: Known) -> _Before | None:
    """Find out what the present revision's template is made of; None when that is gone, or not to be known."""
    try:
        template = find_template(cluster, record)
        if template is None or not template.hollow or cluster.binaries.major * 10_000 < NATIVE_VERSION:
            return None
        return _Before(
            record,
            known,
            Shape.from_json(record.read(SHAPE)),
            Additions.from_json(record.read(ADDITIONS)),
            tuple(split(record.read(STATISTICS))[1]),
            template_facts(cluster, record.database)["oid"],
            Layout.from_json(record.read(LAYOUT)),
        )
    except (InputError, KeyError):
        return None


def _is_simple(before: _Before, reading: Reading) -> bool:
    """Whether nothing but statistics and sizes has changed, in such a way that the template's copy can follow."""
    if Origin.from_json(before.record.read(ORIGIN)) != reading.origin or before.known.refused:
        return False
    if before.additions.row_security != reading.additions.row_security:
        return False
    old, new = before.shape.relations, reading.shape.relations
    return len(old) == len(new) and all(map(_is_alike, old, new))


def _is_alike(old: RelationShape, new: RelationShape) -> bool:
    """Whether one may take the other's place: what was written on a page can be overwritten, not taken back."""
    if (old.schema, old.name, old.kind, old.method) != (new.schema, new.name, new.kind, new.method):
        return False
    if old.method in (None, "btree"):  # their files are made anew
        return True
    had, has = asdict(old), asdict(new)
    return new.blocks >= old.blocks and all((had[field] is None) == (has[field] is None) for field in had)


def _changed(
    cluster: Cluster,
    before: _Before,
    database: str,
    reading: Reading,
    statements: tuple[list[str], list[str]],
    settings: Settings,
    progress: Progress,
) -> Refreshed:
    """Copy the template, and change what has changed."""
    progress("restoring what has changed", 0.4)
    with (
        undone_on_error(cluster, database),
        copied_template(cluster, before.record.database, database) as (owner, superuser),
    ):
        columns, calls, kept = _changed_calls(before.statistics, statements[1])
        _clear(owner, columns)
        ran = apply_dump("".join(f"{call};\n" for call in calls), owner, superuser, max_bytes=settings.max_schema_bytes)
        if len(split(ran.statistics)[1]) != len(calls):
            raise _NotSimpleError
        added = before.known.added
        if before.additions.extended != reading.additions.extended:
            superuser.execute("DELETE FROM pg_catalog.pg_statistic_ext_data")
            others = tuple(note for note in added if not note.startswith(_EXTENDED))
            added = (*others, *restore_extended(reading.additions.extended, owner, superuser))
        progress("laying out relations", 0.9)
        laid = Laid(before.template_oid, before.layout)
        built = finish(cluster, database, owner, superuser, reading.origin, reading.shape, laid)
    kept_text = "\n".join(f"{call};\n" for call in kept)
    applied = Applied(before.record.read(SCHEMA), f"{kept_text}\n{ran.statistics}", before.known.applied)
    tables = _tables(reading, before, calls, columns)
    changes = f"{tables} table{'' if tables == 1 else 's'} changed"
    return Refreshed(cloned(cluster, reading, applied, added, built), changes)


def _changed_calls(
    before: Collection[str], now: Sequence[str]
) -> tuple[frozenset[_Column], tuple[str, ...], tuple[str, ...]]:
    """Find the columns whose statistics have changed, the calls to make, and those that need not be made again."""
    old, new = frozenset(before), frozenset(now)
    columns = {column for call in old ^ new if (column := _column(call)) is not None}
    # One column's calls are made again together: each adds to what the others set.
    names = {column.relation.replace("'", "''") for column in columns}
    calls: list[str] = []
    kept: list[str] = []
    for call in now:
        relation = _RELATION.search(call)
        suspect = call not in old or relation is None or relation.group(1) in names
        again = suspect and (call not in old or _column(call) in columns)
        (calls if again else kept).append(call)
    return frozenset(columns), tuple(calls), tuple(kept)


def _column(call: str) -> _Column | None:
    """The column of a call; None for a relation's, and for what is no such call and will be refused."""
    try:
        read = read_call(call)
    except SqlError:
        return None
    return _Column(read.schema, read.relation, read.column, read.inherited) if isinstance(read, AttributeCall) else None


def _clear(owner: psycopg.Connection[Any], columns: Collection[_Column]) -> None:
    """Take away the statistics of columns: what is restored is added to what is there."""
    owner.execute("SET search_path = pg_catalog")
    with owner.pipeline():
        for one in columns:
            name, number = (None, one.column) if isinstance(one.column, int) else (one.column, None)
            place = {"schema": one.schema, "relation": one.relation, "inherited": one.inherited}
            owner.execute(_CLEAR, {**place, "name": name, "number": number})


def _tables(reading: Reading, before: _Before, calls: Sequence[str], columns: Collection[_Column]) -> int:
    """Count the tables whose statistics or sizes, or whose indexes', have changed."""
    pairs = zip(before.shape.relations, reading.shape.relations, strict=True)
    places = {(new.schema, new.name) for old, new in pairs if old != new}
    places |= {(column.schema, column.relation) for column in columns}
    for call in calls:
        try:
            read = read_call(call)
        except SqlError:
            continue
        places.add((read.schema, read.relation))
    indexed = {(i.schema, i.name): place for place, table in reading.catalog.tables.items() for i in table.indexes}
    return len({indexed.get(place, place) for place in places})
