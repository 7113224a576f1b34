"""Runs a pair of queries on generated databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from optimizer.clock import Deadline
from optimizer.equivalence.generate import Database
from optimizer.equivalence.load import Loader
from optimizer.equivalence.model import Model
from optimizer.equivalence.order import Order, order_of
from optimizer.equivalence.schema import GateSchema
from optimizer.equivalence.scratch import Lease, Scratch
from optimizer.equivalence.session import Command, Result, ResultColumn, Session, SessionEnded
from optimizer.errors import SqlError
from optimizer.query import Query

#: Longest one statement may run on one generated database.
_STATEMENT_LIMIT_MS = 1_000
_GRACE_S = 0.5
#: States that tell of the server and not of the query: ended by an administrator, crashed, not up yet.
_GOING_DOWN = ("57P01", "57P02", "57P03")
_PREPARE_LIMIT_S = 5.0
_SETTINGS = {
    "client_min_messages": "error",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "jit": "off",
    "lock_timeout": "1s",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the server says of a query before it runs."""

    columns: tuple[ResultColumn, ...]
    parameters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query did on one database.

    Parameters:
        result: its rows, or its error.
        keyed: its rows with the hidden sort keys appended, where there are any.
        contents: all tables after an INSERT, UPDATE or DELETE.
    """

    result: Result
    keyed: Result | None = None
    contents: tuple[Result, ...] = ()

    @property
    def results(self) -> tuple[Result, ...]:
        """Everything it gave."""
        return (self.result, *((self.keyed,) if self.keyed is not None else ()), *self.contents)

    @property
    def unfit(self) -> bool:
        """True when a limit ended it: it says nothing about the query's meaning."""
        return any(result.timed_out or result.starved for result in self.results)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both answers on one database, or why there are none: `time`, `size` or `lost`."""

    left: Answer
    right: Answer
    ended: str | None = None


class Trial:
    """Two queries in one scratch database, over a session that lives as long as this object.

    Parameters:
        scratch: opens sessions.
        lease: the database.
        schema: its schema.
        left, right: the queries.
        deadline: of the whole verdict.

    Errors: `SqlError` when a query does not fit the schema; `SessionEnded`.
    """

    def __init__(
        self, scratch: Scratch, lease: Lease, schema: GateSchema, left: Query, right: Query, deadline: Deadline
    ) -> None:
        self._scratch = scratch
        self._lease = lease
        self._schema = schema
        self._queries = (left, right)
        self._deadline = deadline
        self._reads = left.kind == "select"
        self._limit_ms = int(min(_STATEMENT_LIMIT_MS, max(100, deadline.remaining_ms / 4)))
        self._session: Session | None = None
        self._loader: Loader | None = None
        self._model: Model | None = None
        with left.in_place():
            first = self._describe("the left query", left.sql, ())
        with right.in_place():
            second = self._describe("the right query", right.sql, first.parameters)
        self.shapes = (first, second)
        self.orders = (self._order(0), self._order(1))

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._session.close()

    def parameter_types(self) -> tuple[str, ...]:
        """Names of the parameters' types, as the server inferred them.

        Errors: `SessionEnded`.
        """
        left, right = (shape.parameters for shape in self.shapes)
        oids = left if len(left) >= len(right) else right
        if not oids:
            return ()
        commands = [[Command("SELECT format_type($1::oid, NULL)", (str(oid),))] for oid in oids]
        answers = self._lease.loader.run(commands, limit_s=self._preparing_s())
        return tuple((answer[0].rows[0][0] or b"").decode() for answer in answers)

    def use(self, model: Model) -> None:
        """Say which tables are loaded.

        Errors: `SessionEnded`.
        """
        self._model = model
        self._loader = Loader(self._scratch, self._lease, model, self._deadline)

    def run(self, database: Database, meanwhile: Callable[[], None] | None = None) -> Pair:
        """Load a database and run both queries on it in one transaction, which is rolled back.

        Parameters:
            database: what to load.
            meanwhile: done while the server runs the queries.

        Errors: `SessionEnded` when the database cannot be loaded.
        """
        self.loader.load(database)
        return self._pair(database, meanwhile)

    @property
    def loader(self) -> Loader:
        """What loads databases."""
        if self._loader is None:
            raise ValueError("the model of the tables is not known yet")
        return self._loader

    def _pair(self, database: Database, meanwhile: Callable[[], None] | None) -> Pair:
        session = self._session or self._open()
        mode = "BEGIN ISOLATION LEVEL REPEATABLE READ" + (" READ ONLY" if self._reads else "")
        begin = [Command(mode)]
        if database.zone != "UTC":
            begin.append(Command("SELECT set_config('TimeZone', $1, true)", (database.zone,)))
        begin.append(Command("SAVEPOINT before"))
        groups = [
            [*begin, *self._commands(0, database)],
            [Command("ROLLBACK TO SAVEPOINT before"), *self._commands(1, database)],
            [Command("ROLLBACK")],
        ]
        statements = sum(len(self._commands(side, database)) for side in (0, 1))
        limit_s = min(statements * self._limit_ms, self._deadline.remaining_ms + 1_000) / 1000 + _GRACE_S
        try:
            answers = session.run(groups, limit_s=limit_s, meanwhile=meanwhile)
        except SessionEnded as ended:
            self._session = None
            nothing = Answer(Result())
            return Pair(nothing, nothing, ended.reason)
        return Pair(self._answer(0, answers[0][len(begin) :]), self._answer(1, answers[1][1:]))

    def _commands(self, side: int, database: Database) -> list[Command]:
        types = self.shapes[side].parameters
        params = database.params[: len(types)]
        commands = [Command(self._queries[side].sql, params, types)]
        widened = self.orders[side].widened
        if widened is not None:
            commands.append(Command(widened, params, types))
        if not self._reads and self._model is not None:
            commands += [Command(f"SELECT * FROM {t.qualified}") for t in self._model.tables]  # noqa: S608
        return commands

    def _answer(self, side: int, results: Sequence[Result]) -> Answer:
        keyed = self.orders[side].widened is not None
        failed = next((r for r in results if r.error is not None), None)
        first = failed or results[0]
        return Answer(first, results[1] if keyed else None, tuple(results[2 if keyed else 1 :]))

    def _open(self) -> Session:
        """Open the session; what is set here outlives every transaction, since those are rolled back."""
        session = self._scratch.reader(self._lease) if self._reads else self._scratch.writer(self._lease)
        self._session = session
        settings = {
            **_SETTINGS,
            "search_path": self._schema.search_path,
            "statement_timeout": str(self._limit_ms),
            "transaction_timeout": str(self._limit_ms * 20),
        }
        commands = [Command("SELECT set_config($1, $2, false)", item) for item in settings.items()]
        session.run([commands], limit_s=_PREPARE_LIMIT_S)  # nothing of the user's is in it
        return session

    def _preparing_s(self) -> float:
        return min(_PREPARE_LIMIT_S, self._deadline.remaining_ms / 1000 + _GRACE_S)

    def _describe(self, what: str, sql: str, types: tuple[int, ...]) -> Shape:
        """Let the server parse a statement and describe it.

        Parameters:
            what: how to call it in an error.
            sql: its text.
            types: of the parameters, where known.

        Errors: `SqlError` when it does not fit the schema.
        """
        session = self._session or self._open()
        commands = [Command(sql, (), types, "prepare"), Command(sql, (), (), "describe")]
        ((parsed, described),) = session.run([commands], limit_s=self._preparing_s())
        if parsed.error is not None and parsed.error[0].startswith(_GOING_DOWN):
            raise SessionEnded("lost")
        if parsed.error is not None:
            message = f"{what} does not fit the schema: {parsed.error[1]}"
            raise SqlError.at_offset(message, sql, parsed.error_offset)
        return Shape(described.columns, described.parameter_types)

    def _order(self, side: int) -> Order:
        shape = self.shapes[side]
        order = order_of(self._queries[side], [column.name for column in shape.columns])
        if order.widened is None:
            return order
        try:
            self._describe("the ordered copy", order.widened, self.shapes[0].parameters)
        except SqlError:
            # The keys cannot be made visible: only those before the first hidden one are judged.
            hidden = next(i for i, key in enumerate(order.keys) if key >= order.width)
            return Order(order.keys[:hidden], None, order.width, order.limited, order.offset)
        return order
