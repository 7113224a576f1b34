"""Asks a language model for rewrites and indexes, when a request says so.

What it proposes is only ever a candidate: it is planned, judged and ranked as a rule's candidate is. Any endpoint with
OpenAI's chat completions will do; see docs/llm.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimizer.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping, Sequence

    from optimizer.advice import Advice, Finding, Rejection
    from optimizer.candidate import Candidate
    from optimizer.catalog import Catalog
    from optimizer.clock import Deadline
    from optimizer.pipeline import Options
    from optimizer.plan import Plan
    from optimizer.query import Query


@hookimpl
def planproof_propose(
    query: Query,
    catalog: Catalog,
    plan: Plan,
    options: Options,
    found: Sequence[Advice],
    feedback: Sequence[Rejection],
    memory: MutableMapping[str, Any],
    deadline: Deadline,
) -> Iterable[Candidate | Finding | Rejection]:
    """Ask the model, if the request wants it.

    Errors: `InputError` when it wants it and no model is configured.
    """
    if not options.llm:
        return ()
    from plugins.llm_advisor.advisor import Advisor  # noqa: PLC0415 - its imports are not for requests without a model

    if "advisor" not in memory:
        memory["advisor"] = Advisor.begin(query, catalog, plan, found)
    advisor: Advisor = memory["advisor"]
    return advisor.ask(feedback, deadline)


@hookimpl
def planproof_cache_key() -> str:
    """Name the model, how it is asked, and the words of the prompt."""
    from plugins.llm_advisor.prompt import PROMPT_VERSION  # noqa: PLC0415 - as above
    from plugins.llm_advisor.settings import LlmSettings  # noqa: PLC0415 - as above

    return f"{PROMPT_VERSION} {LlmSettings.identity()}"
