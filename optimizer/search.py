"""Which rewrites to try, in what order, and when to stop.

Best-first search over sequences of rules, guided by plan cost: the cheapest form not yet expanded is rewritten next, so
one rewrite can open the way for another. A memo of canonical forms makes sure that no form is planned twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from optimizer.advice import Rejection
from optimizer.candidate import Rewrite
from optimizer.canonical import Canonical, canonical
from optimizer.catalog import Catalog
from optimizer.clock import Deadline
from optimizer.errors import SqlError, TimeLimitError
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
    """The outcome of a search: the original first, then rewrites in the order found."""

    original: Form
    rewritten: list[Form] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


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
    forms = Forms(original)
    seen = {canonical(original.query.sql)}
    order = count()
    frontier: list[tuple[float, int, Form]] = [(original.plan.cost.total_cost, next(order), original)]
    while frontier and len(forms.rewritten) + 1 < MAX_FORMS and not deadline.passed:
        form = heapq.heappop(frontier)[2]
        if len(form.chain) >= MAX_CHAIN:
            continue
        for rewrite, key in _new_rewrites(form, rules, catalog, seen, forms.rejected):
            seen.add(key)
            found = _planned(rewrite, explain, forms.rejected)
            if found is not None:
                forms.rewritten.append(found)
                heapq.heappush(frontier, (found.plan.cost.total_cost, next(order), found))
            if len(forms.rewritten) + 1 >= MAX_FORMS or deadline.passed:
                break
    return forms


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
    rule = "+".join(rewrite.rules)
    try:
        # Rules print whole statements; a long user query may grow past the input limit, which is not for them.
        query = Query.parse(rewrite.sql, max_bytes=2**31)
        return Form(query, explain(query.sql), rewrite)
    except SqlError as error:
        rejected.append(Rejection(rule, rewrite.sql, "invalid", f"PostgreSQL refused it: {error}"))
    except TimeLimitError as error:
        rejected.append(Rejection(rule, rewrite.sql, "timeout", str(error)))
    return None
