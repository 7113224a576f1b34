"""Values worth trying in a column, by its type: a small domain that joins hit, and constants with their neighbours.

All values are texts as PostgreSQL's input functions read them. The server drops those that a type refuses
(`build.py`), so this file may be generous.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from itertools import pairwise
from typing import Any

from optimizer.equivalence.constants import Constants, ValueType, number
from optimizer.equivalence.moments import derived_moments, moment_text, moments_around, moments_wide, shifted

_FIXED = {
    "uuid": (
        "00000000-0000-0000-0000-000000000001",
        "00000000-0000-0000-0000-000000000002",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    "json": ("{}", '{"a": 1}', '{"a": 2, "b": null}', "[]", "[1, 2]", "null", '"x"', "1.0"),
    "jsonb": ("{}", '{"a": 1}', '{"a": 2, "b": null}', "[]", "[1, 2]", "null", '"x"', "1.0"),
    "bytea": ("\\x", "\\x00", "\\x01"),
    "inet": ("10.0.0.1", "10.0.0.2", "10.0.0.0/8", "::1"),
    "cidr": ("10.0.0.0/8", "10.1.0.0/16", "::/0"),
    "macaddr": ("08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    "xml": ("<a/>", "<b/>"),
    "tsvector": ("", "a:1 b:2", "b:1"),
    "tsquery": ("a", "a & b"),
    "point": ("(0,0)", "(1,2)"),
    "hstore": ("", '"a"=>"1"', '"a"=>NULL'),
    "ltree": ("a", "a.b", "b"),
    "vector": ("[1,2,3]", "[0,0,0]"),
    "int4range": ("[1,3)", "[2,5)", "empty", "(,3)", "[1,)"),
    "int8range": ("[1,3)", "[2,5)", "empty", "(,3)", "[1,)"),
    "numrange": ("[1,3)", "[2,5]", "empty", "(,3)", "[1,)"),
    "daterange": ("[2024-01-01,2024-01-03)", "[2024-01-02,2024-01-05)", "empty", "[2024-01-01,)"),
    "tsrange": ("[2024-01-01,2024-01-03)", "[2024-01-02,2024-01-05)", "empty", "[2024-01-01,)"),
    "tstzrange": ("[2024-01-01,2024-01-03)", "[2024-01-02,2024-01-05)", "empty", "[2024-01-01,)"),
}
_TRIED = ("1", "2", "3", "a", "b", "{}", "", "0", "(1)", "(1,2)")
_COMPOSED = 12


def dense(kind: ValueType) -> tuple[str, ...]:
    """A few different values of a type, the same for all columns of its family, so that joins hit."""
    match kind.family:
        case "int":
            return ("1", "2", "3")
        case "numeric" | "float":
            return ("1", "2", "3") if kind.family == "numeric" else ("0.1", "0.2", "0.3")
        case "text":
            return ("a", "b", "c")
        case "bool":
            return ("t", "f")
        case "date" | "timestamp" | "timestamptz":
            return ("2024-01-01", "2024-01-02", "2024-01-03")
        case "time":
            return ("00:00", "12:00", "23:59:59.999999")
        case "interval":
            return ("1 day", "24:00:00", "1 mon")
        case "enum":
            return kind.labels[:4]
        case "array" if kind.element is not None:
            inner = dense(kind.element)
            return ("{}", *(array_text([v]) for v in inner[:2]))
    return _FIXED.get(kind.base, _TRIED)[:3] if kind.family != "other" else bit_texts(kind) or _TRIED


def wide(kind: ValueType, constants: Constants) -> Iterator[str]:
    """Every value worth trying for columns of this type, whichever column a constant is compared with."""
    yield from dense(kind)
    match kind.family:
        case "int":
            yield from ("0", "-1", "4", "5", "7")
            for value in constants.numbers:
                yield from around(kind, str(value), constants)
        case "numeric":
            yield from ("0", "-1", "0.5", "1.00", "10", "1.5")
            for value in constants.numbers:
                yield from around(kind, str(value), constants)
        case "float":
            yield from ("0.7", "1e16", "-1e16", "0", "-0", "1.5", "-1", "1", "2", "NaN", "Infinity")
            for value in constants.numbers:
                yield from around(kind, str(value), constants)
        case "text":
            yield from ("", " ", "A", "ab", "aB", "1", "10", "9", "%", "a%", "a ")
            for text in constants.strings:
                yield from around(kind, text, constants)
        case "date" | "timestamp" | "timestamptz":
            yield from moments_wide(kind, constants)
        case "interval":
            yield from ("0", "30 days", "1 year", "-1 day", *constants.strings)
        case "json" | "jsonb":
            yield from _FIXED[kind.base]
            yield from documents(constants.strings, constants)
        case "array" if kind.element is not None:
            yield from _arrays(kind.element, constants)
        case "enum":
            yield from kind.labels
        case _:
            yield from _FIXED.get(kind.base, _TRIED)
            yield from constants.strings


def extremes(kind: ValueType) -> tuple[str, ...]:
    """The ends of a type, where arithmetic overflows."""
    match kind.base:
        case "smallint":
            return ("32767", "-32768")
        case "integer":
            return ("2147483647", "-2147483648")
        case "bigint":
            return ("9223372036854775807", "-9223372036854775808")
        case "numeric":
            return ("NaN",)
        case "date" | "timestamp without time zone" | "timestamp with time zone":
            return ("infinity", "-infinity")
        case "double precision" | "real":
            return ("Infinity", "-Infinity", "NaN")
    return ()


def around(kind: ValueType, text: str, constants: Constants) -> Iterator[str]:
    """A constant and its neighbours, as values of a type."""
    match kind.family:
        case "int" | "numeric" | "float":
            value = number(text)
            if value is not None:
                yield from _numbers_around(kind, value)
        case "text":
            yield from _texts_around(text)
        case "date" | "timestamp" | "timestamptz":
            moment = constants.moments.get(text)
            if moment is not None:
                yield from (moment_text(kind, m) for m in moments_around(kind, moment))
        case "json" | "jsonb":
            yield text
            yield from documents((text,), constants)
        case "array" if kind.element is not None:
            yield text
            yield array_text([text])
            yield array_text([text, *dense(kind.element)[:1]])
        case _:
            yield text


def satisfying(kind: ValueType, operator: str, texts: Sequence[str], constants: Constants) -> list[str]:
    """Values for which `column operator constants` holds, the column standing alone."""
    if operator == "in" or (operator == "=" and kind.family not in ("int", "date")):
        return list(texts)
    if operator == "like":
        return [filled for text in texts for filled in _pattern_instances(text)]
    if operator == "between" and len(texts) >= 2:
        middle = _between(kind, texts[0], texts[1], constants)
        return [middle, texts[0], texts[1]] if middle is not None else [texts[0], texts[1]]
    if not texts:
        return []
    step = {"<": -1, ">": 1, "<>": 1}.get(operator, 0)
    return [value for text in texts[:1] if (value := _stepped(kind, text, step, constants)) is not None]


def holds(kind: ValueType, operator: str, texts: Sequence[str], value: str, constants: Constants) -> bool:
    """True unless `value operator texts` is certainly false."""
    if operator == "in" or (
        operator == "=" and len(texts) == 1 and kind.family not in ("date", "timestamp", "timestamptz")
    ):
        return value in texts or _ordered(kind, value, constants) in {_ordered(kind, t, constants) for t in texts} - {
            None
        }
    mine = _ordered(kind, value, constants)
    bounds = [_ordered(kind, text, constants) for text in texts]
    if mine is None or not bounds or any(b is None or type(b) is not type(mine) for b in bounds):
        return True
    first: Any = bounds[0]
    last: Any = bounds[-1]
    match operator:
        case "=":
            return bool(mine == first)
        case "<":
            return bool(mine < first)
        case "<=":
            return bool(mine <= first)
        case ">":
            return bool(mine > first)
        case ">=":
            return bool(mine >= first)
        case "<>":
            return bool(mine != first)
        case "between":
            return bool(first <= mine <= last)
    return True


def _ordered(kind: ValueType, text: str, constants: Constants) -> Any:
    """A value that compares as the column's does; None where that cannot be told."""
    if kind.family in ("int", "numeric", "float"):
        return number(text)
    if kind.family in ("date", "timestamp", "timestamptz"):
        known = constants.moments.get(text)
        if known is not None:
            return known
        try:
            return datetime.fromisoformat(text.removesuffix("+00"))
        except ValueError:
            return None
    return text if kind.family == "text" else None


