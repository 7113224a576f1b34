"""Writes the generated pages: `docs/rules.md` out of the rules' docstrings, `docs/settings.md` out of the settings.

python -m api.docs rules > docs/rules.md
python -m api.docs settings --check     # exit status 1 when docs/settings.md is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from api.settings_page import settings_page
from api.views import documentation
from optimizer.rule import Rule
from rules import planproof_rules

_FOLDER = Path(__file__).resolve().parent.parent / "docs"
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


_PAGES: dict[str, Callable[[], str]] = {
    "rules": lambda: rules_page(planproof_rules()),
    "settings": settings_page,
}


def main(arguments: list[str]) -> int:
    """Print a page, or with `--check` compare it with its file."""
    if not arguments or arguments[0] not in _PAGES or arguments[1:] not in ([], ["--check"]):
        sys.stderr.write(f"usage: python -m api.docs {'|'.join(_PAGES)} [--check]\n")
        return 2
    name = arguments[0]
    page = _PAGES[name]()
    if not arguments[1:]:
        sys.stdout.write(page)
        return 0
    file = _FOLDER / f"{name}.md"
    if file.is_file() and file.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write(f"docs/{name}.md is out of date: run `make docs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
