"""Reads what the script of `planproof shadow script` wrote at production: lines of JSON, then statistics as SQL.

    -- planproof: {"source": {...}}       which server and database, its locale, settings and search path; comes first
    -- planproof: {"relation": {...}}     a relation's size, in the order of OIDs; of a B-tree its height and ends, too
    -- planproof: {"secured": [...]}      rows of a query that the live clone runs as well (`script_sql`)
    SELECT pg_catalog.pg_restore_relation_stats(...);
    -- planproof: {"end": true}           comes last: a file without it was cut off

The lines are comments, so the file is a script for PostgreSQL 18, too. It may have been tampered with: every value is
checked, and what follows from it is run with no more rights than a dump's statements.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.errors import InputError
from optimizer.shadow.pages.shape import RelationShape, Shape
from optimizer.shadow.source.additions import Additions
from optimizer.shadow.source.collations import collations_of
from optimizer.shadow.source.dump_order import Place
from optimizer.shadow.source.extended_statistics import ExtendedStatistics, extended_of
from optimizer.shadow.source.leakproof import LeakproofFunction
from optimizer.shadow.source.locale import Locale
from optimizer.shadow.source.page_costs import page_costs_of
from optimizer.shadow.source.privileges import Rights, unread_of
from optimizer.shadow.source.range_statistics import range_calls, range_notes
from optimizer.shadow.source.redaction import Redacted, redacted_of
from optimizer.shadow.source.row_security import row_security_of
from optimizer.shadow.source.script_sql import END, PREFIX, VERSION
from optimizer.shadow.source.shape_reader import NO_COUNTERS, NO_ENDS, NO_HEIGHT, brin_ranges, guessed_height
from optimizer.shadow.template.statistics_shape import check_blocks

_OLDEST: Final = 130000
_Name = Annotated[str, Field(max_length=1_000)]
_Count = Annotated[int, Field(ge=0, le=2**32)]
_Height = Annotated[int, Field(ge=0, le=20)]
_Cost = Annotated[str, Field(pattern=r"^[0-9.eE+-]{1,40}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Source(_Strict):
    version: int
    server_version: Annotated[str, Field(max_length=200)]
    server_version_num: int
    database: _Name
    block_size: int
    #: Whether the role may read the data of extended statistics, and `pg_statistic`.
    direct: bool
    ranges: bool
    role: _Name
    own: bool
    reader: _Name
    tables: _Count
    search_path: Annotated[list[_Name], Field(max_length=1_000)]
    provider: Literal["c", "i", "b", "d"]
    collate: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@:;=-]{0,100}$")]
    ctype: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@:;=-]{0,100}$")]
    encoding: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,40}$")]
    redacted: list[str]
    settings: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,63}$")], Annotated[str, Field(max_length=1_000)]],
        Field(max_length=300),
    ]


class _Relation(_Strict):
    oid: _Count
    schema_: Annotated[_Name, Field(alias="schema")]
    name: _Name
    kind: Literal["table", "materialized view", "index"]
    blocks: _Count
    rows: float
    pages: Annotated[int, Field(ge=-1, le=2**32)]
    all_visible: _Count
    method: Annotated[str, Field(max_length=63)] | None
    height: _Height | None = None
    ends: tuple[bool, str, str] | None = None
    #: Of a B-tree: the width of a key, and whether its ends were looked for.
    key_bytes: Annotated[int, Field(ge=0, le=10_000)] | None = None
    wanted: bool = False


_Data = Annotated[list[Any], Field(min_length=4, max_length=7)]


class _Line(_Strict):
    """One line; just one of the fields is there."""

    source: _Source | None = None
    relation: _Relation | None = None
    unread: tuple[str, str, str, str, bool, bool, bool, bool, list[str], list[str]] | None = None
    secured: tuple[int, str, str, bool] | None = None
    policies: tuple[int, str, bool, Literal["*", "r", "a", "w", "d"], str | None, str | None] | None = None
    views: tuple[str, str] | None = None
    redacted: tuple[Literal["column", "index", "statistics"], str, str, str] | None = None
    #: A BRIN index, its table, and its pages for each range where they are stated.
    brin: tuple[_Count, _Count, Annotated[int, Field(ge=1, le=131072)] | None] | None = None
    #: Of extended statistics, see `extended_statistics.queries`.
    objects: tuple[int, str, str, str, list[str], list[int], int] | None = None
    data: _Data | None = None
    items: tuple[int, bool, list[str | None], float, float] | None = None
    expressions: Annotated[list[bool | float | str | None], Field(min_length=12, max_length=20)] | None = None
    #: See `range_statistics`.
    range_columns: tuple[_Count] | None = None
    range_statistics: tuple[str, str, str, bool, str | None, str | None, str | None] | None = None
    ranks: tuple[Literal["index", "child", "statistics"], str, str, int] | None = None
    collations: tuple[str, str, Literal["i", "c"], str | None, bool, _Count] | None = None
    leakproof: tuple[str, str, str] | None = None
    #: See `page_costs`.
    page_costs: tuple[str, _Cost | None, _Cost | None, int] | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """What a file says of its source, as the live clone reads it from the source itself.

    Parameters:
        server_version: such as `15.14`.
        settings: planner settings by name.
        statistics: calls that restore more statistics than the text has.
    """

    server_version: str
    database: str
    locale: Locale
    settings: Mapping[str, str]
    search_path: tuple[str, ...]
    shape: Shape
    rights: Rights
    redacted: Redacted
    additions: Additions
    ranks: Mapping[Place, int]
    statistics: str
    notes: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Read a file of statistics; None when no such script wrote it.

        Errors: `InputError` when it is damaged, cut off or of another version.
        """
        if not text.startswith(PREFIX):
            return None
        if not text.rstrip().endswith(f"\n{PREFIX}{END}"):
            raise InputError(
                "the statistics are cut off: they have to end as the script wrote them; copy the file anew"
            )
        found = _lines(text)
        (source, *others) = found["source"] or [None]
        if source is None or others:
            raise InputError("the statistics do not say once which server they are of: run the script again")
        _check_source(source)
        role = source.role
        extended, notes = _extended(found, direct=source.direct)
        costs = page_costs_of(found["page_costs"], source.settings)
        secured = row_security_of(role, found["secured"], found["policies"], found["views"])
        return cls(
            source.server_version.split(" ")[0],
            source.database,
            Locale(_PROVIDERS.get(source.provider, "libc"), source.collate, source.ctype, source.encoding),
            {**source.settings, **costs.settings},
            tuple(source.search_path),
            _shape(source.server_version_num, found["relation"], found["brin"]),
            Rights(source.reader, source.tables, unread_of(found["unread"]), source.server_version_num),
            redacted_of(found["redacted"]),
            Additions(
                secured,
                extended,
                tuple(LeakproofFunction(*row) for row in found["leakproof"]),
                collations_of(found["collations"]),
            ),
            {(kind, schema, name): rank for kind, schema, name, rank in found["ranks"]},
            range_calls(found["range_statistics"]),
            (*notes, *costs.notes, *_range_notes(found, source), *_settings_notes(source)),
        )