def derived(kind: ValueType, function: str, texts: Sequence[str], constants: Constants) -> Iterator[str]:
    """Values for a column inside an expression that is compared with constants."""
    if kind.family in ("int", "numeric", "float"):
        values = [v for t in texts if (v := number(t)) is not None]
        for value in _combined(values):
            yield from _numbers_around(kind, value)
        for value in values:  # as texts, numbers with more digits come first
            yield from (f"{abs(value):f}0", "1" + "0" * len(f"{abs(value):f}"))
    elif kind.family == "text":
        for text in texts:
            yield from (text, text.lower(), text.upper(), text.capitalize(), f"{text}x", f" {text} ", f"x{text}")
            length = number(text)
            if length is not None and 0 <= length <= 100:
                yield from ("x" * int(length), "x" * (int(length) + 1), "x" * max(int(length) - 1, 0))
            yield from _pattern_instances(text)
    elif kind.family in ("date", "timestamp", "timestamptz"):
        yield from derived_moments(kind, function, texts, constants)
    elif kind.family in ("json", "jsonb"):
        yield from documents(texts, constants)
    elif kind.family == "array" and kind.element is not None:
        for text in texts:
            yield from around(kind, text, constants)


def numbered(kind: ValueType, n: int) -> str | None:
    """A value that differs for every `n`, for unique columns; None for types without many values."""
    match kind.family:
        case "int" | "numeric" | "float":
            return str(n)
        case "text":
            limit = kind.arguments[0] if kind.arguments else 20
            text = f"k{n}"
            return text if len(text) <= limit else str(n)[-limit:]
        case "date" | "timestamp" | "timestamptz":
            return str(date(2024, 1, 1) + timedelta(days=n))
        case "uuid":
            return f"00000000-0000-0000-0000-{n:012d}"
        case "interval":
            return f"{n} days"
        case "json" | "jsonb":
            return str(n)
        case "bytea":
            return f"\\x{n:04x}"
        case "inet":
            return f"10.0.{n // 256 % 256}.{n % 256}"
    return None


