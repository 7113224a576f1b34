"""Hostile input, theme by theme: it comes to what its case says, and harms no canary."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hostile_arena import Arena, arena
from hostile_cases import Case, faults, run, themes

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
