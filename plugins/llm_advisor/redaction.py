"""Takes the literals out of what leaves for a model, and puts them back into what comes.

A string becomes `'pp_7'`, a number `$9007`: both are SQL that a model can carry over. Equal literals get equal
placeholders, wherever they stand: in the query, a CHECK constraint, a plan, a counterexample. What is a literal is said
by PostgreSQL's own scanner, token by token, so nothing depends on understanding the statement. Comments are dropped.
0, 1 and the empty string stay: they tell nothing, and `count(*) > 0` or `LIMIT 1` mean nothing without them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count

import postgast

from optimizer.errors import SqlError

_TOKENS = postgast.pg_query_pb2.Token
_STRINGS = frozenset({"SCONST", "USCONST", "BCONST", "XCONST"})
_NUMBERS = frozenset({"ICONST", "FCONST"})
_COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})
#: Words of EXPLAIN before a number that is none of the user's.
_NUMBERED = frozenset({"subplan", "initplan", "cte"})
_KEPT = frozenset({"0", "1", "''"})
_FIRST_NUMBER = 9_000
_PLAIN_STRING = re.compile(r"(?i)[nexb]?'(.*)'", re.DOTALL)
_DOLLAR_STRING = re.compile(r"(\$[^$]*\$)(.*)\1", re.DOTALL)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|«[^»]*»|“[^”]*”")
_QUOTES = frozenset("\"'«»“”")
_LOOSE_NUMBER = re.compile(r"(?<![\w$])\d+(?:[.,]\d+)*(?!\w)")


class PlaceholderError(SqlError):
    """What came holds a placeholder that stands for nothing, or is part of something else."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of SQL: its kind as PostgreSQL's scanner calls it, its text and what stood before it."""

    kind: str
    text: str
    before: str


def tokens(sql: str) -> Iterator[Token]:
    """Yield the tokens of any SQL-like text; `U&'...' UESCAPE '.'` and `N'...'` are one token. At the end an empty one.

    Errors: `SqlError` when it cannot be scanned.
    """
    try:
        scanned = list(postgast.scan(sql).tokens)
    except postgast.PgQueryError as error:
        raise SqlError(f"does not scan: {error}") from None
    data, end, place = sql.encode(), 0, 0
    while place < len(scanned):
        first = last = scanned[place]
        kind = _TOKENS.Name(first.token)
        following = [_TOKENS.Name(t.token) for t in scanned[place + 1 : place + 3]]
        if kind == "USCONST" and following == ["UESCAPE", "SCONST"]:
            last = scanned[place + 2]
            place += 2
        elif kind == "NCHAR" and following[:1] == ["SCONST"]:
            kind, last = "SCONST", scanned[place + 1]
            place += 1
        yield Token(kind, data[first.start : last.end].decode(), data[end : first.start].decode())
        end, place = last.end, place + 1
    yield Token("", "", data[end:].decode())


