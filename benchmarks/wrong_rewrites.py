"""Rewrites that are wrong for certain: mutations as a careless rewriter makes them, each seen to differ on real rows.

Statements come from fixtures/ and from the random statements of tests/sql_fuzzer.py. A mutation counts when an oracle
that shares nothing with the gate (tests/fuzz_oracle.py) finds a database of random rows on which it returns other rows,
rows in another order, or an error. Those that the fixtures call wrong count as they are: a test replays each.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from fuzz_oracle import Oracle
from sql_fuzzer import SqlFuzzer, Statement
from sqlglot import exp

from optimizer.canonical import canonical
from optimizer.errors import SqlError
from optimizer.query import Query, parse_expression, render

FIXTURES = Path(__file__).parents[1] / "fixtures"
_FLIPPED = {exp.GT: exp.GTE, exp.GTE: exp.GT, exp.LT: exp.LTE, exp.LTE: exp.LT}


@dataclass(frozen=True, slots=True)
class Wrong:
    """A wrong rewrite.

    Parameters:
        mutation: what was done, or the fixture's name for it.
        original, rewrite: the statements.
        ddl: more of the schema, where the case brings some.
        seen: how the answers differed.
    """

    mutation: str
    original: str
    rewrite: str
    seen: str
    ddl: str = ""


def known_wrong() -> Iterator[Wrong]:
    """What the fixtures call wrong: pairs to be refuted, and the near misses of rules."""
    for path in sorted((FIXTURES / "equivalence").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        for pair in document["pairs"]:
            if pair["verdict"] == "refuted" and document["schema"] == "shop":
                yield Wrong(pair["name"], pair["left"], pair["right"], "fixture", pair.get("extra", ""))
    for path in sorted((FIXTURES / "rules").rglob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        for case in (*document.get("expect", ()), *document.get("expect-not", ())):
            wrong = case.get("wrong")
            if wrong and case.get("schema", document.get("schema")) == "shop":
                yield Wrong(f"{path.stem}: {case['name']}", case["sql"], wrong, "fixture")


def mutated(oracle: Oracle, seed: int, wanted: int) -> list[Wrong]:
    """Make `wanted` mutations that differ, no mutation much more often than another.

    Parameters:
        oracle: knows whether they differ.
        seed: of the random statements.
        wanted: how many.
    """
    found: list[Wrong] = []
    used: dict[str, int] = {}
    tried: set[object] = set()
    for statement in _statements(seed):
        if len(found) >= wanted:
            break
        query = _parsed(statement.sql)
        if query is None or query.tree is None or not oracle.accepts(query.sql):
            continue
        before = oracle.originals(statement)
        some = [(name, sql) for name, sql in mutations(query.tree) if used.get(name, 0) <= wanted // 20]
        random.Random(len(found)).shuffle(some)
        for name, sql in sorted(some, key=lambda m: used.get(m[0], 0))[:12]:
            key = _key(sql)
            if key is None or key in tried or not oracle.accepts(sql):
                continue
            tried.add(key)
            difference = oracle.difference(statement, before, sql)
            if difference is not None and difference[0] != "columns":  # other columns are too easy to see
                used[name] = used.get(name, 0) + 1
                found.append(Wrong(name, query.sql, sql, f"{difference[0]}: {difference[1]}"))
    return found[:wanted]


def _statements(seed: int) -> Iterator[Statement]:
    for path in sorted((FIXTURES / "equivalence").glob("equal.yaml")):
        for pair in yaml.safe_load(path.read_text())["pairs"]:
            if "extra" not in pair and "LIMIT" not in pair["left"].upper() and "$" not in pair["left"]:
                yield Statement(pair["left"])
    for path in sorted((FIXTURES / "rules" / "rewrite").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        for case in document["expect"]:
            plain = "LIMIT" not in case["sql"].upper() and "$" not in case["sql"]
            if plain and case.get("schema", document["schema"]) == "shop":
                yield Statement(case["sql"])
    chance = random.Random(seed)
    for _ in range(5_000):
        yield SqlFuzzer(chance).statement()


def _parsed(sql: str) -> Query | None:
    try:
        return Query.parse(sql)
    except SqlError:
        return None


def _key(sql: str) -> object:
    try:
        return canonical(sql)
    except SqlError:
        return None


def mutations(tree: exp.Expr) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every mutation of a statement, one change each."""
    for place, node in enumerate(tree.walk()):
        for name, change in _changes(node):
            copy = tree.copy()
            target = next(n for at, n in enumerate(copy.walk()) if at == place)
            replaced = change(target)
            if replaced is not None and replaced is not target:
                if target is copy:
                    copy = replaced
                else:
                    target.replace(replaced)
            yield name, render(copy)