def array_text(items: Iterable[str | None]) -> str:
    """An array literal."""
    quoted = ("NULL" if i is None else '"' + i.replace("\\", "\\\\").replace('"', '\\"') + '"' for i in items)
    return "{" + ",".join(quoted) + "}"


def documents(texts: Sequence[str], constants: Constants) -> Iterator[str]:
    """JSON documents in which the strings are keys and values."""
    pool = [t for t in dict.fromkeys(texts) if len(t) < 60][:5]
    yield from pool
    for key in pool:
        yield from (json.dumps({key: value}) for value in (None, "a", "z", 1, True))
        for value in pool:
            if value != key:
                yield json.dumps({key: value})
        for amount in constants.numbers[:2]:
            yield json.dumps({key: float(amount) if amount % 1 else int(amount)})
    yield from (json.dumps([key]) for key in pool)


def bit_texts(kind: ValueType) -> tuple[str, ...]:
    """Values of bit types, whose length is fixed."""
    if kind.base not in ("bit", "bit varying"):
        return ()
    length = kind.arguments[0] if kind.arguments else 1
    return ("0" * length, "1" * length, "1" + "0" * (length - 1))


def _arrays(element: ValueType, constants: Constants) -> Iterator[str]:
    inner = [*dense(element), *(t for t in constants.strings if len(t) < 40)][:5]
    yield "{}"
    yield array_text([None])
    for item in inner:
        yield array_text([item])
    for first, second in pairwise(inner):
        yield array_text([first, second])
        yield array_text([first, first])
    yield from constants.strings


