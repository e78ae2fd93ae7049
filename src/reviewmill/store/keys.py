"""API keys. A key is shown once, when it is made; the store keeps only its digest.

A key is `rm_`, eight characters that name it in lists and logs, `_`, and 256 random bits. Plain SHA-256 is enough to
keep it: nobody can try out 2^256 secrets, so a slow password hash would slow down only us.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from reviewmill.errors import StoreError
from reviewmill.store import tables
from reviewmill.store.rows import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reviewmill.store.engine import Database

SCOPES: Final = frozenset({"analyse", "jobs", "chat", "admin"})
KeyState = Literal["active", "expired", "revoked"]

_T = tables.api_keys
_USAGE = tables.key_usage
_PREFIX_LENGTH: Final = 8
_ALPHABET: Final = string.ascii_lowercase + string.digits
_SECRET: Final = re.compile(r"rm_([a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
_NOBODY: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known about a key; the key itself is not."""

    id: str
    name: str
    prefix: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    rate_per_minute: int | None
    daily_quota: int | None

    @property
    def state(self) -> KeyState:
        """Whether the key lets anybody in now; by this host's clock."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            return "expired"
        return "active"


class Keys:
    """The API keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        expires_at: datetime | None = None,
        rate_per_minute: int | None = None,
        daily_quota: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key.

        Args:
            name: what people call it; need not be unique.
            scopes: of "analyse", "jobs", "chat" and "admin", at least one.
            expires_at: from when on it lets nobody in; None: never.
            rate_per_minute: comments a minute; None: the service's default.
            daily_quota: comments a day, in UTC; None: the service's default.

        Returns:
            What is kept, and the key itself, which cannot be had again.

        Raises:
            StoreError: a scope is unknown, or there is none.
        """
        wanted = frozenset(scopes)
        if not wanted or not wanted <= SCOPES:
            unknown = ", ".join(sorted(wanted - SCOPES)) or "none was given"
            raise StoreError(
                f"A key needs scopes that exist: {unknown}.", hint=f"Scopes are: {', '.join(sorted(SCOPES))}."
            )
        prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
        secret = f"rm_{prefix}_{secrets.token_urlsafe(32)}"
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = {
                "id": new_id(),
                "name": name,
                "prefix": prefix,
                "scopes": sorted(wanted),
                "created_at": now,
                "expires_at": expires_at,
                "last_used_at": None,
                "revoked_at": None,
                "rate_per_minute": rate_per_minute,
                "daily_quota": daily_quota,
            }
            connection.execute(_T.insert().values(row | {"sha256": _hash(secret)}))
        return _record(row), secret

    def find(self, secret: str) -> KeyRecord | None:
        """The key that somebody shows, or None; one that has expired or was revoked is found too, see its `state`."""
        form = _SECRET.fullmatch(secret)
        if form is None:
            return None
        with self._database.read() as connection:
            row = connection.execute(sa.select(_T).where(_T.c.prefix == form[1])).mappings().first()
        # Compared in constant time, and compared even when there is nothing to compare with.
        right = hmac.compare_digest(row["sha256"] if row else _NOBODY, _hash(secret))
        return _record(row) if row and right else None

    def get(self, key_id: str) -> KeyRecord | None:
        """The key with this id."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_T).where(_T.c.id == key_id)).mappings().first()
        return _record(row) if row else None

    def list(self) -> list[KeyRecord]:
        """All keys, the newest first, those that expired or were revoked included."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_T).order_by(_T.c.id.desc())).mappings().all()
        return [_record(row) for row in rows]

    def revoke(self, id_or_prefix: str) -> KeyRecord | None:
        """Revoke a key for good, by its id or its eight characters (`rm_` before them may stay). None: no such key."""
        wanted = sa.or_(_T.c.id == id_or_prefix, _T.c.prefix == id_or_prefix.removeprefix("rm_"))
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(_T.update().where(wanted, _T.c.revoked_at.is_(None)).values(revoked_at=now))
            row = connection.execute(sa.select(_T).where(wanted)).mappings().first()
        return _record(row) if row else None

    def touch(self, times: Mapping[str, datetime]) -> None:
        """Note when keys were last used, by their ids; an earlier time than the known one changes nothing."""
        if not times:
            return
        later = sa.or_(_T.c.last_used_at.is_(None), _T.c.last_used_at < sa.bindparam("moment"))
        update = _T.update().where(_T.c.id == sa.bindparam("key"), later).values(last_used_at=sa.bindparam("moment"))
        with self._database.write() as connection:
            # In one order everywhere, so that two processes cannot wait for each other's rows in a circle.
            connection.execute(update, [{"key": key, "moment": times[key]} for key in sorted(times)])

    def add_usage(self, used: Mapping[str, int]) -> None:
        """Count comments for today (UTC), by keys' ids; an id that is no key's is skipped."""
        if not used:
            return
        with self._database.write() as connection:
            today = self._database.now(connection).date()
            known = set(connection.execute(sa.select(_T.c.id).where(_T.c.id.in_(list(used)))).scalars())
            rows = [{"key_id": key, "day": today, "used": used[key]} for key in sorted(known)]
            if rows:
                insert: Any = self._database.insert(_USAGE)
                more = {"used": _USAGE.c.used + insert.excluded.used}
                connection.execute(insert.on_conflict_do_update(index_elements=["key_id", "day"], set_=more), rows)

    def usage_today(self, key_id: str) -> int:
        """How many comments were counted for a key today (UTC)."""
        with self._database.read() as connection:
            today = self._database.now(connection).date()
            query = sa.select(_USAGE.c.used).where(_USAGE.c.key_id == key_id, _USAGE.c.day == today)
            return connection.execute(query).scalar() or 0


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _record(row: Mapping[str, Any] | sa.RowMapping) -> KeyRecord:
    known = {name: value for name, value in row.items() if name not in {"sha256", "scopes"}}
    return KeyRecord(**known, scopes=frozenset(row["scopes"]))
