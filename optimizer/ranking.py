"""From options to advice: what is cheaper, what is the same, what comes first.

An option is a form of the query with a set of hypothetical indexes. Three kinds of advice come of them, each kept only
where it adds something: the best rewrite alone, the best indexes for the query as it stands, and the best of both
together when that beats either alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from optimizer.advice import Advice, AdviceKind, Comparison, Evidence, Rejection, RejectionReason
from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog
from optimizer.equivalence.verdict import Equivalence, Verdict
from optimizer.index_script import index_rollback, index_script
from optimizer.plan import Plan
from optimizer.search import Form
from optimizer.shadow.port import HypotheticalIndex
from optimizer.shadow.whatif.admission import free_name, relation_names

#: Most distinct rewrites of one source (rules, a model, ...) that are sent through the gate for one query: what one
#: source proposes must not cost another its verdicts.
MAX_VERDICTS = 8


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Smallest relative cost reductions, 0 to 1, that are worth saying.

    Parameters:
        min_gain: for a rewrite.
        min_index_gain: for indexes, which also cost storage and writes; against the best without them.
    """

    min_gain: float = 0.05
    min_index_gain: float = 0.2

    def rewrite(self, before: float) -> float:
        """The highest cost at which a rewrite of something that costs `before` is advice."""
        return before * (1 - self.min_gain)

    def index(self, before: float) -> float:
        """The highest cost at which indexes for something that costs `before` are advice."""
        return before * (1 - self.min_index_gain)


@dataclass(frozen=True, slots=True)
class Option:
    """A form of the query with hypothetical indexes, planned."""

    form: Form
    indexes: tuple[HypotheticalIndex, ...]
    plan: Plan

    @property
    def cost(self) -> float:
        """Total cost in planner units."""
        return self.plan.cost.total_cost

    @property
    def kind(self) -> AdviceKind:
        """`rewrite`, `index` or `combined`."""
        if self.form.rewrite is None:
            return "index"
        return "combined" if self.indexes else "rewrite"


@dataclass
class Judge:
    """Asks the gate once for each form, and only for forms that would be advice.

    Parameters:
        ask: gives the verdict on one form against the original.
        minimum: the weakest verdict that passes.
    """

    ask: Callable[[Form], Verdict]
    minimum: Equivalence
    verdicts: dict[str, tuple[Form, Verdict]] = field(default_factory=dict)

    def verdict(self, form: Form) -> Verdict | None:
        """The verdict on a form, None for the original and once too many forms were asked for."""
        if form.rewrite is None:
            return None
        if form.query.sql not in self.verdicts:
            if sum(_origin(known) == _origin(form) for known, _ in self.verdicts.values()) >= MAX_VERDICTS:
                return None
            self.verdicts[form.query.sql] = (form, self.ask(form))
        return self.verdicts[form.query.sql][1]

    def passes(self, form: Form) -> bool:
        """True for the original, and for rewrites whose verdict is strong enough."""
        if form.rewrite is None:
            return True
        verdict = self.verdict(form)
        return verdict is not None and verdict.verdict.rank >= self.minimum.rank

    def rejections(self) -> Iterator[Rejection]:
        """What did not pass, with the reason."""
        for form, verdict in self.verdicts.values():
            if verdict.verdict.rank < self.minimum.rank:
                reason: RejectionReason = "refuted" if verdict.verdict is Equivalence.REFUTED else "unknown"
                detail = verdict.detail
                if verdict.verdict.rank > Equivalence.UNKNOWN.rank:
                    detail = f"only {verdict.verdict}, {self.minimum} was asked for. {detail}"
                yield Rejection(
                    "+".join(form.chain), form.query.sql, reason, detail, verdict.counterexample, verdict.transient
                )