_PROVIDERS: Final[Mapping[str, Literal["icu", "builtin"]]] = {"i": "icu", "b": "builtin"}


def _lines(text: str) -> defaultdict[str, list[Any]]:
    """The lines at the head of the file, by kind; a value further down may look like one and is none."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    start, number = 0, 1
    while text.startswith(PREFIX, start):
        end = text.find("\n", start)
        try:
            line = _Line.model_validate_json(text[start + len(PREFIX) : end])
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the line"
            raise InputError(f"the statistics are damaged: line {number}: {place}: {first['msg']}") from None
        for kind in line.model_fields_set:
            found[kind].append(getattr(line, kind))
        start, number = end + 1, number + 1
    return found


def _check_source(source: _Source) -> None:
    if source.version != VERSION:
        raise InputError("the statistics were written by the script of another version of planproof: run it again")
    if source.server_version_num < _OLDEST:
        raise InputError(f"the statistics are of PostgreSQL {source.server_version}: planproof reads 13 and later")
    if source.block_size != 8192:
        raise InputError(f"the source's blocks have {source.block_size} bytes: a hollow shadow needs 8192")


def _extended(
    found: Mapping[str, list[Any]], *, direct: bool
) -> tuple[tuple[ExtendedStatistics, ...], tuple[str, ...]]:
    try:
        data = [[*row[:2], *map(_bytes, row[2:])] for row in found["data"]] if direct else found["data"]
        return extended_of(found["objects"], data, found["items"], found["expressions"], direct=direct)
    except (ValueError, TypeError, LookupError, AttributeError):
        raise InputError("the statistics are damaged: what they say of extended statistics cannot be") from None


def _range_notes(found: Mapping[str, list[Any]], source: _Source) -> tuple[str, ...]:
    count = sum(row[0] for row in found["range_columns"])
    return range_notes(count, redacting=bool(source.redacted), readable=source.ranges)


def _settings_notes(source: _Source) -> tuple[str, ...]:
    if source.own:
        return ()
    return (
        f"settings: planner settings and search path are those of the role {source.reader}, which ran the script, not "
        f"those of {source.role}: run it as that role where they differ",
    )


def _bytes(text: str | None) -> bytes | None:
    """Read PostgreSQL's hexadecimal form."""
    return None if text is None else bytes.fromhex(text.removeprefix("\\x"))


def _shape(
    server_version_num: int, relations: Sequence[_Relation], brin: Sequence[tuple[int, int, int | None]]
) -> Shape:
    notes: Counter[str] = Counter()
    check_blocks(sum(relation.blocks for relation in relations))
    shapes = {relation.oid: _relation(relation, notes) for relation in relations}
    for index, table, pages_per_range in brin:
        if index in shapes and table in shapes:
            ranges = brin_ranges(shapes[table].blocks, pages_per_range)
            shapes[index] = replace(shapes[index], brin=ranges)
    notes[NO_COUNTERS] = sum(shape.method == "gin" and shape.blocks > 2 for shape in shapes.values())
    return Shape(server_version_num, tuple(shapes.values()), _told(notes))


def _relation(relation: _Relation, notes: Counter[str]) -> RelationShape:
    height, ends = relation.height, None
    if height is None and relation.key_bytes is not None:
        height, certain = guessed_height(relation.blocks, relation.key_bytes)
        notes[NO_HEIGHT] += not certain
    if relation.ends is not None and relation.ends[0]:
        ends = relation.ends[1:]
    notes[NO_ENDS] += relation.wanted and relation.ends is None
    return RelationShape(
        relation.schema_,
        relation.name,
        relation.kind,
        relation.blocks,
        relation.rows,
        relation.pages,
        relation.all_visible,
        relation.method,
        height,
        ends,
    )


def _told(notes: Counter[str]) -> tuple[str, ...]:
    lines: Iterable[str] = (note.format(count) for note, count in sorted(notes.items()) if count)
    return tuple(lines)
