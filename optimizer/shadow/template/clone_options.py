"""What whoever makes a hollow clone may ask for; kept with the shadow, so that a refresh asks for the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.shadow.source.redaction import read_words


@dataclass(frozen=True, slots=True)
class CloneOptions:
    """How a source is cloned.

    Parameters:
        redact_statistics: whose values are left out of the statistics, in the words of `source.redaction`.
        role: whose rights, policies and settings count; empty is the role that reads the source.
        only_readable: leave out the tables that the role may not read, instead of failing.
    """

    redact_statistics: tuple[str, ...] = ()
    only_readable: bool = False
    role: str = ""

    def changed(
        self,
        *,
        redact_statistics: Sequence[str] | None = None,
        only_readable: bool | None = None,
        role: str | None = None,
    ) -> CloneOptions:
        """Return options with what a user wants otherwise; None leaves a part as it is.

        Parameters:
            redact_statistics: lists of columns as users write them; `none` ends an earlier redaction.

        Errors: `InputError` for what names no column.
        """
        words = self.redact_statistics if redact_statistics is None else read_words(", ".join(redact_statistics))
        return CloneOptions(
            redact_statistics=words,
            only_readable=self.only_readable if only_readable is None else only_readable,
            role=self.role if role is None else role,
        )
