"""The built-in renderers of a report.

Formats: `text` (plain, for files and pipes), `terminal` (the same with colours, as wide as the terminal) and
`markdown`.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from optimizer.hooks import hookimpl
from plugins.renderers.markdown import markdown
from plugins.renderers.text import text

if TYPE_CHECKING:
    from optimizer.advice import Report

#: Columns of prose where no terminal says otherwise; SQL is never wrapped.
PLAIN_WIDTH = 100


@hookimpl
def planproof_render(report: Report, format: str) -> str | None:
    """Print a report in one of the formats above."""
    match format:
        case "text":
            return text(report, width=PLAIN_WIDTH, colours=False)
        case "terminal":
            return text(report, width=min(shutil.get_terminal_size().columns, 120), colours=True)
        case "markdown":
            return markdown(report)
        case _:
            return None
