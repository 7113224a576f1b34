"""The cases of the rewrite rules, and databases to try them on.

Each file under fixtures/rules/rewrite belongs to the rule module of the same name:

    code: RW401
    schema: shop                 # fixtures/schemas/shop.sql; a case may name another
    expect:                      # the rule offers `rewrite` (perhaps among others)
      - {name, sql, rewrite}     # and perhaps `wrong`: a near miss that the gate has to refute
    expect-not:                  # the rule offers nothing
      - {name, why, sql}         # and perhaps `wrong`: the rewrite that would have been wrong
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg import sql

from optimizer.catalog import Catalog, Column, Table
from optimizer.ddl import apply_script, read_script
from optimizer.query import Query
from optimizer.rule import RewriteRule
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.introspect import read_catalog
from rules import rewrite

FIXTURES = Path(__file__).parent.parent / "fixtures"
OWNER = "rule_cases_owner"


@dataclass(frozen=True)
class Case:
    """One entry of a fixture file.

    Parameters:
        stem: of the file, which is the rule's module.
        expected: the rewrite, None where the rule must offer nothing.
        wrong: a rewrite that is none.
    """

    stem: str
    name: str
    schema: str
    sql: str
    expected: str | None
    wrong: str | None
    why: str

    @property
    def rule(self) -> RewriteRule:
        """The rule that the file belongs to."""
        return RULES[self.stem]

    def __str__(self) -> str:
        return f"{self.stem}: {self.name}"


@dataclass(frozen=True)
class RuleDatabase:
    """A schema with its rows, and what rules may know of it."""

    connection: psycopg.Connection[Any]
    catalog: Catalog
    ddl: str


@dataclass(frozen=True)
class Result:
    """What a query returned, as text, so that 1.0 is not 1.00."""

    columns: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str | None, ...], ...]

    def same(self, other: Result, *, ordered: bool) -> bool:
        """Compare columns and rows; their order counts only if `ordered`."""
        if self.columns != other.columns:
            return False
        return self.rows == other.rows if ordered else Counter(self.rows) == Counter(other.rows)


def _rules() -> dict[str, RewriteRule]:
    found: dict[str, RewriteRule] = {}
    for info in pkgutil.iter_modules(rewrite.__path__):
        module = importlib.import_module(f"rules.rewrite.{info.name}")
        classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
        for cls in classes:
            if issubclass(cls, RewriteRule):
                found[info.name] = cls()
    return found


#: By module name. A module may hold what rules share and no rule.
RULES: dict[str, RewriteRule] = _rules()


def documents() -> dict[str, dict[str, Any]]:
    """Return the fixture files by stem."""
    folder = FIXTURES / "rules" / "rewrite"
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}


def cases() -> list[Case]:
    """Return all cases of all files."""
    return [
        Case(
            stem=stem,
            name=entry["name"],
            schema=entry.get("schema", document["schema"]),
            sql=entry["sql"],
            expected=entry["rewrite"] if section == "expect" else None,
            wrong=entry.get("wrong"),
            why=entry.get("why", ""),
        )
        for stem, document in documents().items()
        for section in ("expect", "expect-not")
        for entry in document[section]
    ]


def schema_text(schema: str) -> str:
    """Return the script of a schema: `tpch`, or one of fixtures/schemas."""
    if schema == "tpch":
        return "".join((FIXTURES / "tpch" / f"{part}.sql").read_text() for part in ("schema", "keys"))
    return (FIXTURES / "schemas" / f"{schema}.sql").read_text()


def create_database(cluster: Cluster, schema: str) -> RuleDatabase:
    """Make a database from a schema's script, as one is made of a user's schema file: by an unprivileged owner."""
    name = f"rule_cases_{schema}"
    ddl = schema_text(schema)
    cluster.ensure_role(OWNER)
    with cluster.connect() as admin:
        identifiers = (sql.Identifier(name), sql.Identifier(OWNER))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(*identifiers))
    owner = cluster.connect(name, OWNER)
    with cluster.connect(name) as admin:
        apply_script(read_script(ddl, max_bytes=10_000_000), owner, extension_connection=admin)
    return RuleDatabase(owner, read_catalog(owner), ddl)


def run(connection: psycopg.Connection[Any], query: str) -> Result:
    """Run one query.

    Errors: `psycopg.Error`.
    """
    with connection.cursor() as cursor:
        cursor.execute(query.encode())
        description = cursor.description or ()
        values = cursor.pgresult
        assert values is not None
        rows = tuple(
            tuple(None if (v := values.get_value(i, j)) is None else v.decode() for j in range(values.nfields))
            for i in range(values.ntuples)
        )
    return Result(tuple((c.name, c.type_code) for c in description), rows)


def is_ordered(query: Query) -> bool:
    """Say whether the whole result has an order."""
    return query.tree is not None and query.tree.args.get("order") is not None


def random_rows(connection: psycopg.Connection[Any], catalog: Catalog, seed: int) -> None:
    """Replace all rows by a few random ones from tiny domains: keys collide, many values are NULL, foreign keys hold.

    To be run inside a transaction that is rolled back.
    """
    chance = random.Random(seed)
    tables = list(_referenced_first(catalog))
    names = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in tables)
    connection.execute(sql.SQL("TRUNCATE {}").format(names))
    connection.execute("SET CONSTRAINTS ALL DEFERRED")
    stored: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        wanted = chance.choice((0, 1, 2, 4, 8)) if chance.random() < 0.3 else chance.randint(3, 9)
        for _ in range(wanted):
            row = _row(table, stored, chance)
            if row is not None and _insert(connection, table, row):
                stored.setdefault(table.name, []).append(row)


def _referenced_first(catalog: Catalog) -> Iterator[Table]:
    left = {t.name: t for t in catalog.tables.values() if t.kind == "table"}
    while left:
        free = [t for t in left.values() if not _references(t) & (left.keys() - {t.name})]
        assert free, "foreign keys in a circle"
        for table in free:
            yield left.pop(table.name)


def _references(table: Table) -> set[str]:
    return {c.referenced_table for c in table.constraints if c.kind == "foreign key" and c.referenced_table is not None}


def _row(table: Table, stored: Mapping[str, list[dict[str, Any]]], chance: random.Random) -> dict[str, Any] | None:
    row = {column.name: _value(column, chance) for column in table.columns.values()}
    for constraint in table.constraints:
        if constraint.kind != "foreign key" or constraint.referenced_table is None:
            continue
        if any(row[c] is None for c in constraint.columns):
            continue
        partners = stored.get(constraint.referenced_table, [])
        if not partners:
            if all(table.columns[c].not_null for c in constraint.columns):
                return None
            row.update(dict.fromkeys(constraint.columns))
            continue
        partner = chance.choice(partners)
        pairs = zip(constraint.columns, constraint.referenced_columns, strict=True)
        row.update({column: partner[referenced] for column, referenced in pairs})
    return row


def _insert(connection: psycopg.Connection[Any], table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row; False where a key already has it."""
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table.schema, table.name),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() for _ in row),
    )
    try:
        with connection.transaction():
            connection.execute(query, list(row.values()))
    except psycopg.errors.IntegrityError:
        return False
    return True


def _value(column: Column, chance: random.Random) -> Any:
    if not column.not_null and chance.random() < 0.3:
        return None
    if column.enum_labels:
        return chance.choice(column.enum_labels)
    kind = column.type.partition("(")[0]
    moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=chance.choice((0, 1, 12, 24, 8784)))
    choices: dict[str, Any] = {
        "boolean": chance.choice((True, False)),
        "numeric": chance.choice((Decimal("0"), Decimal("1"), Decimal("2.5"), Decimal("5.25")))
        if "," in column.type and not column.type.startswith("numeric(4")
        else chance.choice((Decimal("0"), Decimal("0.5"), Decimal("1"))),
        "double precision": chance.choice((0.1, 0.2, 1.5)),
        "real": chance.choice((0.5, 1.5)),
        "date": moment.date(),
        "timestamp without time zone": moment.replace(tzinfo=None),
        "timestamp with time zone": moment,
        "jsonb": "{}",
        "text[]": [],
    }
    if kind in ("smallint", "integer", "bigint"):
        return chance.randint(0, 5)
    if kind in choices or column.type in choices:
        return choices.get(column.type, choices.get(kind))
    return chance.choice(("a", "b", "A", "ab", "bo"))[: 2 if column.type == "character(2)" else 9]
