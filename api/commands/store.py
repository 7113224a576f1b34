"""`planproof store`: backup of the store, which holds the jobs."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.settings import read_settings
from api.terminal import emit
from optimizer.shadow.server.cluster import Supervisor

if TYPE_CHECKING:
    from optimizer.store.store import Store

store = typer.Typer(
    help="Back up and restore the store, which holds the jobs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="The dump, in pg_dump's custom format; - is standard output or input.",
        show_default=False,
        allow_dash=True,
    ),
]
_STANDARD = Path("-")


@store.command()
def dump(file: File) -> None:
    """Write the store to FILE. The service may run meanwhile.

    Back up the folder PLANPROOF_HOME/shadows with it, which is where the shadows are.
    """
    with _opened() as opened, _spool() as spool:
        target = spool if file == _STANDARD else file
        importlib.import_module("optimizer.store.backup").dump(opened, target)
        if target == spool:
            with spool.open("rb") as dumped:
                shutil.copyfileobj(dumped, sys.stdout.buffer)
            return
    emit(f"dumped the store to {file}")


@store.command()
def restore(file: File) -> None:
    """Put FILE in the place of what the store holds. The service and its workers must be stopped."""
    with _opened() as opened, _spool() as spool:
        source = spool if file == _STANDARD else file
        if source == spool:
            with spool.open("wb") as sent:
                shutil.copyfileobj(sys.stdin.buffer, sent)
        importlib.import_module("optimizer.store.backup").restore(opened, source)
    emit("restored the store" if file == _STANDARD else f"restored the store from {file}")


@contextmanager
def _spool() -> Iterator[Path]:
    """Yield a path for a file that nobody else can read, and that is deleted."""
    with tempfile.TemporaryDirectory(prefix="planproof-") as folder:
        yield Path(folder) / "store.dump"


@contextmanager
def _opened() -> Iterator[Store]:
    settings = read_settings()
    supervisor = Supervisor(settings)
    # Only here, because SQLAlchemy takes longer to import than most commands run.
    opened: Store = importlib.import_module("optimizer.store.store").Store(settings, supervisor)
    try:
        yield opened
    finally:
        opened.close()
        supervisor.close()
