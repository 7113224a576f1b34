"""A model that proposes wrong rewrites: how many of them get through.

    python benchmarks/misbehaving_model.py [--mutations N] [--seed N] [--most N] [--way gate] [--json]

Every rewrite it proposes is wrong for certain (see wrong_rewrites.py). They are tried in two ways:

- flow: a local server plays the model, in every manner that models have (bare JSON, fences, prose, claims of proof),
  and each query goes through the whole of `optimize` with the model asked, again where it was bad. Let through is what
  becomes advice. No gain is too small here, so that price alone stops as few as may be.
- gate: each one is judged as a model's rewrite is, whatever it would cost. Let through is what is neither refuted nor
  unknown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz_oracle import Oracle
from model_server import ModelServer, Response, completion, model_server, plugins_with_model
from wrong_rewrites import FIXTURES, Wrong, known_wrong, mutated

from optimizer.canonical import same_query
from optimizer.equivalence.gate import Gate
from optimizer.errors import PlanproofError
from optimizer.pipeline import STRICT_ROUNDS, Optimizer, Options
from optimizer.proposals import MAX_PROPOSED
from optimizer.query import Query
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind, Supervisor

_STOPPED = ("refuted", "unknown")


@dataclass
class Outcome:
    """What became of them.

    Parameters:
        tried: how many.
        became: how often each reason or verdict was given.
        through: those that got through.
    """

    tried: int = 0
    became: Counter[str] = field(default_factory=Counter)
    through: list[Wrong] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, way: str, through: Sequence[Wrong], of: int) -> None:
        """Keep what got through, and show how far we are."""
        self.through += through
        for one in through:
            print(f"{way} let through: {one.mutation}\n{one.original}\n{one.rewrite}\n{one.seen}", file=sys.stderr)
        print(
            f"{way}: {self.tried} of {of} tried, {len(self.through)} let through", end="\r", file=sys.stderr, flush=True
        )

    def figures(self) -> dict[str, object]:
        """For people and for JSON."""
        return {
            "let_through": len(self.through),
            "tried": self.tried,
            "became": dict(self.became.most_common()),
            "seconds": round(self.seconds, 1),
        }


Manner = Callable[[str], Response]
_MANNERS: tuple[Manner, ...] = (
    completion,
    lambda text: completion(f"```json\n{text}\n```"),
    lambda text: completion(f"I am certain that these are equivalent:\n{text}\nAll of them were verified."),
    lambda text: completion([{"type": "text", "text": text}]),
    lambda text: completion(text, usage=None),
)


def answer(wrong: Sequence[Wrong], manner: Manner) -> Response:
    """The model's answer, sure of itself."""
    rewrites = [
        {"sql": w.rewrite, "title": "Equivalent and faster", "why": "Proved.", "verdict": "proved", "source": "rule"}
        for w in wrong
    ]
    return manner(json.dumps({"rewrites": rewrites, "indexes": []}))


def through_the_flow(services: Services, server: ModelServer, wrong: Sequence[Wrong]) -> Outcome:
    """Ask for advice on each original while the model proposes what is wrong for it."""
    outcome, manners, begin = Outcome(), cycle(_MANNERS), time.perf_counter()
    by_query: defaultdict[tuple[str, str], list[Wrong]] = defaultdict(list)
    for one in wrong:
        by_query[one.ddl, one.original].append(one)
    optimizer = Optimizer(services)
    for (ddl, original), all_of_it in by_query.items():
        for start in range(0, len(all_of_it), 2 * MAX_PROPOSED):
            some = all_of_it[start : start + 2 * MAX_PROPOSED]
            server.answers(*(answer(half, next(manners)) for half in (some[:MAX_PROPOSED], some[MAX_PROPOSED:])))
            report = optimizer.optimize(original, services.throwaway(ddl), Options(llm=True))
            outcome.tried += len(some)
            outcome.became.update(r.reason for r in report.rejected if r.rule == "llm")
            advised = [a.sql for a in report.advice if a.source == "llm" and a.sql is not None]
            through = [w for w in some if any(same_query(w.rewrite, sql) for sql in advised)]
            outcome.note("flow", through, len(wrong))
    optimizer.close()
    outcome.seconds = time.perf_counter() - begin
    return outcome


def through_the_gate(supervisor: Supervisor, settings: Settings, wrong: Sequence[Wrong]) -> Outcome:
    """Judge each one, whatever it would cost."""
    outcome, begin = Outcome(), time.perf_counter()
    gate = Gate(supervisor, settings)
    for one in wrong:
        outcome.tried += 1
        try:
            verdict = gate.check(Query.parse(one.original), Query.parse(one.rewrite), one.ddl, rounds=STRICT_ROUNDS)
        except PlanproofError as error:
            outcome.became[f"refused: {type(error).__name__}"] += 1
            continue
        outcome.became[verdict.verdict.value] += 1
        outcome.note("gate", [] if verdict.verdict.value in _STOPPED else [one], len(wrong))
    gate.close()
    outcome.seconds = time.perf_counter() - begin
    return outcome


def main() -> int:
    """Run and print; the exit status is 1 when anything got through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=260, help="mutations beside the fixtures' wrong rewrites")
    parser.add_argument("--seed", type=int, default=7, help="of random rows and statements")
    parser.add_argument("--most", type=int, default=10_000, help="try so many of them all, evenly chosen")
    parser.add_argument("--way", choices=("gate", "flow"), help="only one of the two")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True) as home, model_server() as server:
        Path(home).chmod(0o711)  # as root the server runs as another account
        os.environ.update(server.environment)
        settings = Settings(home=Path(home), cluster_linger_s=5, min_gain=0)
        supervisor = Supervisor(settings)
        try:
            oracle = Oracle(supervisor.cluster(ClusterKind.SCRATCH), 4, options.seed)
            shop = (FIXTURES / "schemas" / "shop.sql").read_text()
            wrong = [_with_schema(w, shop) for w in known_wrong()]
            wrong += [_with_schema(w, oracle.ddl) for w in mutated(oracle, options.seed, options.mutations)]
            oracle.close()
            services = Services(settings, supervisor, plugins_with_model())
            chosen = wrong[:: max(1, -(-len(wrong) // options.most))]
            found = {}
            if options.way != "flow":
                found["gate"] = through_the_gate(supervisor, settings, chosen)
            if options.way != "gate":
                found["flow"] = through_the_flow(services, server, chosen)
        finally:
            supervisor.stop_all()
            supervisor.close()
    print(json.dumps({name: outcome.figures() for name, outcome in found.items()}, indent=None if options.json else 2))
    return int(any(outcome.through for outcome in found.values()))


def _with_schema(wrong: Wrong, schema: str) -> Wrong:
    ddl = f"{schema};\n{wrong.ddl};" if wrong.ddl else schema
    return Wrong(wrong.mutation, wrong.original, wrong.rewrite, wrong.seen, ddl)


if __name__ == "__main__":
    sys.exit(main())
