"""Which rewrites to try, in what order, and when to stop.

Best-first search over sequences of rules, guided by plan cost: the cheapest form not yet expanded is rewritten next, so
one rewrite can open the way for another. A memo of canonical forms makes sure that no form is planned twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from optimizer.advice import Rejection, RejectionReason
from optimizer.candidate import Rewrite
from optimizer.canonical import Canonical, canonical
from optimizer.catalog import Catalog
from optimizer.clock import Deadline
from optimizer.errors import SqlError, TimeLimitError, TooLargeError
from optimizer.plan import Plan
from optimizer.query import Query
from optimizer.rule import RewriteRule, Rule

#: Most forms that are planned for one query, the original included, and the longest chain of rules.
MAX_FORMS = 24
MAX_CHAIN = 4


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write the query.

    Parameters:
        query: this form, parsed.
        plan: its plan without any hypothetical index.
        rewrite: how it came to be; None for the original.
    """

    query: Query
    plan: Plan
    rewrite: Rewrite | None = None

    @property
    def chain(self) -> tuple[str, ...]:
        """Codes of the rules that led here."""
        return self.rewrite.rules if self.rewrite else ()


@dataclass(slots=True)
class Forms:
    """The outcome of a search: the original first, then rewrites in the order found.

    Parameters:
        seen: canonical forms of all that were tried, so that none is tried twice.
    """

    original: Form
    rewritten: list[Form] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    seen: set[Canonical] = field(default_factory=set)

    @property
    def all(self) -> tuple[Form, ...]:
        """The original and all that was planned beside it."""
        return (self.original, *self.rewritten)


def search_forms(
    original: Form,
    rules: Sequence[RewriteRule],
    catalog: Catalog,
    explain: Callable[[str], Plan],
    deadline: Deadline,
) -> Forms:
    """Find and plan other forms of a query.

    Parameters:
        original: the query as given, planned.
        rules: the rewrite rules to use.
        catalog: what the rules may know.
        explain: plans one statement; raises `SqlError` when the server refuses it, `TimeLimitError` past its limit.
        deadline: the search stops there and returns what it has.

    Returns: every form that was planned, and what failed.
    """
    forms = Forms(original, seen={canonical(original.query.sql)})
    order = count()
    frontier: list[tuple[float, int, Form]] = [(original.plan.cost.total_cost, next(order), original)]
    while frontier and len(forms.rewritten) + 1 < MAX_FORMS and not deadline.passed:
        form = heapq.heappop(frontier)[2]
        if len(form.chain) >= MAX_CHAIN:
            continue
        for rewrite, key in _new_rewrites(form, rules, catalog, forms.seen, forms.rejected):
            forms.seen.add(key)
            found = _planned(rewrite, explain, forms.rejected)
            if found is not None:
                forms.rewritten.append(found)
                heapq.heappush(frontier, (found.plan.cost.total_cost, next(order), found))
            if len(forms.rewritten) + 1 >= MAX_FORMS or deadline.passed:
                break
    return forms


def add_forms(
    forms: Forms, rewrites: Iterable[Rewrite], explain: Callable[[str], Plan], deadline: Deadline, max_bytes: int
) -> tuple[Form, ...]:
    """Plan rewrites that did not come from a search.

    Parameters:
        forms: what is known already; new forms, and what failed, are added to it.
        rewrites: of the whole query, by anybody.
        explain, deadline: as in `search_forms`.
        max_bytes: longest text accepted.

    Returns: the new forms.
    """
    added = []
    for rewrite in rewrites:
        if deadline.passed:
            forms.rejected.append(_rejection(rewrite, "timeout", "no time was left to plan it"))
            continue
        found = _added(rewrite, forms, explain, max_bytes)
        if found is not None:
            forms.rewritten.append(found)
            added.append(found)
    return tuple(added)


def _added(rewrite: Rewrite, forms: Forms, explain: Callable[[str], Plan], max_bytes: int) -> Form | None:
    try:
        key = canonical(Query.parse(rewrite.sql, max_bytes=max_bytes).sql)
    except (SqlError, TooLargeError) as error:
        forms.rejected.append(_rejection(rewrite, "invalid", str(error)))
        return None
    if key in forms.seen:
        forms.rejected.append(_rejection(rewrite, "not_cheaper", "this form of the query is known already"))
        return None
    forms.seen.add(key)
    return _planned(rewrite, explain, forms.rejected)


def raised(rule: Rule, error: Exception) -> Rejection:
    """Report a rule that raised."""
    detail = f"the rule raised {type(error).__name__}: {error}".splitlines()[0]
    return Rejection(rule.code, "", "plugin_error", detail)


def _new_rewrites(
    form: Form, rules: Sequence[RewriteRule], catalog: Catalog, seen: set[Canonical], rejected: list[Rejection]
) -> Iterator[tuple[Rewrite, Canonical]]:
    for rule in rules:
        try:
            rewrites = tuple(rule.rewrites(form.query, catalog))
        except Exception as error:  # noqa: BLE001 - a plugin's rule may raise anything; it must hurt nothing else
            rejected.append(raised(rule, error))
            continue
        for rewrite in rewrites:
            try:
                key = canonical(rewrite.sql)
            except SqlError as error:
                rejected.append(Rejection(rule.code, rewrite.sql, "invalid", str(error)))
                continue
            if key not in seen:
                chain = (*form.chain, *rewrite.rules)
                yield _chained(form.rewrite, rewrite, chain), key


def _chained(before: Rewrite | None, last: Rewrite, chain: tuple[str, ...]) -> Rewrite:
    if before is None:
        return last
    source = last.source if before.source == last.source else "plugin"
    return Rewrite(last.sql, chain, f"{before.title}; then {last.title[:1].lower()}{last.title[1:]}",
                   f"{before.why}\n\n{last.why}", source)  # fmt: skip


def _planned(rewrite: Rewrite, explain: Callable[[str], Plan], rejected: list[Rejection]) -> Form | None:
    try:
        # Rules print whole statements; a long user query may grow past the input limit, which is not for them.
        query = Query.parse(rewrite.sql, max_bytes=2**31)
        return Form(query, explain(query.sql), rewrite)
    except SqlError as error:
        rejected.append(_rejection(rewrite, "invalid", f"PostgreSQL refused it: {error}"))
    except TimeLimitError as error:
        rejected.append(_rejection(rewrite, "timeout", str(error)))
    return None


def _rejection(rewrite: Rewrite, reason: RejectionReason, detail: str) -> Rejection:
    return Rejection("+".join(rewrite.rules), rewrite.sql, reason, detail)