class Redactor:
    """The placeholders of one request.

    Parameters:
        enabled: False only takes comments out.
        surroundings: all text in which a placeholder must not occur by chance.
        parameters: the highest `$n` of the query.
    """

    def __init__(self, *, enabled: bool, surroundings: str, parameters: int) -> None:
        self.enabled = enabled
        folded = surroundings.lower()
        self._stem = next(stem for n in count() if f"{(stem := 'pp' + 'x' * n)}_" not in folded)
        self._first = max(_FIRST_NUMBER, parameters + 1)
        self._numbers: dict[str, int] = {}
        self._strings: dict[int, str] = {}
        self._contents: dict[int, str] = {}
        self._numeric: set[int] = set()
        self._mine = re.compile(rf"(?i)(?<![a-z0-9_]){self._stem}_(\d+)")

    @property
    def examples(self) -> tuple[str, str]:
        """What a string and a number become."""
        return f"'{self._stem}_7'", f"${self._first + 7}"

    @property
    def legend(self) -> dict[str, str]:
        """Each placeholder and the kind of value it stands for."""
        numbers = {f"${self._first + n}": "number" for n in sorted(self._numeric)}
        strings = {f"'{self._stem}_{n}'": _kind(self._contents[n]) for n in sorted(self._strings)}
        return strings | numbers

    def sql(self, text: str) -> str:
        """Replace all literals and drop all comments.

        Parameters:
            text: SQL, or a piece of it such as a plan's condition.

        Errors: `SqlError` when it cannot be scanned: then it must not leave.
        """
        pieces: list[str] = []
        previous = ""
        for token in tokens(text):
            pieces.append(token.before)
            pieces.append(self._replaced(token, previous))
            previous = token.text.lower()
        return "".join(pieces).strip()

    def value(self, text: str | None) -> str | None:
        """Replace one value of a result, unless it is NULL or says nothing."""
        if text is None or not self.enabled or text in ("", "0", "1", "t", "f"):
            return text
        number = self._number(text)
        if number in self._numeric and number not in self._strings:
            return f"${self._first + number}"
        self._strings.setdefault(number, "'" + text.replace("'", "''") + "'")
        return f"'{self._stem}_{number}'"

    def prose(self, text: str, names: Collection[str]) -> str:
        """Take values out of a message: what it quotes but for known names, numbers, and all known literals.

        Parameters:
            text: such as an error of the server.
            names: identifiers that may stay.
        """
        if not self.enabled:
            return text
        text = _without_quotes(text, names)
        for content in sorted(self._numbers, key=len, reverse=True):
            if len(content) > 2 and content not in names:
                text = re.sub(re.escape(content), "...", text, flags=re.IGNORECASE)
        return _LOOSE_NUMBER.sub("N", text)

    def restore(self, sql: str, max_bytes: int) -> str:
        """Put the literals back and drop comments.

        Parameters:
            sql: what a model wrote.
            max_bytes: longest result.

        Errors: `PlaceholderError`; `SqlError` when it cannot be scanned or grows too long.
        """
        pieces: list[str] = []
        size, was_restored = 0, False
        for token in tokens(sql):
            text = " " if token.kind in _COMMENTS else self._original(token)
            size += len(token.before) + len(text)
            if size > max_bytes:
                raise SqlError(f"it is longer than {max_bytes:,} bytes")
            restored = text != token.text
            # What is put back must not grow together with its neighbours.
            touching = (restored or was_restored) and not token.before and pieces and _grows(pieces[-1], text)
            pieces += (" " if touching else token.before, text)
            was_restored = restored
        return "".join(pieces).strip()

    def restore_prose(self, text: str) -> str:
        """Put the literals back into words, where they are not long."""

        def original(match: re.Match[str]) -> str:
            content = self._contents.get(int(match.group(1)), "")
            return content if 0 < len(content) <= 40 else match.group()

        text = self._mine.sub(original, text) if self.enabled else text
        return re.sub(r"\$(\d{4,6})\b", lambda m: self._contents.get(int(m.group(1)) - self._first, m.group()), text)

    def _replaced(self, token: Token, previous: str) -> str:
        if token.kind in _COMMENTS:
            return " "
        if not self.enabled or token.text in _KEPT:
            return token.text
        if token.kind in _STRINGS:
            number = self._number(_content(token.text))
            self._strings.setdefault(number, token.text)
            return f"'{self._stem}_{number}'"
        if token.kind in _NUMBERS and previous not in _NUMBERED:
            number = self._number(token.text)
            self._numeric.add(number)
            return f"${self._first + number}"
        return token.text

    def _number(self, content: str) -> int:
        number = self._numbers.setdefault(content, len(self._numbers) + 1)
        self._contents[number] = content
        return number

    def _original(self, token: Token) -> str:
        if not self.enabled:
            return token.text
        if token.kind == "PARAM" and int(token.text[1:]) >= self._first:
            number = int(token.text[1:]) - self._first
            if number not in self._numeric:
                raise PlaceholderError(f"the placeholder {token.text} stands for nothing")
            return self._contents[number]
        found = self._mine.search(token.text)
        if found is None:
            return token.text
        number = int(found.group(1)) if len(found.group(1)) < 9 else -1
        if token.kind not in _STRINGS or _content(token.text) != found.group():
            raise PlaceholderError(f"the placeholder {found.group()} stands where it is not a value of its own")
        if number in self._strings:
            return self._strings[number]
        if number in self._numeric:
            return "'" + self._contents[number].replace("'", "''") + "'"
        raise PlaceholderError(f"the placeholder '{found.group()}' stands for nothing")


def _without_quotes(text: str, names: Collection[str]) -> str:
    """Leave quotes that hold known names. Others may hold quotes themselves, so all from the first to the last goes."""
    known = all(quoted[1:-1] in names for quoted in _QUOTED.findall(text))
    places = [place for place, char in enumerate(text) if char in _QUOTES]
    if not places or (known and not _QUOTES.intersection(_QUOTED.sub("", text))):
        return text
    return f'{text[: places[0]]}"..."{text[places[-1] + 1 :] if len(places) > 1 else ""}'


def _grows(left: str, right: str) -> bool:
    return bool(re.search(r"[\w.$']\Z", left) and re.match(r"[\w.$']", right))


def _content(text: str) -> str:
    """What a string literal holds, as far as that can be said without reading its escapes."""
    plain = _PLAIN_STRING.fullmatch(text)
    if plain is not None:
        return plain.group(1).replace("''", "'") if text[0] == "'" else text
    dollar = _DOLLAR_STRING.fullmatch(text)
    return dollar.group(2) if dollar is not None else text


_SHAPES = (
    ("date", re.compile(r"\d{4}-\d\d-\d\d")),
    ("timestamp", re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d.*")),
    ("number in quotes", re.compile(r"[-+]?\d+(\.\d+)?")),
    ("array", re.compile(r"\{.*\}", re.DOTALL)),
    ("pattern that begins with a wildcard", re.compile(r"[%_].*", re.DOTALL)),
    ("pattern with a fixed beginning", re.compile(r"[^%]+%.*", re.DOTALL)),
)


def _kind(content: str) -> str:
    return next((kind for kind, shape in _SHAPES if shape.fullmatch(content)), "text")
