"""Random expressions and conditions for sql_fuzzer.py."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from fuzz_schema import POOLS, SQL_TYPES, quoted

_T = TypeVar("_T")
_COMPARISONS = ("=", "=", "=", "<", "<=", ">", ">=", "<>")
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


class Expressions(ABC):
    """Makes expressions over a frame.

    Parameters:
        chance: the source of all choices.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    @abstractmethod
    def subquery_rows(self, frame: Frame) -> tuple[Frame, str, list[str]]:
        """FROM of a subquery: its frame, the clause, and the conditions that correlate it with `frame`."""

    @abstractmethod
    def new_item(self, frame: Frame, table: str | None = None) -> Item:
        """Choose a FROM item."""

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

    # Outputs

    def output(self, frame: Frame, kind: str | None = None) -> tuple[str, str, str]:
        """An output expression with its kind and the name that PostgreSQL gives it ("" where it has none)."""
        roll = self.chance.random()
        if kind is None and roll < 0.22:
            text, found = self.scalar_subquery(frame)
            return text, found, ""
        if kind is None and roll < 0.27:
            return f"({self.condition(frame, 1)})", "bool", ""
        if kind is None and roll < 0.33:
            return f"CASE WHEN {self.condition(frame, 1)} THEN 'yes' ELSE 'no' END", "text", ""
        column = self.column(frame, kind)
        text = self.reference(column, frame)
        if kind is not None and column[2] != kind:
            return f"NULL::{SQL_TYPES[kind]}", kind, ""
        return text, column[2], column[1]

    def aggregate(self, frame: Frame) -> tuple[str, str]:
        """An aggregate call and its kind."""
        outer = Frame(frame.parent.items, None) if frame.parent is not None and self.odds(0.03) else frame
        kind = self.pick("int", "int", "num", "num", "text", "ts")
        column = self.column(outer, kind)
        argument = self.reference(column, outer)
        kind = column[2]
        filter_ = (
            f" FILTER (WHERE {self.condition(Frame(frame.items, merged=frame.merged), 0)})" if self.odds(0.1) else ""
        )
        distinct = "DISTINCT " if self.odds(0.12) else ""
        roll = self.chance.random()
        if roll < 0.25:
            return f"count(*){filter_}", "int"
        if roll < 0.45 or kind in ("bool", "status", "char", "float", "date", "tz"):
            return f"count({distinct}{argument}){filter_}", "int"
        if roll < 0.7 and kind in ("int", "num"):
            argument = f"{argument} * 2" if self.odds(0.1) else argument
            return f"{self.pick('sum', 'sum', 'avg')}({distinct}{argument}){filter_}", "num"
        return f"{self.pick('min', 'max')}({argument}){filter_}", kind

    def scalar_subquery(self, frame: Frame, *, counting: bool = False) -> tuple[str, str]:
        """A correlated aggregate and its kind."""
        inner, clause, conditions = self.subquery_rows(frame)
        if counting:
            what = self.reference(self.column(inner), inner)
            value, kind = f"count({self.pick('*', '*', '1', what, f'DISTINCT {what}')})", "int"
            if self.odds(0.08):
                value += f" FILTER (WHERE {self.condition(Frame(inner.items), 0)})"
        else:
            value, kind = self.aggregate(inner)
            roll = self.chance.random()
            if roll < 0.2:
                default = self.constant(kind) if kind in ("int", "num") else None
                value = f"COALESCE({value}, {default})" if default else value
            elif roll < 0.3 and kind in ("int", "num"):
                value = f"{value} {self.pick('+', '-', '*')} {self.pick('1', '0.5', '2')}"
            elif roll < 0.36 and kind in ("int", "num"):
                other, other_kind = self.aggregate(inner)
                value = f"{value} - {other}" if other_kind in ("int", "num") else value
                kind = "num"
            elif roll < 0.4:
                value = f"CASE WHEN {value} IS NULL THEN 'none' ELSE 'some' END"
                kind = "text"
        where = f" WHERE {' AND '.join(map(self.guarded, conditions))}" if conditions else ""
        tail = ""
        if self.odds(0.04):
            tail = f" GROUP BY {self.reference(self.column(inner), inner)}"
        elif self.odds(0.04):
            tail = f" HAVING count(*) {self.pick('>', '=')} {self.pick('0', '1')}"
        elif self.odds(0.03):
            tail = self.pick(" LIMIT 1", " LIMIT 0", " OFFSET 1")
        alias = self.pick(" AS s", "") if self.odds(0.1) else ""
        return f"(SELECT {value}{alias} FROM {clause}{where}{tail})", kind

    # Conditions

    def guarded(self, condition: str) -> str:
        """Put a condition in parentheses where AND around it would change what it means."""
        return f"({condition})" if " OR " in condition else condition

    def condition(self, frame: Frame, depth: int) -> str:
        """A condition; `depth` bounds how far AND, OR, NOT and subqueries nest."""
        roll = self.chance.random()
        if depth > 0:
            if roll < 0.12:
                return f"{self.condition(frame, depth - 1)} OR {self.condition(frame, depth - 1)}"
            if roll < 0.17:
                return (
                    f"({self.guarded(self.condition(frame, depth - 1))} AND {self.guarded(self.condition(frame, 0))})"
                )
            if roll < 0.23:
                return f"NOT ({self.condition(frame, depth - 1)})"
            if roll < 0.26:
                inner = self.condition(frame, depth - 1)
                return f"({inner}) IS {self.pick('TRUE', 'NOT TRUE', 'FALSE', 'NULL', 'NOT FALSE')}"
            if roll < 0.28:
                return f"COALESCE({self.condition(frame, depth - 1)}, {self.pick('true', 'false')})"
            if roll < 0.3:
                first, second = self.condition(frame, 0), self.condition(frame, 0)
                return f"CASE WHEN {first} THEN {second} ELSE {self.pick('true', 'false', 'NULL')} END"
            if roll < 0.58:
                return self._with_subquery(frame, depth)
            if roll < 0.64 and len(frame.items) > 1:
                first, second = self.chance.sample(frame.items, 2)
                one, two = (self.comparison(self.column(Frame([i])), frame) for i in (first, second))
                return f"{one} OR {two}"
        if frame.joined and self.odds(0.15):
            column = self.pick(*frame.joined)
            return self._plain(self.reference(column, frame), column[2])
        if roll > 0.93 and len(frame.items) > 1:
            return self.same_kind(*self.chance.sample(frame.items, 2), frame)
        return self.comparison(self.column(frame, self.pick(None, None, "date", "ts", "tz")), frame)

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
        return f"{left} {self.pick(*_COMPARISONS)} {right}"

    def _of_null(self, text: str, kind: str) -> str:
        del kind
        return f"{text} IS {self.pick('', 'NOT ')}NULL"

    def _of_function(self, text: str, kind: str) -> str | None:
        operator = self.pick(*_COMPARISONS)
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
        operator, sign = self.pick(*_COMPARISONS), self.pick("+", "+", "-")
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
        return f"{cast} {self.pick(*_COMPARISONS)} {value}"

    def _with_subquery(self, frame: Frame, depth: int) -> str:
        roll = self.chance.random()
        if roll < 0.25:
            count, _ = self.scalar_subquery(frame, counting=True)
            operator, number = self.pick(*_COMPARISONS, ">", "="), self.pick("0", "0", "0", "1", "1", "2", "0.0")
            return f"{count} {operator} {number}" if self.odds(0.85) else f"{number} {operator} {count}"
        if roll < 0.5:
            text, kind = self.scalar_subquery(frame)
            operator = self.pick(*_COMPARISONS)
            if self.odds(0.5):
                return f"{text} {operator} {self.constant(kind)}"
            column = self.column(frame, kind)
            if column[2] == kind:
                return f"{self.reference(column, frame)} {operator} {text}"
            return f"{text} IS {self.pick('', 'NOT ')}NULL"
        inner, clause, conditions = self.subquery_rows(frame)
        if depth > 1 and self.odds(0.2):
            conditions.append(self.guarded(self.condition(inner, 1)))
        tail = f" WHERE {' AND '.join(map(self.guarded, conditions))}" if conditions and self.odds(0.9) else ""
        if roll < 0.68:
            what = self.pick("1", "*", self.reference(self.column(inner), inner), "count(*)")
            if what != "count(*)" and self.odds(0.05):
                tail += f" GROUP BY {self.reference(self.column(inner), inner)}"
                what = "1"
            return f"{self.pick('', 'NOT ')}EXISTS (SELECT {what} FROM {clause}{tail})"
        column = self.column(frame, self.pick("int", "int", "int", "text", "num"))
        other = self.column(inner, column[2])
        if other[2] != column[2]:
            return f"EXISTS (SELECT 1 FROM {clause}{tail})"
        rows = f"SELECT {self.pick('', '', 'DISTINCT ')}{self.reference(other, inner)} FROM {clause}{tail}"
        left = self.reference(column, frame)
        if roll < 0.75 and self.odds(0.3):
            second, third = self.column(frame, "int"), self.column(inner, "int")
            if second[2] == third[2] == "int":
                rows = f"SELECT {self.reference(other, inner)}, {self.reference(third, inner)} FROM {clause}{tail}"
                return f"({left}, {self.reference(second, frame)}) {self.pick('', 'NOT ', 'NOT ')}IN ({rows})"
        if roll < 0.92:
            return f"{left} {self.pick('', 'NOT ', 'NOT ')}IN ({rows})"
        return f"{left} {self.pick('<> ALL', '<> ALL', '= ANY', '> ALL', '< ANY')} ({rows})"
