"""kill -9 of everything in the middle of its work: what is lost, what is wrong, what is left behind.

    python benchmarks/kill_bench.py [--rounds 20] [--targets service,worker,hollow,scratch,store,redis] [--workers 2]

Clients ask a real service all the time, and ask again after a refused connection, a 429 or a 503, as good clients do.
At random moments (seeded) a target is killed; the service's own processes are started again as an init system would,
everything else must come back by itself. Each answer is compared with that of an undisturbed run, ids included; timings
and `cached` are left out. Jobs are queued before each kill and must all be done in the end. Recovery is the time from
the kill to the first answer to a request that began after it. Aim: nothing lost but the cache, no wrong answer, nothing
left behind. Exit status 1 when it is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import killing
import request_mix
import served
from request_mix import BUSY, Request

from optimizer.settings import Settings

TARGETS = ("service", "worker", "hollow", "scratch", "store", "redis")
#: Requests that are asked again and again; some answers depend on every part of the service.
_QUESTIONS = 60
_CLIENTS = 4
_RETRY_S = 0.2
_ANSWER_LIMIT_S = 300.0
_RECOVERY_LIMIT_S = 180.0
_VOLATILE = ("timings", "cached")
#: Room for a busy machine: nothing here is to depend on how fast it is.
_LIMITS = {"PLANPROOF_VERIFY_TIMEOUT_MS": "120000", "PLANPROOF_OPTIMIZE_TIMEOUT_MS": "240000"}


class NoAnswerError(Exception):
    """A request was not answered in all the time that a patient client has."""


def questions(seed: int) -> list[Request]:
    """Requests with one right answer each."""
    chance = random.Random(seed)
    makers = (
        request_mix.cached,
        request_mix.fresh,
        request_mix.fresh,
        request_mix.throwaway,
        request_mix.explain,
        request_mix.equivalent,
        request_mix.different,
        request_mix.bad_sql,
    )
    return [makers[number % len(makers)](chance) for number in range(_QUESTIONS)]


def comparable(answer: httpx.Response) -> str:
    """What must be the same each time."""
    return f"{answer.status_code} {json.dumps(_settled(answer.json()), sort_keys=True)}"


def _settled(value: Any) -> Any:
    """An answer without its times, and of a counterexample only that there is one.

    How small a counterexample becomes depends on the time there is to shrink it; each differs, and is right.
    """
    if isinstance(value, list):
        return [_settled(each) for each in value]
    if not isinstance(value, dict):
        return value
    left_out = {*_VOLATILE}
    if value.get("counterexample"):
        left_out |= {"counterexample", "detail", "databases"}
    return {key: _settled(each) for key, each in value.items() if key not in left_out}


def ask(client: httpx.Client, request: Request, tries: Counter[str]) -> httpx.Response:
    """Ask until there is an answer.

    Errors: `NoAnswerError`.
    """
    end = time.monotonic() + _ANSWER_LIMIT_S
    while time.monotonic() < end:
        try:
            answer = client.request(
                request.method, request.path, content=request.body, headers={"Content-Type": "application/json"}
            )
        except httpx.HTTPError as error:
            tries[type(error).__name__] += 1
        else:
            if answer.status_code not in BUSY:
                return answer
            tries[f"{answer.status_code} ({answer.json().get('detail', '')})"] += 1
        time.sleep(_RETRY_S)
    raise NoAnswerError(f"{request.kind}: no answer in {_ANSWER_LIMIT_S:g} s")


@dataclass
class Clients:
    """Threads that ask all the time, and what they saw.

    Parameters:
        url: of the service.
        asked: the requests.
        right: their answers, undisturbed.
    """

    url: str
    asked: Sequence[Request]
    right: Sequence[str]
    tries: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    answers: int = 0
    #: For each thread, when the request of its latest answer began.
    latest: list[float] = field(default_factory=lambda: [0.0] * _CLIENTS)
    over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask while the block runs."""
        threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join(_ANSWER_LIMIT_S)

    def _ask(self, number: int) -> None:
        places = itertools.cycle(random.Random(number).sample(range(len(self.asked)), len(self.asked)))
        with httpx.Client(base_url=self.url, timeout=_ANSWER_LIMIT_S) as client:
            while not self.over.is_set():
                place, begin = next(places), time.monotonic()
                try:
                    answer = ask(client, self.asked[place], self.tries)
                except NoAnswerError as error:
                    self.wrong.append(str(error))
                    continue
                found = comparable(answer)
                if found != self.right[place]:
                    self.wrong.append(f"{self.asked[place].kind}: {difference(self.right[place], found)}")
                self.answers += 1
                self.latest[number] = begin


def difference(right: str, found: str) -> str:
    """Where two answers part."""
    place = next((i for i, (a, b) in enumerate(zip(right, found, strict=False)) if a != b), 0)
    begin = max(0, place - 60)
    return f"...{right[begin : place + 100]} | became | {found[begin : place + 100]}"


