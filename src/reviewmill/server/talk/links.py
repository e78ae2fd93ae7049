"""Links that open a result without an API key, because a browser shows none: signed, bound, and good for some days.

A link is a *capability*: 122 random bits of an id, when it ends, and an HMAC-SHA256 (RFC 2104) over these and the
owner. Nobody can make one without the service's secret, nor move it to another thing, owner or time. It stands in the
query of an address, which is not logged. A key that is revoked takes its links with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNED_WITH: Final = "download links"
"""The name of the secret of the service."""

Thing = Literal["job", "set"]

_DAY_S: Final = 86_400
_KINDS: Final[dict[Thing, int]] = {"job": 1, "set": 2}
_BODY: Final = struct.Struct(">BB16sQ")
_VERSION: Final = 1
_MAC_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Capability:
    """What a link opens: a job or a set of typed comments, for whoever holds it, until a time (seconds since 1970)."""

    thing: Thing
    id: str
    expires: int
    mac: bytes


class Links:
    """Makes links and reads them.

    Args:
        secret: gives the service's secret.
        days: how long a link is good for.
    """

    def __init__(self, secret: Callable[[], bytes], days: float) -> None:
        self._secret = secret
        self.days = days
        self._known: bytes | None = None

    def token(self, thing: Thing, thing_id: str, owner: str) -> str:
        """The part of a link that opens something. Blocks, the first time."""
        expires = int(time.time() + self.days * _DAY_S)
        body = _body(thing, thing_id, expires)
        return base64.urlsafe_b64encode(body + self._mac(body, owner)).rstrip(b"=").decode()

    def read(self, token: str) -> Capability | None:
        """What a token says that it opens; it is believed only after `is_genuine`. None: it is no token."""
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        if len(raw) != _BODY.size + _MAC_BYTES:
            return None
        version, kind, number, expires = _BODY.unpack(raw[: _BODY.size])
        thing = next((name for name, value in _KINDS.items() if value == kind), None)
        if version != _VERSION or thing is None:
            return None
        return Capability(thing, str(uuid.UUID(bytes=number)), expires, raw[_BODY.size :])

    def is_genuine(self, capability: Capability, owner: str) -> bool:
        """Whether this service made it, for this owner's thing. Blocks, the first time."""
        body = _body(capability.thing, capability.id, capability.expires)
        return hmac.compare_digest(capability.mac, self._mac(body, owner))

    def _mac(self, body: bytes, owner: str) -> bytes:
        if self._known is None:
            self._known = self._secret()
        return hmac.digest(self._known, body + owner.encode(), hashlib.sha256)[:_MAC_BYTES]


def _body(thing: Thing, thing_id: str, expires: int) -> bytes:
    return _BODY.pack(_VERSION, _KINDS[thing], uuid.UUID(thing_id).bytes, expires)


def is_over(capability: Capability) -> bool:
    """Whether its time is over."""
    return time.time() >= capability.expires
