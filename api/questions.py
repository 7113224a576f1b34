"""What a request for advice asks, as far as it decides the answer: the keys of the cache.

Two requests share a key when they differ in layout only: in what stands between the tokens of the SQL, in comments, in
the final semicolon. Everything else counts: every token as it is spelled, literals and the case of names included, the
values of parameters and their types, options, the shadow and its revision, and all that `build_digest` covers.

Nobody gets text that another sent. The text that an answer repeats (`query.sql`) is never kept but put in from the
request. Rewrites carry over the comments inside the statement, so what was found for a statement with such comments is
kept for exactly these comments; what was found for one without comments also answers one with them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from api.schemas import OptimizeRequest
from optimizer.layout import read_layout
from optimizer.query import statement_text

_SCHEMA = "schema"


@dataclass(frozen=True, slots=True)
class Question:
    """One request, read.

    Parameters:
        statement: what is to be planned: the SQL, with blanks for the comments in front and nothing for those behind,
            so that errors tell the place in the asker's own text.
        opening: the beginning of the answer, in JSON, up to and including the text of the query.
        shadow: name of the registered shadow; empty where a schema came along.
        digests: one for each key, the most particular first.
    """

    statement: str
    opening: bytes
    shadow: str
    digests: tuple[str, ...]

    def keys(self, revision: str) -> tuple[str, ...]:
        """The keys under which an answer may be kept, the most particular first.

        Parameters:
            revision: of the shadow; of no account where a schema came along.
        """
        return tuple([f"{digest}:{revision if self.shadow else _SCHEMA}" for digest in self.digests])

    @property
    def size(self) -> int:
        """Bytes that this object takes, nearly."""
        return len(self.opening) + 2 * len(self.statement) + 1_000


def read_question(request: OptimizeRequest, shadow: str, build: str, max_bytes: int) -> Question:
    """Read a request.

    Parameters:
        request: that came in.
        shadow: name of the registered shadow that it is about; empty where a schema came along.
        build: see `optimizer.cache.build`.
        max_bytes: of the SQL.

    Errors: `SqlError`, `TooLargeError`.
    """
    before, text = statement_text(request.sql, max_bytes=max_bytes)
    layout = read_layout(text)
    rest = {
        "build": build,
        "shadow": shadow,
        "schema": _digest(request.schema_) if request.schema_ is not None else None,
        "parameters": None if request.params is None else [_typed(value) for value in request.params],
        "disable": sorted(set(request.disable)),
        "min_equivalence": request.min_equivalence,
        "llm": request.llm,
    }
    forms = dict.fromkeys((layout.remarked, layout.tokens))  # one and the same without comments
    digests = tuple(_digest(json.dumps([form, rest])) for form in forms)
    return Question(_blank(before) + layout.statement, opening_of(text), shadow, digests)


def opening_of(text: str) -> bytes:
    """The beginning of an answer about a query's text."""
    return f'{{"query":{{"sql":{json.dumps(text, ensure_ascii=False)}'.encode()


def _blank(text: str) -> str:
    return "".join("\n" if char == "\n" else " " for char in text)


def _typed(value: Any) -> list[str]:
    """1, 1.0, true and '1' are other values to PostgreSQL."""
    return [type(value).__name__, repr(value)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
