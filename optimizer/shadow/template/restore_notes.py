"""Tells what of a dump could not be restored, and what that does to plans, in as few lines as say it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

#: Most lines that tell of statements that could not be cloned.
MAX_NOTES = 40
_MOST_ALIKE = 3
_LONGEST_HEADING = 90

#: What it does to plans that a statement of a kind is missing.
_EFFECTS = {
    "CREATE TABLE": "queries that read it cannot be planned",
    "CREATE FOREIGN TABLE": "queries that read it cannot be planned",
    "CREATE VIEW": "queries that read it cannot be planned",
    "CREATE MATERIALIZED VIEW": "queries that read it cannot be planned",
    "CREATE INDEX": "plans are made without it",
    "CREATE UNIQUE": "plans are made without it",
    "CREATE ACCESS METHOD": "plans are made without its indexes",
    "CREATE OPERATOR CLASS": "plans are made without the indexes that use it",
    "CREATE OPERATOR FAMILY": "plans are made without the indexes that use it",
    "CREATE FUNCTION": "queries that call it cannot be planned",
    "CREATE AGGREGATE": "queries that call it cannot be planned",
    "CREATE STATISTICS": "estimates are made without it",
    "CREATE TYPE": "tables with columns of it cannot be made",
    "CREATE DOMAIN": "tables with columns of it cannot be made",
    "CREATE COLLATION": "tables with columns of it cannot be made",
    "CREATE CONVERSION": "no plan depends on it",
    "CREATE EVENT TRIGGER": "no plan depends on it",
    "ALTER EVENT TRIGGER": "no plan depends on it",
    "CREATE TRANSFORM": "no plan depends on it",
    "CREATE USER MAPPING": "no plan depends on it",
    "CREATE FOREIGN DATA WRAPPER": "its tables are planned as postgres_fdw plans them",
    "CREATE RULE": "statements that write to its table are planned without it; reading is not affected",
    "CREATE TRIGGER": "no plan depends on it",
    "CREATE POLICY": "plans are made without it",
    "CREATE PROCEDURE": "no plan depends on it",
    "ALTER TABLE": "what it adds is missing",
    "SELECT pg_restore_relation_stats": "its size is taken from its columns only",
    "SELECT pg_restore_attribute_stats": "estimates for this column are defaults",
}
_OTHERWISE = "queries that need it cannot be planned"
_MAKING = ("CREATE TABLE", "CREATE FOREIGN TABLE", "CREATE VIEW", "CREATE MATERIALIZED VIEW")
_NOT_ACCEPTED = re.compile(r" ?(is|are) not accepted in a schema file: .*$")
_MISSING = re.compile(r'relation "([^"]+(?:""[^"]*)*)" does not exist')
_QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True)
class Refused:
    """A statement of a dump that did not run.

    Parameters:
        text: of the statement.
        kind: what a user calls it, empty when it could not be read.
        why: the server's or our own words.
    """

    text: str
    kind: str
    why: str

    @property
    def heading(self) -> str:
        """The first words: enough to know which it is."""
        line = self.text.splitlines()[0].rstrip(" (")
        return line if len(line) <= _LONGEST_HEADING else f"{line[: _LONGEST_HEADING - 3]}..."

    @property
    def words(self) -> str:
        """Its kind, by its first words where it was not told."""
        if self.kind in _EFFECTS:
            return self.kind
        return next((known for known in _EFFECTS if self.text.startswith(f"{known} ")), self.kind)

    @property
    def reason(self) -> str:
        """Why, in the words of a clone."""
        return "not carried over" if _NOT_ACCEPTED.search(self.why) else self.why

    @property
    def subject(self) -> str:
        """What it is about: the heading without the kind's words."""
        rest = self.heading.removeprefix(self.words).strip()
        return rest.removeprefix("IF NOT EXISTS ").split(" ")[0].split("(")[0] if rest else self.heading


def refusal_notes(refused: Sequence[Refused]) -> list[str]:
    """Write a line for each cause: what follows from a table that is missing is told with it."""
    missing = {one.subject.replace('"', ""): one for one in refused if one.words in _MAKING}
    followers: Counter[str] = Counter()
    alike: defaultdict[tuple[str, str], list[Refused]] = defaultdict(list)
    for one in refused:
        found = _MISSING.search(one.why)
        if found is not None and found[1].replace('"', "") in missing and one.words not in _MAKING:
            followers[found[1].replace('"', "")] += 1
        else:
            alike[one.words, _QUOTED.sub("", one.reason)].append(one)
    return [line for group in alike.values() for line in _lines(group, followers)]


def limited(notes: Iterable[str]) -> tuple[str, ...]:
    """Drop repeats, and what is too much."""
    lines = list(dict.fromkeys(notes))
    if len(lines) <= MAX_NOTES:
        return tuple(lines)
    return (*lines[:MAX_NOTES], f"{len(lines) - MAX_NOTES} more statements could not be cloned")


def _lines(group: Sequence[Refused], followers: Counter[str]) -> Iterator[str]:
    effect = _EFFECTS.get(group[0].words, _OTHERWISE)
    if len(group) <= _MOST_ALIKE:
        for one in group:
            count = followers[one.subject.replace('"', "")] if one.words in _MAKING else 0
            behind = f" (with {count} statements about it)" if count else ""
            yield f"{one.heading}: {one.reason}: {effect}{behind}"
        return
    names = ", ".join(one.subject for one in group[:_MOST_ALIKE])
    yield (f"{group[0].words or 'statements'} {names} and {len(group) - _MOST_ALIKE} more: {group[0].reason}: {effect}")
