"""Reading the settings, with a complaint that names the environment variable that is wrong."""

from __future__ import annotations

from pydantic import ValidationError

from optimizer.errors import InputError
from optimizer.settings import Settings


def read_settings() -> Settings:
    """Read the settings from the environment.

    Errors: `InputError` naming the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "PLANPROOF_" + "_".join(str(part) for part in first["loc"][:1]).upper()
        raise InputError(f"the environment variable {variable} is wrong: {first['msg'].lower()}") from None
    except ValueError as error:  # a list that is not JSON
        raise InputError(f"the settings in the environment (PLANPROOF_...) cannot be read: {error}") from None
