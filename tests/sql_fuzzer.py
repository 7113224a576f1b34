"""Random SELECTs over fixtures/schemas/shop.sql, near what the rewrite rules match and near what they must not match.

Statements are valid but for a few in a hundred. The same seed gives the same statements.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fuzz_schema import LINKS, POPULAR, SQL_TYPES, TABLES, quoted
from sql_fuzzer_conditions import Conditions
from sql_fuzzer_expressions import Frame, Item

Outputs = list[tuple[str, str]]
_ALIASES = ("users", "orders", "id", "total", "status", "t", "o", "u", '"T"', '"Mixed Case"', "user_id", "c")


@dataclass(frozen=True)
class Statement:
    """One random statement.

    Parameters:
        sql: its text.
        keys: output positions, from 0, of the sort keys that lead its ORDER BY.
        fixed: False when LIMIT may cut among rows that the order does not tell apart.
    """

    sql: str
    keys: tuple[int, ...] = ()
    fixed: bool = True


class SqlFuzzer(Conditions):
    """Makes statements.

    Parameters:
        chance: the source of all choices.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._ctes: dict[str, Mapping[str, str]] = {}
        self._taken = 0
        self._sortable: Frame | None = None

    def statement(self) -> Statement:
        """Make the next statement."""
        self._ctes = {}
        self._taken = 0
        roll = self.chance.random()
        if roll < 0.12:
            return self._union_all()
        prefix = self._with() if roll < 0.22 else ""
        if roll < 0.27:
            left, columns = self._select(None, width=2)
            right, _ = self._select(None, kinds=[kind for _, kind in columns])
            return Statement(f"{prefix}{left} {self.pick('UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT ALL')} {right}")
        sql, columns = self._select(None)
        if self._sortable is not None and columns and self.odds(0.06):
            keys = ", ".join(str(place + 1) for place in range(len(columns)))
            first = quoted(columns[0][0]) if columns[0][0] and self.odds(0.5) else "1"
            select = sql.replace("SELECT ", f"SELECT DISTINCT ON ({first}) ", 1)
            return Statement(f"{prefix}{select} ORDER BY {keys}", tuple(range(len(columns))))
        return self._ordered(prefix + sql, columns)

    def _ordered(self, sql: str, columns: Outputs) -> Statement:
        """Append ORDER BY by position or name, and perhaps LIMIT."""
        if not columns or self.odds(0.55):
            return Statement(sql)
        places = self.chance.sample(range(len(columns)), self.chance.randint(1, len(columns)))
        total = self.odds(0.5)
        if total:
            places += [p for p in range(len(columns)) if p not in places]
        names = [name for name, _ in columns]
        keys = []
        for place in places:
            named = names.count(names[place]) == 1 and names[place] and self.odds(0.4)
            keys.append(
                (quoted(names[place]) if named else str(place + 1)) + self.pick("", "", " DESC", " NULLS FIRST")
            )
        if self._sortable is not None and self.odds(0.25):
            column = self.column(self._sortable)
            text = self.reference(column, self._sortable)
            keys.append(f"lower({text})" if column[2] == "text" else f"{text} + 1" if column[2] == "int" else text)
        limited = self.odds(0.4)
        return Statement(
            f"{sql} ORDER BY {', '.join(keys)}{self._limit() if limited else ''}", tuple(places), total or not limited
        )

    def _limit(self) -> str:
        offset = f" OFFSET {self.chance.randint(0, 4)}" if self.odds(0.35) else ""
        return f" LIMIT {self.chance.randint(0, 9)}{offset}"

    def _with(self) -> str:
        parts = []
        for number in range(self.pick(1, 1, 2)):
            sql, columns = self._select(None, width=self.chance.randint(2, 3), named=True)
            name = self.pick("recent", "orders", "t", "x") + str(number)
            parts.append(f"{name} AS {self.pick('', '', 'MATERIALIZED ', 'NOT MATERIALIZED ')}({sql})")
            self._ctes[name] = dict(columns)
        return f"WITH {', '.join(parts)} "

    def _union_all(self) -> Statement:
        name, kind = self.pick(("id", "int"), ("user_id", "int"), ("total", "num"), ("placed_at", "ts"))
        pool = [t for t, columns in TABLES.items() if columns.get(name) == kind]
        kinds = [kind, *(self.pick(*TABLES[self.pick(*pool)].values()) for _ in range(self.chance.randint(0, 2)))]
        branches = []
        for number in range(self.pick(2, 2, 3)):
            table = self.pick(*pool)
            item = Item(self._alias(table), table, TABLES[table])
            frame = Frame([item])
            outputs = [self.reference((item, name, kind), frame)]
            for other in kinds[1:]:
                found = [c for c, k in item.columns.items() if k == other]
                wanted = (item, self.pick(*found), other) if found and self.odds(0.9) else None
                outputs.append(self.reference(wanted, frame) if wanted else f"NULL::{SQL_TYPES[other]}")
            if number == 0 and self.odds(0.4):
                outputs = [f"{o} AS {self.pick('id', 'k', 'total')}{i}" for i, o in enumerate(outputs)]
            where = f" WHERE {self.condition(frame, 1)}" if self.odds(0.5) else ""
            distinct = "DISTINCT " if self.odds(0.06) else ""
            branch = f"SELECT {distinct}{', '.join(outputs)} FROM {self._from(item)}{where}"
            branches.append(f"({branch})" if self.odds(0.2) else branch)
        sql = (" UNION ALL " if self.odds(0.93) else " UNION ").join(branches)
        places = self.chance.sample(range(len(kinds)), self.chance.randint(1, len(kinds)))
        if self.odds(0.6):
            places += [p for p in range(len(kinds)) if p not in places]
        keys = ", ".join(f"{p + 1}{self.pick('', '', ' DESC', ' NULLS FIRST', ' DESC NULLS LAST')}" for p in places)
        if self.odds(0.2):
            sql = f"SELECT * FROM ({sql}) AS u"
        return Statement(f"{sql} ORDER BY {keys}{self._limit()}", tuple(places), fixed=len(places) == len(kinds))

    def _select(
        self, parent: Frame | None, *, width: int = 0, kinds: Sequence[str] = (), named: bool = False
    ) -> tuple[str, Outputs]:
        """Make a SELECT without ORDER BY.

        Parameters:
            parent: what it may be correlated with.
            width: number of output columns, any by default.
            kinds: their kinds.
            named: every output column gets a name of its own.

        Returns: the text, and name and kind of each output column; none where they are not told.
        """
        frame = Frame(parent=parent)
        clause = self._from_clause(frame, self.pick(1, 1, 2, 2, 2, 3, 3, 4))
        conditions = [*frame.links, *(self.condition(frame, 2) for _ in range(self.pick(0, 0, 1, 1, 1, 1, 2)))]
        where = f" WHERE {' AND '.join(map(self.guarded, conditions))}" if conditions else ""
        free = not width and not kinds and not named
        self._sortable = None
        if free and self.odds(0.18):
            return self._grouped(frame, clause, where)
        if free and self.odds(0.08):
            return f"SELECT {self.pick('*', f'{frame.items[0].alias}.*')} FROM {clause}{where}", []
        distinct = self.odds(0.25)
        if free and self.odds(0.35):  # the other tables only filter and repeat rows
            frame = Frame([self.pick(*frame.items)], parent)
            frame.merged = True
        columns: Outputs = []
        texts = []
        for place in range(len(kinds) or width or self.chance.randint(1, 4)):
            if distinct and not kinds and place == 0 and self.odds(0.6):
                item = self.pick(*frame.items)
                name = "id" if "id" in item.columns else next(iter(item.columns))
                kind = item.columns[name]
                text = self.reference((item, name, kind), frame)
            else:
                text, kind, name = self.output(frame, kinds[place] if kinds else None)
            if named or self.odds(0.25):
                name = f"c{place}" if named else self.pick("n", "total", "id", "user_id", "status", "x", f"y{place}")
                text += f" AS {name}"
            columns.append((name, kind))
            texts.append(text)
        self._sortable = frame if not distinct and free else None
        return f"SELECT {'DISTINCT ' if distinct else ''}{', '.join(texts)} FROM {clause}{where}", columns

    def _grouped(self, frame: Frame, clause: str, where: str) -> tuple[str, Outputs]:
        keys = [self.column(frame) for _ in range(self.pick(0, 1, 1, 2))]
        hidden = ""
        if keys and self.odds(0.25):  # a primary key lets other columns of its table stand ungrouped
            item = self.pick(*frame.items)
            name = next(iter(item.columns))
            keys = [(item, name, item.columns[name])]
            hidden = self.reference((item, other := self.pick(*item.columns), item.columns[other]), frame)
        texts = [self.reference(key, frame) for key in keys]
        aggregates = [self.aggregate(frame) for _ in range(self.pick(1, 1, 2))]
        by = [str(i + 1) if self.odds(0.2) else text for i, text in enumerate(texts)]
        if by and not hidden and self.odds(0.12):  # an output name that may be a column's too
            name = self.pick("n", "id", "total", "nickname", "user_id", "status")
            texts[0], by[0] = f"{texts[0]} AS {name}", name
        keyword = self.pick(*["GROUP BY "] * 12, "GROUP BY ROLLUP (") if by else ""
        group = f" {keyword}{', '.join(by)}{')' if '(' in keyword else ''}" if by else ""
        having = ""
        if self.odds(0.35):
            text, kind = self.aggregate(frame)
            having = f" HAVING {text} {self.pick('>', '>=', '=', '<')} {self.constant(kind)}"
            if keys and self.odds(0.4):
                other = self.comparison(keys[0], frame)
                if self.odds(0.4):
                    other = f"count(*) >= {self.scalar_subquery(Frame([keys[0][0]], merged=True), counting=True)[0]}"
                having += f" {self.pick('AND', 'OR')} {other}"
        outputs = [*texts, *(text for text, _ in aggregates), *([hidden] if hidden else [])]
        columns = [(name, kind) for _, name, kind in keys] + [("", kind) for _, kind in aggregates]
        return f"SELECT {', '.join(outputs)} FROM {clause}{where}{group}{having}", columns

    # FROM

    def _alias(self, table: str) -> str:
        """A fresh alias: short, misleading, or the table's own name."""
        self._taken += 1
        roll = self.chance.random()
        if roll < 0.72:
            return f"{table[0].lower()}{self._taken}"
        return quoted(table) if roll < 0.86 and not table.startswith("(") else self.pick(*_ALIASES)

    def _fresh(self, frame: Frame, table: str) -> str:
        used = {item.alias for item in frame.items}
        while (alias := self._alias(table)) in used:
            pass
        return alias

    def new_item(self, frame: Frame, table: str | None = None) -> Item:
        """Choose a table, CTE or derived table."""
        if table is None and self._ctes and self.odds(0.6):
            table = self.pick(*sorted(self._ctes))
            return Item(self._fresh(frame, table), table, self._ctes[table])
        if table is None and self.odds(0.07) and frame.parent is None:
            sql, columns = self._select(None, width=self.chance.randint(1, 3), named=True)
            return Item(self._fresh(frame, "d"), f"({sql})", dict(columns))
        if table is None and self.odds(0.02):
            rows = ", ".join(f"({number}, {self.constant('text')})" for number in range(self.chance.randint(1, 5)))
            return Item(self._fresh(frame, "v"), f"(VALUES {rows})", {"id": "int", "s": "text"})
        table = table or self.pick(*(POPULAR if self.odds(0.75) else TABLES))
        return Item(self._fresh(frame, table), table, TABLES[table])

    def _from(self, item: Item) -> str:
        if item.table.startswith("(VALUES"):
            return f"{item.table} AS {item.alias}({', '.join(item.columns)})"
        text = item.table if item.table.startswith("(") else quoted(item.table)
        return text if item.alias == text else f"{text}{self.pick(' AS ', ' ')}{item.alias}"

    def _from_clause(self, frame: Frame, count: int) -> str:
        first = self.new_item(frame)
        frame.items.append(first)
        text = self._from(first)
        block = 0  # JOIN binds tighter than the comma: ON sees the items since the last comma
        for _ in range(count - 1):
            comma = self.odds(0.15)
            if comma:
                block = len(frame.items)
                text += self._comma(frame)
            else:
                text += self._join(
                    frame, Frame(frame.items[block:], frame.parent, merged=frame.merged or self.odds(0.7))
                )
        return text

    def _comma(self, frame: Frame) -> str:
        near = self.pick(*frame.items)
        column, table, partner = self._partner(near)
        if self.odds(0.2):
            return ", " + self._lateral(frame, near, (column, table, partner))
        item = self.new_item(frame, table)
        frame.items.append(item)
        if table is not None:
            frame.joined += [(near, column, near.columns[column]), (item, partner, item.columns[partner])]
            link = self.equal((near, column, near.columns[column]), (item, partner, item.columns[partner]), frame)
            frame.links.append(link if self.odds(0.85) else f"{link} OR {self.condition(frame, 0)}")
        return f", {self._from(item)}"

    def _partner(self, near: Item) -> tuple[str, str | None, str]:
        ends = LINKS.get(near.table, [])
        if not ends or self.odds(0.05):
            return "", None, ""
        column, (table, partner) = self.pick(*ends)
        return column, table, partner

    def _lateral(self, frame: Frame, near: Item, tie: tuple[str, str | None, str]) -> str:
        column, table, partner = tie
        if table is None:
            item = self.new_item(frame)
            frame.items.append(item)
            return self._from(item)
        inner = Item(self._fresh(frame, table).strip('"').replace(" ", "_") + "_in", table, TABLES[table])
        inside = Frame([inner], frame)
        names = self.chance.sample(sorted(inner.columns), min(3, len(inner.columns)))
        rows = ", ".join(self.reference((inner, n, inner.columns[n]), inside) for n in names)
        link = self.equal((inner, partner, inner.columns[partner]), (near, column, near.columns[column]), inside)
        alias = self._fresh(frame, "l")
        frame.items.append(Item(alias, "(", {n: inner.columns[n] for n in names}))
        return f"LATERAL (SELECT {rows} FROM {self._from(inner)} WHERE {link}) AS {alias}"

    def _join(self, frame: Frame, visible: Frame) -> str:
        near = self.pick(*visible.items)
        column, table, partner = self._partner(near)
        if table is None:
            item = self.new_item(frame)
            frame.items.append(item)
            return f" CROSS JOIN {self._from(item)}"
        kind = self.pick(*["JOIN"] * 12, *["LEFT JOIN"] * 5, "RIGHT JOIN", "FULL JOIN", "USING", "LATERAL", "NATURAL")
        if kind == "LATERAL":
            return f" CROSS JOIN {self._lateral(frame, near, (column, table, partner))}"
        item = self.new_item(frame, table)
        shared = [c for c in item.columns if sum(c in other.columns for other in visible.items) == 1]
        before = tuple(visible.items)
        frame.items.append(item)
        visible.items.append(item)
        if kind in ("USING", "NATURAL"):
            if frame.merged or not shared or (kind == "NATURAL" and len(before) > 1):
                return f" CROSS JOIN {self._from(item)}"
            frame.merged = True
            if kind == "NATURAL":
                return f" NATURAL JOIN {self._from(item)}"
            return f" {self.pick('', 'LEFT ')}JOIN {self._from(item)} USING ({quoted(self.pick(*shared))})"
        frame.joined += [(near, column, near.columns[column]), (item, partner, item.columns[partner])]
        on = self.equal((near, column, near.columns[column]), (item, partner, item.columns[partner]), visible)
        plain = kind == "FULL JOIN"
        if self.odds(0.2) and not plain:
            on = f"{on} AND {self.guarded(self.condition(visible, 1))}"
        elif self.odds(0.15) and not plain:
            for _ in range(self.pick(1, 1, 1, 2)):
                on = f"{on} OR {self.same_kind(near, item, visible)}"
        return f" {kind} {self._from(item)} ON {on}"

    def subquery_rows(self, frame: Frame) -> tuple[Frame, str, list[str]]:
        """FROM of a subquery correlated with `frame`: its frame, the clause, and the conditions that correlate it."""
        near = self.pick(*frame.items)
        if frame.parent is not None and self.odds(0.1):
            near = self.pick(*frame.parent.items)
        column, table, partner = self._partner(near)
        inner = Frame(parent=frame)
        item = self.new_item(inner, table)
        inner.items.append(item)
        clause = self._from(item)
        if self.odds(0.15):
            clause += self._join(inner, Frame(list(inner.items), frame, merged=True))
        conditions = []
        if table is not None and self.odds(0.95):
            conditions.append(
                self.equal((item, partner, item.columns[partner]), (near, column, near.columns[column]), inner)
            )
        if self.odds(0.12):
            conditions.append(self.same_kind(item, near, inner))
        if self.odds(0.35):
            local = Frame(inner.items)
            conditions.append(self.guarded(self.condition(local if self.odds(0.9) else inner, 0)))
        return inner, clause, conditions
