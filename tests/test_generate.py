"""Generated databases: they hold the schema's constraints, hit the queries' conditions, and come out the same again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.clock import Deadline
from optimizer.equivalence import values
from optimizer.equivalence.build import build_model
from optimizer.equivalence.constants import Constants, ValueType
from optimizer.equivalence.generate import Ahead, Database, Generator
from optimizer.equivalence.load import Loader, literal
from optimizer.equivalence.model import Model
from optimizer.equivalence.scratch import Lease, Scratch
from optimizer.equivalence.session import Command
from optimizer.query import Query
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

DDL = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN percent AS integer CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE parents (a integer, b text, note varchar(5), PRIMARY KEY (a, b));
CREATE TABLE children (
    id bigint PRIMARY KEY,
    a integer,
    b text,
    boss bigint REFERENCES children (id),
    share percent NOT NULL,
    mood mood,
    price numeric(6, 2) NOT NULL CHECK (price > 10),
    code char(4) UNIQUE,
    at timestamptz,
    tags text[],
    data jsonb,
    UNIQUE (a, share),
    FOREIGN KEY (a, b) REFERENCES parents (a, b)
);
CREATE TABLE loners (k integer NOT NULL, v text, EXCLUDE USING btree (k WITH =));
"""
WANTED = (
    "SELECT c.id FROM children c JOIN parents p ON (p.a, p.b) = (c.a, c.b) JOIN loners l ON l.k = c.a "
    "WHERE c.share BETWEEN 20 AND 30 AND c.mood = 'bad' AND p.note LIKE 'ab%' AND c.price > 99.5 AND l.v IS NULL"
)


@pytest.fixture(scope="module")
def scratch(supervisor: Supervisor, settings: Settings) -> Iterator[Scratch]:
    scratch = Scratch(supervisor, settings)
    yield scratch
    scratch.close()


@pytest.fixture(scope="module")
def lease(scratch: Scratch) -> Iterator[Lease]:
    with scratch.lease(scratch.schema(DDL)) as lease:
        yield lease


def model_of(lease: Lease, *queries: str, types: tuple[str, ...] = ()) -> Model:
    parsed = [Query.parse(q) for q in queries]
    return build_model(lease.schema.catalog, parsed, lease.loader, types, Deadline.after(5_000))


def databases(model: Model, count: int = 40, seed: str = "s") -> list[Database]:
    return list(Generator(model, seed, zoned=True).databases(count))


def column(database: Database, model: Model, table: str, name: str) -> list[str | None]:
    chosen = next(t for t in model.tables if t.key[1] == table)
    place = [c.name for c in chosen.columns].index(name)
    return [row[place] for row in database.rows[chosen.key]]


def test_the_server_accepts_the_rows(scratch: Scratch, lease: Lease) -> None:
    model = model_of(lease, WANTED)
    loader = Loader(scratch, lease, model, Deadline.after(120_000))
    made: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for database in databases(model):
        made.update({key[1]: len(rows) for key, rows in database.rows.items()})
        kept.update({key[1]: len(rows) for key, rows in loader.accepted(database).rows.items()})
    assert kept["parents"] == made["parents"] > 100
    assert kept["children"] > 0.95 * made["children"] > 100
    assert kept["loners"] > 30  # the server alone knows what an exclusion constraint excludes


def test_loading_at_once_and_row_by_row_agree(scratch: Scratch, lease: Lease) -> None:
    model = model_of(lease, WANTED)
    loader = Loader(scratch, lease, model, Deadline.after(120_000))
    count = [
        Command(
            "SELECT (SELECT count(*) FROM children) + (SELECT count(*) FROM parents) + (SELECT count(*) FROM loners)"
        )
    ]
    for database in databases(model, 12):
        loader.load(database)
        at_once = lease.loader.run([count], limit_s=5)[0][0].rows
        accepted = loader.accepted(database)
        assert lease.loader.run([count], limit_s=5)[0][0].rows == at_once
        assert at_once == ((str(accepted.size).encode(),),)


def test_many_conditions_are_met_at_once(scratch: Scratch, lease: Lease) -> None:
    model = model_of(lease, WANTED)
    loader = Loader(scratch, lease, model, Deadline.after(120_000))
    hits = 0
    for database in databases(model):
        loader.load(database)
        hits += lease.loader.run([[Command(WANTED)]], limit_s=5)[0][0].rows != ()
    assert hits >= 8


def test_the_plan_begins_as_written(lease: Lease) -> None:
    made = databases(model_of(lease, WANTED), 60)
    assert made[0].size == 0
    assert {len(rows) for rows in made[1].rows.values()} == {1}
    labels = [database.label for database in made]
    assert labels.index("many NULLs") < labels.index("duplicates") < labels.index("unmatched keys")
    assert {"public.parents empty", "public.children empty", "public.loners empty"} <= set(labels)
    assert {database.zone for database in made} == {"UTC", "America/New_York"}


def test_the_same_seed_gives_the_same_databases(lease: Lease) -> None:
    model = model_of(lease, WANTED)
    assert databases(model) == databases(model)
    assert databases(model) != databases(model, seed="other")


def test_constants_and_their_neighbours_are_there(lease: Lease) -> None:
    model = model_of(lease, "SELECT 1 FROM children WHERE price = 50 AND share > 7 AND at < '2024-05-06'")
    made = databases(model, 60)
    prices = {v for d in made for v in column(d, model, "children", "price")}
    assert {"50", "49.99", "50.01"} <= {p.removesuffix(".00") for p in prices if p is not None}
    assert {"6", "7", "8"} <= {v for d in made for v in column(d, model, "children", "share")}
    moments = {v for d in made for v in column(d, model, "children", "at")}
    assert {"2024-05-06 00:00:00+00", "2024-05-05 23:59:59.999999+00", None} <= moments


def test_a_check_filters_values(lease: Lease) -> None:
    model = model_of(lease, "SELECT 1 FROM children WHERE price < 3")
    (price,) = [c for t in model.tables for c in t.columns if c.name == "price"]
    assert price.wide
    assert all(v == "NaN" or Decimal(v) > 10 for v in price.wide)


def test_groups_around_a_threshold(lease: Lease) -> None:
    model = model_of(lease, "SELECT k FROM loners GROUP BY k HAVING count(*) > 5", "SELECT a FROM parents LIMIT 3")
    sizes = {len(rows) for d in databases(model, 30) for key, rows in d.rows.items() if key[1] == "loners"}
    assert max(sizes) >= 20
    (groups,) = [d for d in databases(model, 30) if d.label == "groups of 4, 5, 6, 7 rows"][:1]
    keys = column(groups, model, "loners", "k")
    assert sorted(keys.count(k) for k in set(keys)) == [4, 5, 6, 7]


def test_unmatched_keys(lease: Lease) -> None:
    model = model_of(lease, "SELECT 1 FROM loners l JOIN parents p ON p.a = l.k")
    (database,) = [d for d in databases(model, 40) if d.label == "unmatched keys"][:1]
    assert not set(column(database, model, "loners", "k")) & set(column(database, model, "parents", "a"))


def test_parameters_get_values_and_null(lease: Lease) -> None:
    model = model_of(lease, "SELECT 1 FROM children WHERE share = $1", types=("integer",))
    params = {d.params for d in databases(model, 40)}
    assert (None,) in params
    assert len(params) > 3
    matching = sum(
        d.params[0] is not None and d.params[0] in column(d, model, "children", "share") for d in databases(model, 40)
    )
    assert matching > 10


def test_views_lead_to_their_tables(scratch: Scratch) -> None:
    ddl = f"{DDL}; CREATE VIEW v AS SELECT a, note FROM parents WHERE note = 'xyz'"
    with scratch.lease(scratch.schema(ddl)) as lease:
        model = model_of(lease, "SELECT a FROM v WHERE a > 41")
        assert [t.key[1] for t in model.tables] == ["parents"]
        made = databases(model, 30)
        assert {"xyz"} <= {v for d in made for v in column(d, model, "parents", "note")}
        assert {"41", "42"} <= {v for d in made for v in column(d, model, "parents", "a")}


def kind(name: str, *arguments: int) -> ValueType:
    return ValueType(name, name, arguments)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_satisfying_values_hold(number: Decimal) -> None:
    text = f"{number:f}"
    for name in ("integer", "numeric", "double precision"):
        for operator in ("<", "<=", ">", ">=", "<>"):
            for value in values.satisfying(kind(name), operator, [text], Constants()):
                assert values.holds(kind(name), operator, [text], value, Constants()) or operator in ("<=", ">=", "<>")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_neighbours_of_a_text_contain_it(text: str) -> None:
    near = list(values.around(kind("text"), text, Constants()))
    assert text in near
    assert f"{text} " in near
    assert "" in near or len(text) > 1


@given(st.integers(0, 5), st.lists(st.integers(0, 3), max_size=8))
def test_looking_ahead_changes_nothing(count: int, looks: list[int]) -> None:
    made: list[Database] = []

    def make() -> Iterator[Database]:
        for number in range(count):
            made.append(Database(str(number), {}))
            yield made[-1]

    ahead, seen = Ahead(make()), []
    for turn, database in enumerate(ahead):
        seen.append(database)
        for _ in range(looks[turn] if turn < len(looks) else 0):
            ahead.look()
            assert len(made) <= len(seen) + 1
    assert seen == made
    assert len(made) == count


@given(st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))), max_size=5))
def test_array_texts_are_read_back(lease: Lease, items: list[str | None]) -> None:
    text = values.array_text(items)
    ((answer,),) = lease.loader.run([[Command("SELECT unnest($1::text[])", (text,))]], limit_s=5)
    assert [None if v is None else v.decode() for (v,) in answer.rows] == items


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_literals_are_read_back(lease: Lease, text: str) -> None:
    ((answer,),) = lease.loader.run([[Command(f"SELECT {literal(text)}")]], limit_s=5)
    assert answer.rows == ((text.encode(),),)
