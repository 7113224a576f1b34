"""POST /v1/optimize answers from the cache: what shares an answer, what does not, and what is never kept."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from asking import ANSWERED, REWRITTEN, SCHEMA, ask, at_once, computations, is_cached
from http_server import eventually, problem, serving
from pydantic import SecretStr

from api.app import create_app
from api.flights import Flights
from optimizer.errors import InputError
from optimizer.open_shadows import ATTACHED_FRESH_S
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Cluster

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    with Services.open(settings) as services:
        services.add_files("cached", SCHEMA)
        yield services
        services.drop("cached")


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[httpx.Client]:
    with serving(create_app(services)) as client:
        yield client


# What shares an answer


def test_the_second_answer_is_the_first_one(client: httpx.Client) -> None:
    before = computations(client)
    first, second = (ask(client, REWRITTEN.format("01-01")) for _ in range(2))
    assert (first.pop("cached"), second.pop("cached")) == (False, True)
    assert first == second
    assert first["advice"]
    assert computations(client) - before == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id\n  FROM books\tWHERE author_id=7   AND printed>'2021-01-01'\n",
        "-- name: X\nSELECT id FROM books WHERE author_id = 7 AND printed > '2021-01-01' /* trace=1 */;  -- end",
        "SELECT id FROM books /* mine */ WHERE author_id = 7 -- here too\n AND printed > '2021-01-01'",
    ],
)
def test_layout_and_comments_do_not_matter_and_the_text_is_the_askers(client: httpx.Client, sql: str) -> None:
    first = ask(client, "SELECT id FROM books WHERE author_id = 7 AND printed > '2021-01-01'")
    for _ in range(2):
        again = ask(client, sql)
        assert again["cached"]
        assert again["query"]["sql"].startswith("SELECT id")
        assert again["query"]["sql"] in sql
        assert again["advice"] == first["advice"]


def test_nobody_gets_the_comments_of_another(client: httpx.Client) -> None:
    sql = "SELECT id FROM books WHERE date_trunc('day', printed) = '2021-02-01' AND title <> 'x' /* {0} */ AND id > 0"
    texts = [client.post("/v1/optimize", json={"sql": sql.format(who), "shadow": "cached"}).text for who in "AB"]
    for mine, others, text in zip("AB", "BA", texts, strict=True):
        assert f"/* {mine} */" in json.loads(text)["advice"][0]["sql"]
        assert f"/* {others} */" not in text
    assert is_cached(client, sql.format("A"))


def test_advice_has_one_id_in_every_layout(client: httpx.Client) -> None:
    sql = "SELECT id FROM books WHERE date_trunc('day', printed) = '2021-02-02' AND title <> 'x'"
    ids = [
        [advice["id"] for advice in ask(client, text, disable=["IX105"])["advice"]]
        for text in (sql, sql.replace(" ", "\n"), sql.replace("WHERE", "WHERE /* x */"))
    ]
    assert ids[0]
    assert ids[0] == ids[1] == ids[2]


# What does not


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"sql": "SELECT id FROM books WHERE id = 1"}, {"sql": "SELECT id FROM books WHERE id = 2"}),
        ({"sql": "SELECT id FROM books WHERE title = 'a b'"}, {"sql": "SELECT id FROM books WHERE title = 'a  b'"}),
        ({"params": [True]}, {"params": ["true"]}),
        ({"params": [1]}, {"params": [2]}),
        ({"params": [1]}, {"params": None}),
        ({"params": [1]}, {"params": ["1"]}),
        ({"params": [1]}, {"params": [1.0]}),
        ({"params": ["null"]}, {"params": [None]}),
        ({"disable": []}, {"disable": ["RW501"]}),
        ({"min_equivalence": "tested"}, {"min_equivalence": "proved"}),
        ({}, {"schema": SCHEMA}),
        ({"schema": SCHEMA}, {"schema": SCHEMA + "CREATE INDEX ON books (title);"}),
    ],
    ids=lambda more: str(more)[-40:],
)
def test_what_may_change_the_answer_is_another_question(
    client: httpx.Client, request: pytest.FixtureRequest, left: dict[str, Any], right: dict[str, Any]
) -> None:
    name = f"x{abs(hash(request.node.name))}"
    usual = f"SELECT id AS {name} FROM books WHERE {'title = $1' if 'params' in left else 'author_id = 8'}"
    asked = [{"sql": usual} | more for more in (left, right)]
    answers = [ask(client, **more) for more in asked]
    assert [answer["cached"] for answer in answers] == [False, False]
    assert [is_cached(client, **more) for more in asked] == [True, True]


def test_another_revision_is_another_question(services: Services, client: httpx.Client) -> None:
    with Services.open(services.settings) as elsewhere:
        elsewhere.add_files("changing", SCHEMA)
        for _ in range(2):
            first = ask(client, "SELECT id FROM books WHERE title = 'a'", shadow="changing")
        assert first["cached"]
        elsewhere.drop("changing")
        gone = client.post("/v1/optimize", json={"sql": "SELECT id FROM books WHERE title = 'a'", "shadow": "changing"})
        assert "changing" in problem(gone, 404)
        elsewhere.add_files("changing", SCHEMA + "CREATE INDEX books_title ON books (title);")
        second = ask(client, "SELECT id FROM books WHERE title = 'a'", shadow="changing")
        assert not second["cached"]
        assert second["baseline"]["plan"] != first["baseline"]["plan"]
        elsewhere.drop("changing")


def test_a_shadow_that_is_missing_says_how_to_make_it(client: httpx.Client) -> None:
    assert "shadow add default" in problem(client.post("/v1/optimize", json={"sql": "SELECT 1"}), 404)
    both = client.post("/v1/optimize", json={"sql": "SELECT 1", "shadow": "cached", "schema": "CREATE TABLE t (a int)"})
    assert "give one of them" in problem(both, 422)


# What is never kept


def test_errors_keep_their_places_and_are_not_kept(client: httpx.Client) -> None:
    for sql, column in (("SELECT nope FROM books", 8), ("SELECT   nope FROM books", 10)):
        for _ in range(2):
            response = client.post("/v1/optimize", json={"sql": sql, "shadow": "cached"})
            problem(response, 400)
            assert response.json()["column"] == column
    unknown = {"sql": "SELECT id FROM books WHERE id = 3", "shadow": "cached"}
    assert client.post("/v1/optimize", json=unknown).status_code == 200
    assert "RW999" in problem(client.post("/v1/optimize", json=unknown | {"disable": ["RW999"]}), 422)


@pytest.mark.parametrize(
    ("hurried", "more"),
    [({"verify_timeout_ms": 1}, {}), ({"verify_timeout_ms": 10_000}, {"timeout_ms": 40})],
    ids=["no time for a verdict", "no time for the request"],
)
def test_what_lacked_time_is_not_kept(services: Services, hurried: dict[str, Any], more: dict[str, Any]) -> None:
    settings = services.settings.model_copy(update=hurried)
    with Services.open(settings) as own, serving(create_app(own)) as client:
        ask(client, "SELECT 1 AS warm")
        for _ in range(3):
            response = client.post("/v1/optimize", json={"sql": REWRITTEN.format("03-01"), "shadow": "cached"} | more)
            if response.status_code == 200:
                assert not response.json()["cached"]
            else:
                problem(response, 504)


def test_a_ttl_of_zero_turns_the_cache_off(services: Services) -> None:
    settings = services.settings.model_copy(update={"cache_ttl_s": 0})
    with Services.open(settings) as own, serving(create_app(own)) as client:
        assert [is_cached(client, "SELECT 1 AS off") for _ in range(3)] == [False] * 3


def test_an_attached_server_is_not_believed_for_long(services: Services, hollow_cluster: Cluster) -> None:
    hollow_cluster.ensure_role("cache_reader")
    with hollow_cluster.connect() as boss:
        boss.execute("CREATE DATABASE cache_attached")
    with hollow_cluster.connect("cache_attached") as boss:
        boss.execute("CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 5000) i")
        boss.execute("GRANT SELECT ON t TO cache_reader")
        boss.execute("ANALYZE t")
    services.add_attached("watched", hollow_cluster.conninfo("cache_attached", "cache_reader"))
    try:
        with serving(create_app(services)) as client:
            assert not is_cached(client, "SELECT a FROM t WHERE a = 1", shadow="watched")
            assert is_cached(client, "SELECT a FROM t WHERE a = 1", shadow="watched")
            left = services.fresh_s(services.registry.get("watched"))
            assert 0 < left <= ATTACHED_FRESH_S
            executed = [ask(client, "SELECT a FROM t WHERE a = 2", shadow="watched", measure=True) for _ in range(2)]
            assert [report["cached"] for report in executed] == [False, False]
    finally:
        services.drop("watched")
        with hollow_cluster.connect() as boss:
            boss.execute("DROP DATABASE cache_attached WITH (FORCE)")


# What a remembered body does not get around


def test_a_remembered_body_needs_a_key_and_the_right_type(services: Services) -> None:
    settings = services.settings.model_copy(update={"api_keys": (SecretStr(KEY),)})
    with Services.open(settings) as own, serving(create_app(own)) as client:
        sent = {"json": {"sql": "SELECT id FROM books WHERE id = 4", "shadow": "cached"}}
        shown = {"X-API-Key": KEY}
        answers = [client.post("/v1/optimize", headers=shown, **sent) for _ in range(2)]
        assert answers[1].json()["cached"]
        problem(client.post("/v1/optimize", **sent), 401)
        problem(client.post("/v1/optimize", headers={"X-API-Key": KEY + "x"}, **sent), 401)
        typed = shown | {"Content-Type": "text/plain"}
        problem(client.post("/v1/optimize", headers=typed, content=answers[0].request.content), 415)


# Single flight in one process


def test_fifty_at_once_cost_one_computation(client: httpx.Client) -> None:
    before = computations(client)
    sql = REWRITTEN.format("04-01")
    reports = at_once([lambda: ask(client, sql)] * 50)
    assert computations(client) - before == 1
    assert sorted(report.pop("cached") for report in reports) == [False] + [True] * 49
    assert all(report == reports[0] for report in reports)


def test_those_who_wait_get_the_error_too(client: httpx.Client) -> None:
    sql = "SELECT nope AS at_once FROM books"
    found = at_once([lambda: client.post("/v1/optimize", json={"sql": sql, "shadow": "cached"})] * 20)
    assert {response.status_code for response in found} == {400}


def test_who_began_may_leave(services: Services) -> None:
    sql = REWRITTEN.format("04-02")
    body = json.dumps({"sql": sql, "shadow": "cached"})
    head = f"POST /v1/optimize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with serving(app := create_app(services)) as client, ThreadPoolExecutor() as threads:
        before = computations(client)
        flights = app.state.answers._flights._flights

        def waiting() -> list[int]:
            return [flight.waiting for flight in tuple(flights.values())]

        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as leaver:
            leaver.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            eventually(lambda: waiting() == [1])
            asked = threads.submit(ask, client, sql)
            eventually(lambda: waiting() == [2])
        report = asked.result()
        assert report["cached"]
        assert computations(client) - before == 1
        assert ANSWERED in json.dumps(report)


def test_an_error_is_placed_in_the_text_of_each_who_shares_it(client: httpx.Client) -> None:
    asked = ["SELECT nope AS placed FROM books", "\n\n-- x\n  SELECT nope AS placed FROM books"] * 10
    calls = [lambda sql=sql: client.post("/v1/optimize", json={"sql": sql, "shadow": "cached"}) for sql in asked]
    places = [(found["line"], found["column"]) for found in (response.json() for response in at_once(calls))]
    assert places == [(1, 8), (4, 10)] * 10


def test_work_ends_when_the_last_one_has_gone() -> None:
    async def check() -> None:
        flights: Flights[int] = Flights()
        ended = asyncio.Event()
        begun = 0

        async def work() -> int:
            nonlocal begun
            begun += 1
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return begun

        callers = [asyncio.create_task(flights.share("k", work)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for caller in callers[:2]:
            caller.cancel()
        await asyncio.wait(callers[:2])
        assert not ended.is_set()
        callers[2].cancel()
        await asyncio.wait(callers)
        assert "k" not in flights  # whoever comes now begins anew
        await ended.wait()
        assert begun == 1

    asyncio.run(check())


def test_wrong_redis_urls_are_told_at_the_start(services: Services) -> None:
    settings = services.settings.model_copy(update={"redis_url": SecretStr("http://me:secret@host")})
    with Services.open(settings) as own, pytest.raises(InputError, match="PLANPROOF_REDIS_URL") as caught:
        create_app(own)
    assert "secret" not in str(caught.value)
