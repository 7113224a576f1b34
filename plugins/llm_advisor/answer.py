"""What a model answered, read without trusting any of it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

#: Most proposals of each kind that are read.
MAX_PROPOSALS = 6
_MAX_TITLE = 120
_MAX_WHY = 600
#: Places in an answer at which an object is looked for.
_MAX_STARTS = 40
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_URL = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*://|www\.|(?:javascript|data|mailto):)\S+")
_TAG = re.compile(r"</?[A-Za-z!][^>]*>")
_FENCE = re.compile(r"```[A-Za-z]*\s*(.*?)```", re.DOTALL)


#: Endpoints want to be told that there is nothing else; read, more does not hurt.
_EXACT = ConfigDict(extra="ignore", json_schema_extra={"additionalProperties": False})


class ProposedRewrite(BaseModel):
    """A rewritten statement."""

    model_config = _EXACT

    sql: str
    title: str
    why: str


class ProposedIndex(BaseModel):
    """A CREATE INDEX statement."""

    model_config = _EXACT

    ddl: str
    title: str
    why: str


class Answer(BaseModel):
    """The form that is asked for."""

    model_config = _EXACT

    rewrites: list[ProposedRewrite]
    indexes: list[ProposedIndex]


_Item = TypeVar("_Item", ProposedRewrite, ProposedIndex)


def read_answer(text: str) -> tuple[Answer, int] | None:
    """Find the answer in a text: the object itself, or one in a fence or among words.

    Parameters:
        text: what the model wrote.

    Returns: the proposals that have the right form, and how many have not; None when there is no such object.
    """
    for found in _objects(text):
        if isinstance(found, dict) and ("rewrites" in found or "indexes" in found):
            rewrites, bad = _items(found.get("rewrites"), ProposedRewrite)
            indexes, worse = _items(found.get("indexes"), ProposedIndex)
            return Answer(rewrites=rewrites, indexes=indexes), bad + worse
    return None


def clean(text: str, limit: int) -> str:
    """Make a model's words harmless wherever they are shown: one line of plain text without links, tags or controls."""
    text = _ANSI.sub("", text[: 20 * limit])
    text = "".join(" " if c.isspace() else "" if unicodedata.category(c).startswith("C") else c for c in text)
    for pattern, instead in ((_LINK, r"\1"), (_URL, "(address left out)"), (_TAG, "")):
        text = pattern.sub(instead, text)
    text = " ".join(text.replace("```", "").split())
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def title(text: str) -> str:
    """A proposal's title, clean and short."""
    return clean(text, _MAX_TITLE)


def why(text: str) -> str:
    """A proposal's reason, clean and not long."""
    return clean(text, _MAX_WHY)


def unprintable(sql: str) -> bool:
    """True when SQL holds characters that hide or reorder what one reads: none of PostgreSQL's grammar needs them."""
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and c not in "\n\t\r" for c in sql)


def _objects(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    places = [text, *_FENCE.findall(text)]
    starts = [m.start() for m in re.finditer(r"\{", text)][:_MAX_STARTS]
    for piece in (*(p.strip() for p in places), *(text[start:] for start in starts)):
        try:
            yield decoder.raw_decode(piece)[0]
        except (ValueError, RecursionError):
            continue


def _items(value: Any, kind: type[_Item]) -> tuple[list[_Item], int]:
    if not isinstance(value, list):
        return [], int(value is not None)
    good: list[_Item] = []
    bad = 0
    for item in value[:MAX_PROPOSALS]:
        try:
            good.append(kind.model_validate(item))
        except ValidationError:
            bad += 1
    return good, bad
