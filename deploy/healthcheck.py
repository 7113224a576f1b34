#!/usr/bin/env python3
"""Exits 0 if the service answers, 1 with one line on standard error if it does not.

planproof-healthcheck [URL]     # default: http://127.0.0.1:8432/healthz
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

DEFAULT_URL = "http://127.0.0.1:8432/healthz"
TIMEOUT_S = 4.0


def main(arguments: list[str]) -> int:
    """Ask once and return the exit status."""
    url = arguments[0] if arguments else DEFAULT_URL
    # No proxy of the environment stands between this check and its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            response.read()
    except (OSError, ValueError, urllib.error.URLError) as error:
        sys.stderr.write(f"planproof-healthcheck: {url}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
