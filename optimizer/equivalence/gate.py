"""The equivalence gate: do two queries return the same rows, on every database that the schema allows?

    same canonical form                     -> proved
    something that no run can judge         -> unknown, with the reason
    other result columns                    -> refuted
    counterexample search on generated databases (generate.py), each run on a real server:
        an answer differs                   -> made small, replayed from nothing, refuted with the counterexample
        none differs                        -> tested, if enough databases had rows that mattered; else unknown

The untrusted SQL runs in a scratch database over a role that may only read it (`scratch.py`, `session.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optimizer.canonical import same_query
from optimizer.clock import Deadline, patience_s
from optimizer.equivalence import tree
from optimizer.equivalence.build import build_model
from optimizer.equivalence.compare import Judgement, column_difference, is_informative, judge, modifier_note
from optimizer.equivalence.generate import Ahead, Database, Generator
from optimizer.equivalence.hidden_rows import differing_view
from optimizer.equivalence.model import Model
from optimizer.equivalence.obstacles import obstacle, volatile
from optimizer.equivalence.replay import minimal_script, setup_text, shrink, text_rows
from optimizer.equivalence.schema import GateSchema
from optimizer.equivalence.scratch import Lease, Scratch
from optimizer.equivalence.session import SessionEnded
from optimizer.equivalence.total_order import loose, order_sensitive
from optimizer.equivalence.trial import Answer, Pair, Trial
from optimizer.equivalence.verdict import Counterexample, Equivalence, Verdict
from optimizer.errors import ShadowUnavailableError, SqlError
from optimizer.query import Query
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import Supervisor
from optimizer.shadow.template.database import server_errors

CANONICAL = "canonical-form"
SEARCH = "counterexample-search"
#: Databases that must have run, and those whose rows must have mattered, for `tested`.
MIN_DATABASES = 12
MIN_INFORMATIVE = 3
MIN_INFORMATIVE_SHARE = 0.05
_HOPELESS_TIMEOUTS = 3
_HOPELESS_UNSTABLE = 3
#: Limit for the replay of a counterexample, which comes on top of the verdict's.
_REPLAY_MS = 5_000
#: Orders in which the same rows are stored to see whether an answer depends on it.
_SHUFFLES = 10
_ZONED = re.compile(r"time\s+zone|timestamptz|now\s*\(|current_|localtime|timetz", re.IGNORECASE)


class Gate:
    """Judges pairs of queries. Safe to share between threads.

    Parameters:
        supervisor: starts the scratch cluster when it is first needed.
        settings: `verify_databases`, `verify_timeout_ms`, `max_schema_bytes`.
    """

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._scratch = Scratch(supervisor, settings)
        self._settings = settings

    def check(self, left: Query, right: Query, ddl: str, *, timeout_ms: int | None = None, rounds: int = 1) -> Verdict:
        """Judge whether `right` may stand for `left`.

        Parameters:
            left: the original. Its ORDER BY says which order must be kept.
            right: the rewrite.
            ddl: the schema as a script; rows and statistics in it are ignored.
            timeout_ms: limit for the verdict, by default the setting; making the schema's database comes on top.
            rounds: how often `verify_databases` are generated, each time from another seed. With more than one, a pair
                that ran on fewer than one round's databases is `unknown`.

        Errors: `SqlError` when the script or a query does not fit; `ShadowUnavailableError`; `TimeLimitError` when the
            schema takes too long to make.
        """
        limit = timeout_ms if timeout_ms is not None else self._settings.verify_timeout_ms
        epoch = self._scratch.epoch()
        try:
            verdict = self._tried(left, right, ddl, limit, rounds)
            if verdict.verdict is not Equivalence.UNKNOWN or self._scratch.epoch() == epoch:
                return verdict
        except ShadowUnavailableError:
            if self._scratch.epoch() == epoch:
                raise
        # The server ended under it, perhaps by another's doing. Once more; twice is likely to be its own.
        return self._tried(left, right, ddl, max(1, int(1000 * patience_s(limit / 1000))), rounds)

    def _tried(self, left: Query, right: Query, ddl: str, limit: int, rounds: int) -> Verdict:
        try:
            with server_errors("judging"):
                return self._check(left, right, ddl, limit, rounds)
        except SessionEnded as ended:
            return _unknown(_ended(ended.reason, limit), transient=ended.reason != "size")

    def _check(self, left: Query, right: Query, ddl: str, limit: int, rounds: int) -> Verdict:
        schema = self._scratch.schema(ddl)
        if (left.kind == "select") != (right.kind == "select"):
            return Verdict(Equivalence.REFUTED, "statement-kind", detail="One reads and the other changes data.")
        try:
            verdict = _without_running(left, right, schema)
        except tree.TooDeepError as error:
            return _unknown(f"A query cannot be judged: {error}.")
        if verdict is not None:
            return verdict
        with self._scratch.lease(schema) as lease:
            deadline = Deadline.within(limit)
            with Trial(self._scratch, lease, schema, left, right, deadline) as trial:
                count = self._settings.verify_databases
                search = _Search(self._scratch, lease, trial, (left, right), deadline, count, rounds)
                return search.verdict()

    def close(self) -> None:
        """Drop the scratch databases of this process."""
        self._scratch.close()


def _without_running(left: Query, right: Query, schema: GateSchema) -> Verdict | None:
    """The verdict that needs no run: proved for one query written twice, unknown for what no run can judge."""
    if same_query(left.sql, right.sql) and volatile(left.sql, schema.catalog) is None:
        return Verdict(Equivalence.PROVED, CANONICAL, detail="Both are the same query by PostgreSQL's grammar.")
    for name, query in (("left", left), ("right", right)):
        reason = obstacle(query, schema.catalog, schema.unlike)
        if reason is not None:
            return _unknown(f"The {name} query cannot be judged: {reason}.")
    table = differing_view(left.sql, right.sql, schema.catalog, schema.secured)
    if table is not None:
        return _unknown(f"Row-level security of {table} may hide other rows from one query than from the other.")
    return None


@dataclass(slots=True)
class _Tally:
    """What happened to the generated databases."""

    judged: int = 0
    informative: int = 0
    timeouts: int = 0
    oversized: int = 0
    failing: int = 0
    unstable: int = 0
    unreplayed: int = 0
    longest: int = 0


class _Search:
    """The counterexample search for one pair."""

    def __init__(
        self,
        scratch: Scratch,
        lease: Lease,
        trial: Trial,
        queries: tuple[Query, Query],
        deadline: Deadline,
        count: int,
        rounds: int,
    ) -> None:
        self._scratch = scratch
        self._lease = lease
        self._schema: GateSchema = lease.schema
        self._trial = trial
        self._queries = queries
        self._deadline = deadline
        self._count = count
        self._rounds = rounds
        catalog = self._schema.catalog
        self._loose_top = trial.orders[0].limited and loose(queries[0], catalog) is not None
        self._loose = next((r for q in queries if (r := loose(q, catalog)) is not None), None)
        nested = any(loose(q, catalog, nested_only=True) is not None for q in queries)
        self._shaky = nested or any(order_sensitive(q) for q in queries)
        self._texts_ordered = all(c.deterministic for t in catalog.tables.values() for c in t.columns.values())
        self._types = trial.parameter_types()
        self._model: Model = build_model(catalog, queries, lease.loader, self._types, deadline)
        trial.use(self._model)
        self._tally = _Tally()
        self._ahead = Ahead(iter(()))

    def verdict(self) -> Verdict:
        columns = tuple(shape.columns for shape in self._trial.shapes)
        difference = column_difference(*columns)
        if difference is not None:
            empty = next(iter(self._generator(0).databases(1)))
            return self._refuted(empty, difference, lambda pair: Judgement(difference)) or _unknown(f"{difference}.")
        on_empty: Answer | None = None
        for database in self._databases():
            pair = self._trial.run(database, self._ahead.look)
            judgement = self._judge(pair)
            self._note(pair, judgement, on_empty)
            if on_empty is None:
                on_empty = pair.left
            if judgement.difference is not None:
                found = self._confirm(database, pair)
                if found is not None:
                    return found
        return self._survived(modifier_note(*columns))

    def _generator(self, turn: int) -> Generator:
        return Generator(self._model, self._seed() + "\0again" * turn, zoned=self._zoned())

    def _databases(self) -> Iterator[Database]:
        """Databases to try until enough were judged, round by round; none when there is no use in more."""
        fixed = not self._model.tables and not self._types
        count = 2 if fixed else self._count
        for turn in range(1 if fixed else self._rounds):
            self._ahead = Ahead(self._generator(turn).databases(2 * count))  # more, since some may tell nothing
            for database in self._ahead:
                if self._deadline.passed or self._hopeless():
                    return
                if self._tally.judged >= (turn + 1) * count:
                    break
                yield database

    def _judge(self, pair: Pair) -> Judgement:
        return judge(pair, self._trial.orders, loose=self._loose_top, texts_ordered=self._texts_ordered)

    def _note(self, pair: Pair, judgement: Judgement, on_empty: Answer | None) -> None:
        tally = self._tally
        if judgement.usable:
            tally.judged += 1
            tally.informative += is_informative(pair.left, on_empty)
            tally.longest = max(tally.longest, len(pair.left.result.rows))
        elif pair.ended == "size" or pair.left.result.error == ("54000", "") or pair.right.result.starved:
            tally.oversized += 1
        elif pair.ended is not None or pair.left.unfit or pair.right.unfit:
            tally.timeouts += 1
        else:
            tally.failing += 1

    def _hopeless(self) -> bool:
        tally = self._tally
        ended = tally.timeouts + tally.oversized
        return tally.unstable >= _HOPELESS_UNSTABLE or (ended >= _HOPELESS_TIMEOUTS and tally.judged < ended)

    def _confirm(self, database: Database, pair: Pair) -> Verdict | None:
        """Make sure that a difference is the queries' own, and write it down."""
        if self._shaky and not self._stable(database, pair):
            self._tally.unstable += 1
            return None

        def differs(smaller: Database) -> bool:
            found = self._trial.run(smaller)
            if self._judge(found).difference is None:
                return False
            return not self._shaky or self._stable(smaller, found)

        small = shrink(database, differs, self._deadline)
        if not differs(small):
            small = database
        accepted = self._trial.loader.accepted(small)
        return self._refuted(accepted, "", self._judge)

    def _stable(self, database: Database, pair: Pair) -> bool:
        """True when both answers stay the same after the rows were stored in another order."""
        chance = random.Random(database.size)  # noqa: S311 - reproducible, not secret
        for turn in range(_SHUFFLES):
            if self._deadline.passed:
                return False
            rows = {k: v[::-1] if turn == 0 else tuple(chance.sample(v, len(v))) for k, v in database.rows.items()}
            other = Database(database.label, rows, database.params, database.zone)
            again = self._trial.run(other)
            for before, after in ((pair.left, again.left), (pair.right, again.right)):
                same = [
                    sorted(map(repr, a.rows)) == sorted(map(repr, b.rows))
                    for a, b in zip(before.results, after.results, strict=False)
                ]
                if again.ended is not None or not all(same):
                    return False
        return True

    def _refuted(self, database: Database, why: str, compare: Callable[[Pair], Judgement]) -> Verdict | None:
        """Replay a counterexample from nothing: the minimal schema first, the whole one if that does not run."""
        for script in (minimal_script(self._schema, self._model, self._queries), self._schema.script):
            try:
                with (
                    self._scratch.blank(self._schema, script) as lease,
                    Trial(self._scratch, lease, self._schema, *self._queries, Deadline.within(_REPLAY_MS)) as trial,
                ):
                    trial.use(self._model)
                    pair = trial.run(database)
                    judgement = compare(pair)
            except (SqlError, SessionEnded):
                continue
            if judgement.difference is not None:
                detail = why or judgement.difference
                text = setup_text(self._schema, script, self._model, database, self._queries, self._types, detail)
                example = Counterexample(text, text_rows(pair.left), text_rows(pair.right))
                sentence = f"{detail[0].upper()}{detail[1:]}, on a database of {database.size} rows ({database.label})."
                return Verdict(
                    Equivalence.REFUTED,
                    SEARCH,
                    databases=max(1, self._tally.judged),
                    detail=sentence,
                    counterexample=example,
                )
        self._tally.unreplayed += 1
        return None

    def _survived(self, note: str) -> Verdict:
        tally = self._tally
        ran = f"{tally.judged} generated databases, {tally.informative} with rows that mattered"
        reason = self._doubt()
        if reason is not None:
            hurried = self._deadline.passed or tally.timeouts > 0
            return Verdict(Equivalence.UNKNOWN, SEARCH, tally.judged, detail=f"{reason} ({ran}).", transient=hurried)
        return Verdict(Equivalence.TESTED, SEARCH, tally.judged, detail=f"{ran}; no difference{note}.")

    def _doubt(self) -> str | None:
        """Why no difference does not mean much, None when it does."""
        tally = self._tally
        if 0 < tally.unstable < _HOPELESS_UNSTABLE and self._deadline.passed:
            return "A difference was seen, and the time limit passed before it was sure (timeout)"
        if tally.unstable:
            return "The answers depend on the order in which rows are read"
        if tally.unreplayed:
            return "A difference was seen but could not be replayed"
        if self._loose is not None:
            return f"Which rows are returned is not fixed: {self._loose}"
        if self._trial.orders[0].keys and not self._trial.orders[1].keys and tally.longest > 1:
            return "The left query fixes an order and the right one does not"
        enough = min(MIN_DATABASES, self._count) if self._rounds == 1 else self._count
        if tally.judged < (enough if self._model.tables else 1):
            return self._too_few()
        if not self._model.tables:
            return None
        share = tally.informative / tally.judged
        if tally.informative < min(MIN_INFORMATIVE, self._count - 1) or share < MIN_INFORMATIVE_SHARE:
            return "The queries returned the same as on empty tables nearly always, which shows little"
        return None

    def _too_few(self) -> str:
        tally = self._tally
        if tally.oversized > tally.timeouts:
            return "The results are too large to compare"
        if tally.timeouts:
            return "The time limit passed on most databases (timeout)"
        if tally.failing:
            return "The left query fails on most databases"
        return "The time limit passed (timeout)"

    def _seed(self) -> str:
        return "\0".join((self._schema.seed, *(q.sql for q in self._queries)))

    def _zoned(self) -> bool:
        families = {c.kind.family for t in self._model.tables for c in t.columns}
        return "timestamptz" in families or any(_ZONED.search(q.sql) for q in self._queries)


def _unknown(detail: str, *, transient: bool = False) -> Verdict:
    return Verdict(Equivalence.UNKNOWN, SEARCH, detail=detail, transient=transient)


def _ended(reason: str, limit_ms: int) -> str:
    if reason == "time":
        return f"The time limit of {limit_ms:,} ms passed (timeout)."
    return "The results are too large to compare." if reason == "size" else "A query ended its own session."
