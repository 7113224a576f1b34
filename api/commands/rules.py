"""`planproof rules`: the catalogue of rules."""

from __future__ import annotations

from typing import Annotated

import typer

from api.commands.options import AsJson
from api.docs import rules_page
from api.terminal import emit, emit_json
from api.views import documentation, rule_view
from optimizer.hooks import Plugins
from optimizer.rule import Rule
from plugins.renderers.words import visible


def rules(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the whole catalogue as Markdown.")] = False,
) -> None:
    """List all rules: those that are built in, and those of plugins."""
    found = Plugins().rules()
    if as_json:
        emit_json([rule_view(rule) for rule in found])
    elif markdown:
        emit(rules_page(found))
    else:
        emit("\n".join(_line(rule, found) for rule in found))


def _line(rule: Rule, found: tuple[Rule, ...]) -> str:
    width = max(len(r.name) for r in found)
    return visible(f"{rule.code:<7} {rule.kind:<8} {rule.name:<{width}}  {documentation(rule).summary}")