Change = Callable[[exp.Expr], exp.Expr | None]


def _changes(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    """What can be done to a node. A change returns what stands in its place, or None after changing it itself."""
    for changes in (_of_conditions, _of_literals, _of_joins, _of_aggregates, _of_statements, _of_types):
        yield from changes(node)


def _of_conditions(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    match node:
        case exp.And():
            yield "a condition dropped", lambda n: n.this
            yield "the other condition dropped", lambda n: n.expression
            yield "AND to OR", lambda n: exp.paren(exp.Or(this=n.this, expression=n.expression))
        case exp.Or():
            yield "an alternative dropped", lambda n: n.this
            yield "OR to AND", lambda n: exp.paren(exp.And(this=n.this, expression=n.expression))
        case exp.GT() | exp.GTE() | exp.LT() | exp.LTE():
            yield "off by one at a bound", lambda n: _FLIPPED[type(n)](this=n.this, expression=n.expression)
        case exp.EQ():
            yield "= to IS NOT DISTINCT FROM", lambda n: exp.NullSafeEQ(this=n.this, expression=n.expression)
        case exp.NEQ():
            yield "<> to IS DISTINCT FROM", lambda n: exp.NullSafeNEQ(this=n.this, expression=n.expression)
        case exp.Between():
            yield "BETWEEN without its end", _half_open
        case exp.Not(this=exp.In() as inner) if inner.args.get("query"):
            yield "NOT IN to NOT EXISTS", _not_exists
        case exp.Not(this=exp.Exists()):
            yield "NOT EXISTS to EXISTS", lambda n: n.this
        case exp.Not(this=exp.Is() as inner) if isinstance(inner.expression, exp.Null):
            yield "IS NOT NULL to IS NULL", lambda n: n.this
        case exp.Not():
            yield "NOT to IS NOT TRUE", lambda n: exp.Not(this=exp.Is(this=exp.paren(n.this), expression=exp.true()))
        case exp.Is() if isinstance(node.expression, exp.Null):
            yield "IS NULL to IS NOT NULL", lambda n: exp.Not(this=n.copy())
        case exp.Like():
            yield "a pattern loosened", lambda n: exp.Like(this=n.this, expression=_loosened(n.expression))
            yield "LIKE to ILIKE", lambda n: exp.ILike(this=n.this, expression=n.expression)


def _of_literals(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdigit():
        limit = isinstance(node.parent, (exp.Limit, exp.Offset, exp.Fetch))
        name = "LIMIT off by one" if limit else "a number off by one"
        yield name, lambda n: exp.Literal.number(int(n.this) + 1)
    elif isinstance(node, exp.Literal) and node.is_string:
        text = str(node.this)
        if len(text) >= 10 and text[4:5] == "-" and text[:4].isdigit() and text[8:10] in ("01", "02", "05", "10", "28"):
            day = {"01": "02", "02": "03", "05": "06", "10": "11", "28": "27"}[text[8:10]]
            yield "a date off by one", lambda n: exp.Literal.string(f"{text[:8]}{day}{text[10:]}")
        elif text == "1 day":
            yield "a day to 24 hours", lambda n: exp.Literal.string("24 hours")


def _of_joins(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    if not isinstance(node, exp.Join):
        return
    side = str(node.args.get("side") or "").upper()
    if side in ("LEFT", "FULL"):
        yield f"{side} JOIN to inner", lambda n: n.set("side", None)
    if side == "FULL":
        yield "FULL JOIN to LEFT", lambda n: n.set("side", "LEFT")
    if not side and node.args.get("on") and not node.args.get("kind"):
        yield "inner join to LEFT", lambda n: n.set("side", "LEFT")
    if side == "LEFT" and isinstance(node.args.get("on"), exp.And):
        yield "ON moved to WHERE", _on_to_where
    if isinstance(node.parent, exp.Select) and node.args.get("on"):
        yield "a join's condition dropped", lambda n: n.set("on", exp.true())


def _of_aggregates(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    match node:
        case exp.Count(this=exp.Star()):
            column = next((c for c in (node.find_ancestor(exp.Select) or node).find_all(exp.Column)), None)
            if column is not None:
                yield "count(*) to count(x)", lambda n: exp.Count(this=column.copy())
        case exp.Count(this=exp.Distinct() as inner):
            yield "count(DISTINCT x) to count(x)", lambda n: exp.Count(this=inner.expressions[0].copy())
        case exp.Count():
            yield "count(x) to count(*)", lambda n: exp.Count(this=exp.Star())
        case exp.Sum():
            yield (
                "sum() to coalesce(sum(), 0)",
                lambda n: exp.Coalesce(this=n.copy(), expressions=[exp.Literal.number(0)]),
            )
            yield "sum() to sum(DISTINCT)", lambda n: exp.Sum(this=exp.Distinct(expressions=[n.this]))
        case exp.Min():
            yield "min() to max()", lambda n: exp.Max(this=n.this)
        case exp.Max():
            yield "max() to min()", lambda n: exp.Min(this=n.this)
        case exp.Avg():
            yield (
                "avg() to sum() / count(*)",
                lambda n: exp.paren(exp.Div(this=exp.Sum(this=n.this.copy()), expression=exp.Count(this=exp.Star()))),
            )
        case exp.Filter():
            yield "FILTER dropped", lambda n: n.this
        case exp.Coalesce() if node.expressions:
            yield "COALESCE dropped", lambda n: n.this
            yield (
                "COALESCE the other way",
                lambda n: exp.Coalesce(this=n.expressions[0].copy(), expressions=[n.this.copy()]),
            )
        case exp.Case() if node.args.get("default"):
            yield "ELSE dropped", lambda n: n.set("default", None)


def _of_statements(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    match node:
        case exp.Union() | exp.Intersect() | exp.Except():
            kind = type(node).__name__.upper()
            distinct = bool(node.args.get("distinct"))
            yield f"{kind} to {kind} ALL and back", lambda n: n.set("distinct", not distinct)
            if kind == "EXCEPT":
                yield "EXCEPT to its left side", lambda n: n.this
        case exp.Select():
            for part, name in (
                ("distinct", "DISTINCT"),
                ("where", "WHERE"),
                ("having", "HAVING"),
                ("order", "ORDER BY"),
            ):
                if node.args.get(part):
                    yield f"{name} dropped", lambda n, part=part: n.set(part, None)
            if not node.args.get("distinct") and not node.args.get("group"):
                yield "DISTINCT added", lambda n: n.set("distinct", exp.Distinct())
            if node.args.get("limit"):
                yield "LIMIT dropped", lambda n: n.set("limit", None)
            if node.args.get("offset"):
                yield "OFFSET dropped", lambda n: n.set("offset", None)
            group = node.args.get("group")
            if group is not None and len(group.expressions) > 1:
                yield "a group's column dropped", lambda n: n.args["group"].expressions.pop()
        case exp.Ordered():
            yield "the order reversed", lambda n: n.set("desc", not n.args.get("desc"))
            yield "NULLs to the other end", lambda n: n.set("nulls_first", not n.args.get("nulls_first"))


def _of_types(node: exp.Expr) -> Iterator[tuple[str, Change]]:
    match node:
        case exp.Cast():
            to = node.to.sql("postgres").upper()
            if to == "DATE" and not isinstance(node.this, exp.Literal):
                yield (
                    "a day in another time zone",
                    lambda n: exp.Cast(
                        this=exp.AtTimeZone(this=n.this, zone=exp.Literal.string("Asia/Tokyo")), to=n.to
                    ),
                )
            if not isinstance(node.this, exp.Literal):
                yield "a cast dropped", lambda n: n.this
        case exp.Round():
            yield "rounding dropped", lambda n: n.this
        case exp.Div():
            yield "a division in integers", lambda n: exp.cast(n.copy(), "int")
        case exp.Lower() | exp.Upper() | exp.Trim() | exp.Abs():
            yield "a function dropped", lambda n: n.this
        case exp.TimestampTrunc() | exp.DateTrunc():
            yield "date_trunc dropped", lambda n: n.this


def _half_open(node: exp.Expr) -> exp.Expr:
    low = exp.GTE(this=node.this.copy(), expression=node.args["low"])
    return exp.paren(exp.And(this=low, expression=exp.LT(this=node.this.copy(), expression=node.args["high"])))


def _not_exists(node: exp.Expr) -> exp.Expr | None:
    inner = node.this
    query = inner.args["query"].sql("postgres")
    text = f"NOT EXISTS (SELECT 1 FROM {query} AS wrong (x) WHERE wrong.x = {inner.this.sql('postgres')})"
    return parse_expression(text)


def _loosened(pattern: exp.Expr) -> exp.Expr:
    text = str(pattern.this) if isinstance(pattern, exp.Literal) else ""
    return exp.Literal.string(f"%{text.strip('%')}%") if text else pattern


def _on_to_where(node: exp.Expr) -> None:
    on, select = node.args["on"], node.parent
    if isinstance(select, exp.Select):
        node.set("on", on.this)
        select.where(on.expression, copy=False)
