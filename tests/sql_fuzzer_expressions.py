"""Random columns, constants and conditions on one column, for sql_fuzzer.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from fuzz_schema import POOLS, quoted

_T = TypeVar("_T")
COMPARISONS = ("=", "=", "=", "<", "<=", ">", ">=", "<>")
_CASTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "int": (
        ("text", "text"), ("text", "text"), ("bigint", "int"), ("numeric", "num"), ("smallint", "int"),
        ("double precision", "float"), ("varchar(3)", "text"),
    ),
    "num": (("integer", "int"), ("text", "text"), ("numeric(6,1)", "num"), ("double precision", "float")),
    "text": (("varchar(3)", "text"), ("char(4)", "char"), ("text", "text")),
    "char": (("text", "text"), ("varchar", "text")),
    "status": (("text", "text"), ("varchar", "text")),
    "date": (("timestamp", "ts"), ("text", "text"), ("timestamptz", "tz")),
    "ts": (("date", "date"), ("date", "date"), ("timestamptz", "tz"), ("timestamp(0)", "ts")),
    "tz": (("date", "date"), ("timestamp", "ts"), ("text", "text")),
    "float": (("numeric", "num"), ("real", "float")),
    "bool": (("text", "text"),),
}  # fmt: skip
_AMOUNTS = {"int": ("1", "2", "5", "10"), "num": ("1", "0.5", "2.25"), "float": ("0.1",)}
_SPANS = (
    "INTERVAL '1 day'", "INTERVAL '36 hours'", "'2 days'::interval", "INTERVAL '1 month'", "INTERVAL '90 minutes'",
    "INTERVAL '-1 day'", "INTERVAL '1 week'", "INTERVAL '0.5 seconds'",
)  # fmt: skip
_UNITS = ("day", "month", "year", "week", "hour", "quarter")
_FORMATS = (
    ("YYYY", "'2024'"), ("YYYY-MM", "'2024-01'"), ("YYYYMMDD", "'20240101'"), ("YYYY-MM-DD", "'2024-02-29'"),
    ("MM", "'01'"), ("YYYY-MM", "'2024-13'"),
)  # fmt: skip


@dataclass
class Item:
    """A FROM item: its alias as SQL, its table (an opening bracket for derived ones), its columns with their kinds."""

    alias: str
    table: str
    columns: Mapping[str, str]


Column = tuple[Item, str, str]  # item, name, kind


@dataclass
class Frame:
    """What a query can refer to.

    Parameters:
        items: its FROM items.
        parent: what the query around it can refer to.
        links: conditions that its WHERE must hold.
        joined: columns that joins equate.
        merged: columns must be written with their table, since USING or NATURAL merges some.
    """

    items: list[Item] = field(default_factory=list)
    parent: Frame | None = None
    links: list[str] = field(default_factory=list)
    joined: list[Column] = field(default_factory=list)
    merged: bool = False


class Expressions:
    """Makes expressions over a frame.

    Parameters:
        chance: the source of all choices.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def pick(self, *choices: _T) -> _T:
        """Choose one."""
        return self.chance.choice(choices)

    def odds(self, share: float) -> bool:
        """True in that share of the cases."""
        return self.chance.random() < share

    # Columns and constants

    def column(self, frame: Frame, kind: str | None = None) -> Column:
        """Choose a column, of a kind if there is one."""
        every = [(item, name, k) for item in frame.items for name, k in item.columns.items()]
        fitting = [c for c in every if c[2] == kind]
        return self.pick(*(fitting or every))

    def reference(self, column: Column, frame: Frame) -> str:
        """Write a column reference, sometimes without its table where that is clear."""
        item, name, _ = column
        shown = quoted(name)
        if shown == name and self.odds(0.04):
            shown = self.pick(name.upper(), f'"{name}"')
        own = any(i is item for i in frame.items)
        clear = own and not frame.merged and sum(name in i.columns for i in frame.items) == 1
        return shown if clear and self.odds(0.25) else f"{item.alias}.{shown}"

    def constant(self, kind: str) -> str:
        """Write a constant, perhaps beside the values that rows have."""
        text = self.pick(*POOLS[kind])
        if kind == "int" and self.odds(0.15):
            return self.pick("6", "-1", "2.0", "4.5", "'3'", "NULL", "100000")
        if kind in ("date", "ts") and self.odds(0.15):
            return f"{'DATE' if kind == 'date' or self.odds(0.5) else 'TIMESTAMP'} {text}"
        return text

    def equal(self, left: Column, right: Column, frame: Frame) -> str:
        """An equality, sometimes less plain than that."""
        a, b = self.reference(left, frame), self.reference(right, frame)
        if left[2] != right[2]:
            if {left[2], right[2]} <= {"char", "text"} or {left[2], right[2]} <= {"date", "ts", "tz"}:
                return f"{a} = {b}"
            a, b = f"{a}::text", f"{b}::text"
        roll = self.chance.random()
        if roll < 0.05 and left[2] == "int":
            return f"{a} + 1 = {b}"
        if roll < 0.08:
            return f"{a} IS NOT DISTINCT FROM {b}"
        if roll < 0.1:
            return f"{a} <= {b}"
        if roll < 0.13 and left[2] == right[2] == "int":
            type_ = self.pick("numeric", "bigint", "text", "integer")
            return f"{a}::{type_} = {b}::{type_}"
        return f"{a} = {b}" if self.odds(0.6) else f"{b} = {a}"

    def same_kind(self, left: Item, right: Item, frame: Frame) -> str:
        """An equality between two columns of one kind, or a plain comparison."""
        pairs = [(a, b, k) for a, k in left.columns.items() for b, other in right.columns.items() if k == other]
        if not pairs or self.odds(0.1):
            return self.comparison(self.column(Frame([left])), frame)
        a, b, kind = self.pick(*pairs)
        operator = self.pick("=", "=", "=", "=", "<", "<>")
        return f"{self.reference((left, a, kind), frame)} {operator} {self.reference((right, b, kind), frame)}"

    def comparison(self, column: Column, frame: Frame) -> str:
        """A condition on one column."""
        text, kind = self.reference(column, frame), column[2]
        makers: list[Callable[[str, str], str | None]] = [self._plain] * 4
        makers += [self._of_function, self._of_sum, self._of_cast, self._of_null] * 2
        made = None
        while made is None:
            made = self.pick(*makers)(text, kind)
        return made

    def _plain(self, text: str, kind: str) -> str:
        roll = self.chance.random()
        if kind == "bool" and roll < 0.5:
            return text
        if roll < 0.12:
            low, high = self.constant(kind), self.constant(kind)
            return f"{text} {self.pick('', '', 'NOT ')}BETWEEN {low} AND {high}"
        if roll < 0.25:
            values = ", ".join(self.constant(kind) for _ in range(self.chance.randint(1, 3)))
            return f"{text} {self.pick('', '', 'NOT ')}IN ({values})"
        if roll < 0.3 and kind == "int":
            return f"{text} = ANY (ARRAY[1, 2, 5])"
        left, right = (text, self.constant(kind)) if self.odds(0.88) else (self.constant(kind), text)
        return f"{left} {self.pick(*COMPARISONS)} {right}"

    def _of_null(self, text: str, kind: str) -> str:
        del kind
        return f"{text} IS {self.pick('', 'NOT ')}NULL"

    def _of_function(self, text: str, kind: str) -> str | None:
        operator = self.pick(*COMPARISONS)
        zone = self.pick("'UTC'", "'UTC'", "'America/New_York'")
        argument = f"{text} AT TIME ZONE {zone}" if kind == "tz" and self.odds(0.6) else text
        roll = self.chance.random()
        if kind in ("text", "char"):
            choices = (f"lower({text}) {operator} 'a'", f"{text} LIKE 'a%'", f"{text} || 'x' = 'ax'",
                       f"COALESCE({text}, 'a') = 'b'", f"length({text}) > 1")  # fmt: skip
            return self.pick(*choices)
        if kind in ("int", "num"):
            return self.pick(f"COALESCE({text}, 0) {operator} {self.constant(kind)}", f"abs({text}) {operator} 2")
        if kind not in ("date", "ts", "tz"):
            return None
        if roll < 0.3:
            unit = self.pick(*_UNITS)
            value = self.pick("'2024-01-01'", "'2024-01-01 12:00'", "'2024-02-29'", "'2023-12-31'", "'2024-01-15'")
            return f"date_trunc('{unit}', {argument}) {operator} {value}"
        if roll < 0.5:
            value = self.pick(*POOLS["date"], "CURRENT_DATE", "CURRENT_DATE - 5")
            call = self.pick(f"({argument})::date", f"date({argument})", f"CAST({argument} AS date)")
            if self.odds(0.2):
                return f"{call} {self.pick('', 'NOT ')}IN ('2024-01-01', {value}, '2024-01-02')"
            if self.odds(0.2):
                return f"{call} BETWEEN {self.pick(*POOLS['date'])} AND {value}"
            return f"{call} {operator} {value}"
        if roll < 0.75:
            field_ = self.pick("year", "year", "month", "dow")
            value = self.pick("2024", "2023", "1", "2024.5", "12", "-5")
            call = self.pick(f"extract({field_} FROM {argument})", f"date_part('{field_}', {argument})")
            return f"{call} {operator} {value}"
        format_, value = self.pick(*_FORMATS)
        return f"to_char({argument}, '{format_}') {self.pick('=', '=', '<', '<>')} {value}"

    def _of_sum(self, text: str, kind: str) -> str | None:
        operator, sign = self.pick(*COMPARISONS), self.pick("+", "+", "-")
        if kind in _AMOUNTS:
            amount = self.pick(*_AMOUNTS[kind])
            total = f"{amount} {sign} {text}" if self.odds(0.3) else f"{text} {sign} {amount}"
            if self.odds(0.15):
                total = f"({total}) {self.pick('+ 1', '- 2', '* 2')}"
            if self.odds(0.15):
                return f"{total} BETWEEN {self.constant(kind)} AND {self.constant(kind)}"
            if self.odds(0.1):
                return f"{total} IN ({self.constant(kind)}, {self.constant(kind)})"
            return f"{total} {operator} {self.constant(kind)}"
        if kind == "date" and self.odds(0.5):
            if self.odds(0.3):
                day = self.pick("CURRENT_DATE", "DATE '2024-03-01'")
                return f"{day} - {text} {operator} {self.pick('1', '60')}"
            return f"{text} {sign} {self.pick('1', '7')} {operator} {self.constant(kind)}"
        if kind not in ("date", "ts", "tz"):
            return None
        if kind == "tz" and self.odds(0.3):
            return f"now() - {text} {operator} INTERVAL '{self.pick('900 days', '20000 hours', '2 years')}'"
        if kind == "ts" and self.odds(0.2):
            return f"LOCALTIMESTAMP - {text} {operator} INTERVAL '{self.pick('900 days', '20000 hours')}'"
        return f"{text} {sign} {self.pick(*_SPANS)} {operator} {self.constant('ts' if kind == 'date' else kind)}"

    def _of_cast(self, text: str, kind: str) -> str | None:
        type_, target = self.pick(*_CASTS[kind])
        value = self.constant(target)
        if target == "text" and kind in ("int", "num"):
            value = self.pick("'5'", "'05'", "'1'", "' 1'", "'-1'", "'+1'", "'2.5'", "'1.00'", "''")
        elif target == "text" and kind == "status":
            value = self.pick("'paid'", "'Paid'", "'new'", "'unknown'")
        elif target in ("num", "float") and kind == "int":
            value = self.pick("1", "2.0", "4.5", "-0.5", "5", "1e0", "'3'")
        cast = f"CAST({text} AS {type_})" if self.odds(0.3) else f"{text}::{type_}"
        if self.odds(0.15):
            return f"{cast} {self.pick('', 'NOT ')}IN ({value}, {self.constant(target)})"
        return f"{cast} {self.pick(*COMPARISONS)} {value}"
