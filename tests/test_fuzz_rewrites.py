"""Random statements: what the rules make of them, alone and in chains of two, returns the same rows.

pytest tests/test_fuzz_rewrites.py                     a few hundred statements, always the same
PLANPROOF_FUZZ_SECONDS=3600 PLANPROOF_FUZZ_SEED=7 pytest tests/test_fuzz_rewrites.py -s
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from fuzz_oracle import Oracle
from fuzz_schema import TABLES
from rule_cases import RULES, cases
from sql_fuzzer import SqlFuzzer, Statement

from optimizer.canonical import canonical
from optimizer.catalog import Catalog
from optimizer.matching import unfit_for_rewriting
from optimizer.query import Query
from optimizer.rule import RewriteRule
from optimizer.shadow.server.cluster import Cluster

SEED = int(os.environ.get("PLANPROOF_FUZZ_SEED", "1"))
#: Runs that long instead of over a fixed number of statements.
SECONDS = float(os.environ.get("PLANPROOF_FUZZ_SECONDS", "0"))
STATEMENTS = 320
DATABASES = 3
#: Statements between two fillings of the databases.
REFILL = 160
#: Most rewrites of one statement that are tried, and most that are rewritten again.
MOST_REWRITES, MOST_CHAINED = 24, 6
RULES_IN_ORDER = sorted(RULES.values(), key=lambda rule: rule.code)


@pytest.fixture(scope="module")
def oracle(scratch_cluster: Cluster) -> Iterator[Oracle]:
    oracle = Oracle(scratch_cluster, DATABASES, SEED)
    yield oracle
    oracle.close()


@dataclass
class Harvest:
    """What a run did and found."""

    counts: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def chains(sql: str, catalog: Catalog) -> Iterator[tuple[tuple[RewriteRule, ...], str]]:
    """Yield every rewrite of a statement, then rewrites of the first few rewrites."""
    first = [((rule,), rewrite) for rule, rewrite in rewrites(sql, catalog)]
    yield from first
    for rules, rewritten in first[:MOST_CHAINED]:
        for rule, rewrite in rewrites(rewritten, catalog):
            yield (*rules, rule), rewrite


def rewrites(sql: str, catalog: Catalog) -> Iterator[tuple[RewriteRule, str]]:
    query = Query.parse(sql)
    if unfit_for_rewriting(query, catalog) is None:
        for rule in RULES_IN_ORDER:
            for rewrite in rule.rewrites(query, catalog):
                yield rule, rewrite.sql


def harvest(oracle: Oracle, statements: Iterator[Statement]) -> Harvest:
    found = Harvest()
    for statement in statements:
        found.counts["statements"] += 1
        if found.counts["statements"] % REFILL == 0:
            oracle.refill()
        if not oracle.accepts(statement.sql):
            found.counts["invalid"] += 1
            continue
        before = None
        seen = {canonical(statement.sql)}
        for rules, sql in chains(statement.sql, oracle.catalog):
            form = canonical(sql)
            if form in seen or len(seen) > MOST_REWRITES:
                continue
            seen.add(form)
            before = before or oracle.originals(statement)
            found.counts["rewrites"] += 1
            found.fired.update({rules[-1].code})
            difference = oracle.difference(statement, before, sql)
            if difference is not None:
                chain = " then ".join(rule.code for rule in rules)
                found.failures.append(f"{chain}: {difference}\n{statement.sql}\n--\n{sql}")
        found.counts["with rows"] += before is not None and any(outcome.rows for outcome in before)
    return found


def statements() -> Iterator[Statement]:
    fuzzer = SqlFuzzer(random.Random(SEED))
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end if SECONDS else number < STATEMENTS:
        number += 1
        yield fuzzer.statement()


def test_no_rewrite_changes_the_rows_of_a_random_statement(oracle: Oracle) -> None:
    found = harvest(oracle, statements())
    print(dict(found.counts), dict(sorted(found.fired.items())))  # noqa: T201 - for long runs
    assert not found.failures, "\n\n".join([f"{len(found.failures)} failures", *found.failures[:20]])
    assert found.counts["invalid"] < found.counts["statements"] * 0.1
    assert found.counts["with rows"] > found.counts["statements"] * 0.15
    assert set(found.fired) >= {rule.code for rule in RULES_IN_ORDER} - RARE


#: Rules that a short run may not meet.
RARE = {"RW201", "RW202", "RW203", "RW301", "RW402", "RW501"}


def test_statements_and_rows_are_the_same_for_the_same_seed() -> None:
    first, second = (SqlFuzzer(random.Random(3)) for _ in range(2))
    assert [first.statement() for _ in range(50)] == [second.statement() for _ in range(50)]


def test_every_table_of_the_fuzzer_is_there(oracle: Oracle) -> None:
    for name, columns in TABLES.items():
        table = oracle.catalog.table(name)
        assert table is not None
        assert set(columns) <= set(table.columns)


def test_the_oracle_sees_that_wrong_rewrites_are_wrong(oracle: Oracle) -> None:
    wrong = [case for case in cases() if case.wrong is not None and case.schema == "shop"]
    seen = 0
    for case in wrong:
        statement = Statement(case.sql, fixed="LIMIT" not in case.sql)
        seen += oracle.difference(statement, oracle.originals(statement), case.wrong or "") is not None
    assert seen > 0.6 * len(wrong), f"{seen} of {len(wrong)}"
