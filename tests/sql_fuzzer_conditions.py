"""Random outputs, subqueries and conditions that hold them, for sql_fuzzer.py."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fuzz_schema import SQL_TYPES
from sql_fuzzer_expressions import COMPARISONS, Expressions, Frame, Item


class Conditions(Expressions, ABC):
    """Makes conditions over a frame, with subqueries in them."""

    @abstractmethod
    def subquery_rows(self, frame: Frame) -> tuple[Frame, str, list[str]]:
        """FROM of a subquery: its frame, the clause, and the conditions that correlate it with `frame`."""

    @abstractmethod
    def new_item(self, frame: Frame, table: str | None = None) -> Item:
        """Choose a FROM item."""

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
        if kind is None and roll < 0.36:
            return self.window(frame), "int", ""
        if kind is None and roll < 0.375:
            return self.pick(*frame.items).alias, "text", ""  # a whole row
        column = self.column(frame, kind)
        text = self.reference(column, frame)
        if kind is not None and column[2] != kind:
            return f"NULL::{SQL_TYPES[kind]}", kind, ""
        return text, column[2], column[1]

    def window(self, frame: Frame) -> str:
        """A window function that does not depend on the order of equal rows."""
        key = self.reference(self.column(frame), frame)
        number = self.reference(self.column(frame, "int"), frame)
        call = self.pick("count(*)", f"count({number})", f"max({number})", "rank()", "dense_rank()")
        if call.endswith("rank()"):
            return f"{call} OVER (ORDER BY {key})"
        return f"{call} OVER ({self.pick('', f'PARTITION BY {key}')})"

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

    def _with_subquery(self, frame: Frame, depth: int) -> str:
        roll = self.chance.random()
        if roll < 0.25:
            count, _ = self.scalar_subquery(frame, counting=True)
            operator, number = self.pick(*COMPARISONS, ">", "="), self.pick("0", "0", "0", "1", "1", "2", "0.0")
            return f"{count} {operator} {number}" if self.odds(0.85) else f"{number} {operator} {count}"
        if roll < 0.5:
            text, kind = self.scalar_subquery(frame)
            operator = self.pick(*COMPARISONS)
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
