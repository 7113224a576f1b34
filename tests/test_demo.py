"""`planproof demo`: every query gets the advice it is there to show, and the executed proof holds."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import COMMAND, Outcome, planproof

from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor
from plugins.demo.shop import DATABASE, OWNER, queries

SCALE = ("--scale", "0.05")
#: What each query is there to show: a kind of advice, and rules of which one must be part of it. On a database this
#: small a neighbouring form may be cheaper still, so it need not be the best.
INTENDED = {
    "01_busy_day": ("rewrite", {"RW501"}),
    "02_never_ordered": ("rewrite", {"RW105"}),
    "03_fair_price": ("rewrite", {"RW101"}),
    "04_coupon_orders": ("rewrite", {"RW103"}),
    "05_customer_or_order": ("rewrite", {"RW201"}),
    "06_coupon_owners": ("rewrite", {"RW202"}),
    "07_lossy_products": ("combined", {"RW104"}),
    "08_latest_movements": ("index", {"IX103"}),
    "09_pending_orders": ("index", {"IX104", "IX105"}),
    "10_units_sold": ("index", {"IX104"}),
    "11_login": ("index", {"IX106"}),
    "12_stock_take": ("combined", {"RW501"}),
    "13_last_trouble": ("rewrite", {"RW302"}),
}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data folder of this file's own, short since it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="pp-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path
        supervisor = Supervisor(Settings(home=path))
        supervisor.stop_all()
        supervisor.close()


@pytest.fixture(scope="module")
def run(home: Path) -> Outcome:
    """The whole demo, once."""
    return planproof("demo", "--json", *SCALE, home=home, timeout_s=300)


@pytest.fixture(scope="module")
def results(run: Outcome) -> dict[str, Any]:
    """Its answer for each query."""
    assert run.status == 0, run.stderr
    return {entry["name"]: entry for entry in run.json["queries"]}


def test_every_query_is_run_and_every_phase_is_timed(run: Outcome, results: dict[str, Any]) -> None:
    assert list(results) == [q.name for q in queries()] == list(INTENDED)
    assert set(run.json["seconds"]) == {"fill", "clone", "optimize", "prove"}
    assert all(entry["question"] for entry in results.values())
    assert "... filling them" in run.stderr
    assert "13 of 13" in run.stderr


@pytest.mark.parametrize("name", INTENDED)
def test_advice_is_of_the_intended_kind(name: str, results: dict[str, Any]) -> None:
    kind, rules = INTENDED[name]
    advice = results[name]["report"]["advice"]
    assert any(a["kind"] == kind and rules.intersection(a["rules"]) for a in advice), advice
    for one in advice:
        assert one["cost"]["after"] < one["cost"]["before"]
        assert bool(one["ddl"]) == (one["kind"] != "rewrite")
        assert (one["sql"] is None) == (one["kind"] == "index")
        if one["sql"] is not None:
            assert one["equivalence"]["verdict"] in {"tested", "bounded", "proved"}


def test_the_proofs_hold_and_gain(results: dict[str, Any]) -> None:
    proofs = [entry["proof"] for entry in results.values()]
    assert all(proof["same_rows"] and proof["rows"] > 0 for proof in proofs)
    # Of single queries of a few milliseconds a busy machine would make this a gamble.
    assert sum(p["after_ms"] for p in proofs) < sum(p["before_ms"] for p in proofs) / 2


def test_the_proof_leaves_no_index_behind(results: dict[str, Any], home: Path) -> None:
    assert any(entry["report"]["advice"][0]["ddl"] for entry in results.values())
    assert _indexes(home) == _marked(home)


def test_a_second_run_uses_what_is_there_and_drops_what_a_killed_proof_left(run: Outcome, home: Path) -> None:
    assert run.status == 0
    with _shop(home) as connection:
        connection.execute("CREATE INDEX left_over ON users (lower(email))")
    again = planproof("demo", *SCALE, "--query", "login", home=home)
    assert again.status == 0
    assert "filling" not in again.stderr
    assert "filled by an earlier run" in again.stdout
    assert "proof        executed on the source" in again.stdout
    assert "1 of 1 returned the same rows" in again.stdout
    assert "left_over" not in _indexes(home)


def test_its_shadow_can_be_used_by_other_commands(run: Outcome, home: Path) -> None:
    assert run.status == 0
    plan = planproof("explain", "--shadow", "demo", "--json", home=home, stdin="SELECT * FROM users WHERE id = 7")
    assert plan.json["plan"]["Node Type"] == "Index Scan"


def test_an_interrupted_run_is_not_taken_for_a_filled_shop(run: Outcome, home: Path) -> None:
    assert run.status == 0
    # A background job of a shell ignores SIGINT and so would its children; env undoes that.
    command = ["env", "--default-signal=INT", COMMAND, "demo", "--scale", "0.2", "--query", "login"]
    environment = os.environ | {"PLANPROOF_HOME": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("... making keys"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.communicate(timeout=60)
        assert process.returncode == 130, rest
    assert planproof("shadow", "show", "demo", home=home).status == 3  # it was that of the shop before
    after = planproof("demo", *command[4:], home=home)
    assert after.status == 0
    assert "... filling them" in after.stderr


def test_a_shadow_of_that_name_that_is_not_the_demos_is_left_alone(run: Outcome, home: Path, tmp_path: Path) -> None:
    assert run.status == 0
    schema = tmp_path / "schema.sql"
    schema.write_text("CREATE TABLE t (a int)")
    assert planproof("shadow", "drop", "demo", home=home).status == 0
    assert planproof("shadow", "add", "demo", "--schema", schema, home=home).status == 0
    refused = planproof("demo", *SCALE, home=home)
    assert refused.status == 3
    assert "planproof shadow drop demo" in refused.stderr.splitlines()[-1]
    assert planproof("shadow", "drop", "demo", home=home).status == 0


def test_an_unknown_query_is_refused(home: Path) -> None:
    assert "01_busy_day" in planproof("demo", "--query", "nothing like it", home=home).failed(3)


def _shop(home: Path) -> psycopg.Connection[Any]:
    return Supervisor(Settings(home=home)).cluster(ClusterKind.STORE).connect(DATABASE, OWNER)


def _indexes(home: Path) -> set[str]:
    with _shop(home) as connection:
        found = connection.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    return {row[0] for row in found}


def _marked(home: Path) -> set[str]:
    """The shop's own indexes: those of constraints, and those with a comment."""
    with _shop(home) as connection:
        found = connection.execute(
            "SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
            " WHERE c.relnamespace = 'public'::regnamespace AND (obj_description(c.oid, 'pg_class') IS NOT NULL"
            " OR EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = c.oid))"
        ).fetchall()
    return {row[0] for row in found}
