"""The rules that rest on joins and keys, on random statements over random small databases.

The rules themselves decide which statements they rewrite; whatever they make of them must return the same rows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlglot import exp

from optimizer.catalog import Catalog
from optimizer.query import Query
from optimizer.rule import RewriteRule
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.introspect import read_catalog
from rules.rewrite.distinct_fan_out_to_exists import DistinctFanOutToExists
from rules.rewrite.distinct_on_key import DistinctOnKey
from rules.rewrite.limit_into_union_all import LimitIntoUnionAll
from rules.rewrite.range_across_equijoin import RangeAcrossEquijoin

SCHEMA = """
CREATE TABLE a (id integer PRIMARY KEY, x integer, y integer NOT NULL, big bigint);
CREATE TABLE b (id integer PRIMARY KEY, aid integer, x integer, u integer UNIQUE, y integer NOT NULL);
CREATE TABLE c (id bigint PRIMARY KEY, bid integer NOT NULL, x bigint, v integer NOT NULL UNIQUE);
CREATE TABLE w (p integer NOT NULL, q integer NOT NULL, x integer, PRIMARY KEY (p, q));
"""
COLUMNS = {
    "a": ("id", "x", "y", "big"),
    "b": ("id", "aid", "x", "u", "y"),
    "c": ("id", "bid", "x", "v"),
    "w": ("p", "q", "x"),
}
KEYS = {"a": ("id",), "b": ("id", "u"), "c": ("id", "v"), "w": ("p",)}
JOINS = ("JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN", ",")
STATEMENTS = 600
DATABASES = 6

#: Alias and table of each FROM item.
Sources = list[tuple[str, str]]


class Statements:
    """Writes random statements; equal seeds write equal ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def one(self, kind: int) -> str:
        """A join (0), a DISTINCT (1), or the first rows of a UNION ALL (2)."""
        return (self.join, self.distinct, self.union)[kind]()

    def column(self, sources: Sources) -> str:
        alias, table = self.random.choice(sources)
        return f"{alias}.{self.random.choice(COLUMNS[table])}"

    def condition(self, sources: Sources) -> str:
        column, k = self.column(sources), self.random.randint(0, 3)
        forms = (
            *(f"{column} > {k}", f"{column} <= {k}", f"{k} < {column}", f"{column} BETWEEN {k} AND {k + 1}"),
            *(f"{column} IN ({k}, {k + 1})", f"{column} IN ({k})", f"{column} = {k}", f"{column} IS NULL"),
            *(f"{column} = ANY (ARRAY[{k}, 3])", f"({column} > {k} OR {column} IS NULL)", f"NOT ({column} < {k})"),
        )
        return self.random.choice(forms)

    def equality(self, sources: Sources, other: Sources | None = None) -> str:
        return f"{self.column(sources)} = {self.column(other or sources)}"

    def subquery(self, sources: Sources) -> str:
        table = self.random.choice(tuple(COLUMNS))
        inner: Sources = [("s", table)]
        tie, column = self.equality(sources, inner), self.column(inner)
        extra = f" AND {self.condition(inner)}" if self.random.random() < 0.3 else ""
        more = f" LEFT JOIN b AS s2 ON {self.equality(inner, [('s2', 'b')])}" if self.random.random() < 0.3 else ""
        forms = (
            f"EXISTS (SELECT 1 FROM {table} AS s{more} WHERE {tie}{extra})",
            f"NOT EXISTS (SELECT * FROM {table} AS s{more} WHERE {tie}{extra})",
            f"{self.column(sources)} IN (SELECT {column} FROM {table} AS s{more} WHERE {self.condition(inner)})",
            f"{self.column(sources)} NOT IN (SELECT {column} FROM {table} AS s)",
            f"(SELECT count(*) FROM {table} AS s WHERE {tie}) > 0",
        )
        return self.random.choice(forms)

    def from_where(self, count: int) -> tuple[Sources, str]:
        sources: Sources = []
        text = ""
        reach = 0  # the first source that ON may mention: a comma separates what joins bind
        for number in range(count):
            table, alias = self.random.choice(tuple(COLUMNS)), f"t{number}"
            join = self.random.choice(JOINS) if number else ""
            if join == ",":
                reach = number
            text += f"{', ' if join == ',' else f' {join} ' if join else ''}{table} AS {alias}"
            if join.endswith("JOIN") and join != "CROSS JOIN":
                text += f" ON {self.equality(sources[reach:], [(alias, table)])}"
                if join != "FULL JOIN" and self.random.random() < 0.35:
                    text += f" AND {self.condition([*sources[reach:], (alias, table)])}"
            sources.append((alias, table))
        makers = self.random.choices(
            (self.condition, self.equality, self.subquery), (4, 2, 2), k=self.random.randint(0, 3)
        )
        conditions = [make(sources) for make in makers]
        return sources, f" FROM {text}" + (f" WHERE {' AND '.join(conditions)}" if conditions else "")

    def join(self) -> str:
        sources, rest = self.from_where(self.random.randint(2, 3))
        outputs = ", ".join(f"{self.column([source])} AS o{i}" for i, source in enumerate(sources))
        return f"SELECT {outputs}{rest}"

    def distinct(self) -> str:
        sources, rest = self.from_where(self.random.randint(1, 3))
        outputs = []
        for alias, table in self.random.sample(sources, self.random.randint(1, len(sources))):
            outputs.append(f"{alias}.{self.random.choice(KEYS[table])}")
            if table == "w" and self.random.random() < 0.7:
                outputs.append(f"{alias}.q")
            if self.random.random() < 0.4:
                outputs.append(self.column([(alias, table)]))
        return f"SELECT DISTINCT {', '.join(f'{o} AS o{i}' for i, o in enumerate(outputs))}{rest}"

    def union(self) -> str:
        names = self.random.choice((("id", "x"), ("x", "id"), ("id", "y", "x"), ("y", "id")))
        branches = []
        for _ in range(self.random.randint(2, 3)):
            table = self.random.choice("ab")
            more = self.random.choice(("", f" JOIN c ON c.v = {table}.y", f" LEFT JOIN c ON c.v = {table}.x"))
            outputs = ", ".join(f"{table}.{name}" for name in names)
            distinct = self.random.choice(("", "", "DISTINCT "))
            where = self.random.choice(("", f" WHERE {table}.x > 1"))
            branches.append(f"SELECT {distinct}{outputs} FROM {table}{more}{where}")
        union = " UNION ALL ".join(branches)
        form = self.random.choice(("{}", "SELECT * FROM ({}) AS t", "WITH t AS ({}) SELECT * FROM t"))
        keys = [
            self.random.choice((names[k], str(k + 1)))
            + self.random.choice(("", " DESC", " DESC NULLS LAST", " NULLS FIRST"))
            for k in self.random.sample(range(len(names)), self.random.randint(1, len(names)))
        ]
        offset = self.random.choice(("", " OFFSET 1", " OFFSET 2"))
        return f"{form.format(union)} ORDER BY {', '.join(keys)} LIMIT {self.random.randint(0, 4)}{offset}"