def advise(
    original: Form,
    options: Iterable[Option],
    judge: Judge,
    catalog: Catalog,
    thresholds: Thresholds,
    proposed: Iterable[IndexCandidate] = (),
) -> tuple[tuple[Advice, ...], tuple[Rejection, ...]]:
    """Turn options into ranked advice.

    Parameters:
        original: the query as given.
        options: what was planned; any order.
        judge: decides on rewrites.
        catalog: for names that are free.
        thresholds: what is worth saying.
        proposed: indexes of which it must be said when they are not advised.

    Returns: advice, best first, and what was turned down.
    """
    before = original.plan.cost.total_cost
    ordered = sorted(options, key=lambda o: (o.cost, len(o.indexes), _bytes(o), len(o.form.chain), o.form.query.sql))
    rewrites = (o for o in ordered if o.kind == "rewrite" and o.cost <= thresholds.rewrite(before))
    rewrite = next((o for o in rewrites if judge.passes(o.form)), None)
    index = next((o for o in ordered if o.kind == "index" and o.cost <= thresholds.index(before)), None)
    alone = min((o.cost for o in (rewrite, index) if o is not None), default=before)
    worthwhile = (o for o in ordered if o.kind == "combined" and o.cost <= thresholds.index(alone))
    combined = next((o for o in worthwhile if judge.passes(o.form)), None)
    chosen = sorted((o for o in (combined, rewrite, index) if o is not None), key=lambda o: o.cost)
    advice = tuple(_advice(option, original, judge.verdict(option.form), catalog) for option in chosen)
    advised = {o.form.query.sql for o in chosen}
    wanted = {index.candidate for option in chosen for index in option.indexes}
    idle = (_idle(candidate) for candidate in proposed if candidate not in wanted)
    return advice, (*judge.rejections(), *_not_cheaper(ordered, original, advised, judge, thresholds), *idle)


def _not_cheaper(
    ordered: list[Option], original: Form, advised: set[str], judge: Judge, thresholds: Thresholds
) -> Iterator[Rejection]:
    """Rewrites that gained too little, by their best option; those the gate saw are reported by the judge."""
    before = original.plan.cost.total_cost
    seen = set(advised)
    for option in ordered:
        sql = option.form.query.sql
        if option.form.rewrite is None or sql in seen:
            continue
        seen.add(sql)
        judged = judge.verdicts.get(sql)
        if judged is not None and judged[1].verdict.rank < judge.minimum.rank:
            continue
        alone = option.form.plan.cost.total_cost
        ratio = alone / before if before else 1.0
        detail = f"cost {before:.2f} before, {alone:.2f} after (ratio {ratio:.2f})"
        enough = alone <= thresholds.rewrite(before)
        detail += ": other advice is cheaper" if enough else f": less than {thresholds.min_gain:.0%} gained"
        yield Rejection("+".join(option.form.chain), sql, "not_cheaper", detail)


def _idle(candidate: IndexCandidate) -> Rejection:
    detail = "the planner gains too little by it, or other indexes do as well"
    return Rejection("+".join(candidate.rules), candidate.ddl(), "not_cheaper", detail)


def _advice(option: Option, original: Form, verdict: Verdict | None, catalog: Catalog) -> Advice:
    rewrite = option.form.rewrite
    names = _names(option.indexes, catalog)
    candidates = list(names)
    rules = (*(rewrite.rules if rewrite else ()), *dict.fromkeys(code for c in candidates for code in c.rules))
    titles = [*([rewrite.title] if rewrite else []), *(c.title for c in candidates)]
    reasons = [*([rewrite.why] if rewrite else []), *(c.why for c in candidates)]
    return Advice(
        kind=option.kind,
        rules=rules,
        title="; ".join(t for t in titles if t),
        why="\n\n".join(r for r in reasons if r),
        sql=option.form.query.sql if rewrite else None,
        ddl=tuple(line for candidate, name in names.items() for line in index_script(candidate, catalog, name)),
        rollback=tuple(index_rollback(candidate, catalog, name) for candidate, name in names.items()),
        cost=Comparison(original.plan.cost, option.plan.cost),
        evidence=Evidence.ESTIMATED,
        equivalence=verdict,
        plan=option.plan,
        storage_bytes=_bytes(option),
        source=_source(option),
    )


def _names(indexes: Iterable[HypotheticalIndex], catalog: Catalog) -> dict[IndexCandidate, str]:
    """A name for each index that neither the database nor another of them has."""
    names: dict[IndexCandidate, str] = {}
    for candidate in (index.candidate for index in indexes):
        names[candidate] = free_name(candidate, relation_names(candidate.schema, catalog) | set(names.values()))
    return names


def _origin(form: Form) -> str:
    return form.rewrite.source if form.rewrite is not None else ""


def _source(option: Option) -> str:
    sources = {c.candidate.source for c in option.indexes}
    if option.form.rewrite is not None:
        sources.add(option.form.rewrite.source)
    return next((s for s in ("llm", "plugin") if s in sources), "rule")


def _bytes(option: Option) -> int:
    return sum(index.storage_bytes for index in option.indexes)
