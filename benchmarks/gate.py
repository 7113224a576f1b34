"""How long the equivalence gate takes for a verdict, and how often it judges rightly.

    python benchmarks/gate.py [--rules] [--json]

Runs every pair under fixtures/equivalence/ (and with --rules every pair under fixtures/rules/ that uses the same
schema) in one process on a fresh scratch cluster, after one verdict that pays for starting it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from optimizer.equivalence.gate import Gate
from optimizer.equivalence.verdict import Verdict
from optimizer.errors import SqlError
from optimizer.query import Query
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor

FIXTURES = Path(__file__).parents[1] / "fixtures"
HOLDS = frozenset({"proved", "bounded", "tested"})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two queries, their schema, and what is known of them: `correct`, `wrong` or `unknown`."""

    name: str
    left: str
    right: str
    ddl: str
    truth: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair with its verdict and the milliseconds it took."""

    pair: Pair
    verdict: Verdict
    milliseconds: float


def equivalence_pairs() -> Iterator[Pair]:
    """The pairs of fixtures/equivalence/."""
    for path in sorted((FIXTURES / "equivalence").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        schema = (FIXTURES / "schemas" / f"{document['schema']}.sql").read_text()
        for pair in document["pairs"]:
            ddl = f"{schema};\n{pair['extra']};" if "extra" in pair else schema
            truth = "wrong" if pair["verdict"] == "refuted" else "correct" if pair["verdict"] in HOLDS else "unknown"
            yield Pair(pair["name"], pair["left"], pair["right"], ddl, truth)


def rule_pairs() -> Iterator[Pair]:
    """The rewrites, and the wrong rewrites, of fixtures/rules/ on the schema `shop`."""
    schema = (FIXTURES / "schemas" / "shop.sql").read_text()
    for path in sorted((FIXTURES / "rules").rglob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        if document.get("schema") != "shop":
            continue
        for part, key, truth in (("expect", "rewrite", "correct"), ("expect-not", "wrong", "wrong")):
            for case in document.get(part, ()):
                forms = case.get(key, ())
                for form in [forms] if isinstance(forms, str) else forms:
                    yield Pair(f"{path.stem}: {case['name']}", case["sql"], form, schema, truth)


def run(gate: Gate, pairs: Sequence[Pair]) -> Iterator[Judged]:
    """Judge all pairs; those that do not fit the schema are left out."""
    for pair in pairs:
        left, right = Query.parse(pair.left), Query.parse(pair.right)
        begin = time.perf_counter()
        try:
            verdict = gate.check(left, right, pair.ddl)
        except SqlError:
            continue
        yield Judged(pair, verdict, (time.perf_counter() - begin) * 1000)


def right(judged: Judged) -> bool:
    """True when the verdict is the truth."""
    found = judged.verdict.verdict.value
    return {"correct": found in HOLDS, "wrong": found == "refuted", "unknown": found == "unknown"}[judged.pair.truth]


def figures(results: Sequence[Judged]) -> dict[str, object]:
    """Times in milliseconds, databases, and shares judged rightly."""
    times = [r.milliseconds for r in results]
    by_verdict = {}
    for verdict in sorted({r.verdict.verdict.value for r in results}):
        some = [r for r in results if r.verdict.verdict.value == verdict]
        by_verdict[verdict] = {
            "pairs": len(some),
            "median_ms": round(statistics.median(r.milliseconds for r in some), 1),
            "median_databases": statistics.median(r.verdict.databases for r in some),
        }
    shares = {}
    for truth in ("correct", "wrong", "unknown"):
        known = [r for r in results if r.pair.truth == truth]
        shares[truth] = {"pairs": len(known), "judged_rightly": sum(map(right, known))}
    return {
        "pairs": len(results),
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(statistics.quantiles(times, n=20)[-1], 1),
        "databases": sum(r.verdict.databases for r in results),
        "by_verdict": by_verdict,
        "truth": shares,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", action="store_true", help="also the pairs of fixtures/rules/")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    pairs = [*equivalence_pairs(), *(rule_pairs() if options.rules else ())]
    with tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # as root the server runs as another account
        settings = Settings(home=Path(home), cluster_linger_s=5)
        supervisor = Supervisor(settings)
        gate = Gate(supervisor, settings)
        try:
            list(run(gate, pairs[:1]))
            results = list(run(gate, pairs))
        finally:
            gate.close()
            supervisor.stop_all()
            supervisor.close()
    found = figures(results)
    if options.json:
        print(json.dumps(found))
        return
    print(json.dumps(found, indent=2))
    for judged in results:
        if not right(judged):
            print(
                f"{judged.pair.truth} pair judged {judged.verdict.verdict}: {judged.pair.name}: {judged.verdict.detail}"
            )


if __name__ == "__main__":
    main()
