"""The whole flow on one page.

    SQL -> Query -> other forms (rules) -> each planned on the shadow
                 -> index candidates (rules) -> the ones each form wants
        -> options that are cheaper -> rewrites through the equivalence gate -> ranked advice
    plugins (a language model) see that and propose more -> the same way, the gate stricter; the bad goes back once
        -> Report

Every face calls `Optimizer.optimize`. Cost decides what is worth saying, the gate decides what may be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizer.advice import Advice, Finding, Rejection, Report, Timings
from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.clock import Deadline, Stopwatch
from optimizer.equivalence.gate import Gate
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.errors import InputError, SqlError
from optimizer.findings import findings_on
from optimizer.index_ddl import parse_index_ddl
from optimizer.matching import unfit_for_rewriting
from optimizer.measurement import Executes, measured
from optimizer.plan import Plan
from optimizer.planning import Planner, index_candidates
from optimizer.proposals import HOOK as PROPOSE
from optimizer.proposals import Proposals, Proposed, refusal
from optimizer.query import Query
from optimizer.ranking import Judge, Option, Thresholds, advise
from optimizer.rule import IndexRule, RewriteRule, Rule
from optimizer.search import Form, Forms, add_forms, search_forms
from optimizer.services import Services
from optimizer.shadow.port import HypotheticalIndex, Parameter, ShadowDatabase

#: Rounds of generated databases for a rewrite that no rule stands for.
STRICT_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What a request may ask for.

    Parameters:
        disable: rule codes that are left out.
        min_equivalence: the weakest verdict that lets a rewrite become advice.
        parameters: values for `$1`, `$2`, ...; None plans generically.
        measure: execute before and after; only a shadow that holds rows can.
        llm: ask the model plugin too.
        timeout_ms: limit for the whole request; None takes the setting.
    """

    disable: frozenset[str] = frozenset()
    min_equivalence: Equivalence = Equivalence.TESTED
    parameters: tuple[Parameter, ...] | None = None
    measure: bool = False
    llm: bool = False
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One plan with the hypothetical indexes that were visible to it."""

    plan: Plan
    indexes: tuple[HypotheticalIndex, ...]


class Optimizer:
    """The composition of rules, shadow and gate.

    Parameters:
        services: the embedded clusters, plugins and settings.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.settings = services.settings
        self.rules: tuple[Rule, ...] = services.plugins.rules()
        self.gate = Gate(services.supervisor, services.settings)

    def optimize(self, sql: str, shadow: ShadowDatabase, options: Options = Options()) -> Report:
        """Find validated advice for one query.

        Parameters:
            sql: one SELECT, INSERT, UPDATE or DELETE.
            shadow: where candidates are planned.
            options: what was asked for.

        Errors: `SqlError`, `TooLargeError`, `InputError`, `TimeLimitError`, `ShadowUnavailableError`.
        """
        watch, deadline = Stopwatch(), Deadline.within(options.timeout_ms or self.settings.optimize_timeout_ms)
        rules = self._enabled(options)
        with watch.phase("parse"):
            query = Query.parse(sql, max_bytes=self.settings.max_sql_bytes)
            self._check_options(query, options)
            catalog = shadow.catalog()
        work = self._planned_by_rules(query, shadow, catalog, rules, options, watch, deadline)
        self._weigh(work)
        proposals = Proposals(self.services.plugins, query, catalog, work.original.plan, options)
        for _ in proposals.rounds():
            with watch.phase("propose"):
                proposed = proposals.ask(work.advice, (*work.rejected, *work.forms.rejected), self._before_gate(work))
            if proposed:
                self._plan_proposed(work, proposed)
                self._weigh(work)
        if options.measure:
            with shadow.session() as session:
                if not isinstance(session, Executes):
                    raise InputError(f"nothing can be measured on the shadow {shadow.info.name}: it holds no rows")
                work.advice, slower = measured(work.advice, query.sql, session, options.parameters, deadline)
                work.rejected = (*slower, *work.rejected)
        return Report(
            query=query,
            shadow=shadow.info,
            baseline=work.original.plan,
            advice=work.advice,
            rejected=(*work.rejected, *work.forms.rejected, *proposals.rejected, *self._plugin_failures()),
            findings=(*self._findings(work), *proposals.findings),
            timings=Timings(
                parse=watch.spent("parse"),
                propose=watch.spent("propose") - watch.spent("explain") + work.baseline_ms,
                explain=watch.spent("explain"),
                verify=watch.spent("verify"),
                total=watch.total,
                explain_calls=work.explain_calls,
            ),
        )

    def equivalent(self, left: str, right: str, ddl: str, timeout_ms: int | None = None) -> Verdict:
        """Judge two queries over a schema: the gate alone.

        Errors: `SqlError`, `TooLargeError`, `ShadowUnavailableError`.
        """
        limit = self.settings.max_sql_bytes
        first, second = _one_of_two("left", left, limit), _one_of_two("right", right, limit)
        return self.gate.check(first, second, ddl, timeout_ms=timeout_ms)

    def explain(self, sql: str, shadow: ShadowDatabase, indexes: Sequence[str] = ()) -> Explanation:
        """Plan one query, with hypothetical indexes given as CREATE INDEX statements.

        Errors: as `optimize`.
        """
        query = Query.parse(sql, max_bytes=self.settings.max_sql_bytes)
        candidates = [parse_index_ddl(text, shadow.catalog()) for text in indexes]
        with shadow.session() as session:
            made = session.create(candidates)
            refused = [(text, c) for text, c in zip(indexes, candidates, strict=True) if c not in made]
            for text, candidate in refused:
                why = session.refused.get(candidate, "the server refused it")
                raise InputError(f"the shadow cannot hold this hypothetical index: {why}: {text}")
            hypothetical = tuple(dict.fromkeys(made.values()))
            with query.in_place():
                return Explanation(session.explain(query.sql, using=hypothetical), hypothetical)

    def close(self) -> None:
        """Give back what the gate holds."""
        self.gate.close()

    def _enabled(self, options: Options) -> list[Rule]:
        unknown = options.disable - {rule.code for rule in self.rules}
        if unknown:
            raise InputError(f"no rule has the code {', '.join(sorted(unknown))}: `planproof rules` lists them")
        return [rule for rule in self.rules if rule.code not in options.disable]

    def _planned_by_rules(
        self,
        query: Query,
        shadow: ShadowDatabase,
        catalog: Catalog,
        rules: Sequence[Rule],
        options: Options,
        watch: Stopwatch,
        deadline: Deadline,
    ) -> _Work:
        """Plan the query, the other forms that rules give it, and the indexes that each form wants."""
        with shadow.session() as session:
            planner = Planner(session, options.parameters, watch)
            with query.in_place():
                original = Form(query, planner.explain(query.sql))
            deadline.check("planning the query")
            with watch.phase("propose"):
                unfit = unfit_for_rewriting(query, catalog)
                rewrite_rules = () if unfit else [r for r in rules if isinstance(r, RewriteRule)]
                forms = search_forms(original, rewrite_rules, catalog, planner.explain, deadline)
                index_rules = [r for r in rules if isinstance(r, IndexRule)]
                candidates = index_candidates(forms.all, index_rules, catalog, forms.rejected)
                found, _ = planner.options(forms.all, candidates, forms.rejected, deadline)
            judge = self._judge(query, shadow, options, deadline)
            return _Work(
                shadow=shadow,
                catalog=catalog,
                options=options,
                watch=watch,
                deadline=deadline,
                judge=judge,
                index_rules=index_rules,
                unfit=unfit,
                forms=forms,
                candidates=candidates,
                found=found,
                baseline_ms=planner.baseline_ms,
                explain_calls=session.explain_calls,
            )

    def _plan_proposed(self, work: _Work, proposed: Proposed) -> None:
        """Plan what plugins propose, with the indexes of rules and their own; index rules see the new forms too."""
        with work.shadow.session() as session, work.watch.phase("propose"):
            planner = Planner(session, work.options.parameters, work.watch)
            limit = self.settings.max_sql_bytes
            added = add_forms(work.forms, proposed.rewrites, planner.explain, work.deadline, limit)
            further = index_candidates(added, work.index_rules, work.catalog, work.forms.rejected)
            candidates = dict.fromkeys((*work.candidates, *proposed.indexes, *work.proposed, *further))
            forms = (work.original, *added)
            options, refused = planner.options(forms, candidates, work.forms.rejected, work.deadline)
            work.found += options
            work.proposed += [c for c in proposed.indexes if c not in refused]
            work.forms.rejected += [refusal(c, session.refused.get(c, "")) for c in proposed.indexes if c in refused]
            work.explain_calls += session.explain_calls

    def _weigh(self, work: _Work) -> None:
        """Rank what is cheaper, as far as the gate lets it pass."""
        with work.watch.phase("verify"):
            thresholds = Thresholds(self.settings.min_gain, self.settings.min_index_gain)
            work.advice, work.rejected = advise(
                work.original, work.found, work.judge, work.catalog, thresholds, work.proposed
            )

    def _before_gate(self, work: _Work) -> Deadline:
        """Until when plugins may think: some of what is left belongs to the gate."""
        left = work.deadline.remaining_ms
        return Deadline.after(left - min(2 * self.settings.verify_timeout_ms, left / 2))

    def _judge(self, query: Query, shadow: ShadowDatabase, options: Options, deadline: Deadline) -> Judge:
        def verdict_on(form: Form) -> Verdict:
            limit = min(self.settings.verify_timeout_ms, int(deadline.remaining_ms))
            if limit < 1:
                return Verdict(
                    Equivalence.UNKNOWN, "none", detail="no time was left to check the rewrite", transient=True
                )
            by_rule = form.rewrite is None or form.rewrite.source == "rule"
            rounds = 1 if by_rule else STRICT_ROUNDS
            try:
                return self.gate.check(query, form.query, shadow.ddl(), timeout_ms=limit, rounds=rounds)
            except SqlError as error:  # it may be planned on the shadow and yet not run on its bare schema
                return Verdict(Equivalence.UNKNOWN, "none", detail=str(error.args[0]))

        return Judge(verdict_on, options.min_equivalence)

    def _findings(self, work: _Work) -> tuple[Finding, ...]:
        query = work.original.query
        generic = query.parameters > 0 and work.options.parameters is None
        return findings_on(query, work.catalog, work.shadow.info, unfit=work.unfit, generic=generic)

    def _check_options(self, query: Query, options: Options) -> None:
        if options.parameters is not None and len(options.parameters) != query.parameters:
            given = f"the query has {query.parameters} parameters but {len(options.parameters)} values were given"
            raise InputError(f"{given}: give one value for each $n")
        if options.measure and query.parameters and options.parameters is None:
            raise InputError("a query with parameters can only be executed with values: give one value for each $n")
        if options.llm and not self.services.plugins.implementing(PROPOSE):
            raise InputError("no model is configured: the language-model plugin is not installed")

    def _plugin_failures(self) -> tuple[Rejection, ...]:
        return tuple(
            Rejection(f.plugin, "", "plugin_error", f"the plugin failed in {f.where}: {f.detail}")
            for f in self.services.plugins.failures
        )


def _one_of_two(name: str, sql: str, max_bytes: int) -> Query:
    try:
        return Query.parse(sql, max_bytes=max_bytes)
    except SqlError as error:
        raise SqlError(f"in the {name} query: {error.args[0]}", line=error.line, column=error.column) from None


@dataclass
class _Work:
    """One request on its way through the flow."""

    shadow: ShadowDatabase
    catalog: Catalog
    options: Options
    watch: Stopwatch
    deadline: Deadline
    judge: Judge
    index_rules: Sequence[IndexRule]
    unfit: str | None
    forms: Forms
    candidates: tuple[IndexCandidate, ...]
    found: list[Option]
    baseline_ms: float
    explain_calls: int
    proposed: list[IndexCandidate] = field(default_factory=list)
    advice: tuple[Advice, ...] = ()
    rejected: tuple[Rejection, ...] = ()

    @property
    def original(self) -> Form:
        """The query as given."""
        return self.forms.original
