"""Takes sample values apart into the keys that GIN's operator classes make of them.

Good enough to count keys, not to search with them: words are not stemmed, and trigrams of characters that PostgreSQL
would hash stay as they are. Sources: `jsonb_gin.c`, `trgm_op.c`, `hstore_gin.c`, PostgreSQL documentation, "Text Search
Types".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from optimizer.shadow.sizes.index_request import Key

_WORD: Final = re.compile(r"\w+")
_ARRAY_ITEM: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",{}]+)')
_PAIR: Final = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)')
#: Longest JSON string that jsonb_ops keeps as it is (JGIN_MAXLENGTH), in bytes; longer ones are hashed.
_LONGEST_JSON: Final = 125
_HASHED_BYTES: Final = 9
_DEEPEST: Final = 64
#: The most frequent words that the configuration `english` leaves out.
_STOP_WORDS: Final = frozenset(
    re.split(
        " ",
        "the of and to a in is it you that he was for on are with as i his they be at this have from or had by not but "
        "what all were we when your can there an which their if do will about so her would him has more no out been",
    )
)


@dataclass(frozen=True, slots=True)
class Name:
    """One key.

    Parameters:
        text: its identity, within its part.
        part: keys of different parts never mix: those of a JSON path among them.
        bytes: as stored, with its header.
    """

    text: str
    part: str = ""
    bytes: float = field(default=4.0, compare=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One sample value: its keys, the share of rows that it stands for, and whether it is one of the common values."""

    keys: frozenset[Name]
    weight: float
    frequent: bool


def kind_of(key: Key) -> str:
    """Say what a key's operator class makes of its values; `values` stands for the values themselves (btree_gin)."""
    opclass, type_ = key.opclass, key.type
    if "trgm" in opclass:
        return "trigrams"
    if opclass == "jsonb_path_ops":
        return "json paths"
    if type_ == "tsvector" or opclass == "tsvector_ops" or "to_tsvector" in key.part.expression.lower():
        return "words"
    if type_ == "jsonb" or opclass == "jsonb_ops":
        return "json"
    if type_.endswith("]") or opclass in ("array_ops", "gin__int_ops"):
        return "array"
    if "hstore" in opclass or type_.rpartition(".")[2] == "hstore":
        return "pairs"
    return "values"


def _trigrams(value: str) -> frozenset[Name]:
    found: set[str] = set()
    for word in _WORD.findall(value.lower().replace("_", " ")):
        padded = f"  {word} "
        found.update(padded[at : at + 3] for at in range(len(padded) - 2))
    return frozenset(Name(text, "trigrams") for text in found)


def _words(value: str) -> frozenset[Name]:
    words = set(_WORD.findall(value.lower())) - _STOP_WORDS
    return frozenset(Name(word, "words", 1.0 + len(word.encode())) for word in words)


def _array(value: str) -> frozenset[Name]:
    items = {quoted.replace("\\", "") or plain.strip() for quoted, plain in _ARRAY_ITEM.findall(value)}
    return frozenset(Name(item, "array", 1.0 + len(item.encode())) for item in items if item and item != "NULL")


def _pairs(value: str) -> frozenset[Name]:
    found = set()
    for key, content in _PAIR.findall(value):
        found.add(Name(key, "keys", 2.0 + len(key.encode())))
        found.add(Name(content, f"value of {key}", 2.0 + len(content.encode())))
    return frozenset(found)


def _json(value: str) -> frozenset[Name]:
    return frozenset(_json_keys(_parsed(value), (), 0))


def _json_keys(node: Any, path: tuple[str, ...], depth: int) -> Iterator[Name]:
    """Keys, and values whatever their path; the path only tells populations apart."""
    if depth > _DEEPEST:
        return
    if isinstance(node, dict):
        for name, child in node.items():
            yield Name(name, "keys", _text_bytes(name))
            yield from _json_keys(child, (*path, name), depth + 1)
    elif isinstance(node, list):
        for child in node:
            if isinstance(child, str):  # strings in arrays are keys, too
                yield Name(child, f"value {path}", _text_bytes(child))
            else:
                yield from _json_keys(child, path, depth + 1)
    else:
        text = _scalar(node)
        yield Name(text, f"value {path}", _text_bytes(text))


def _json_paths(value: str) -> frozenset[Name]:
    return frozenset(_path_keys(_parsed(value), (), 0))


def _path_keys(node: Any, path: tuple[str, ...], depth: int) -> Iterator[Name]:
    """One hash a value with its path."""
    if depth > _DEEPEST:
        return
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _path_keys(child, (*path, name), depth + 1)
    elif isinstance(node, list):
        for child in node:
            yield from _path_keys(child, path, depth + 1)
    else:
        yield Name(_scalar(node), f"value {path}", 4.0)


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _scalar(node: Any) -> str:
    if node is None or isinstance(node, bool):
        return str(node)
    return f"{node}"


def _text_bytes(text: str) -> float:
    """A flag byte before the text, and a short header."""
    length = len(text.encode())
    return 2.0 + length if length <= _LONGEST_JSON else 2.0 + _HASHED_BYTES


EXTRACTORS: Final[Mapping[str, Callable[[str], frozenset[Name]]]] = MappingProxyType(
    {
        "trigrams": _trigrams,
        "words": _words,
        "array": _array,
        "pairs": _pairs,
        "json": _json,
        "json paths": _json_paths,
    }
)
