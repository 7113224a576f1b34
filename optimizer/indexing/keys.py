"""Index keys for one use of a table: which columns, in which order, and how promising.

The order of columns follows "three-star" design (Lahdenmaeki and Leach, *Relational Database Index Design and the
Optimizers*, 2005): columns fixed by equality first, then the order that is wanted or one range, then what else is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from sqlglot import exp

from optimizer.catalog import IndexColumn
from optimizer.dialect import PlanproofPostgres
from optimizer.indexing.selectivity import DEFAULT_CLOSED_RANGE, DEFAULT_EQUALITY, DEFAULT_RANGE
from optimizer.indexing.table_use import Condition, JoinKey, Ordering, TableUse

MAX_WIDTH = 4
#: An index that leaves more rows than this share is not read through, by PostgreSQL's random page cost.
_MAX_SHARE = 0.5
_MAX_QUOTED = 90


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One key column and what it serves.

    Parameters:
        role: the end of a sentence that begins with the column's name.
        node: the condition that the sentence ends with, None without.
    """

    column: IndexColumn
    role: str
    node: exp.Expr | None = None

    @property
    def serves(self) -> str:
        """The whole end of the sentence."""
        return f"{self.role} {quoted(self.node)}" if self.node is not None else self.role


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The key columns of an index that would serve a use of a table.

    Parameters:
        parts: in order.
        share: estimated share of rows that is read through it, 0 to 1.
        free: how many leading parts may change places.
        ordered: True when directions matter.
        include: columns stored beside the keys.
        predicate: WHERE of a partial index.
        remark: a sentence more on why.
    """

    use: TableUse
    parts: tuple[KeyPart, ...]
    share: float
    free: int = 0
    ordered: bool = False
    include: tuple[str, ...] = ()
    predicate: str | None = None
    remark: str = ""

    @property
    def columns(self) -> tuple[IndexColumn, ...]:
        """The key columns alone."""
        return tuple(part.column for part in self.parts)

    @property
    def score(self) -> float:
        """How much reading the index may save, in rows; only good for comparing."""
        return max(self.use.table.rows, self.use.table.pages, 1.0) * (1 - self.share)


def search_keys(use: TableUse) -> Iterator[Keys]:
    """Yield keys that find the rows by the use's own conditions, widest first."""
    if finds_one_row(use):
        return
    for conditions in (use.conditions, *((*use.conditions, *arm) for arm in use.alternatives)):
        yield from _search(use, conditions)


def join_keys(use: TableUse) -> Iterator[Keys]:
    """Yield keys that find the rows for one row of a join partner, alone and with the use's own conditions."""
    if finds_one_row(use):
        return
    equalities, bound = _equalities(use.conditions), _range(use.conditions)
    partners: dict[str, list[JoinKey]] = {}
    for join in use.joins:
        known = partners.setdefault(join.partner, [])
        if all(j.key != join.key for j in known):
            known.append(join)
    for joins in partners.values():
        parts = [_join_part(j) for j in joins[:MAX_WIDTH]]
        share = prod(1 / j.distinct if j.distinct else DEFAULT_EQUALITY for j in joins[:MAX_WIDTH])
        columns = {p.column for p in parts}
        fixed = [_condition_part(c) for c in equalities if c.key not in columns][: MAX_WIDTH - len(parts)]
        yield Keys(use, tuple(parts), share, free=len(parts))
        for part, join in zip(parts, joins, strict=False) if len(parts) > 1 else ():
            yield Keys(use, (part,), 1 / join.distinct if join.distinct else DEFAULT_EQUALITY)
        if fixed and not unique(use, columns):
            yield Keys(use, (*parts, *fixed), share, free=len(parts) + len(fixed))
            yield Keys(use, (*fixed, *parts), share, free=len(parts) + len(fixed))
        elif bound is not None and bound.key not in columns and len(parts) < MAX_WIDTH and not unique(use, columns):
            yield Keys(use, (*parts, _condition_part(bound)), share, free=len(parts))


def sort_keys(use: TableUse) -> Iterator[Keys]:
    """Yield keys that give the rows in an order that the query wants, after what equality fixes."""
    if finds_one_row(use):
        return
    # IS NULL finds rows, but the planner doesn't see that it leaves the order alone.
    fixing = [c for c in _equalities(use.conditions) if c.single]
    for ordering in use.orderings:
        fixed_names = {c.key.expression for c in fixing}
        wanted = [k for k in ordering.keys if k.expression not in fixed_names]
        if not wanted:
            continue
        sorted_parts = _sort_parts(wanted, ordering)
        first = [_condition_part(c) for c in fixing][:MAX_WIDTH]
        share = prod(_share(c) for c in fixing) if fixing else 1.0
        saved = 0.001 if ordering.limited else 0.5  # sorting is dear, reading all rows in index order is too
        if first:
            yield Keys(use, (*first, *sorted_parts), share * saved, free=len(first), ordered=True)
        if ordering.limited or not first:
            yield Keys(use, tuple(sorted_parts), min(max(saved, 0.01) if first else saved, 1.0), ordered=True)


