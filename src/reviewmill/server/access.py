"""Who calls: API keys become a `Caller`; its scopes, rate and quota say what it may do.

Looking up a key costs a query, so what was found is remembered for `REMEMBERED_S` seconds: a key that was revoked lets
nobody in for longer than that. Rates are this process's own; quotas are counted in the store, for all processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import Depends, Request

from reviewmill.server.problems import Problem
from reviewmill.store import SCOPES, KeyRecord, Store

if TYPE_CHECKING:
    from reviewmill.server.state import Service
    from reviewmill.settings import ServiceSettings

Scope = Literal["analyse", "jobs", "chat", "admin"]

LOCAL: Final = "local"
"""The id of the caller that needs no key (`--no-auth`)."""

REMEMBERED_S: Final = 3.0
_MOST_REMEMBERED: Final = 10_000
_MAX_SECRET: Final = 200
_MINUTE: Final = 60.0


@dataclass(slots=True)
class Allowance:
    """What is left of a key's rate and quota."""

    rate: int | None
    quota: int | None
    used_today: int = 0
    tokens: float = 0.0
    refilled: float = 0.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        key_id: the key's id, which is what owns jobs, corrections and comments; `local` without a key.
        name: what people call the key.
        scopes: what it may do.
    """

    key_id: str
    name: str
    scopes: frozenset[str]
    allowance: Allowance = field(default_factory=lambda: Allowance(None, None), compare=False)

    @property
    def is_admin(self) -> bool:
        """Whether it may see and delete what is not its own."""
        return "admin" in self.scopes

    @property
    def sees(self) -> str | None:
        """The owner whose things it may see; None: everybody's."""
        return None if self.is_admin else self.key_id


_LOCAL_CALLER: Final = Caller(LOCAL, LOCAL, SCOPES)


@dataclass(slots=True)
class _Found:
    """What a look-up found, and when."""

    record: KeyRecord | None
    caller: Caller | None
    at: float


class Keyring:
    """Turns secrets into callers.

    Args:
        store: where the keys are.
        settings: whether no key is needed; default rate and quota.
        pending: how many comments of a key were counted, and are not in the store yet.
    """

    def __init__(self, store: Store, settings: ServiceSettings, pending: Callable[[str], int]) -> None:
        self._store = store
        self._settings = settings
        self._pending = pending
        self._found: OrderedDict[bytes, _Found] = OrderedDict()
        self._looking: dict[bytes, asyncio.Task[_Found]] = {}
        self._allowances: dict[str, Allowance] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """The caller that an `Authorization` header names.

        Raises:
            Problem: there is none, or its key lets nobody in.
        """
        if self._settings.no_auth:
            return _LOCAL_CALLER
        found = await self._look_up(_secret(authorization))
        if found.record is None or found.caller is None:
            raise _unauthorised("This API key does not exist.", "Check that it was copied whole.")
        state = found.record.state
        if state != "active":
            when = {"expired": "has expired", "revoked": "was revoked"}[state]
            raise _unauthorised(f"This API key {when}.", "Ask for a new one (`reviewmill keys create`).")
        return found.caller

    async def _look_up(self, secret: str) -> _Found:
        name = hashlib.sha256(secret.encode("utf-8", "replace")).digest()
        found = self._found.get(name)
        if found is not None and time.monotonic() - found.at < REMEMBERED_S:
            return found
        looking = self._looking.get(name)
        if looking is None:
            looking = asyncio.create_task(self._ask_store(name, secret))
            self._looking[name] = looking
            looking.add_done_callback(lambda done: self._looked_up(name, done))
        return await asyncio.shield(looking)

    def _looked_up(self, name: bytes, done: asyncio.Task[_Found]) -> None:
        del self._looking[name]
        if not done.cancelled():
            done.exception()  # who waited has it; that may be nobody any more

    async def _ask_store(self, name: bytes, secret: str) -> _Found:
        record, used = await asyncio.to_thread(self._read, secret)
        found = _Found(record, self._as_caller(record, used) if record else None, time.monotonic())
        self._found[name] = found
        self._found.move_to_end(name)
        if len(self._found) > _MOST_REMEMBERED:
            self._found.popitem(last=False)
        return found

    def _read(self, secret: str) -> tuple[KeyRecord | None, int]:
        record = self._store.keys.find(secret)
        return record, self._store.keys.usage_today(record.id) if record and self._quota(record) else 0

    def _quota(self, record: KeyRecord) -> int | None:
        return record.daily_quota if record.daily_quota is not None else self._settings.daily_quota

    def _as_caller(self, record: KeyRecord, used: int) -> Caller:
        rate = record.rate_per_minute if record.rate_per_minute is not None else self._settings.rate_per_minute
        kept = self._allowances.get(record.id)
        if kept is None or kept.rate != rate:
            kept = Allowance(rate, None, tokens=float(rate or 0), refilled=time.monotonic())
            self._allowances[record.id] = kept
        kept.quota = self._quota(record)
        kept.used_today = used + self._pending(record.id)
        return Caller(record.id, record.name, record.scopes, kept)


