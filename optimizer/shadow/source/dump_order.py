"""Puts the statements of a dump into the order in which the source made what they make, where plans depend on it.

PostgreSQL visits indexes, children of an inheritance parent and extended statistics in the order of their OIDs
(`RelationGetIndexList`, `find_inheritance_children`, `RelationGetStatExtList`), and so an older or a younger index wins
at equal cost. pg_dump sorts by name. OIDs cannot be set, but what is made first gets the lower one.

A dump is hostile: all that its text decides here is the order of statements that are run one by one anyway.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg.rows import tuple_row

_Item = TypeVar("_Item")
#: (kind, schema, name) of an index, a child table or a statistics object.
Place = tuple[str, str, str]
#: Order among the places of one kind.
Ranks = Mapping[Place, int]

RANKS: Final[LiteralString] = """
SELECT 'index', n.nspname, c.relname, c.oid::int8
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('i', 'I') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
UNION ALL
SELECT DISTINCT 'child', n.nspname, c.relname, c.oid::int8
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition AND c.relkind IN ('r', 'f')
  JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'statistics', n.nspname, s.stxname, s.oid::int8
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
"""

_NAME: Final = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_QUALIFIED: Final = rf"({_NAME})\.({_NAME})"
# pg_dump writes each of these in exactly one way, names with their schemas.
_INDEX: Final = re.compile(rf"CREATE (?:UNIQUE )?INDEX ({_NAME}) ON (?:ONLY )?{_QUALIFIED} ")
_CONSTRAINT: Final = re.compile(
    rf"ALTER TABLE (?:ONLY )?{_QUALIFIED}\s+ADD CONSTRAINT ({_NAME}) (?:PRIMARY KEY|UNIQUE|EXCLUDE)\b"
)
_STATISTICS: Final = re.compile(rf"CREATE STATISTICS {_QUALIFIED} ")
_CHILD: Final = re.compile(rf"CREATE (?:UNLOGGED |FOREIGN )?TABLE {_QUALIFIED} \(.*\)\s*INHERITS \(", re.DOTALL)
_MADE: Final = re.compile(rf"CREATE (?:[A-Z]+ ){{1,4}}{_QUALIFIED}")
_MENTIONED: Final = re.compile(rf"(?=(?<![\w$.\"]){_QUALIFIED})")


def read_ranks(connection: psycopg.Connection[Any]) -> dict[Place, int]:
    """Read the order in which a source's indexes, children and statistics objects count.

    Parameters:
        connection: to the source, with `search_path = pg_catalog`.

    Errors: `psycopg.Error`.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        return {(kind, schema, name): oid for kind, schema, name, oid in cursor.execute(RANKS).fetchall()}


def in_order(items: Iterable[_Item], text: Callable[[_Item], str], ranks: Ranks) -> Iterator[_Item]:
    """Yield all items of a dump, those that the ranks know as early as their order wants.

    An item is put off for no other, and comes earlier only when everything that its text names and the dump makes has
    been made: so what ran in the dump's own order runs in this one.

    Parameters:
        items: in the dump's order.
        text: gives an item's statement.
        ranks: as `read_ranks` gives them.
    """
    if not ranks:
        yield from items
        return
    everything = list(items)
    places = [_place(text(item)) for item in everything]
    makers = _makers(map(text, everything))
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        if place is not None and place in ranks:
            waiting[place[0]].append(number)
    for kind, numbers in waiting.items():
        waiting[kind] = sorted(numbers, key=lambda n: ranks[_known(places[n])], reverse=True)
    needs = {n: _needs(text(everything[n]), makers) - {n} for numbers in waiting.values() for n in numbers}
    done = [False] * len(everything)
    for number, item in enumerate(everything):
        place = places[number]
        if place is not None and number in needs:
            yield from (everything[n] for n in _earlier(number, waiting[place[0]], needs, done))
        if not done[number]:
            done[number] = True
            yield item


def _earlier(number: int, waiting: list[int], needs: Mapping[int, set[int]], done: list[bool]) -> Iterator[int]:
    """Take out of `waiting`, which is sorted with the first at its end, what comes before `number` and may."""
    while waiting and done[waiting[-1]]:
        waiting.pop()
    if done[number]:
        return
    blocked = []
    while waiting and waiting[-1] != number:
        first = waiting.pop()
        if done[first]:
            continue
        if all(done[need] for need in needs[first]):
            done[first] = True
            yield first
        else:
            blocked.append(first)
    waiting.extend(reversed(blocked))


def _known(place: Place | None) -> Place:
    if place is None:
        raise ValueError("only placed statements are ranked")
    return place


def _place(statement: str) -> Place | None:
    """What a statement makes, if it is of a kind whose order counts."""
    if found := _INDEX.match(statement):
        return "index", _plain(found[2]), _plain(found[1])
    if found := _CONSTRAINT.match(statement):
        return "index", _plain(found[1]), _plain(found[3])
    if found := _STATISTICS.match(statement):
        return "statistics", _plain(found[1]), _plain(found[2])
    if found := _CHILD.match(statement):
        return "child", _plain(found[1]), _plain(found[2])
    return None


def _makers(statements: Iterable[str]) -> dict[tuple[str, str], int]:
    """The number of the statement that makes each object with a schema."""
    makers = {}
    for number, statement in enumerate(statements):
        if found := _MADE.match(statement):
            makers[_plain(found[1]), _plain(found[2])] = number
    return makers


def _needs(statement: str, makers: Mapping[tuple[str, str], int]) -> set[int]:
    """The numbers of the statements that make what a statement names."""
    named = {(_plain(found[1]), _plain(found[2])) for found in _MENTIONED.finditer(statement)}
    return {makers[name] for name in named if name in makers}


def _plain(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier
