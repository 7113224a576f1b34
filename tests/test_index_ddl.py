"""CREATE INDEX statements of users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, IndexColumn
from optimizer.errors import SqlError, TooLargeError
from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings

SHOP = (Path(__file__).parents[1] / "fixtures/schemas/shop.sql").read_text()


@pytest.fixture(scope="module")
def catalog(settings: Settings) -> Iterator[Catalog]:
    """The shop's catalog."""
    with Services.open(settings) as services:
        yield services.throwaway(SHOP + 'CREATE VIEW v AS SELECT 1; CREATE TABLE "Odd" ("A b" integer);').catalog()


def test_every_part_is_read(catalog: Catalog) -> None:
    text = """CREATE INDEX CONCURRENTLY IF NOT EXISTS mine ON public.users USING btree
        (lower(email) text_pattern_ops DESC NULLS LAST, nickname COLLATE "C" NULLS FIRST, id) INCLUDE (score)
        WHERE active AND city_id IS NOT NULL;"""
    assert parse_index_ddl(text, catalog) == IndexCandidate(
        schema="public",
        table="users",
        key_columns=(
            IndexColumn("lower(email)", None, descending=True, nulls_first=False, opclass="text_pattern_ops"),
            IndexColumn("nickname", "nickname", nulls_first=True, collation="C"),
            IndexColumn("id", "id"),
        ),
        include=("score",),
        predicate="active AND city_id IS NOT NULL",
    )


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE INDEX ON public.users USING btree (email)",
        "CREATE INDEX ON public.users USING btree (email DESC, score)",
        "CREATE INDEX ON public.users USING btree (email DESC NULLS LAST)",
        "CREATE INDEX ON public.users USING btree (email NULLS FIRST)",
        "CREATE INDEX ON public.users USING btree ((score + 1.5), (phone IS NULL))",
        "CREATE INDEX ON public.users USING btree (COALESCE(phone, 'none'))",
        "CREATE INDEX ON public.users USING btree (id) INCLUDE (email) WHERE seen_at > '2024-01-01'::timestamptz",
        'CREATE INDEX ON public."Odd" USING hash ("A b")',
        "CREATE INDEX ON public.products USING gin (tags array_ops)",
    ],
)
def test_what_is_read_is_printed_back(catalog: Catalog, ddl: str) -> None:
    candidate = parse_index_ddl(ddl, catalog)
    printed = candidate.ddl("x", concurrently=False)
    assert parse_index_ddl(printed, catalog) == candidate
    brackets = str.maketrans("", "", "()")
    assert printed.translate(brackets) == ddl.replace("ON public.", "x ON public.", 1).translate(brackets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("CREATE INDEX ON users (email); DROP TABLE users", "not one CREATE INDEX"),
        ("DROP INDEX x", "not one CREATE INDEX"),
        ("SELECT 1", "not one CREATE INDEX"),
        ("CREATE INDEX ON users (email", "syntax error"),
        ("CREATE UNIQUE INDEX ON users (email)", "UNIQUE"),
        ("CREATE INDEX ON nowhere (id)", "no table nowhere"),
        ("CREATE INDEX ON other.users (id)", r"no table other\.users"),
        ("CREATE INDEX ON v (id)", "is a view"),
        ("CREATE INDEX ON users (nope)", "column nope does not exist"),
        ("CREATE INDEX ON users (id) INCLUDE (nope)", "column nope does not exist"),
        ('CREATE INDEX ON users ("ID")', 'column "ID" does not exist'),
        ("CREATE INDEX ON users (email) WITH (toast.fillfactor = 70)", "namespace"),
        ("CREATE INDEX ON users (email) WITH (fillfactor = 70, fillfactor = 80)", "twice"),
        ('CREATE INDEX ON users (email COLLATE mine."x")', "schema"),
        ("CREATE INDEX ON users (em\0ail)", "NUL"),
        (f"CREATE INDEX ON users ({'(' * 5000}id{')' * 5000})", "nest"),
        (f"CREATE INDEX ON users ((id{' + 1' * 200}))", "too deeply"),
        (f"CREATE INDEX ON users ((id{' + 1' * 20000}))", "too long"),
    ],
)
def test_everything_else_is_refused(catalog: Catalog, text: str, message: str) -> None:
    with pytest.raises(SqlError, match=message) as caught:
        parse_index_ddl(text, catalog)
    assert "\n" not in str(caught.value)


def test_size_is_limited(catalog: Catalog) -> None:
    with pytest.raises(TooLargeError):
        parse_index_ddl("CREATE INDEX ON users (id)" + " " * 200_000, catalog)
