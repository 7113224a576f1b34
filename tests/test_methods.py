"""Hypothetical indexes of every access method on the hollow shadow, against real ones on its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from many_kinds import CASES, VECTOR_CASES, Case, make_many_kinds
from production import source_plan

from optimizer.index_ddl import parse_index_ddl
from optimizer.plan import Plan
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.port import PlanningSession, ShadowDatabase
from optimizer.shadow.server.cluster import Cluster


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    """Services on this test process's home."""
    with Services.open(settings) as services:
        yield services


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> str:
    """Connection string of a database with rows."""
    return make_many_kinds(scratch_cluster, "many_kinds")


@pytest.fixture(scope="module")
def shadow(services: Services, source: str) -> Iterator[ShadowDatabase]:
    """A hollow shadow of it."""
    services.add_hollow("kinds", source)
    yield services.shadow("kinds")
    services.drop("kinds")


@pytest.fixture
def session(shadow: ShadowDatabase) -> Iterator[PlanningSession]:
    """A planning session in it."""
    with shadow.session() as session:
        yield session


def planned(shadow: ShadowDatabase, session: PlanningSession, ddl: str, query: str) -> Plan:
    """Plan with a hypothetical index."""
    candidate = parse_index_ddl(ddl, shadow.catalog())
    made = session.create([candidate])
    assert candidate in made, session.refused
    return session.explain(query, using=made.values())


def nodes(plan: dict[str, Any]) -> list[str]:
    """Node types from the top, with the index's name where there is one."""
    own = f"{plan['Node Type']} {plan.get('Relation Name', '')}".strip()
    return [own, *(line for child in plan.get("Plans", ()) for line in nodes(child))]


@pytest.mark.parametrize("case", [*CASES, *VECTOR_CASES], ids=lambda case: case.index)
def test_plans_as_with_the_real_one(shadow: ShadowDatabase, session: PlanningSession, source: str, case: Case) -> None:
    before = session.explain(case.query)
    after = planned(shadow, session, f"CREATE INDEX ON {case.index}", case.query)
    real = source_plan(source, case.query, f"CREATE INDEX ON {case.index}")
    assert nodes(dict(after.raw)) == nodes(real)
    assert after.indexes, "it must be used"
    assert after.cost.total_cost == pytest.approx(real["Total Cost"], rel=case.share)
    assert after.cost.total_cost < before.cost.total_cost
    assert session.explain(case.query).raw == before.raw, "and is unseen unless asked for"
