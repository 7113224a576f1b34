"""The entry point of the console script: first the check that our packages are ours, then everything else.

Nothing but the standard library may be imported before the check has passed.
"""

from __future__ import annotations

import importlib
import sys

from api.installation import InstallationError, check_installation


def main() -> None:
    """Run the command line."""
    try:
        check_installation()
        application = importlib.import_module("api.commands.application")
    except InstallationError as error:
        sys.exit(error.complain())
    except ImportError as error:
        message = f"a part of planproof cannot be imported ({error}): install planproof again"
        sys.exit(InstallationError(message).complain())
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(application.run())


if __name__ == "__main__":
    main()
