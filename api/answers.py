"""Answers to POST /v1/optimize: from the cache, from whoever computes the same just now, or computed.

    this body was seen before -> its keys -> memory                        microseconds, on the event loop
    else, read the request    -> its keys -> memory -> single flight:
        Redis -> the turn among processes (`api.turns`) -> a turn in this one (`api.admission`) -> optimize()

An answer is put together from three pieces: the opening with the asker's own text (`api.questions`), the middle, which
is what is kept, and whether it comes from the cache. A middle is kept only if nothing in it may be otherwise the next
time: no time limit passed, no plugin failed, no server went away. Nothing that was executed is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from cachetools import LRUCache

from api.admission import Admission
from api.flights import Flights
from api.metrics import CACHE_LOOKUPS, observe_report
from api.questions import Question, opening_of, read_question
from api.schemas import OptimizeRequest
from api.targets import DEFAULT_SHADOW, check_measurable, explaining_default, target
from api.turns import Fetched, Made, Turns
from optimizer.advice import Report
from optimizer.cache.build import build_digest
from optimizer.cache.revision import Revisions
from optimizer.cache.tiered import TieredCache
from optimizer.clock import Deadline, stopped
from optimizer.equivalence.verdict import Equivalence
from optimizer.errors import InputError, TimeLimitError
from optimizer.pipeline import Optimizer, Options
from optimizer.shadow.registry import ShadowRecord

#: Bodies larger than this are not looked at on the event loop.
MAX_INLINE_BYTES = 100_000
#: Most memory for bodies that were answered before: their identity, and what was read out of them.
MAX_RECENT_BYTES = 8_000_000
_CACHED, _NOT_CACHED = b"true}", b"false}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Parameters:
        body: its bytes.
        origin: where they come from: `memory`, `redis`, `shared`, `miss`, or `none` of these.
        cached: what the body says of that.
        advice: how many the body holds.
    """

    body: bytes
    origin: str
    cached: bool
    advice: int


