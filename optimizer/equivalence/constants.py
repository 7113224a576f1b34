"""The types of columns and the constants of queries, as the generator sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

_FAMILIES = {
    "smallint": "int",
    "integer": "int",
    "bigint": "int",
    "oid": "int",
    "numeric": "numeric",
    "money": "numeric",
    "real": "float",
    "double precision": "float",
    "text": "text",
    "character varying": "text",
    "character": "text",
    '"char"': "text",
    "name": "text",
    "citext": "text",
    "boolean": "bool",
    "date": "date",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "time without time zone": "time",
    "time with time zone": "time",
    "interval": "interval",
    **{
        name: name
        for name in (
            *("uuid", "json", "jsonb", "bytea", "inet", "cidr", "macaddr", "xml", "tsvector", "tsquery", "point"),
            *("hstore", "ltree", "vector", "int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange"),
        )
    },
}


@dataclass(frozen=True, slots=True)
class ValueType:
    """A column's type.

    Parameters:
        name: as `format_type` prints it.
        base: the base type's name without modifiers, below a domain.
        arguments: type modifiers, such as precision and scale.
        labels: of an enum.
        element: of an array.
    """

    name: str
    base: str
    arguments: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    element: ValueType | None = None

    @property
    def family(self) -> str:
        """The group of types that constants are shared in."""
        if self.labels:
            return "enum"
        if self.element is not None:
            return "array"
        return _FAMILIES.get(self.base, "other")


@dataclass(frozen=True, slots=True)
class Constants:
    """What both queries mention.

    Parameters:
        numbers: numeric constants.
        strings: string constants as written.
        moments: those strings that are dates or times, as UTC without a zone.
        spans: those that are intervals.
        now: the present, when a query asks for it.
    """

    numbers: tuple[Decimal, ...] = ()
    strings: tuple[str, ...] = ()
    moments: dict[str, datetime] = field(default_factory=dict)
    spans: tuple[timedelta, ...] = ()
    now: datetime | None = None


def number(text: str) -> Decimal | None:
    """Read a numeric constant, None for anything else."""
    try:
        value = Decimal(text.replace("_", "").strip())
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) < 40 else None
