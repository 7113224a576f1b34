"""Numbers and texts as people read them."""

from __future__ import annotations

import re

from optimizer.advice import Advice, Comparison, Evidence
from optimizer.equivalence.verdict import Equivalence, Verdict

#: Control characters, and marks that reorder what a terminal shows; a tab and a newline are fine.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNITS = ("kB", "MB", "GB", "TB", "PB")


def visible(text: str) -> str:
    """Spell out characters that would move the cursor, colour or reorder text on a terminal."""
    return _INVISIBLE.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text that was wrapped at some width, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def number(value: float) -> str:
    """A cost or a count: thousands separated, two decimals below 1,000."""
    return f"{value:,.2f}" if abs(value) < 1_000 and value != int(value) else f"{value:,.0f}"


def size(count: int) -> str:
    """Bytes in PostgreSQL's units (1 kB is 1,024 bytes)."""
    if count < 1_024:
        return f"{count} bytes"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    value, unit = count / 1_024**power, _UNITS[power - 1]
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def milliseconds(value: float) -> str:
    """A time in ms below a second, else in s."""
    return f"{value:,.1f} ms" if value < 1_000 else f"{value / 1_000:,.2f} s"


def gain(before: float, after: float, better: str = "cheaper", worse: str = "dearer") -> str:
    """How two costs or times compare: `12.3x cheaper`."""
    if before == after:
        return "no change"
    if after <= 0 or before <= 0:
        return better if after < before else worse
    ratio, word = (before / after, better) if after < before else (after / before, worse)
    return f"{ratio:,.0f}x {word}" if ratio >= 100 else f"{ratio:.3g}x {word}"


def cost_line(cost: Comparison) -> str:
    """Cost before and after in one line."""
    unit = {"planner": "planner units", "steps": "virtual machine steps", "ru": "request units"}[cost.unit]
    before, after = cost.before.total_cost, cost.after.total_cost
    return f"{number(before)} -> {number(after)} {unit} ({gain(before, after)})"


def evidence_line(advice: Advice) -> str:
    """How the gain is known."""
    match advice.evidence:
        case Evidence.MEASURED if advice.measured is not None:
            before, after = advice.measured.before_ms, advice.measured.after_ms
            speed = gain(before, after, "faster", "slower")
            return f"measured: executed, {milliseconds(before)} -> {milliseconds(after)} ({speed})"
        case Evidence.MEASURED:
            return "measured: executed on a shadow that holds rows"
        case Evidence.ESTIMATED:
            return "estimated: planned on the shadow, not executed"
        case Evidence.STATIC:
            return "static: a rule of thumb, nothing was planned"


def equivalence_line(verdict: Verdict | None) -> str:
    """What is known of the rewrite's rows, and how it is known."""
    if verdict is None:
        return "not needed: an index changes no rows"
    databases = f"{verdict.databases:,} generated database{'' if verdict.databases == 1 else 's'}"
    match verdict.verdict:
        case Equivalence.PROVED:
            how = f"the same rows for all databases, by {verdict.method}"
        case Equivalence.BOUNDED:
            how = f"no counterexample up to {verdict.bound} rows a table, by {verdict.method}"
        case Equivalence.TESTED:
            how = f"the same rows on {databases}, by {verdict.method}"
        case Equivalence.REFUTED:
            how = f"different rows, by {verdict.method} after {databases}"
        case Equivalence.UNKNOWN:
            how = f"neither shown nor refuted, by {verdict.method} over {databases}"
    detail = verdict.detail.rstrip(".")
    return f"{verdict.verdict}: {how}{f' ({detail})' if detail else ''}"


def rows_line(rows: tuple[tuple[str | None, ...], ...], limit: int = 4) -> str:
    """Rows of a counterexample, NULL spelled out, the rest counted."""
    shown = ", ".join("(" + ", ".join("NULL" if v is None else v for v in row) + ")" for row in rows[:limit])
    more = f" and {len(rows) - limit:,} more" if len(rows) > limit else ""
    return f"{shown}{more}" if rows else "no rows"
