"""What of a statement's text is only layout: what stands between its tokens, and comments."""

from __future__ import annotations

from dataclasses import dataclass

import postgast

_Token = postgast.pg_query_pb2.Token
_COMMENTS = frozenset({_Token.Value("SQL_COMMENT"), _Token.Value("C_COMMENT")})


@dataclass(frozen=True, slots=True)
class Layout:
    """One statement without its layout.

    Parameters:
        statement: the text from the first token to the last; comments after that are cut off.
        tokens: as they are spelled, without comments.
        remarked: the tokens with the comments between them.
    """

    statement: str
    tokens: tuple[str, ...]
    remarked: tuple[str, ...]


def read_layout(statement: str) -> Layout:
    """Take a statement apart by PostgreSQL's own scanner.

    Two statements with the same `tokens` are one to PostgreSQL: no token is changed, literals included.

    Parameters:
        statement: one statement that parses, as `Query.sql`.
    """
    data = statement.encode()
    found = [(t.token in _COMMENTS, t.end, data[t.start : t.end].decode()) for t in postgast.scan(statement).tokens]
    while found and found[-1][0]:
        found.pop()
    end = found[-1][1] if found else 0
    return Layout(
        statement=data[:end].decode(),
        tokens=tuple(text for comment, _, text in found if not comment),
        remarked=tuple(text for _, _, text in found),
    )
