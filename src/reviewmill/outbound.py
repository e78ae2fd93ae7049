"""What every HTTP client of ours needs to know: keys that fit into a header, the way there, and `Retry-After`."""

from __future__ import annotations

import ipaddress
import math
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TypedDict
from urllib.parse import urlsplit

from reviewmill.errors import SettingsError


def checked_key(api_key: str | None) -> str | None:
    """A key as it can stand in an HTTP header; None if there is none.

    Raises:
        SettingsError: it cannot; the message does not show it.
    """
    key = (api_key or "").strip()  # a key read from a file often ends with a newline
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(
            "The API key holds characters that cannot stand in an HTTP header.",
            hint="Copy it again: keys are plain letters, digits and signs, on one line.",
        )
    return key or None


def is_this_machine(host: str) -> bool:
    """Whether a URL's host is this machine: a proxy from the environment must not get between us and it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


class Way(TypedDict):
    """Arguments of an HTTP client: whether the environment names proxies for it, and whose certificates it trusts."""

    trust_env: bool
    verify: ssl.SSLContext | bool


def way_to(url: str) -> Way:
    """How to reach an address: this machine without a proxy, and its plain HTTP without reading any certificates.

    They are some hundred, and take 50 ms of processor time for each client. TLS to which a server might redirect is
    refused then, since nobody is trusted.
    """
    parts = urlsplit(url)
    here = is_this_machine(parts.hostname or "")
    return {"trust_env": not here, "verify": _trusting_nobody() if here and parts.scheme == "http" else True}


@cache
def _trusting_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def retry_after_seconds(value: str) -> float | None:
    """Seconds to wait, from `Retry-After` (RFC 9110, 10.2.3: seconds or a date); None if it says none.

    Nothing in it can be trusted to be well-formed.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):  # TypeError: a date without a zone
            return None
    return None if math.isnan(seconds) else max(seconds, 0.0)
