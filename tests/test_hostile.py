"""Hostile input, theme by theme: it comes to what its case says, and harms no canary."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
from hostile_arena import Arena, arena
from hostile_cases import FOLDER, Case, faults, run, themes

THEMES = themes()


#: The catalogs of all fixed databases are looked into after so many cases.
BATCH = 10


@pytest.fixture(scope="module")
def ground() -> Iterator[Arena]:
    with arena() as ground:
        yield ground
        assert ground.harm(deep=True) == []


def test_the_corpus_is_large() -> None:
    assert sum(map(len, THEMES.values())) >= 150
    assert {case.via for cases in THEMES.values() for case in cases} == {"core", "http", "cli"}


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.theme}: {c.id}") for cases in THEMES.values() for c in cases])
def test_hostile(ground: Arena, case: Case) -> None:
    outcome = run(ground, case)
    ground.cases += 1
    harm = ground.harm(deep=ground.cases % BATCH == 0)
    if harm:
        ground.remember()  # the next case begins with what is there now
    assert [*faults(case, outcome, ground), *harm] == []


#: Takes every lock that there is (an error ends the statement, and leaves them), and keeps them while it is let.
_GREEDY = (
    "concat(attempt($x$SELECT count(pg_advisory_lock(g)) FROM generate_series(1, 1000000) g$x$),"
    " attempt($x$SELECT pg_sleep(60)$x$))"
)


@pytest.mark.parametrize("face", ["explain", "equivalence"])
def test_neighbours_of_one_who_takes_all_locks_are_told_to_try_again(ground: Arena, face: str) -> None:
    """Whoever asks meanwhile gets an answer or a clean 503; afterwards all is as before."""
    schema = (FOLDER / "attempt.sql").read_text(encoding="utf-8")
    done = threading.Event()
    answers: list[httpx.Response] = []

    def greedy() -> None:
        with httpx.Client(base_url=ground.client.base_url, timeout=120) as client:
            for _ in range(6):
                queries = {"sql": f"SELECT * FROM t WHERE note = {_GREEDY}"}
                if face == "equivalence":
                    queries = {"left": f"SELECT {_GREEDY} AS x FROM t", "right": "SELECT 'x'::text AS x FROM t"}
                client.post(f"/v1/{face}", json={"schema": schema, **queries})
        done.set()

    attacker = threading.Thread(target=greedy)
    attacker.start()
    turn = 0
    while not done.is_set() or turn < 3:
        turn += 1
        mine = f"CREATE TABLE mine (id integer PRIMARY KEY, n integer); -- {turn % 3}"
        if face == "explain":
            body = {"schema": mine, "sql": "SELECT * FROM mine WHERE n = 1"}
        else:
            left = f"SELECT id FROM mine WHERE n = {turn}"
            body = {"schema": mine, "left": left, "right": left.replace(f"n = {turn}", f"{turn} = n")}
        answers.append(ground.client.post(f"/v1/{face}", json=body))
    attacker.join()
    wrong = [a.text for a in answers if a.status_code not in (200, 503, 504)]
    assert wrong == []
    assert all(int(a.headers["retry-after"]) > 0 for a in answers if a.status_code == 503)
    assert ground.client.post(f"/v1/{face}", json=body).status_code == 200
    assert ground.harm() == []
