"""An oracle for rewrites that shares nothing with the gate: random rows in real databases, results compared as text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import psycopg
from fuzz_schema import EXTRA_DDL, POOLS, RARE_VALUES, TABLES
from psycopg import sql
from rule_cases import FIXTURES
from sql_fuzzer import Statement

from optimizer.catalog import Catalog, Column, Constraint, Table
from optimizer.ddl import apply_script, read_script
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.introspect import read_catalog

OWNER = "fuzz_owner"
ZONES = ("UTC", "America/New_York")
_TIMEOUT_MS = 3_000
#: Planner methods that are switched off one by one.
_METHODS = (
    "enable_hashagg",
    "enable_hashjoin",
    "enable_sort",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_material",
)

Rows = dict[str, list[dict[str, Any]]]
Difference = Literal["rows", "columns", "order", "error"]


@dataclass(frozen=True)
class Outcome:
    """What a query gave on one database: rows as text, or the error."""

    columns: tuple[tuple[str, int], ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    error: str | None = None

    @property
    def bag(self) -> Counter[tuple[str | None, ...]]:
        """Rows without their order."""
        return Counter(self.rows)

    def keys(self, places: Sequence[int]) -> list[tuple[object, ...]]:
        """The sort keys of each row, equal where PostgreSQL takes them as equal."""
        return [tuple(_comparable(row[p], self.columns[p][1]) for p in places) for row in self.rows]


class Oracle:
    """Databases with random rows, each twice: the same rows, stored in another order.

    Parameters:
        cluster: where they are made.
        count: how many.
        seed: of the rows.
    """

    def __init__(self, cluster: Cluster, count: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self.ddl = (FIXTURES / "schemas" / "shop.sql").read_text() + EXTRA_DDL
        cluster.ensure_role(OWNER)
        empty = self._empty(cluster, f"fuzz_{seed}")
        names = [(f"{empty}_{number}", f"{empty}_{number}_again") for number in range(count)]
        self._pairs = [tuple(self._copy(cluster, empty, name) for name in pair) for pair in names]
        self.catalog: Catalog = read_catalog(self._pairs[0][0])
        self.refill()

    def _empty(self, cluster: Cluster, name: str) -> str:
        with cluster.connect() as admin:
            identifiers = (sql.Identifier(name), sql.Identifier(OWNER))
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(*identifiers))
        with cluster.connect(name, OWNER) as owner, cluster.connect(name) as admin:
            apply_script(read_script(self.ddl, max_bytes=10_000_000), owner, extension_connection=admin)
        return name

    def _copy(self, cluster: Cluster, template: str, name: str) -> psycopg.Connection[Any]:
        with cluster.connect() as admin:
            identifiers = map(sql.Identifier, (name, OWNER, template))
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(*identifiers))
        connection = cluster.connect(name, OWNER)
        connection.execute(f"SET statement_timeout = {_TIMEOUT_MS}")
        return connection

    def close(self) -> None:
        """Close the connections; the databases go with the cluster."""
        for pair in self._pairs:
            for connection in pair:
                connection.close()

    def refill(self) -> None:
        """Give every database new rows."""
        for number, pair in enumerate(self._pairs):
            rows = random_rows(self.catalog, self._chance, most=(12, 40, 5, 25)[number % 4])
            for connection in pair:
                store(connection, self.catalog, rows)
                connection.execute(f"SET TimeZone = '{ZONES[number % 2]}'")
                for table_rows in rows.values():
                    self._chance.shuffle(table_rows)

    def accepts(self, query: str) -> bool:
        """Say whether PostgreSQL plans the query."""
        return run(self._pairs[0][0], f"EXPLAIN {query}").error is None

    def originals(self, statement: Statement) -> list[Outcome]:
        """Run a statement on every database."""
        return [run(connection, statement.sql) for connection, _ in self._pairs]

    def difference(
        self, statement: Statement, before: Sequence[Outcome], rewrite: str
    ) -> tuple[Difference, str] | None:
        """Say how a rewrite differs on the first database where it does, None when it does not.

        Differences that the original shows by itself, when its rows are stored in another order or joined and grouped
        by other methods, don't count: of equal values that look different, 1.0 and 1.00, any may stand for the others.
        """
        for number, (connection, twin) in enumerate(self._pairs):
            left = before[number]
            if left.error is not None:
                continue
            right = run(connection, rewrite)
            kind = _compare(statement, left, right)
            if kind is None or right.error == "57014":  # too slow to say
                continue
            if kind != "columns" and self._wavers(statement, left, right, connection, twin):
                continue
            return kind, f"database {number}: {left.rows[:5]} against {right.error or right.rows[:5]}"
        return None

    def _wavers(
        self,
        statement: Statement,
        left: Outcome,
        right: Outcome,
        connection: psycopg.Connection[Any],
        twin: psycopg.Connection[Any],
    ) -> bool:
        """True when the original's own answer is not fixed, or it fails by luck of the plan only."""
        answers = [run(twin, statement.sql)]
        for method in _METHODS:
            with connection.transaction():
                connection.execute(f"SET LOCAL {method} = off".encode())
                answers.append(run(connection, statement.sql))
        if right.error is not None:
            return any(again.error == right.error for again in answers)
        return any(again.error is None and _compare(statement, left, again) is not None for again in answers)


