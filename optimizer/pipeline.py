"""The whole flow on one page.

    SQL -> Query -> other forms (rules) -> each planned on the shadow
                 -> index candidates (rules) -> the ones each form wants
        -> options that are cheaper -> rewrites through the equivalence gate -> ranked Report

Every face calls `Optimizer.optimize`. Cost decides what is worth saying, the gate decides what may be said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from optimizer.advice import Finding, Rejection, Report, Timings
from optimizer.candidate import IndexCandidate, without_subsumed
from optimizer.catalog import Catalog
from optimizer.clock import Deadline, Stopwatch
from optimizer.equivalence.gate import Gate
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.errors import InputError
from optimizer.index_ddl import parse_index_ddl
from optimizer.matching import unfit_for_rewriting
from optimizer.measurement import Executes, measured
from optimizer.plan import Plan
from optimizer.query import Query
from optimizer.ranking import Judge, Option, Thresholds, advise
from optimizer.rule import IndexRule, RewriteRule, Rule
from optimizer.search import Form, Forms, raised, search_forms
from optimizer.selection import select_indexes
from optimizer.services import Services
from optimizer.shadow.port import HypotheticalIndex, Parameter, PlanningSession, ShadowDatabase

#: Most hypothetical indexes made for one query, all its forms together.
MAX_CANDIDATES = 60


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
        watch, deadline = Stopwatch(), Deadline.after(options.timeout_ms or self.settings.optimize_timeout_ms)
        rules = self._enabled(options)
        with watch.phase("parse"):
            query = Query.parse(sql, max_bytes=self.settings.max_sql_bytes)
            _check_options(query, options)
            catalog = shadow.catalog()
        with shadow.session() as session:
            plans = _Planner(session, options.parameters, watch)
            original = Form(query, plans.explain(query.sql))
            deadline.check("planning the query")
            with watch.phase("propose"):
                unfit = unfit_for_rewriting(query, catalog)
                rewrite_rules = () if unfit else [r for r in rules if isinstance(r, RewriteRule)]
                forms = search_forms(original, rewrite_rules, catalog, plans.explain, deadline)
                index_rules = [r for r in rules if isinstance(r, IndexRule)]
                candidates = _index_candidates(forms, index_rules, catalog)
                found = _options(forms, session.create(candidates).values(), plans, deadline)
            explain_calls = session.explain_calls
        with watch.phase("verify"):
            judge = self._judge(query, shadow, options, deadline)
            thresholds = Thresholds(self.settings.min_gain, self.settings.min_index_gain)
            advice, rejected = advise(original, found, judge, catalog, thresholds)
        if options.measure:
            with shadow.session() as session:
                if not isinstance(session, Executes):
                    raise InputError(f"nothing can be measured on the shadow {shadow.info.name}: it holds no rows")
                advice, slower = measured(advice, query.sql, session, options.parameters, deadline)
                rejected = (*slower, *rejected)
        return Report(
            query=query,
            shadow=shadow.info,
            baseline=original.plan,
            advice=advice,
            rejected=(*rejected, *forms.rejected, *self._plugin_failures()),
            findings=_findings(query, unfit, shadow, catalog, options),
            timings=Timings(
                parse=watch.spent("parse"),
                propose=watch.spent("propose") - watch.spent("explain") + plans.baseline_ms,
                explain=watch.spent("explain"),
                verify=watch.spent("verify"),
                total=watch.total,
                explain_calls=explain_calls,
            ),
        )

    def equivalent(self, left: str, right: str, ddl: str, timeout_ms: int | None = None) -> Verdict:
        """Judge two queries over a schema: the gate alone.

        Errors: `SqlError`, `TooLargeError`, `ShadowUnavailableError`.
        """
        limit = self.settings.max_sql_bytes
        return self.gate.check(
            Query.parse(left, max_bytes=limit), Query.parse(right, max_bytes=limit), ddl, timeout_ms=timeout_ms
        )

    def explain(self, sql: str, shadow: ShadowDatabase, indexes: Sequence[str] = ()) -> Explanation:
        """Plan one query, with hypothetical indexes given as CREATE INDEX statements.

        Errors: as `optimize`.
        """
        query = Query.parse(sql, max_bytes=self.settings.max_sql_bytes)
        candidates = [parse_index_ddl(text, shadow.catalog()) for text in indexes]
        with shadow.session() as session:
            made = session.create(candidates)
            refused = [text for text, c in zip(indexes, candidates, strict=True) if c not in made]
            if refused:
                raise InputError(f"the shadow cannot hold this hypothetical index: {refused[0]}")
            hypothetical = tuple(dict.fromkeys(made.values()))
            return Explanation(session.explain(query.sql, using=hypothetical), hypothetical)

    def close(self) -> None:
        """Give back what the gate holds."""
        self.gate.close()

    def _enabled(self, options: Options) -> list[Rule]:
        unknown = options.disable - {rule.code for rule in self.rules}
        if unknown:
            raise InputError(f"no rule has the code {', '.join(sorted(unknown))}: `planproof rules` lists them")
        return [rule for rule in self.rules if rule.code not in options.disable]

    def _judge(self, query: Query, shadow: ShadowDatabase, options: Options, deadline: Deadline) -> Judge:
        def verdict_on(form: Form) -> Verdict:
            limit = min(self.settings.verify_timeout_ms, int(deadline.remaining_ms))
            if limit < 1:
                return Verdict(Equivalence.UNKNOWN, "none", detail="no time was left to check the rewrite")
            return self.gate.check(query, form.query, shadow.ddl(), timeout_ms=limit)

        return Judge(verdict_on, options.min_equivalence)

    def _plugin_failures(self) -> tuple[Rejection, ...]:
        return tuple(
            Rejection(f.plugin, "", "plugin_error", f"the plugin failed in {f.where}: {f.detail}")
            for f in self.services.plugins.failures
        )


@dataclass
class _Planner:
    """Plans statements in one session and counts the time."""

    session: PlanningSession
    parameters: tuple[Parameter, ...] | None
    watch: Stopwatch
    baseline_ms: float = field(default=0.0)

    def explain(self, sql: str, using: Collection[HypotheticalIndex] = ()) -> Plan:
        first = not self.watch.spent("explain")
        with self.watch.phase("explain"):
            plan = self.session.explain(sql, parameters=self.parameters, using=using)
        if first:
            self.baseline_ms = self.watch.spent("explain")
        return plan

    def with_indexes(self, form: Form) -> Callable[[Collection[HypotheticalIndex]], Plan]:
        return lambda indexes: self.explain(form.query.sql, indexes)


def _index_candidates(forms: Forms, rules: Sequence[IndexRule], catalog: Catalog) -> tuple[IndexCandidate, ...]:
    """What the index rules propose, the forms taking turns, without what exists already."""
    by_form = [_proposed(form, rules, catalog, forms.rejected) for form in (forms.original, *forms.rewritten)]
    in_turn = (candidate for turn in zip_longest(*by_form) for candidate in turn if candidate is not None)
    existing = [index for table in catalog.tables.values() for index in table.indexes]
    return without_subsumed(in_turn, existing)[:MAX_CANDIDATES]


def _proposed(
    form: Form, rules: Sequence[IndexRule], catalog: Catalog, rejected: list[Rejection]
) -> list[IndexCandidate]:
    found: list[IndexCandidate] = []
    for rule in rules:
        try:
            found += rule.propose(form.query, catalog, form.plan)
        except Exception as error:  # noqa: BLE001 - a plugin's rule may raise anything; it must hurt nothing else
            rejected.append(raised(rule, error))
    return found


def _options(forms: Forms, indexes: Collection[HypotheticalIndex], plans: _Planner, deadline: Deadline) -> list[Option]:
    """Each form alone, and with the indexes it wants."""
    found = [Option(form, (), form.plan) for form in forms.rewritten]
    for form in (forms.original, *forms.rewritten) if indexes else ():
        if deadline.passed:
            break
        selection = select_indexes(form.plan, indexes, plans.with_indexes(form), deadline)
        if selection.indexes:
            found.append(Option(form, selection.indexes, selection.plan))
    return found


def _check_options(query: Query, options: Options) -> None:
    if options.parameters is not None and len(options.parameters) != query.parameters:
        given = f"the query has {query.parameters} parameters but {len(options.parameters)} values were given"
        raise InputError(f"{given}: give one value for each $n")
    if options.measure and query.parameters and options.parameters is None:
        raise InputError("a query with parameters can only be executed with values: give one value for each $n")
    if options.llm:
        raise InputError("no model is configured: the language-model plugin is not installed")


def _findings(
    query: Query, unfit: str | None, shadow: ShadowDatabase, catalog: Catalog, options: Options
) -> tuple[Finding, ...]:
    found = [Finding("not-cloned", "Not carried over to the shadow", line) for line in shadow.info.not_cloned]
    if unfit:
        found.append(Finding("not-rewritten", "No rewrite was tried", unfit))
    if query.parameters and options.parameters is None:
        detail = "costs are those of the generic plan: give values to see the plan for them"
        found.append(Finding("generic-plan", "Planned without parameter values", detail))
    named = {name.rsplit(".", 1)[-1] for name in query.tables}
    unknown = sorted(
        t.qualified for t in catalog.tables.values() if t.name in named and t.kind == "table" and t.rows < 0
    )
    if unknown:
        detail = f"no statistics for {', '.join(unknown)}: costs are guesses until ANALYZE has run at the source"
        found.append(Finding("no-statistics", "Tables without statistics", detail, "warning"))
    return tuple(found)
