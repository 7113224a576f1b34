"""Planning in one session: forms, the indexes they want, and the options that come of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from optimizer.advice import Rejection, RejectionReason
from optimizer.candidate import IndexCandidate, without_subsumed
from optimizer.catalog import Catalog
from optimizer.clock import Deadline, Stopwatch
from optimizer.errors import SqlError, TimeLimitError
from optimizer.plan import Plan
from optimizer.ranking import Option
from optimizer.rule import IndexRule
from optimizer.search import Form, raised
from optimizer.selection import select_indexes
from optimizer.shadow.port import HypotheticalIndex, Parameter, PlanningSession

#: Most hypothetical indexes made for one query, all its forms together.
MAX_CANDIDATES = 60


@dataclass
class Planner:
    """Plans statements in one session and counts the time.

    Parameters:
        session: where.
        parameters: values for `$1`, ...; None plans generically.
        watch: counts to the phase `explain`.
    """

    session: PlanningSession
    parameters: tuple[Parameter, ...] | None
    watch: Stopwatch
    baseline_ms: float = field(default=0.0)

    def explain(self, sql: str, using: Collection[HypotheticalIndex] = ()) -> Plan:
        """Plan one statement with exactly the given hypothetical indexes.

        Errors: as `PlanningSession.explain`.
        """
        first = not self.watch.spent("explain")
        with self.watch.phase("explain"):
            plan = self.session.explain(sql, parameters=self.parameters, using=using)
        if first:
            self.baseline_ms = self.watch.spent("explain")
        return plan

    def options(
        self,
        forms: Iterable[Form],
        candidates: Collection[IndexCandidate],
        rejected: list[Rejection],
        deadline: Deadline,
    ) -> tuple[list[Option], frozenset[IndexCandidate]]:
        """Each form alone, and with the indexes it wants.

        Parameters:
            forms: planned already; the original brings no option without indexes.
            candidates: made hypothetically, all at once.
            rejected: told of a form that cannot be planned with them; it is left without indexes.
            deadline: past it, forms are left without indexes.

        Returns: the options, and the candidates that the shadow could not make.

        Errors: `ShadowUnavailableError`.
        """
        some = tuple(forms)
        made = self.session.create(candidates)
        indexes = made.values()
        found = [Option(form, (), form.plan) for form in some if form.rewrite is not None]
        for form in some if indexes else ():
            if deadline.passed:
                break
            try:
                selection = select_indexes(form.plan, indexes, self._with_indexes(form), deadline)
            except (SqlError, TimeLimitError) as error:
                codes = "+".join(sorted({code for candidate in made for code in candidate.rules}))
                reason: RejectionReason = "timeout" if isinstance(error, TimeLimitError) else "invalid"
                rejected.append(
                    Rejection(codes, form.query.sql, reason, f"planning with hypothetical indexes: {error}")
                )
                continue
            if selection.indexes:
                found.append(Option(form, selection.indexes, selection.plan))
        return found, frozenset(c for c in candidates if c not in made)

    def _with_indexes(self, form: Form) -> Callable[[Collection[HypotheticalIndex]], Plan]:
        return lambda indexes: self.explain(form.query.sql, indexes)


def index_candidates(
    forms: Iterable[Form], rules: Sequence[IndexRule], catalog: Catalog, rejected: list[Rejection]
) -> tuple[IndexCandidate, ...]:
    """What the index rules propose, the forms taking turns, without what exists already.

    Parameters:
        forms: planned already.
        rules: what proposes.
        catalog: what they may know.
        rejected: told of rules that raised.
    """
    by_form = [_proposed(form, rules, catalog, rejected) for form in forms]
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