class Answers:
    """Answers requests for advice. Belongs to one event loop.

    Parameters:
        optimizer: computes them.
        admission: the turns to do so.
        cache: keeps them.
        build: see `optimizer.cache.build`.
    """

    def __init__(self, optimizer: Optimizer, admission: Admission, cache: TieredCache, build: str) -> None:
        self._optimizer = optimizer
        self._services = optimizer.services
        self._settings = optimizer.settings
        self._admission = admission
        self._cache = cache
        self._build = build
        self._turns = Turns(cache)
        self._flights: Flights[Fetched | Made] = Flights()
        self._revisions = Revisions(self._services.registry)
        recent_bytes = min(MAX_RECENT_BYTES, self._settings.cache_memory_bytes // 8)
        self._recent: LRUCache[bytes, Question] = LRUCache(recent_bytes, getsizeof=lambda question: question.size)
        self._reading = CapacityLimiter(2)
        self._lookups = {name: CACHE_LOOKUPS.labels(name) for name in ("memory", "redis", "shared", "miss")}

    @classmethod
    async def of(cls, optimizer: Optimizer, admission: Admission, cache: TieredCache) -> Answers:
        """Make them on the event loop that they belong to."""
        build = partial(build_digest, optimizer.settings, optimizer.services.plugins, optimizer.rules)
        return cls(optimizer, admission, cache, await to_thread.run_sync(build))

    def recall(self, body: bytes, content_type: str) -> Answer | None:
        """Answer a body that was answered before, from memory; takes microseconds and never blocks.

        Parameters:
            body: of the request, as it came.
            content_type: its header.
        """
        if len(body) > MAX_INLINE_BYTES:
            return None
        question = self._recent.get(_identity(body, content_type))
        if question is None:
            return None
        record = self._revisions.peek(question.shadow) if question.shadow else None
        if question.shadow and record is None:
            return None
        return self._remembered(question, record)

    async def answer(self, request: OptimizeRequest, body: bytes, content_type: str) -> Answer:
        """Answer a request.

        Parameters:
            request: what the body says.
            body, content_type: as for `recall`.

        Errors: those of `Optimizer.optimize`; `UnknownShadowError`; `BusyError`.
        """
        limit_ms = float(request.timeout_ms or self._settings.optimize_timeout_ms)
        if request.measure or not self._settings.cache_ttl_s:
            return await self._admission.run(partial(self._uncached, request), limit_ms)
        question, record = await to_thread.run_sync(self._read, request, limiter=self._reading)
        if len(body) <= MAX_INLINE_BYTES and question.size <= self._recent.maxsize:
            self._recent[_identity(body, content_type)] = question
        remembered = self._remembered(question, record)
        if remembered is not None:
            return remembered
        found, began = await self._shared(request, question, record, limit_ms)
        origin = _origin(found, began)
        self._lookups[origin].inc()
        return _answer(question.opening, found.middle, origin)

    def _remembered(self, question: Question, record: ShadowRecord | None) -> Answer | None:
        middle = self._cache.recall(_keys(question, record))
        if middle is None:
            return None
        self._lookups["memory"].inc()
        return _answer(question.opening, middle, "memory")

    def _read(self, request: OptimizeRequest) -> tuple[Question, ShadowRecord | None]:
        """Read a request, and the record of the registered shadow that it is about."""
        if request.schema_ is not None:
            if request.shadow is not None:
                raise InputError("both a shadow and a schema were given: give one of them")
            return read_question(request, "", self._build, self._settings.max_sql_bytes), None
        name = request.shadow or DEFAULT_SHADOW
        question = read_question(request, name, self._build, self._settings.max_sql_bytes)
        with explaining_default(request.shadow):
            return question, self._revisions.read(name)

    async def _shared(
        self, request: OptimizeRequest, question: Question, record: ShadowRecord | None, limit_ms: float
    ) -> tuple[Fetched | Made, bool]:
        """Fetch or compute an answer once for all who want it now; says whether it was this caller who began."""
        keys = _keys(question, record)
        # Whoever shares a computation shares its errors: the text and its place must be the same, and the time too.
        flight = (keys, question.opening, question.statement, request.timeout_ms)
        deadline = Deadline.after(limit_ms)
        while True:
            left_ms = deadline.remaining_ms
            make = partial(self._made, request, question, record, deadline)
            work = partial(self._turns.fetched_or_made, keys, make, deadline)
            began = flight not in self._flights
            try:
                # What runs when the time is up may still end a little later, with what it has.
                async with asyncio.timeout((left_ms + self._settings.explain_timeout_ms) / 1000):
                    return await self._flights.share(flight, work), began
            except TimeoutError:
                raise TimeLimitError(
                    "the time limit passed while the query was being worked on: allow more time, or ask for less"
                ) from None
            except TimeLimitError:
                # Another's time ran out, since it began before us; ours may suffice.
                if began or deadline.remaining_ms < limit_ms / 2:
                    raise

    async def _made(
        self, request: OptimizeRequest, question: Question, record: ShadowRecord | None, deadline: Deadline
    ) -> Made:
        return await self._admission.run(partial(self._make, request, question, record), deadline.remaining_ms)

    def _make(self, request: OptimizeRequest, question: Question, record: ShadowRecord | None, left_ms: float) -> Made:
        """Compute an answer, and keep it where it may be kept."""
        report, shape = self._optimize(request, question.statement, left_ms)
        middle = _middle(shape)
        unhurried = report.timings.total < left_ms and not stopped()
        ttl_s = self._ttl_s(report, record) if unhurried else 0.0
        if ttl_s <= 0:
            return Made(middle, kept=False)
        self._cache.put(_keys(question, record)[0], middle, ttl_s)
        return Made(middle, kept=True)

    def _ttl_s(self, report: Report, record: ShadowRecord | None) -> float:
        """Seconds for which a report may be kept, 0 if it may not."""
        if not report.complete:
            return 0.0
        if record is None:
            return float(self._settings.cache_ttl_s)
        try:
            now = self._revisions.read(record.name)
        except InputError:  # dropped meanwhile
            return 0.0
        if now.revision != record.revision:  # refreshed meanwhile
            return 0.0
        return min(self._settings.cache_ttl_s, self._services.fresh_s(record))

    def _uncached(self, request: OptimizeRequest, left_ms: float) -> Answer:
        report, shape = self._optimize(request, request.sql, left_ms)
        return _answer(opening_of(report.query.sql), _middle(shape), "none")

    def _optimize(self, request: OptimizeRequest, sql: str, left_ms: float) -> tuple[Report, Mapping[str, Any]]:
        options = Options(
            disable=frozenset(request.disable),
            min_equivalence=Equivalence(request.min_equivalence),
            parameters=None if request.params is None else tuple(request.params),
            measure=request.measure,
            llm=request.llm,
            timeout_ms=max(1, int(left_ms)),
        )
        with target(self._services, request.shadow, request.schema_) as shadow:
            if request.measure:
                check_measurable(shadow)
            report = self._optimizer.optimize(sql, shadow, options)
        shape = report.as_dict()
        observe_report(shape)
        return report, shape


def _keys(question: Question, record: ShadowRecord | None) -> tuple[str, ...]:
    return question.keys(record.revision if record is not None else "")


def _identity(body: bytes, content_type: str) -> bytes:
    return hashlib.sha256(content_type.encode("latin-1", "replace") + b"\0" + body).digest()


def _middle(shape: Mapping[str, Any]) -> bytes:
    """How much advice there is, on a line of its own; then a report in JSON without its first and its last value.

    Those are the text of the query and `cached`.
    """
    query = {name: value for name, value in shape["query"].items() if name != "sql"}
    rest = {name: value for name, value in shape.items() if name not in ("query", "cached")}
    return f'{len(shape["advice"])}\n,{_json(query)[1:]},{_json(rest)[1:-1]},"cached":'.encode()


def _answer(opening: bytes, middle: bytes, origin: str) -> Answer:
    """Put an answer together."""
    count, _, report = middle.partition(b"\n")
    cached = origin not in ("miss", "none")
    return Answer(opening + report + (_CACHED if cached else _NOT_CACHED), origin, cached, int(count))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _origin(found: Fetched | Made, began: bool) -> str:
    if isinstance(found, Fetched) and not found.waited:
        return "redis"
    return "miss" if began and isinstance(found, Made) else "shared"
