"""What a rule is.

A rule is one small class in one file. Its docstring is its documentation: the sections below become the catalogue page,
and a rule without them fails the tests. It does no I/O, never mutates what it is given, and does not decide whether its
candidate is good: the pipeline plans and checks every candidate.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from sqlglot import exp

from optimizer.candidate import IndexCandidate, Rewrite
from optimizer.catalog import Catalog
from optimizer.plan import Plan
from optimizer.query import Query, render

RuleKind = Literal["rewrite", "index", "schema"]

#: Sections of a rule's docstring, in order, each introduced by a line `## <title>`.
SECTIONS = ("What it does", "Why it is slow", "Example", "Use instead", "Preconditions")


@dataclass(frozen=True, slots=True)
class RuleDoc:
    """A rule's documentation, read from its docstring."""

    summary: str
    what: str
    why: str
    example: str
    instead: str
    preconditions: str

    @classmethod
    @cache
    def of(cls, rule: type[Rule]) -> RuleDoc:
        """Read the docstring of a rule class.

        Errors: `ValueError` naming the class and the section that is missing.
        """
        text = inspect.cleandoc(rule.__doc__ or "")
        summary, *rest = re.split(r"^## +(.+)$", text, flags=re.MULTILINE)
        sections = {rest[i].strip(): rest[i + 1].strip() for i in range(0, len(rest), 2)}
        for title in SECTIONS:
            if not sections.get(title):
                raise ValueError(f"{rule.__name__}: its docstring lacks the section '## {title}'")
        if not summary.strip():
            raise ValueError(f"{rule.__name__}: its docstring lacks a summary line")
        return cls(summary.strip(), *(sections[title] for title in SECTIONS))


class Rule(ABC):
    """The root of all rules.

    Class attributes:
        code: `RW` (rewrite), `IX` (index) or `SC` (schema) and three digits; a plugin brings a prefix of its own.
        name: the transformation in kebab-case.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    kind: ClassVar[RuleKind]
    source: ClassVar[str] = "rule"

    @property
    def doc(self) -> RuleDoc:
        """The rule's documentation."""
        return RuleDoc.of(type(self))


@dataclass(frozen=True, slots=True)
class Match:
    """One place where a rule's pattern and preconditions hold.

    Parameters:
        node: the node of the query's tree that the rule will change or stand at.
        parts: whatever else `apply` needs: nodes of the same tree and plain values.
    """

    node: exp.Expr
    parts: Any = None


class RewriteRule(Rule):
    """A rule that offers the same query in another form."""

    kind: ClassVar[RuleKind] = "rewrite"
    #: PostgreSQL does this itself from that `server_version_num` on; the rule is silent there. None: never.
    superseded_in: ClassVar[int | None] = None

    @abstractmethod
    def match(self, tree: exp.Expr, catalog: Catalog) -> Iterable[Match]:
        """Yield every place in the statement where pattern and preconditions hold."""

    @abstractmethod
    def apply(self, match: Match, catalog: Catalog) -> exp.Expr:
        """Return the whole rewritten statement as a new tree (see `copied`)."""

    def rewrites(self, query: Query, catalog: Catalog) -> Iterator[Rewrite]:
        """Yield one rewrite for each match; nothing for statements that can't be printed back unchanged."""
        superseded = self.superseded_in is not None and catalog.server_version_num >= self.superseded_in
        if query.tree is None or superseded:
            return
        for match in self.match(query.tree, catalog):
            sql = render(self.apply(match, catalog))
            yield Rewrite(sql=sql, rules=(self.code,), title=self.doc.summary, why=self.doc.why, source=self.source)


class IndexRule(Rule):
    """A rule that proposes indexes for a query."""

    kind: ClassVar[RuleKind] = "index"

    @abstractmethod
    def propose(self, query: Query, catalog: Catalog, plan: Plan) -> Iterable[IndexCandidate]:
        """Yield index candidates; existing indexes and repeats are taken out later."""


def copied(*nodes: exp.Expr) -> tuple[exp.Expr, ...]:
    """Copy the whole tree that `nodes` stand in.

    Parameters:
        nodes: nodes of one tree.

    Returns: the copy's root, then the copies of `nodes` in order. They may be changed freely.
    """
    root = nodes[0].root()
    duplicate = root.copy()
    wanted = {id(node) for node in nodes}
    copies = {id(a): b for a, b in zip(root.walk(), duplicate.walk(), strict=True) if id(a) in wanted}
    return (duplicate, *(copies[id(node)] for node in nodes))


def replaced(node: exp.Expr, replacement: exp.Expr) -> exp.Expr:
    """Return a copy of the tree with `node` replaced; `replacement` is not copied."""
    root, target = copied(node)
    if target is root:
        return replacement
    target.replace(replacement)
    return root
