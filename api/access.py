"""Who may ask: API keys, and host names that are ours.

A browser can be made to send requests to this machine by any page (DNS rebinding: the page's own name suddenly means
127.0.0.1). Such a request carries the page's host name, so only known names are answered. An address in digits cannot
be rebound and always passes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import SecretStr
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.logs import note
from api.problems import problem_response
from optimizer.errors import InputError

MIN_KEY_LENGTH = 16
#: Answered to everybody: probes ask by address or by any name, and have no key.
_PROBES = frozenset({"/healthz", "/readyz"})
#: The documentation holds nothing that the source does not.
_OPEN = _PROBES | {"/", "/openapi.json", "/docs"}
_OPEN_FOLDER = "/docs/"


@dataclass(frozen=True, slots=True)
class Access:
    """What a request must show.

    Parameters:
        digests: SHA-256 of each key; none lets everybody in.
        hosts: names that requests may be sent to; `*.x` stands for all names below x, `*` for every name.
    """

    digests: tuple[bytes, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, keys: Sequence[SecretStr], hosts: Iterable[str]) -> Self:
        """Build it from the settings.

        Errors: `InputError` for a key that could be guessed or cannot be sent.
        """
        secrets = [key.get_secret_value() for key in keys]
        for number, secret in enumerate(secrets, 1):
            if len(secret) < MIN_KEY_LENGTH or not secret.isascii() or not secret.isprintable() or " " in secret:
                raise InputError(
                    f"key {number} in PLANPROOF_API_KEYS is shorter than {MIN_KEY_LENGTH} characters or holds others "
                    "than printable ASCII: make one with `openssl rand -hex 32`"
                )
        return cls(
            tuple(hashlib.sha256(secret.encode()).digest() for secret in secrets),
            tuple(host.lower().rstrip(".") for host in hosts),
        )

    def key_number(self, presented: Sequence[str]) -> int | None:
        """Which key, counted from 1, is among those presented; takes the same time whichever it is."""
        found = None
        for text in presented:
            digest = hashlib.sha256(text.encode("latin-1", "replace")).digest()
            for number, known in enumerate(self.digests, 1):
                if hmac.compare_digest(digest, known):
                    found = number
        return found

    def answers_to(self, host: str) -> bool:
        """Tell whether requests may be sent to this `Host` header."""
        name = _name(host)
        if name is None:
            return False
        if is_loopback(name) or _is_address(name) or "*" in self.hosts or name in self.hosts:
            return True
        return any(known.startswith("*.") and name.endswith(known[1:]) for known in self.hosts)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(header: str) -> str | None:
    """The host of a `Host` header, without its port; None when it is malformed."""
    text = header.strip().lower()
    if text.startswith("["):
        name, closed, rest = text[1:].partition("]")
        well_formed = closed and (not rest or (rest[0] == ":" and rest[1:].isdigit()))
    else:
        name, colon, port = text.partition(":")
        well_formed = not colon or port.isdigit()
    return name.rstrip(".") or None if well_formed else None


class AccessCheck:
    """ASGI middleware that refuses requests to other hosts (421) and, where there are keys, without one (401)."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"]
        headers = [(key, value.decode("latin-1")) for key, value in scope["headers"]]
        hosts = [value for key, value in headers if key == b"host"]
        if path not in _PROBES and not (len(hosts) == 1 and self.access.answers_to(hosts[0])):
            return problem_response(
                421,
                "Not a name of this service",
                "the request was sent to a host name that this service does not go by: an operator can list it in "
                "PLANPROOF_ALLOWED_HOSTS",
                type_="urn:planproof:problem:host",
            )
        if not self.access.digests or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return None
        number = self.access.key_number([key for name, value in headers if (key := _presented(name, value))])
        if number is None:
            return problem_response(
                401,
                "No valid key",
                "send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
                type_="urn:planproof:problem:key",
                headers={"WWW-Authenticate": 'Bearer realm="planproof"'},
            )
        note(scope, key=number)
        return None


def _presented(name: bytes, value: str) -> str:
    if name == b"x-api-key":
        return value.strip()
    if name == b"authorization":
        scheme, _, key = value.strip().partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""
    return ""
