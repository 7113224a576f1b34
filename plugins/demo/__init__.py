"""`planproof demo`: the main job on a bundled e-commerce database, with the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.hooks import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def planproof_commands(cli: typer.Typer) -> None:
    """Add the `demo` command."""
    from plugins.demo.command import demo  # noqa: PLC0415 - the demo's imports are not for every start

    cli.command("demo")(demo)
