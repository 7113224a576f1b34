"""LEAKPROOF, which only a superuser may say, is taken from a script's functions and marked in a clone."""

from __future__ import annotations

import pytest

from optimizer.ddl import Statement, read_script
from optimizer.ddl_functions import NOT_LEAKPROOF
from optimizer.errors import SqlError
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source.leakproof import LeakproofFunction, mark_leakproof, read_leakproof

BODY = "RETURNS boolean LANGUAGE sql IMMUTABLE {} AS 'SELECT $1 > 5'"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (f"CREATE FUNCTION f(a integer) {BODY.format('LEAKPROOF')}", "IMMUTABLE NOT LEAKPROOF AS"),
        (f"CREATE FUNCTION leakproof(a integer) {BODY.format('LEAKPROOF')}", "FUNCTION leakproof(a integer)"),
        ("CREATE FUNCTION f(leakproof integer) RETURNS int LEAKPROOF LANGUAGE sql AS 'SELECT 1'", "int NOT LEAKPROOF"),
        ("ALTER FUNCTION f(integer) LEAKPROOF", "ALTER FUNCTION f(integer) NOT LEAKPROOF"),
    ],
)
def test_the_word_is_taken_off_and_told(function: str, expected: str) -> None:
    script = read_script(f"{function};", max_bytes=10_000)
    (item,) = script.items
    assert isinstance(item, Statement)
    assert expected in item.sql
    assert item.sql.lower().count("not leakproof") == 1
    assert [note for _, _, note in script.skipped] == [NOT_LEAKPROOF]


@pytest.mark.parametrize("word", ["NOT LEAKPROOF", ""])
def test_nothing_else_is_changed(word: str) -> None:
    text = f"CREATE FUNCTION f(a integer) {BODY.format(word)}"
    script = read_script(f"{text};", max_bytes=10_000)
    assert [item.sql for item in script.items if isinstance(item, Statement)] == [text]
    assert script.skipped == ()


def test_both_words_are_taken_off() -> None:
    script = read_script(f"CREATE FUNCTION f(a integer) {BODY.format('SECURITY DEFINER LEAKPROOF')};", max_bytes=10_000)
    (item,) = script.items
    assert isinstance(item, Statement)
    assert "SECURITY INVOKER" in item.sql
    assert "DEFINER" not in item.sql
    assert "NOT LEAKPROOF" in item.sql


def test_other_languages_are_refused() -> None:
    with pytest.raises(SqlError, match="only sql and plpgsql"):
        read_script("CREATE FUNCTION f() RETURNS int LANGUAGE c LEAKPROOF AS 'x';", max_bytes=10_000)


def test_functions_are_marked_by_their_arguments(scratch_cluster: Cluster) -> None:
    with scratch_cluster.connect() as admin:
        admin.execute("CREATE DATABASE leakproof")
    with scratch_cluster.connect("leakproof", options="-c search_path=pg_catalog") as connection:
        for arguments in ("a integer", "a text", "a integer, b text"):
            connection.execute(
                f"CREATE FUNCTION public.f({arguments}) RETURNS boolean LANGUAGE sql AS 'SELECT true'".encode()
            )
        wanted = (LeakproofFunction("public", "f", "a integer"), LeakproofFunction("public", "f", "a integer, b text"))
        mark_leakproof((*wanted, LeakproofFunction("public", "missing", "")), connection)
        assert read_leakproof(connection) == wanted
        mark_leakproof((), connection)
