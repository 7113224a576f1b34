"""Where a request is planned: a registered shadow, or a throw-away one made from DDL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from optimizer.errors import InputError, SqlError, UnknownShadowError
from optimizer.services import Services
from optimizer.shadow.port import ShadowDatabase

DEFAULT_SHADOW = "default"


@contextmanager
def target(services: Services, shadow: str | None, schema: str | None) -> Iterator[ShadowDatabase]:
    """Open what a request is planned on.

    Parameters:
        services: the embedded clusters.
        shadow: the name of a registered shadow.
        schema: DDL text of a throw-away shadow. Neither: the shadow named `default`.

    Errors: `InputError` (both given, bad DDL), `UnknownShadowError`, `ShadowUnavailableError`.
    """
    if shadow is not None and schema is not None:
        raise InputError("both a shadow and a schema were given: give one of them")
    if schema is not None:
        with ExitStack() as use:
            try:
                made = use.enter_context(services.using_throwaway(schema))
            except SqlError as error:  # its place is one in the schema, not in the query
                raise SqlError(f"in the schema: {error.args[0]}", line=error.line, column=error.column) from None
            yield made
        return
    with explaining_default(shadow):
        opened = services.shadow(shadow or DEFAULT_SHADOW)
    yield opened


@contextmanager
def explaining_default(shadow: str | None) -> Iterator[None]:
    """Say what to do when there is no shadow named `default`, to somebody who did not name any."""
    try:
        yield
    except UnknownShadowError:
        if shadow is not None:
            raise
        raise UnknownShadowError(
            "no shadow or schema was given and no shadow is named `default`: name one, give a schema, or make it with "
            "`planproof shadow add default --from DSN`"
        ) from None


def check_measurable(shadow: ShadowDatabase) -> None:
    """Refuse to execute queries where there are no rows to execute them on.

    Errors: `InputError`.
    """
    if shadow.info.kind != "attached":
        raise InputError(
            f"the shadow {shadow.info.name} ({shadow.info.kind}) holds no rows of production's, so nothing can be "
            "measured on it: attach a database with `planproof shadow add NAME --attach DSN`"
        )
