"""Candidates that plugins propose beyond the rules, such as a language model's: the hook `planproof_propose`.

Asked in rounds: what was bad of a plugin's candidates goes back to it once. Its candidates are planned, judged and
ranked as those of rules are, but for three things. They carry the plugin's name where a rule's code would stand, their
rewrites meet a stricter gate, and a plugin may bring only so many, so that they cannot crowd out what the rules found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optimizer.advice import Advice, Finding, Rejection
from optimizer.candidate import IndexCandidate, Rewrite, without_subsumed
from optimizer.catalog import Catalog, Index
from optimizer.clock import Deadline
from optimizer.hooks import PluginFailure, Plugins
from optimizer.plan import Plan
from optimizer.query import Query

if TYPE_CHECKING:
    from optimizer.pipeline import Options

HOOK = "planproof_propose"
#: How often a plugin is asked: once, and once more when something it proposed was bad.
ROUNDS = 2
#: Most candidates of each kind that one plugin may bring in one round.
MAX_PROPOSED = 6
#: Rejections that are worth another try.
_BAD = frozenset({"invalid", "refuted", "unknown", "timeout"})


@dataclass(frozen=True, slots=True)
class Proposed:
    """One round's candidates of all plugins."""

    rewrites: tuple[Rewrite, ...] = ()
    indexes: tuple[IndexCandidate, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rewrites or self.indexes)


@dataclass
class Proposals:
    """What the plugins say about one query.

    Parameters:
        plugins: those that are installed.
        query, catalog, plan: of the request.
        options: of the request.
    """

    plugins: Plugins
    query: Query
    catalog: Catalog
    plan: Plan
    options: Options
    rejected: list[Rejection] = field(default_factory=list)
    _findings: dict[str, list[Finding]] = field(default_factory=dict)
    _seen: list[Rewrite | IndexCandidate] = field(default_factory=list)
    _memories: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rounds(self) -> range:
        """The rounds to play: none where no plugin proposes."""
        return range(ROUNDS if self.plugins.implementing(HOOK) else 0)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the plugins want the user to know; of each, what it said last."""
        return tuple(finding for said in self._findings.values() for finding in said)

    def ask(self, found: Sequence[Advice], rejected: Iterable[Rejection], deadline: Deadline) -> Proposed:
        """Play one round: all plugins the first time, then those whose candidates were bad.

        Parameters:
            found: the advice so far.
            rejected: all rejections so far but those of `self`.
            deadline: for the plugins to answer by.

        Errors: `InputError` of a plugin.
        """
        so_far = (*rejected, *self.rejected)
        rewrites: list[Rewrite] = []
        indexes: list[IndexCandidate] = []
        for plugin in self.plugins.implementing(HOOK):
            feedback = tuple(r for r in so_far if r.rule == plugin)
            if plugin in self._memories and not any(r.reason in _BAD for r in feedback):
                continue
            for item in self._answer(plugin, found, feedback, deadline):
                if isinstance(item, Rewrite):
                    rewrites.append(item)
                elif without_subsumed([item], self._existing()):
                    indexes.append(item)
                else:
                    detail = "an index that exists already does as well"
                    self._reject(Rejection(plugin, item.ddl(), "not_cheaper", detail))
        return Proposed(tuple(rewrites), tuple(indexes))

    def _existing(self) -> Iterator[Index]:
        return (index for table in self.catalog.tables.values() for index in table.indexes)

    def _answer(
        self, plugin: str, found: Sequence[Advice], feedback: Sequence[Rejection], deadline: Deadline
    ) -> Iterator[Rewrite | IndexCandidate]:
        answer = self.plugins.ask(
            plugin,
            HOOK,
            query=self.query,
            catalog=self.catalog,
            plan=self.plan,
            options=self.options,
            found=tuple(found),
            feedback=feedback,
            memory=self._memories.setdefault(plugin, {}),
            deadline=deadline,
        )
        if isinstance(answer, PluginFailure):
            self._blame(plugin, f"failed in {answer.where}: {answer.detail}")
            return
        if not isinstance(answer, Iterable | None):
            self._blame(plugin, f"answered with something of the type {type(answer).__name__}")
            return
        self._findings[plugin] = []
        taken = {Rewrite: 0, IndexCandidate: 0}
        for item in answer or ():
            if isinstance(item, Finding):
                self._findings[plugin].append(item)
            elif isinstance(item, Rejection):
                self._reject(replace(item, rule=plugin))
            elif not isinstance(item, (Rewrite, IndexCandidate)):
                self._blame(plugin, f"proposed something of the type {type(item).__name__}")
            elif taken[type(item)] < MAX_PROPOSED and item not in self._seen:
                taken[type(item)] += 1
                self._seen.append(item)
                yield _signed(item, plugin)

    def _blame(self, plugin: str, what: str) -> None:
        self._reject(Rejection(plugin, "", "plugin_error", f"the plugin {what}"))

    def _reject(self, rejection: Rejection) -> None:
        if rejection not in self.rejected:
            self.rejected.append(rejection)


def refusal(candidate: IndexCandidate, why: str = "") -> Rejection:
    """Report an index that the shadow could not make, and why."""
    detail = "the shadow cannot hold this hypothetical index" + (f": {why}" if why else "")
    return Rejection("+".join(candidate.rules), candidate.ddl(), "invalid", detail)


def _signed(item: Rewrite | IndexCandidate, plugin: str) -> Rewrite | IndexCandidate:
    """Say whose it is; nobody but a rule speaks as a rule."""
    return replace(item, rules=(plugin,), source="plugin" if item.source == "rule" else item.source)
