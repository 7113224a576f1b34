"""Constants in a query: read exactly, folded exactly, written back canonically.

Everything here is pure and errs on the side of None: a constant whose value depends on a setting (DateStyle, TimeZone,
extra_float_digits), that PostgreSQL would refuse, or that lies outside what Python represents exactly is not read.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext

from sqlglot import exp

from optimizer.matching import bare, type_name

#: Smallest and largest value of the integer types (PostgreSQL documentation, "Numeric Types").
INTEGER_RANGES = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}
#: Longest numeric literal that is folded; far beyond real data, and cheap.
MAX_DIGITS = 100

_INTEGER = re.compile(r"[0-9]{1,19}")
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d)(:\d\d(?:\.\d{1,6})?)?)?", re.ASCII)
_SPAN_PART = re.compile(r"\s*([+-]?\d{1,7})\s*([a-zA-Z]+)", re.ASCII)
_CLOCK = re.compile(r"\s*(\d{1,6}):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,6}))?)?\s*$", re.ASCII)

_SECOND = 1_000_000
_UNITS = {
    "week": (7, 0),
    "day": (1, 0),
    "hour": (0, 3600 * _SECOND),
    "minute": (0, 60 * _SECOND),
    "min": (0, 60 * _SECOND),
    "second": (0, _SECOND),
    "sec": (0, _SECOND),
}
#: Units of `date_trunc` that are understood; all are whole steps of the proleptic Gregorian calendar.
TRUNC_UNITS = frozenset({"year", "quarter", "month", "week", "day", "hour", "minute", "second"})


@dataclass(frozen=True, slots=True)
class Span:
    """An interval without months: days of 24 hours as long as no time zone is involved, and microseconds."""

    days: int
    microseconds: int

    @property
    def delta(self) -> timedelta:
        """As a duration, a day counted as 24 hours (as PostgreSQL does when it compares intervals)."""
        return timedelta(days=self.days, microseconds=self.microseconds)

    def __neg__(self) -> Span:
        return Span(-self.days, -self.microseconds)

    def __add__(self, other: Span) -> Span:
        return Span(self.days + other.days, self.microseconds + other.microseconds)


@dataclass(frozen=True, slots=True)
class Today:
    """`CURRENT_DATE` plus a number of days."""

    offset: int = 0


#: A point on the calendar that is known, or known relative to the current date.
Point = datetime | Today


def integer(node: exp.Expr) -> int | None:
    """The value of an integer literal, possibly signed or cast to an integer type that holds it."""
    node = bare(node)
    if isinstance(node, exp.Neg):
        value = integer(node.this)
        return -value if value is not None else None
    if isinstance(node, exp.Cast):
        inner = bare(node.this)
        quoted = isinstance(inner, exp.Literal) and inner.is_string
        value = canonical_integer(inner.name) if quoted else integer(inner)
        return value if value is not None and fits(value, type_name(node)) else None
    if isinstance(node, exp.Literal) and not node.is_string and _INTEGER.fullmatch(node.name):
        value = int(node.name)
        return value if fits(value, "bigint") else None
    return None


def canonical_integer(digits: str) -> int | None:
    """The integer that PostgreSQL prints as exactly these characters; None for `05`, `+5`, ` 5`, `-0`, `x`."""
    return int(digits) if _CANONICAL_INTEGER.fullmatch(digits) else None


def fits(value: int, type_: str) -> bool:
    """True when the integer type can hold the value; False for other types."""
    low, high = INTEGER_RANGES.get(type_, (1, 0))
    return low <= value <= high


def number(node: exp.Expr) -> Decimal | None:
    """The value of a numeric literal (`5`, `5.0`, `5e2`), possibly signed, or cast to `numeric` without a precision."""
    node = bare(node)
    if isinstance(node, exp.Neg):
        value = number(node.this)
        return -value if value is not None else None
    if isinstance(node, exp.Cast):
        if type_name(node) == "numeric":
            return number(node.this)
        whole = integer(node)
        return Decimal(whole) if whole is not None else None
    if isinstance(node, exp.Literal) and not node.is_string and len(node.name) <= MAX_DIGITS:
        return Decimal(node.name) if _NUMBER.fullmatch(node.name) else None
    return None


def difference(left: Decimal, right: Decimal) -> Decimal:
    """`left - right` without rounding."""
    with localcontext() as context:
        context.prec = 4 * MAX_DIGITS
        return left - right


def text(node: exp.Expr) -> str | None:
    """The value of a plain string literal, untyped or cast to `text`."""
    node = bare(node)
    if isinstance(node, exp.Cast) and type_name(node) == "text":
        node = bare(node.this)
    return node.name if isinstance(node, exp.Literal) and node.is_string else None


def moment(node: exp.Expr, type_: str) -> datetime | None:
    """The point in time that a constant means where it is compared with a `date` or a `timestamp without time zone`.

    Parameters:
        node: an untyped string, or a string cast to `date` or `timestamp`, in ISO form (which every DateStyle reads
            alike), years 1 to 9999. A date means its midnight.
        type_: `date` or `timestamp without time zone`: what an untyped string is read as.
    """
    node = bare(node)
    if isinstance(node, exp.Cast):
        type_ = type_name(node)
        node = bare(node.this)
    if not isinstance(node, exp.Literal) or not node.is_string:
        return None
    if type_ == "date":
        return _datetime(node.name) if _DATE.fullmatch(node.name) else None
    if type_ == "timestamp without time zone":
        match = _TIMESTAMP.fullmatch(node.name)
        return _datetime(" ".join(filter(None, (match[1], (match[2] or "") + (match[3] or ""))))) if match else None
    return None


def _datetime(iso: str) -> datetime | None:
    try:
        return datetime.fromisoformat(iso)
    except ValueError:  # no such day or time; PostgreSQL refuses it too, or (24:00, :60) carries over
        return None


def today(node: exp.Expr) -> Today | None:
    """`CURRENT_DATE` with whole days added or taken away, as integers or as intervals."""
    node = bare(node)
    if isinstance(node, exp.CurrentDate) and node.this is None:
        return Today()
    if isinstance(node, (exp.Add, exp.Sub)):
        base = today(node.this)
        if base is None:
            return None
        sign = 1 if isinstance(node, exp.Add) else -1
        days = integer(node.expression)
        if days is not None and _adds_integers(node.this):
            return Today(base.offset + sign * days) if abs(base.offset + sign * days) < 1_000_000 else None
        length = span(node.expression)
        if length is not None and not length.microseconds:
            return Today(base.offset + sign * length.days)
    return None


def _adds_integers(node: exp.Expr) -> bool:
    """A date takes integers; once an interval was added it is a timestamp, which does not."""
    node = bare(node)
    return span(node.expression) is None and _adds_integers(node.this) if isinstance(node, exp.Binary) else True


def point(node: exp.Expr, type_: str) -> Point | None:
    """A `moment`, or a day relative to `CURRENT_DATE`."""
    return moment(node, type_) or today(node)


def span(node: exp.Expr) -> Span | None:
    """The length of an interval literal without months and years: weeks, days, hours, minutes, seconds."""
    node = bare(node)
    if isinstance(node, exp.Neg):
        length = span(node.this)
        return -length if length is not None else None
    if isinstance(node, exp.Cast) and type_name(node) == "interval":
        literal, unit = bare(node.this), None
    elif isinstance(node, exp.Interval):
        literal, unit = node.this, node.args.get("unit")
    else:
        return None
    if not isinstance(literal, exp.Literal) or not literal.is_string or not isinstance(unit, exp.Var | None):
        return None
    return _span(f"{literal.name} {unit.name}" if unit is not None else literal.name)


def _span(words: str) -> Span | None:
    total = Span(0, 0)
    offset = 0
    seen: set[str] = set()
    while part := _SPAN_PART.match(words, offset):
        unit = part[2].lower().removesuffix("s")
        if unit not in _UNITS or unit in seen:
            return None
        seen.add(unit)
        days, microseconds = _UNITS[unit]
        total += Span(int(part[1]) * days, int(part[1]) * microseconds)
        offset = part.end()
    if words[offset:].strip():
        clock = _CLOCK.match(words, offset)
        if clock is None or "-" in words or seen & {"hour", "minute", "min", "second", "sec"}:
            return None  # signs and clocks together are read in ways that hang on IntervalStyle
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0)
        total += Span(0, seconds * _SECOND + int((clock[4] or "").ljust(6, "0")))
        return total
    return total if seen else None


def floor(unit: str, value: datetime) -> datetime:
    """The largest boundary of `unit` that is not after `value`, as `date_trunc` computes it (weeks begin on Monday)."""
    midnight = value.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "year":
        return midnight.replace(month=1, day=1)
    if unit == "quarter":
        return midnight.replace(month=value.month - (value.month - 1) % 3, day=1)
    if unit == "month":
        return midnight.replace(day=1)
    if unit == "week":
        return midnight - timedelta(days=value.weekday())
    if unit == "day":
        return midnight
    if unit == "hour":
        return value.replace(minute=0, second=0, microsecond=0)
    if unit == "minute":
        return value.replace(second=0, microsecond=0)
    if unit == "second":
        return value.replace(microsecond=0)
    raise ValueError(f"not a unit of date_trunc that is understood: {unit}")


def following(unit: str, boundary: datetime) -> datetime:
    """The boundary of `unit` after `boundary`.

    Errors: `OverflowError` past the year 9999.
    """
    if unit in ("year", "quarter", "month"):
        months = {"year": 12, "quarter": 3, "month": 1}[unit]
        days = 0
        year, month = boundary.year, boundary.month
        for _ in range(months):
            days += monthrange(year, month)[1]
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return boundary + timedelta(days=days)
    return boundary + timedelta(**{f"{unit}s": 1})


def integer_node(value: int) -> exp.Expr:
    """Write an integer."""
    return exp.Neg(this=exp.Literal.number(str(-value))) if value < 0 else exp.Literal.number(str(value))


def number_node(value: Decimal) -> exp.Expr:
    """Write a numeric value, without an exponent."""
    return exp.Neg(this=number_node(-value)) if value < 0 else exp.Literal.number(f"{value:f}")


def point_node(value: Point, *, suffix: str = "") -> exp.Expr:
    """Write a point as an untyped ISO string, or as CURRENT_DATE and days.

    Parameters:
        suffix: an offset such as `+00`; then the time of day is written too.
    """
    if isinstance(value, Today):
        now = exp.CurrentDate()
        if not value.offset:
            return now
        days = exp.Literal.number(str(abs(value.offset)))
        return exp.Add(this=now, expression=days) if value.offset > 0 else exp.Sub(this=now, expression=days)
    midnight = value == floor("day", value)
    return exp.Literal.string(f"{value.date()}" if midnight and not suffix else f"{value.isoformat(' ')}{suffix}")


def span_node(value: Span) -> exp.Expr:
    """Write an interval."""
    parts = [(value.days, "day")]
    seconds, fraction = divmod(abs(value.microseconds), _SECOND)
    sign = -1 if value.microseconds < 0 else 1
    parts += [(sign * (seconds // 3600), "hour"), (sign * (seconds // 60 % 60), "minute")]
    words = [f"{count} {unit}{'' if abs(count) == 1 else 's'}" for count, unit in parts if count]
    if seconds % 60 or fraction or not words:
        exact = f"{sign * (seconds % 60 * _SECOND + fraction) / _SECOND:.6f}".rstrip("0").rstrip(".")
        words.append(f"{exact} seconds")
    return exp.Interval(this=exp.Literal.string(" ".join(words)))
