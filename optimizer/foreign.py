"""SQL of other databases, recognised after PostgreSQL's grammar has refused it, so that the error can say so."""

from __future__ import annotations

import re

_MARKS = (
    (re.compile(r"`[^`\n]+`|\bAUTO_INCREMENT\b|\bENGINE\s*=", re.IGNORECASE), "MySQL"),
    (
        re.compile(
            r"\[dbo\]|\[\w+\]\.\[\w+\]|\bIDENTITY\s*\(|\bNVARCHAR\b|^GO\s*$|\bSELECT\s+TOP\b|\bWITH\s*\(\s*NOLOCK\b",
            re.IGNORECASE | re.MULTILINE,
        ),
        "SQL Server",
    ),
    (re.compile(r"\bPRAGMA\b|\bAUTOINCREMENT\b", re.IGNORECASE), "SQLite"),
    (re.compile(r"\bVARCHAR2\b|\bNUMBER\s*\(|\(\+\)|\bCONNECT\s+BY\b", re.IGNORECASE), "Oracle"),
)


def dialect_hint(statement: str) -> str:
    """Say what other database a refused statement seems to be for; nothing when it can't be told."""
    name = next((name for mark, name in _MARKS if mark.search(statement)), None)
    return f"; this looks like {name}, and planproof reads PostgreSQL's SQL" if name else ""