def fill(connection: psycopg.Connection[Any], seed: int) -> None:
    chance = random.Random(seed)

    def value(null: float = 0.25) -> int | None:
        return None if chance.random() < null else chance.randint(0, 3)

    rows: dict[str, list[tuple[int | None, ...]]] = {}
    some = (0, 1, 3, 4, 5)
    unique = [*range(6)]
    chance.shuffle(unique)
    rows["a"] = [(i, value(), value(0), value()) for i in chance.sample(range(5), chance.choice(some))]
    rows["b"] = [
        (i, value(), value(), chance.choice((None, unique[i])), value(0))
        for i in chance.sample(range(5), chance.choice(some))
    ]
    rows["c"] = [(i, value(0), value(), unique[i]) for i in chance.sample(range(5), chance.choice(some))]
    rows["w"] = [(i // 4, i % 4, value()) for i in chance.sample(range(16), chance.choice(some))]
    for table, content in rows.items():
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        places = sql.SQL(", ").join([sql.Placeholder()] * len(COLUMNS[table]))
        statement = sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), places)
        with connection.cursor() as cursor:
            cursor.executemany(statement, content)


@pytest.fixture(scope="module")
def database(scratch_cluster: Cluster) -> Iterator[tuple[psycopg.Connection[Any], Catalog]]:
    with scratch_cluster.connect() as connection:
        connection.execute("CREATE DATABASE joins TEMPLATE template0")
    with scratch_cluster.connect("joins") as connection:
        connection.execute(SCHEMA)
        yield connection, read_catalog(connection)


def rows_of(connection: psycopg.Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql.SQL(statement)).fetchall()


def sort_keys(tree: Any, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows' sort keys: all that LIMIT fixes where ties between branches remain."""
    branch = next(select for select in tree.find_all(exp.Select) if len(select.expressions) > 1)
    names = [column.name for column in branch.expressions]
    keys = [ordered.this for ordered in tree.args["order"].expressions]
    positions = [int(key.name) - 1 if key.name.isdigit() else names.index(key.name) for key in keys]
    return [tuple(row[position] for position in positions) for row in rows]


@pytest.mark.parametrize(
    ("rule", "kind", "least"),
    [
        (RangeAcrossEquijoin(), 0, 50),
        (DistinctOnKey(), 1, 60),
        (DistinctFanOutToExists(), 1, 25),
        (LimitIntoUnionAll(), 2, 100),
    ],
    ids=["range", "distinct", "fan-out", "limit"],
)
def test_random_statements_return_the_same_rows(
    rule: RewriteRule, kind: int, least: int, database: tuple[psycopg.Connection[Any], Catalog]
) -> None:
    connection, catalog = database
    statements = Statements(seed=kind)
    pairs: list[tuple[Query, str]] = []
    for _ in range(STATEMENTS):
        query = Query.parse(statements.one(kind))
        assert query.tree is not None, query.unreadable
        for rewrite in rule.rewrites(query, catalog):
            pairs.append((query, rewrite.sql))
            assert not list(rule.rewrites(Query.parse(rewrite.sql), catalog)), f"again: {rewrite.sql}"
    assert len(pairs) >= least
    returned = 0
    for seed in range(DATABASES):
        fill(connection, seed)
        for query, rewrite_sql in pairs:
            before, after = rows_of(connection, query.sql), rows_of(connection, rewrite_sql)
            returned += bool(before)
            if kind == 2:
                assert sort_keys(query.tree, before) == sort_keys(query.tree, after), (
                    f"{query.sql} became {rewrite_sql}"
                )
            else:
                assert Counter(before) == Counter(after), f"{query.sql} became {rewrite_sql}"
    assert returned > len(pairs)  # each had rows to lose in more than one database, on average
