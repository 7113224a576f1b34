"""Options that more than one command of `planproof shadow` takes."""

from __future__ import annotations

from typing import Annotated

import typer

Redact = Annotated[
    list[str] | None,
    typer.Option(
        "--redact-statistics",
        metavar="COLUMNS",
        help="Leave values out of the statistics: table.column,... or text (all columns that may hold text), or all; "
        "none ends an earlier redaction. Estimates there get coarser; `shadow show` says how.",
        show_default=False,
    ),
]
OnlyReadable = Annotated[
    bool | None,
    typer.Option(
        "--only-readable/--all-tables",
        help="Leave out tables that the role may not read, instead of failing.",
        show_default=False,
    ),
]
Role = Annotated[
    str | None,
    typer.Option(
        metavar="ROLE",
        help="Plan as this role of the source does: its rights, row-level security and settings. By default the role "
        "of the connection.",
        show_default=False,
    ),
]
