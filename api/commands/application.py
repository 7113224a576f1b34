"""The command line as a whole: `planproof`.

Exit status: 0 done, 1 refuted, 2 usage, 3 bad input, 4 shadow unreachable or out of time, 5 unknown, 70 a defect of
planproof, 130 interrupted, 141 the reader of our output went away. Every error is one line on standard error.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from api.commands.equivalent import equivalent
from api.commands.explain import explain
from api.commands.optimize import optimize
from api.commands.rules import rules
from api.commands.serve import serve
from api.commands.shadow import shadow
from api.commands.store import store
from api.commands.worker import worker
from api.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED, problem_of
from api.terminal import PipeClosedError, complain, emit, show_warnings
from optimizer.errors import PlanproofError
from optimizer.hooks import Plugins

_ABOUT = "Proven advice for slow PostgreSQL queries: rewrites that return the same rows, and indexes."
_HELP = {"help_option_names": ["-h", "--help"]}


def run() -> int:
    """Run the command line and return its exit status; no exception leaves."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character gets an escape, never an error
            stream.reconfigure(errors="backslashreplace")
    try:
        show_warnings()
        build()(prog_name="planproof")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except PlanproofError as error:
        complain(str(error))
        return problem_of(error).exit_status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (PipeClosedError, BrokenPipeError):
        # The interpreter flushes standard output once more at its end; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the outermost edge: a user never sees a traceback
        return _defect(error)
    return 0


def build() -> typer.Typer:
    """Put the commands together, those of plugins included."""
    app = typer.Typer(
        name="planproof",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=_HELP,
        rich_markup_mode="rich",
    )
    app.callback(help=_ABOUT)(_options)
    for command in (optimize, equivalent, explain):
        app.command(rich_help_panel="Queries")(command)
    app.add_typer(shadow, name="shadow", rich_help_panel="Shadows")
    app.command(rich_help_panel="Rules and servers")(rules)
    app.command(rich_help_panel="Rules and servers")(serve)
    app.command(rich_help_panel="Rules and servers")(worker)
    app.add_typer(store, name="store", rich_help_panel="Rules and servers")
    _add_plugins(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        emit(f"planproof {version('planproof')}")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """The options of `planproof` itself."""


def _add_plugins(app: typer.Typer) -> None:
    """Add the plugins' commands; none of them may take the name of another."""
    offered = typer.Typer()
    for _ in Plugins().collect("planproof_commands", cli=offered):
        pass  # the hook has no result
    taken = {_name(command) for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for command in offered.registered_commands:
        if _free(_name(command), taken):
            app.registered_commands.append(command)
    for group in offered.registered_groups:
        if _free(group.name, taken):
            app.registered_groups.append(group)


def _name(command: typer.models.CommandInfo) -> str | None:
    if command.name or command.callback is None:
        return command.name
    return command.callback.__name__.replace("_", "-")


def _free(name: str | None, taken: set[str | None]) -> bool:
    if name in taken:
        complain(f"a plugin's command {name} was left out: the name is taken", level="warning: ")
        return False
    taken.add(name)
    return True


def _defect(error: Exception) -> int:
    if os.environ.get("PLANPROOF_DEBUG"):
        traceback.print_exception(error)
    complain(
        f"a defect of planproof ({type(error).__name__}: {error}); please report it with what PLANPROOF_DEBUG=1 shows"
    )
    return EXIT_INTERNAL
