"""One conversation with a model about one query: two rounds at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from optimizer.advice import Advice, Finding, Rejection
from optimizer.candidate import Candidate, IndexCandidate, Rewrite
from optimizer.catalog import Catalog
from optimizer.clock import Deadline
from optimizer.errors import InputError
from optimizer.index_ddl import parse_index_ddl
from optimizer.plan import Plan
from optimizer.query import Query
from plugins.llm_advisor import prompt
from plugins.llm_advisor.answer import Answer, ProposedIndex, ProposedRewrite, read_answer, title, unprintable, why
from plugins.llm_advisor.client import ModelError, Reply, ask
from plugins.llm_advisor.redaction import Redactor, tokens
from plugins.llm_advisor.screening import function_names, objection
from plugins.llm_advisor.settings import PREFIX, LlmSettings
from plugins.llm_advisor.tables import touched

SOURCE = "llm"
#: Bytes of a token, on the careful side: English has four, SQL with short names less.
_TOKEN_BYTES = 3
_LEAST_TOKENS = 200
_LEAST_MS = 200
_MAX_ECHO = 8_000
_MAX_SHOWN = 10_000
#: Longest statement that a model may bring, literals restored.
MAX_SQL_BYTES = 1_000_000

Item = Candidate | Finding | Rejection


@dataclass
class Advisor:
    """The model's part in one request.

    Parameters:
        settings: where it is and what it may cost.
        query, catalog, plan, found: of the request.
        redactor: the placeholders of this conversation.
    """

    settings: LlmSettings
    query: Query
    catalog: Catalog
    plan: Plan
    found: Sequence[Advice]
    redactor: Redactor
    messages: list[prompt.Message] = field(default_factory=list)
    rounds: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    proposed: int = 0
    spent_ms: float = 0.0

    @classmethod
    def begin(cls, query: Query, catalog: Catalog, plan: Plan, found: Sequence[Advice]) -> Advisor:
        """Read the settings.

        Errors: `InputError` when no model is configured.
        """
        settings = LlmSettings.read()
        surroundings = "\n".join((query.sql, *(word for t in catalog.tables.values() for word in (t.name, *t.columns))))
        redactor = Redactor(enabled=settings.redact, surroundings=surroundings, parameters=query.parameters)
        return cls(settings, query, catalog, plan, found, redactor)

    def ask(self, feedback: Sequence[Rejection], deadline: Deadline) -> list[Item]:
        """Play one round.

        Parameters:
            feedback: what was wrong with the model's candidates; empty the first time.
            deadline: to answer by.

        Returns: candidates, what could not become one, and a finding on how it went.
        """
        begin = time.perf_counter()
        self.rounds += 1
        trouble, items = "", []
        try:
            self._write(feedback)
            reply = self._send(deadline)
            items = list(self._read(reply))
        except ModelError as error:
            trouble = str(error)
        self.spent_ms += (time.perf_counter() - begin) * 1000
        return [*items, *self._findings(trouble)]

    def _write(self, feedback: Sequence[Rejection]) -> None:
        tables = list(touched(self.query.tables, self.catalog).values())
        if not self.messages:
            self.messages = prompt.first_messages(self.query, self.plan, tables, self.found, self.redactor)
            return
        columns = {column for table in tables for column in table.columns}
        names = columns | {table.name for table in tables} | _words(self.query.sql)
        self.messages.append(prompt.again_message(feedback, self.redactor, frozenset(names)))

    def _send(self, deadline: Deadline) -> Reply:
        size = sum(len(m["content"].encode("utf-8", "surrogatepass")) for m in self.messages)
        expected = size // _TOKEN_BYTES
        left = self.settings.budget_tokens - self.prompt_tokens - self.answer_tokens - expected
        if left < _LEAST_TOKENS:
            name = f"{PREFIX}BUDGET_TOKENS"
            raise ModelError(f"a prompt of about {expected:,} tokens leaves too little of {name}")
        limit_ms = min(self.settings.timeout_ms, self.settings.budget_ms - self.spent_ms, deadline.remaining_ms)
        if limit_ms < _LEAST_MS:
            raise ModelError("no time was left to ask")
        schema = Answer.model_json_schema()
        reply = ask(self.settings, self.messages, schema, min(self.settings.max_tokens, left), Deadline.after(limit_ms))
        used = reply.tokens or (expected, len(reply.text.encode("utf-8", "surrogatepass")) // _TOKEN_BYTES)
        self.prompt_tokens += used[0]
        self.answer_tokens += used[1]
        self.messages.append({"role": "assistant", "content": reply.text[:_MAX_ECHO]})
        return reply

    def _read(self, reply: Reply) -> Iterator[Item]:
        if reply.refused:
            raise ModelError("the model refused to answer")
        read = read_answer(reply.text)
        if read is None:
            if reply.cut:
                raise ModelError(f"the answer was cut at {PREFIX}MAX_TOKENS")
            yield Rejection("", "", "invalid", "the model's answer is not the JSON object that was asked for")
            return
        answer, malformed = read
        if malformed:
            yield Rejection("", "", "invalid", f"{malformed} of the model's proposals have the wrong form")
        for rewrite in answer.rewrites:
            yield self._candidate(rewrite.sql, partial(self._rewrite, rewrite))
        for index in answer.indexes:
            yield self._candidate(index.ddl, partial(self._index, index))

    def _candidate(self, text: str, make: Callable[[str], Candidate]) -> Item:
        """A candidate with the literals restored, or the reason why it is none."""
        self.proposed += 1
        shown = text
        try:
            if unprintable(text):
                shown = ascii(text)
                raise InputError("it holds characters that hide or reorder what one reads")
            shown = self.redactor.restore(text, MAX_SQL_BYTES)
            tables = touched(self.query.tables, self.catalog)
            reason = objection(shown, function_names(self.query.sql), tables, self.catalog)
            if reason is not None:
                raise InputError(reason)
            return make(shown)
        except InputError as error:
            return Rejection("", shown[:_MAX_SHOWN], "invalid", str(error))

    def _rewrite(self, proposed: ProposedRewrite, sql: str) -> Rewrite:
        # As the pipeline will write it, so that what it says of it can be matched.
        query = Query.parse(sql, max_bytes=MAX_SQL_BYTES)
        if query.kind != self.query.kind:
            raise InputError(f"it is {query.kind.upper()} where the query is {self.query.kind.upper()}")
        if query.parameters > self.query.parameters:
            raise InputError(f"it has a parameter ${query.parameters} that the query does not have")
        return Rewrite(query.sql, (), self._title(proposed.title), self._why(proposed.why), SOURCE)

    def _index(self, proposed: ProposedIndex, ddl: str) -> IndexCandidate:
        candidate = parse_index_ddl(ddl, self.catalog)
        return replace(candidate, title=self._title(proposed.title), why=self._why(proposed.why), source=SOURCE)

    def _title(self, text: str) -> str:
        return f"Proposed by a model: {title(self.redactor.restore_prose(text)) or 'no title'}"

    def _why(self, text: str) -> str:
        words = why(self.redactor.restore_prose(text))
        return f'The model says: "{words}"' if words else "The model gave no reason."

    def _findings(self, trouble: str) -> Iterator[Finding]:
        detail = (
            f"{title(str(self.settings.model))} at {self.settings.host}, prompt version {prompt.PROMPT_VERSION}: "
            f"{_count(self.rounds, 'round')}, {self.prompt_tokens:,} tokens sent, {self.answer_tokens:,} received, "
            f"{_count(self.proposed, 'proposal')}, {self.spent_ms / 1000:.1f} s"
        )
        yield Finding("llm", "A language model was asked", detail)
        if trouble:
            what = f"{trouble}; the rest of this report does without it"
            yield Finding("llm-incomplete", "The language model could not help", what, "warning", transient=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _words(sql: str) -> set[str]:
    return {t.text.strip('"') for t in tokens(sql) if t.kind == "IDENT"}