@dataclass
class Outcome:
    """What killing one target did."""

    kills: int = 0
    answers: int = 0
    recoveries: list[float] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    jobs: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing was lost and nothing was wrong."""
        return not self.wrong and not self.lost and max(self.recoveries, default=0) < _RECOVERY_LIMIT_S


def queue_job(url: str, name: str) -> None:
    """Ask for a shadow, as a client that wants it does: until it is accepted.

    Errors: `NoAnswerError`.
    """
    schema = "\n".join(request_mix.schema_text(number) for number in range(40))
    body = json.dumps({"name": name, "schema": schema}).encode()
    with httpx.Client(base_url=url, timeout=60) as client:
        ask(client, Request("job", "/v1/shadows", body, frozenset({202})), Counter())


def missing_shadows(url: str, names: Sequence[str]) -> list[str]:
    """Wait until all shadows that were asked for are there; returns those that never come."""
    left = set(names)
    end = time.monotonic() + _RECOVERY_LIMIT_S
    listing = Request("list", "/v1/shadows", b"", frozenset({200}), "GET")
    with httpx.Client(base_url=url, timeout=60) as client:
        while left and time.monotonic() < end:
            left -= {shadow["name"] for shadow in ask(client, listing, Counter()).json()}
            time.sleep(_RETRY_S if left else 0)
        for name in names:
            ask(client, Request("drop", f"/v1/shadows/{name}", b"", frozenset({204}), "DELETE"), Counter())
    return sorted(left)


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for something, but not for ever."""
    end = time.monotonic() + _RECOVERY_LIMIT_S
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)


def disturb(
    target: str, rounds: int, server: served.Server, kill: Callable[[str], None], right: Sequence[str], seed: int
) -> Outcome:
    """Kill one target again and again while clients ask."""
    outcome, chance, names = Outcome(), random.Random(f"{seed} {target}"), []
    clients = Clients(server.url, questions(seed), right)
    with clients.asking():
        for number in range(rounds):
            if target in ("service", "worker", "store"):
                names.append(f"{target}-{number}")
                queue_job(server.url, names[-1])
            time.sleep(chance.uniform(0.1, 2.0))
            begin = time.monotonic()
            kill(chance.choice(killing.WAYS))
            outcome.kills += 1
            wait_until(lambda: max(clients.latest) > begin)  # noqa: B023 - called before the next turn
            outcome.recoveries.append(time.monotonic() - begin)
            # One blow at a time: the next comes when nobody suffers from the last.
            wait_until(lambda: min(clients.latest) > begin)  # noqa: B023
        if names:
            outcome.lost = [f"shadow {name}" for name in missing_shadows(server.url, names)]
    outcome.jobs = len(names)
    outcome.answers, outcome.tries, outcome.wrong = clients.answers, clients.tries, clients.wrong
    return outcome


def show(outcomes: dict[str, Outcome], left: Sequence[str]) -> bool:
    """Print the table; returns whether the aim is met."""
    heads = f"{'killed':<10}{'times':>6}{'answers':>9}{'wrong':>7}{'jobs':>6}{'lost':>6}{'recovery p50, most':>20}"
    print(f"\n{heads}  tried again")
    for target, each in outcomes.items():
        recoveries = sorted(each.recoveries)
        times = f"{recoveries[len(recoveries) // 2]:.2f} s, {recoveries[-1]:.2f} s" if recoveries else "-"
        tries = ", ".join(f"{what} {count}" for what, count in each.tries.most_common())
        print(
            f"{target:<10}{each.kills:>6}{each.answers:>9}{len(each.wrong):>7}{each.jobs:>6}{len(each.lost):>6}"
            f"{times:>20}  {tries or '-'}"
        )
    for target, each in outcomes.items():
        for text, count in Counter([*each.wrong, *each.lost]).most_common(5):
            print(f"{target}: x{count}: {text}")
    print(f"{'ok    ' if not left else 'MISSED'} left behind: {'; '.join(left) or 'nothing'}")
    good = all(each.good for each in outcomes.values())
    print(f"{'ok    ' if good else 'MISSED'} nothing lost but the cache, no wrong answer")
    return good and not left


def run(settings: Settings, targets: Sequence[str], rounds: int, workers: int, seed: int) -> bool:
    """Take the right answers, then kill each target in turn, then look for leftovers."""
    served.planproof("shadow", "add", served.SHADOW, "--schema", str(served.SCHEMA), settings=settings)
    outcomes = {}
    with killing.redis(settings.home) as cache, killing.Service(settings, workers, cache.url, _LIMITS) as service:
        url = service.server.url
        with httpx.Client(base_url=url, timeout=_ANSWER_LIMIT_S) as client:
            right = [comparable(ask(client, request, Counter())) for request in questions(seed)]
        for target in targets:
            service.use_cache(target == "redis")
            kill = service.killer(target, cache)
            outcomes[target] = disturb(target, rounds, service.server, kill, right, seed)
            print(f"{target}: {outcomes[target].kills} kills, {outcomes[target].answers} answers", file=sys.stderr)
        names = {shadow["name"] for shadow in httpx.get(f"{url}/v1/shadows", timeout=60).json()}
        if served.SHADOW not in names:
            outcomes[targets[-1]].lost.append(f"shadow {served.SHADOW}")
    return show(outcomes, killing.leftovers(settings))


def main() -> int:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="kills of each target")
    parser.add_argument("--targets", default=",".join(TARGETS), help="what is killed, in this order")
    parser.add_argument("--workers", type=int, default=2, help="server processes")
    parser.add_argument("--seed", type=int, default=1, help="of requests and moments")
    parser.add_argument("--keep-log", type=Path, help="where to copy the service's log")
    options = parser.parse_args()
    targets = options.targets.split(",")
    if set(targets) - set(TARGETS):
        parser.error(f"targets are {', '.join(TARGETS)}")
    served.interruptible()
    with served.temporary_home(cluster_linger_s=5) as settings:
        try:
            good = run(settings, targets, options.rounds, options.workers, options.seed)
        finally:
            if options.keep_log is not None and (settings.home / "serve.log").exists():
                shutil.copy(settings.home / "serve.log", options.keep_log)
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