def finds_one_row(use: TableUse) -> bool:
    """Say whether the conditions fix a unique key, so that an index for them exists already."""
    fixed = (c.key for c in use.conditions if c.kind == "equality" and c.single)
    return unique(use, (key for key in fixed if key.collation is None))  # the key's index has the column's collation


def unique(use: TableUse, columns: Iterable[IndexColumn]) -> bool:
    """Say whether the columns contain a unique key of the table."""
    names = {column.column for column in columns}
    return any(names.issuperset(key) for key in use.table.unique_keys())


def _search(use: TableUse, conditions: Iterable[Condition]) -> Iterator[Keys]:
    known = tuple(conditions)
    equalities, bound = _equalities(known)[:MAX_WIDTH], _range(known)
    if bound is not None and any(c.key.expression == bound.key.expression for c in equalities):
        bound = None
    if bound is not None:
        equalities = equalities[: MAX_WIDTH - 1]
    parts = tuple(_condition_part(c) for c in equalities)
    shares = [_share(c) for c in equalities]
    tail = (_condition_part(bound),) if bound is not None else ()
    range_share = _range_share(known, bound.key) if bound is not None else 1.0
    choices = [Keys(use, (*parts, *tail), prod(shares) * range_share, free=len(parts))]
    if parts and tail:
        choices.append(Keys(use, parts, prod(shares), free=len(parts)))
        choices.append(Keys(use, tail, range_share))
    if len(parts) > 1:
        choices += [Keys(use, (part,), share) for part, share in zip(parts, shares, strict=True)]
    yield from (keys for keys in choices if keys.parts and keys.share <= _MAX_SHARE)


def _equalities(conditions: Iterable[Condition]) -> list[Condition]:
    """One equality for each key, the key with most distinct values first; ties by the column's position."""
    by_key: dict[str, Condition] = {}
    for condition in conditions:
        if condition.kind == "equality":
            known = by_key.get(condition.key.expression)
            if known is None or (condition.single and not known.single):
                by_key[condition.key.expression] = condition
    return sorted(by_key.values(), key=lambda c: (-(c.distinct or 0), _position(c)))


def _range(conditions: Sequence[Condition]) -> Condition | None:
    """The most selective range; ties by position."""
    ranges = [c for c in conditions if c.kind == "range"]
    return min(ranges, key=lambda c: (_range_share(conditions, c.key), _position(c)), default=None)


def _range_share(conditions: Iterable[Condition], key: IndexColumn) -> float:
    """The share that all ranges on one key keep together (`clauselist_selectivity` pairs them alike)."""
    ranges = [c for c in conditions if c.kind == "range" and c.key == key]
    shares = [c.selectivity for c in ranges if c.selectivity is not None]
    if len(shares) < len(ranges):
        return DEFAULT_CLOSED_RANGE if len(ranges) > 1 else DEFAULT_RANGE
    return max(sum(shares) - (len(shares) - 1), 1e-9)


def _share(condition: Condition) -> float:
    return DEFAULT_EQUALITY if condition.selectivity is None else condition.selectivity


def _position(condition: Condition) -> int:
    return condition.column.position if condition.column is not None else 0


def _sort_parts(wanted: list[IndexColumn], ordering: Ordering) -> list[KeyPart]:
    """The order, or its reverse where that is plain ascending: an index is read in both directions."""
    turned = [replace(k, descending=not k.descending, nulls_first=not k.nulls_first) for k in wanted]
    backwards = not any(k.descending or k.nulls_first for k in turned)
    gain = "so that the first rows are read without sorting" if ordering.limited else "so that nothing is sorted"
    end = f"{' when read backwards' if backwards else ''}, {gain}"
    roles = ["continues it"] * len(wanted)
    roles[0] = f"{'begins' if len(wanted) > 1 else 'gives'} the order of {ordering.clause}"
    roles[-1] += end
    return [KeyPart(k, role) for k, role in zip(turned if backwards else wanted, roles, strict=True)]


def _condition_part(condition: Condition) -> KeyPart:
    verb = "bounded" if condition.kind == "range" else "fixed"
    return KeyPart(condition.key, f"is {verb} by", condition.node)


def _join_part(join: JoinKey) -> KeyPart:
    return KeyPart(join.key, f"is looked up for each row of {join.partner} by", join.node)


def quoted(node: exp.Expr) -> str:
    """A condition's text, shortened for a sentence."""
    text = " ".join(node.sql(dialect=PlanproofPostgres).split())
    return f"`{text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + '...'}`"
