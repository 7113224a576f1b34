"""Choosing indexes and ranking advice, on plans with costs that the tests set."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from optimizer.candidate import IndexCandidate, Rewrite, without_subsumed
from optimizer.catalog import Catalog, Index, IndexColumn
from optimizer.clock import Deadline
from optimizer.equivalence.verdict import Counterexample, Equivalence, Verdict
from optimizer.plan import Plan
from optimizer.query import Query
from optimizer.ranking import MAX_VERDICTS, Judge, Option, Thresholds, advise
from optimizer.search import Form
from optimizer.selection import select_indexes
from optimizer.shadow.port import HypotheticalIndex

LATER = Deadline(float("inf"))


def plan(cost: float, *indexes: str) -> Plan:
    node = {"Node Type": "Seq Scan", "Startup Cost": 0.0, "Total Cost": cost, "Plan Rows": 1, "Plan Width": 4}
    children = [{**node, "Node Type": "Index Scan", "Index Name": name} for name in indexes]
    return Plan.from_explain([{"Plan": {**node, "Plans": children}}])


def column(name: str, *, descending: bool = False) -> IndexColumn:
    return IndexColumn(name, name, descending=descending, nulls_first=descending)


def candidate(*columns: str, table: str = "t", include: tuple[str, ...] = ()) -> IndexCandidate:
    return IndexCandidate("public", table, tuple(column(c) for c in columns), include=include, title=f"Index {columns}")


def hypothetical(*columns: str, size: int = 100, table: str = "t") -> HypotheticalIndex:
    return HypotheticalIndex(candidate(*columns, table=table), "_".join(columns), size)


def planner(costs: dict[frozenset[str], float], bare: float):
    """Plan as a planner would: the cheapest subset of what is visible."""

    def explain(visible: Collection[HypotheticalIndex]) -> Plan:
        names = {index.name for index in visible}
        cost, used = min(((c, u) for u, c in costs.items() if u <= names), default=(bare, frozenset()))
        return plan(cost, *sorted(used)) if cost < bare else plan(bare)

    return explain


def test_the_planner_chooses_and_only_what_it_uses_is_kept():
    a, b, c = hypothetical("a"), hypothetical("b"), hypothetical("c")
    explain = planner({frozenset({"a"}): 50, frozenset({"a", "b"}): 10, frozenset({"c"}): 90}, bare=100)
    selection = select_indexes(plan(100), [a, b, c], explain, LATER)
    assert {i.name for i in selection.indexes} == {"a", "b"}
    assert selection.plan.cost.total_cost == 10


def test_an_index_that_adds_almost_nothing_goes():
    a, b = hypothetical("a"), hypothetical("b", size=500)
    explain = planner({frozenset({"a"}): 10.5, frozenset({"a", "b"}): 10}, bare=100)
    assert [i.name for i in select_indexes(plan(100), [a, b], explain, LATER).indexes] == ["a"]


def test_a_smaller_index_that_is_almost_as_good_stands_in():
    wide, narrow = hypothetical("a", "b", "c", size=900), hypothetical("a", "b", size=300)
    explain = planner({frozenset({"a_b_c"}): 10, frozenset({"a_b"}): 11}, bare=100)
    assert [i.name for i in select_indexes(plan(100), [wide, narrow], explain, LATER).indexes] == ["a_b"]


def test_nothing_is_chosen_when_nothing_helps():
    selection = select_indexes(plan(100), [hypothetical("a")], planner({}, bare=100), LATER)
    assert selection.indexes == ()
    assert selection.plan.cost.total_cost == 100


def form(sql: str, cost: float, *rules: str) -> Form:
    rewrite = Rewrite(sql, rules, "A title", "A reason") if rules else None
    return Form(Query.parse(sql), plan(cost), rewrite)


ORIGINAL = form("select 1", 100)


def judge(verdicts: dict[str, Equivalence], minimum: Equivalence = Equivalence.TESTED) -> Judge:
    def ask(asked: Form) -> Verdict:
        kind = verdicts[asked.query.sql]
        example = Counterexample("SELECT 1;", (), (("1",),)) if kind is Equivalence.REFUTED else None
        return Verdict(kind, "counterexample-search", 60, detail="said so", counterexample=example)

    return Judge(ask, minimum)


def test_a_refuted_rewrite_is_never_advice_however_cheap():
    wrong, right = form("select 2", 1, "RW1"), form("select 3", 20, "RW2")
    options = [Option(f, (), f.plan) for f in (wrong, right)]
    verdicts = {"select 2": Equivalence.REFUTED, "select 3": Equivalence.TESTED}
    advice, rejected = advise(ORIGINAL, options, judge(verdicts), Catalog({}), Thresholds())
    assert [a.sql for a in advice] == ["select 3"]
    assert [(r.rule, r.reason, r.counterexample is not None) for r in rejected] == [("RW1", "refuted", True)]


@pytest.mark.parametrize("verdict", [Equivalence.UNKNOWN, Equivalence.REFUTED])
def test_a_rewrite_that_does_not_pass_taints_its_combination_too(verdict: Equivalence):
    wrong = form("select 2", 50, "RW1")
    index = hypothetical("a")
    options = [Option(wrong, (), wrong.plan), Option(wrong, (index,), plan(1, "a"))]
    advice, rejected = advise(ORIGINAL, options, judge({"select 2": verdict}), Catalog({}), Thresholds())
    assert advice == ()
    assert [r.reason for r in rejected] == [verdict.value]


def test_rewrites_that_gain_too_little_are_reported_and_never_judged():
    slower = form("select 2", 98, "RW1")
    advice, rejected = advise(ORIGINAL, [Option(slower, (), slower.plan)], judge({}), Catalog({}), Thresholds())
    assert advice == ()
    assert [(r.rule, r.reason) for r in rejected] == [("RW1", "not_cheaper")]


def test_rewrite_and_index_together_are_advised_when_they_beat_either_alone():
    rewritten, index = form("select 2", 60, "RW1"), hypothetical("a", size=8192)
    options = [
        Option(rewritten, (), rewritten.plan),
        Option(ORIGINAL, (index,), plan(50, "a")),
        Option(rewritten, (index,), plan(5, "a")),
    ]
    advice, rejected = advise(ORIGINAL, options, judge({"select 2": Equivalence.TESTED}), Catalog({}), Thresholds())
    assert [a.kind for a in advice] == ["combined", "index", "rewrite"]
    assert [a.cost.ratio for a in advice if a.cost] == [0.05, 0.5, 0.6]
    assert advice[0].ddl == ("CREATE INDEX CONCURRENTLY t_a_idx ON public.t USING btree (a)",)
    assert advice[0].rollback == ("DROP INDEX CONCURRENTLY public.t_a_idx",)
    assert advice[0].storage_bytes == 8192
    assert advice[1].equivalence is None
    assert rejected == ()


def test_an_index_must_repay_its_storage_and_writes():
    rewritten, index = form("select 2", 10, "RW1"), hypothetical("a")
    options = [
        Option(rewritten, (), rewritten.plan),
        Option(rewritten, (index,), plan(9, "a")),
        Option(ORIGINAL, (index,), plan(85, "a")),
    ]
    advice, _ = advise(ORIGINAL, options, judge({"select 2": Equivalence.TESTED}), Catalog({}), Thresholds())
    assert [a.kind for a in advice] == ["rewrite"]


def test_indexes_advised_together_get_names_of_their_own():
    wide, narrow = candidate("a", include=("z",)), candidate("a", include=("y",))
    pair = tuple(HypotheticalIndex(c, f"h{n}", 100) for n, c in enumerate((wide, narrow)))
    advice, _ = advise(ORIGINAL, [Option(ORIGINAL, pair, plan(5, "h0", "h1"))], judge({}), Catalog({}), Thresholds())
    assert [ddl.split()[3] for ddl in advice[0].ddl] == ["t_a_incl_idx", "t_a_incl_idx1"]
    assert [ddl.split()[3] for ddl in advice[0].rollback] == ["public.t_a_incl_idx", "public.t_a_incl_idx1"]


def test_a_combination_that_adds_nothing_is_not_offered():
    rewritten, index = form("select 2", 99, "RW1"), hypothetical("a")
    options = [Option(ORIGINAL, (index,), plan(50, "a")), Option(rewritten, (index,), plan(49.5, "a"))]
    advice, rejected = advise(ORIGINAL, options, judge({}), Catalog({}), Thresholds())
    assert [a.kind for a in advice] == ["index"]
    assert [r.reason for r in rejected] == ["not_cheaper"]


def test_a_stronger_verdict_can_be_asked_for():
    tested = form("select 2", 10, "RW1")
    options = [Option(tested, (), tested.plan)]
    advice, rejected = advise(
        ORIGINAL, options, judge({"select 2": Equivalence.TESTED}, Equivalence.BOUNDED), Catalog({}), Thresholds()
    )
    assert advice == ()
    assert rejected[0].reason == "unknown"
    assert "bounded was asked for" in rejected[0].detail


def test_the_gate_is_asked_a_bounded_number_of_times():
    forms = [form(f"select {n + 2}", n + 1, f"RW{n}") for n in range(MAX_VERDICTS + 4)]
    asked: list[str] = []

    def ask(one: Form) -> Verdict:
        asked.append(one.query.sql)
        return Verdict(Equivalence.UNKNOWN, "none")

    advise(ORIGINAL, [Option(f, (), f.plan) for f in forms], Judge(ask, Equivalence.TESTED), Catalog({}), Thresholds())
    assert asked == [f"select {n + 2}" for n in range(MAX_VERDICTS)]


def test_existing_indexes_and_their_prefixes_are_not_proposed():
    existing = Index("t_a_b_idx", "public", "t", "btree", (column("a"), column("b")))
    partial = Index("t_c_idx", "public", "t", "btree", (column("c"),), predicate="(c > 0)")
    wanted = (candidate("a"), candidate("a", "b"), candidate("b"), candidate("a", include=("z",)), candidate("c"))
    kept = without_subsumed((*wanted, candidate("b")), [existing, partial])
    assert kept == (candidate("b"), candidate("a", include=("z",)), candidate("c"))


def test_index_names_fit_postgresql_and_ddl_says_what_it_means():
    long = candidate("a" * 60, "b", table="t" * 60)
    assert len(long.name.encode()) <= 63
    down = IndexCandidate(
        "public", "Orders", (column("a", descending=True), IndexColumn("lower(b)", None)), predicate="c"
    )
    assert down.ddl(concurrently=False) == (
        'CREATE INDEX "Orders_a_expr_part_idx" ON public."Orders" USING btree (a DESC, (lower(b))) WHERE c'
    )