def run(connection: psycopg.Connection[Any], query: str) -> Outcome:
    """Run one query; what the server refuses is an outcome too."""
    result = connection.pgconn.exec_params(query.encode(), None)
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        return Outcome(error=(state or b"").decode())
    columns = tuple(((result.fname(i) or b"").decode(), result.ftype(i)) for i in range(result.nfields))
    rows = tuple(
        tuple(None if (v := result.get_value(i, j)) is None else v.decode() for j in range(result.nfields))
        for i in range(result.ntuples)
    )
    return Outcome(columns, rows)


def _compare(statement: Statement, left: Outcome, right: Outcome) -> Difference | None:
    if right.error is not None:
        return "error"
    if left.columns != right.columns:
        return "columns"
    if len(left.rows) != len(right.rows) or (statement.fixed and left.bag != right.bag):
        return "rows"
    return "order" if left.keys(statement.keys) != right.keys(statement.keys) else None


def _comparable(value: str | None, type_oid: int) -> object:
    if value is None:
        return None
    if type_oid in (700, 701, 1700):
        try:
            number = Decimal(value)
        except InvalidOperation:
            return value
        return str(number) if number.is_nan() else number
    return value.rstrip(" ") if type_oid == 1042 else value


def random_rows(catalog: Catalog, chance: random.Random, most: int) -> Rows:
    """Make up to `most` rows a table that satisfy all constraints: NULLs, duplicates and unmatched keys among them."""
    rows: Rows = {}
    for table in _parents_first(catalog):
        seen: set[tuple[str, tuple[Any, ...]]] = set()
        made = rows[table.name] = []
        rare = chance.random() < 0.4
        for _ in range(0 if chance.random() < 0.04 else chance.randint(max(1, most // 3), most)):
            row = {c.name: _value(table, c, chance, most, rare) for c in table.columns.values()}
            if all(_point(c, row, rows, table, chance) for c in table.constraints if c.kind == "foreign key"):
                keys = [(c.name, tuple(row[n] for n in c.columns)) for c in table.constraints
                        if c.kind in ("primary key", "unique")]  # fmt: skip
                keys += [(i.name, tuple(row[str(k.column)] for k in i.key_columns)) for i in table.indexes
                         if i.unique and i.constraint is None]  # fmt: skip
                if seen.isdisjoint(k for k in keys if None not in k[1]):
                    seen.update(keys)
                    made.append(row)
    return rows


def _parents_first(catalog: Catalog) -> Iterator[Table]:
    stored = (t for t in catalog.tables.values() if t.kind in ("table", "partitioned table") and t.name in TABLES)
    left = {t.name: t for t in stored}
    while left:
        free = [t for t in left.values() if not {c.referenced_table for c in t.constraints} & (left.keys() - {t.name})]
        for table in free:
            yield left.pop(table.name)


def _point(key: Constraint, row: dict[str, Any], rows: Rows, table: Table, chance: random.Random) -> bool:
    """Make a foreign key point at a row that is there, or at nothing; False where neither can be."""
    parents = rows.get(key.referenced_table or "", [])
    nullable = all(not table.columns[c].not_null for c in key.columns)
    if not parents or (nullable and chance.random() < 0.25):
        row.update(dict.fromkeys(key.columns))
        return nullable
    parent = chance.choice(parents)
    row.update({c: parent[r] for c, r in zip(key.columns, key.referenced_columns, strict=True)})
    return True


def _value(table: Table, column: Column, chance: random.Random, most: int, rare: bool) -> Any:
    kind = TABLES[table.name].get(column.name)
    if not column.not_null and (kind is None or chance.random() < 0.2):
        return None
    assert kind is not None
    key = column.name in ("id", "Id", "badge") and kind == "int"
    if key:
        return chance.randint(0, most + 3)
    if rare and chance.random() < 0.12 and kind in RARE_VALUES:
        value = chance.choice(RARE_VALUES[kind])
    else:
        value = chance.choice(POOLS[kind]).strip("'")
    if column.name in ("email", "sku"):
        return f"{value}{chance.choice(('', chance.randint(0, 99)))}"
    if column.type == "numeric(4,3)" and value not in ("NaN", "0", "0.5", "1", "1.00"):
        return "0.125"
    width = {"character(2)": 2, "character(3)": 3}.get(column.type)
    return value[:width].rstrip() if width else value


def store(connection: psycopg.Connection[Any], catalog: Catalog, rows: Rows) -> None:
    """Replace all rows."""
    tables = {t.name: t for t in catalog.tables.values()}
    with connection.transaction():
        names = sql.SQL(", ").join(sql.Identifier(tables[name].name) for name in rows)
        connection.execute(sql.SQL("TRUNCATE {}").format(names))
        for name, table_rows in rows.items():
            columns = list(tables[name].columns)
            listed = sql.SQL(", ").join(map(sql.Identifier, columns))
            copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(name), listed)
            with connection.cursor().copy(copy) as target:
                for row in table_rows:  # foreign keys are checked at the statement's end
                    target.write_row([row[c] for c in columns])
    connection.execute("ANALYZE")
