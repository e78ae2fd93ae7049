"""Ids that sort by time, digests, and pages of a list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from reviewmill.errors import CursorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reviewmill.store.engine import Database

MAX_PAGE: Final = 1000


_clock: Final = threading.Lock()
_latest = 0


def new_id() -> str:
    """A UUID of version 7 (RFC 9562, 5.7 and 6.2): sorts by the time it was made at, within a process strictly.

    48 bits of milliseconds, 12 bits of the fraction (method 3 of 6.2), the rest random.
    """
    global _latest
    with _clock:
        _latest = max(_latest + 1, (time.time_ns() << 12) // 1_000_000)
        stamp, fraction = divmod(_latest, 1 << 12)
    return str(uuid.UUID(int=stamp << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)))


def digest(*parts: str | None) -> str:
    """SHA-256 of some strings, in hexadecimal; different lists have different digests."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


def page(
    database: Database, query: sa.Select[Any], key: sa.Column[str], cursor: str | None, limit: int
) -> tuple[Sequence[sa.RowMapping], str | None]:
    """One page of a list, newest first, and the cursor of the next one.

    A cursor names the last row that was shown, so a page shows none twice and leaves none out, whatever is added or
    deleted meanwhile.

    Args:
        database: where to look.
        query: what to list, neither ordered nor limited.
        key: the ids by which it is ordered.
        cursor: what the page before gave; None for the first.
        limit: rows on the page, at most 1,000.

    Raises:
        CursorError: the cursor is none that was given out.
    """
    count = max(1, min(limit, MAX_PAGE))
    if cursor is not None:
        query = query.where(key < _id_of(cursor))
    with database.read() as connection:
        rows = connection.execute(query.order_by(key.desc()).limit(count + 1)).mappings().all()
    shown = rows[:count]
    return shown, (_cursor_of(shown[-1][key.name]) if len(rows) > count else None)


def _cursor_of(row_id: str) -> str:
    return base64.urlsafe_b64encode(uuid.UUID(row_id).bytes).rstrip(b"=").decode()


def _id_of(cursor: str) -> str:
    try:
        row_id = str(uuid.UUID(bytes=base64.b64decode(cursor.encode("ascii") + b"==", altchars=b"-_", validate=True)))
    except (ValueError, binascii.Error):
        row_id = ""
    if not row_id or _cursor_of(row_id) != cursor:
        raise CursorError("That cursor is none that this list gave out.", hint="Begin again without a cursor.")
    return row_id
