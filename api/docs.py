"""Writes `docs/rules.md` out of the rules' own docstrings.

python -m api.docs rules > docs/rules.md
python -m api.docs rules --check      # exit status 1 when the file is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from api.views import documentation
from optimizer.rule import Rule
from rules import planproof_rules

RULES_PAGE = Path(__file__).resolve().parent.parent / "docs" / "rules.md"
_KINDS = {"rewrite": "Rewrites", "index": "Indexes", "schema": "Schema"}
_INTRODUCTION = """\
# Rules

Every rule that is built in. A rule only proposes: each candidate is planned on the shadow, and becomes advice only if
it is cheaper there and, for a rewrite, if the equivalence gate finds no difference. `planproof rules` prints this
list, `--disable CODE` leaves a rule out.

This page is generated from the rules' docstrings.
"""


def rules_page(rules: Iterable[Rule]) -> str:
    """The catalogue of rules as Markdown, ordered by kind and code."""
    ordered = sorted(rules, key=lambda rule: (list(_KINDS).index(rule.kind), rule.code))
    return "\n".join((_INTRODUCTION, *_contents(ordered), *_sections(ordered))).rstrip() + "\n"


def _contents(rules: list[Rule]) -> Iterator[str]:
    yield "| code | name | what it does |\n| --- | --- | --- |"
    for rule in rules:
        summary = documentation(rule).summary.replace("|", "\\|")
        yield f"| [{rule.code}](#{_anchor(rule)}) | {rule.name} | {summary} |"
    yield ""


def _sections(rules: list[Rule]) -> Iterator[str]:
    kind = ""
    for rule in rules:
        if rule.kind != kind:
            kind = rule.kind
            yield f"## {_KINDS[kind]}\n"
        doc = documentation(rule)
        yield f"### {rule.code} {rule.name}\n\n**{doc.summary}.** {doc.what}\n"
        for title, text in (
            ("Why it is slow", doc.why),
            ("Example", doc.example),
            ("Use instead", doc.instead),
            ("Preconditions", doc.preconditions),
        ):
            yield f"*{title}*\n\n{text}\n"


def _anchor(rule: Rule) -> str:
    """The anchor that GitHub gives a heading of code and name."""
    return f"{rule.code} {rule.name}".lower().replace(" ", "-")


def main(arguments: list[str]) -> int:
    """Print the page, or with `--check` compare it with the file."""
    if not arguments or arguments[0] != "rules" or arguments[1:] not in ([], ["--check"]):
        sys.stderr.write("usage: python -m api.docs rules [--check]\n")
        return 2
    page = rules_page(planproof_rules())
    if not arguments[1:]:
        sys.stdout.write(page)
        return 0
    if RULES_PAGE.is_file() and RULES_PAGE.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write("docs/rules.md is out of date: run `python -m api.docs rules > docs/rules.md`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