def _secret(authorization: str | None) -> str:
    if not authorization:
        raise _unauthorised("This needs an API key.", "Send the header `Authorization: Bearer rm_…`.")
    kind, _, secret = authorization.partition(" ")
    if kind.lower() != "bearer" or not 0 < len(secret) <= _MAX_SECRET:
        raise _unauthorised("The Authorization header holds no API key.", "Write `Authorization: Bearer rm_…`.")
    return secret.strip()


def _unauthorised(detail: str, hint: str) -> Problem:
    return Problem(401, "unauthorised", "No valid API key", detail, hint, {"WWW-Authenticate": "Bearer"})


def spend(caller: Caller, comments: int) -> None:
    """Count comments against the caller's rate and quota.

    Raises:
        Problem: there is not enough left; nothing was counted.
    """
    allowance = caller.allowance
    _check_quota(allowance, comments)
    if allowance.rate is not None:
        _take(allowance, allowance.rate, comments)
    allowance.used_today += comments


def spend_quota(caller: Caller, comments: int) -> None:
    """Count a job's comments against the caller's quota; its rate is about single comments, which jobs never delay.

    Raises:
        Problem: there is not enough left; nothing was counted.
    """
    _check_quota(caller.allowance, comments)
    caller.allowance.used_today += comments


def _check_quota(allowance: Allowance, comments: int) -> None:
    if allowance.quota is not None and allowance.used_today + comments > allowance.quota:
        left = max(0, allowance.quota - allowance.used_today)
        raise Problem(
            429,
            "quota-exceeded",
            "The key's quota is used up",
            f"This key may have {allowance.quota:,} comments analysed a day (UTC); {left:,} are left.",
            "Wait for tomorrow, or ask for a higher quota.",
            retry_after=_seconds_to_midnight(),
        )


def _take(allowance: Allowance, rate: int, comments: int) -> None:
    """A token bucket that holds one minute's comments."""
    now = time.monotonic()
    allowance.tokens = min(rate, allowance.tokens + (now - allowance.refilled) * rate / _MINUTE)
    allowance.refilled = now
    # More comments than the bucket can ever hold are let in when it is full, and owed.
    needed = min(comments, rate)
    if allowance.tokens < needed:
        seconds = max(1, int((needed - allowance.tokens) * _MINUTE / rate) + 1)
        raise Problem(
            429,
            "rate-exceeded",
            "The key's rate is exceeded",
            f"This key may have {rate:,} comments analysed a minute.",
            f"Try again in {seconds} s, or ask for a higher rate.",
            retry_after=seconds,
        )
    allowance.tokens -= comments


def refund(caller: Caller, comments: int) -> None:
    """Take back what was counted: nothing was done for it."""
    caller.allowance.used_today -= comments
    caller.allowance.tokens += comments  # never more than a minute's, as the next refill sees to


def _seconds_to_midnight() -> int:
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, int((tomorrow - now).total_seconds()))


def require(*scopes: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who must have one of these scopes."""
    wanted = frozenset(scopes)

    async def dependency(request: Request) -> Caller:
        service: Service = request.app.state.service
        caller = await service.keyring.caller(request.headers.get("authorization"))
        if wanted.isdisjoint(caller.scopes):
            names = " or ".join(sorted(wanted))
            raise Problem(
                403,
                "scope-missing",
                "The API key may not do this",
                f"This needs a key with the scope {names}.",
                "Ask for such a key (`reviewmill keys create --scope …`).",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{" ".join(sorted(wanted))}"'},
            )
        request.scope["caller"] = caller.key_id
        if caller.key_id != LOCAL:
            service.ledger.seen(caller.key_id)
        return caller

    return dependency


Analyst = Annotated[Caller, Depends(require("analyse"))]
"""A caller that may have comments analysed."""
Admin = Annotated[Caller, Depends(require("admin"))]
"""A caller that may see what concerns all."""