def _numbers_around(kind: ValueType, value: Decimal) -> Iterator[str]:
    if kind.family == "int":
        low, high = value.to_integral_value(ROUND_FLOOR), value.to_integral_value(ROUND_CEILING)
        yield from dict.fromkeys(f"{v:f}" for v in (low, high, low - 1, high + 1))
        return
    scale = kind.arguments[1] if len(kind.arguments) > 1 else 2
    step = Decimal(1).scaleb(-max(scale, 0)) if kind.family == "numeric" else Decimal("0.5")
    yield from (f"{v:f}" for v in (value, value - step, value + step, value - 1, value + 1))


def _combined(values: Sequence[Decimal]) -> Iterator[Decimal]:
    """Solutions of the usual arithmetic: c, c - k, c + k, c * k, c / k."""
    yield from values
    with localcontext(prec=20):
        for a in values[:4]:
            for b in values[:4]:
                yield from (a - b, a + b, a * b)
                if b:
                    yield (a / b).quantize(Decimal("0.01")) if abs(a / b) < 10**12 else a
    yield from (-v for v in values)


def _texts_around(text: str) -> Iterator[str]:
    yield from (text, f"{text}a", text[:-1], text.upper(), text.lower(), text.swapcase(), f"{text} ", f" {text}")
    if text:
        yield text[:-1] + chr(min(ord(text[-1]) + 1, 0x10FFF))
    if "%" in text or "_" in text:
        yield from _pattern_instances(text)


def _pattern_instances(pattern: str) -> Iterator[str]:
    """Strings that a LIKE pattern takes, and near misses."""
    plain = pattern.replace("\\%", "\0").replace("\\_", "\1").replace("\\\\", "\2")
    for many, one in (("", "x"), ("x", "y"), ("xyz", "0")):
        filled = plain.replace("%", many).replace("_", one)
        yield filled.replace("\0", "%").replace("\1", "_").replace("\2", "\\")
    yield "x" + plain.replace("%", "").replace("_", "")


def _stepped(kind: ValueType, text: str, step: int, constants: Constants) -> str | None:
    if kind.family in ("int", "numeric", "float"):
        value = number(text)
        if value is None:
            return None
        if kind.family == "int":
            whole = value.to_integral_value(ROUND_FLOOR if step < 0 else ROUND_CEILING)
            return f"{whole + step if whole == value else whole:f}"
        return f"{value + step:f}"
    if kind.family in ("date", "timestamp", "timestamptz"):
        moment = _ordered(kind, text, constants)
        return moment_text(kind, shifted(moment, timedelta(days=step))) if moment is not None else None
    if kind.family == "enum" and text in kind.labels and step:
        place = kind.labels.index(text) + step
        return kind.labels[place] if 0 <= place < len(kind.labels) else None
    if kind.family == "bool" and step:
        return "f" if text.lower() in ("t", "true") else "t"
    return text if not step else (f"{text}a" if step > 0 else text[:-1])


def _between(kind: ValueType, low: str, high: str, constants: Constants) -> str | None:
    if kind.family in ("int", "numeric", "float"):
        a, b = number(low), number(high)
        if a is None or b is None:
            return None
        middle = (a + b) / 2
        return f"{middle.to_integral_value(ROUND_FLOOR) if kind.family == 'int' else middle:f}"
    first, last = constants.moments.get(low), constants.moments.get(high)
    return moment_text(kind, first + (last - first) / 2) if first is not None and last is not None else None
