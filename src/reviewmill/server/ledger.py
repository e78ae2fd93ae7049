"""What is written down about requests, in the background: which keys were used, how much, and where comments lie.

No request waits for these writes. They are made `FLUSH_S` after they came up at the latest, and at shutdown; what the
store could not take is kept and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from reviewmill.errors import StoreError
from reviewmill.server.problems import RETRY_AFTER_S, Problem
from reviewmill.store import CommentRow

if TYPE_CHECKING:
    from reviewmill.store import Store

FLUSH_S: Final = 0.5
MOST_ROWS: Final = 200_000
"""Rows of the index that may wait; then no comment is taken any more, because it could not be found for deletion."""

log = logging.getLogger("reviewmill.server")

_Note = tuple[str, str, str, str | None]


class Ledger:
    """Collects what is to be written. It belongs to one event loop.

    Args:
        store: where it is written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, None] = {}
        self._used: Counter[str] = Counter()
        self._writing: Counter[str] = Counter()
        self._notes: dict[_Note, None] = {}
        self._flushing = asyncio.Lock()
        self._failing = False

    def seen(self, key_id: str) -> None:
        """The key was used just now."""
        self._seen[key_id] = None

    def used(self, key_id: str, comments: int) -> None:
        """So many of the key's comments were analysed."""
        self._used[key_id] += comments

    def pending(self, key_id: str) -> int:
        """How many of the key's comments are counted here, and not in the store yet."""
        return self._used[key_id] + self._writing[key_id]

    def note(self, owner: str, text_sha256: str, cleaned_sha256: str, customer_id: str | None) -> None:
        """A comment was given to the model or the cache.

        Raises:
            Problem: too many notes wait for the store.
        """
        if len(self._notes) >= MOST_ROWS:
            raise Problem(
                503,
                "store-unavailable",
                "The service's database cannot be used now",
                "So much waits for the database that no more comments are taken.",
                "Try again in a moment.",
                retry_after=RETRY_AFTER_S,
            )
        self._notes[owner, text_sha256, cleaned_sha256, customer_id] = None

    async def run(self) -> None:
        """Write, again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreError as error:
                if not self._failing:
                    log.warning("What is known of requests waits for the database: %s", error.message)
                self._failing = True
            else:
                self._failing = False

    async def flush(self) -> None:
        """Write all that came up until now.

        Raises:
            StoreError: it could not be written; it is kept, and tried again next time.
        """
        async with self._flushing:
            await self._flush_notes()
            await self._flush_keys()

    async def _flush_notes(self) -> None:
        if not self._notes:
            return
        notes, self._notes = self._notes, {}
        now = datetime.now(UTC)
        rows = [CommentRow(owner, text, cleaned, customer, None, now) for owner, text, cleaned, customer in notes]
        try:
            await asyncio.to_thread(self._store.comments.note, rows)
        except BaseException:
            self._notes = notes | self._notes
            raise

    async def _flush_keys(self) -> None:
        if not self._seen and not self._used:
            return
        seen, self._seen = self._seen, {}
        self._writing, self._used = self._used, Counter()
        now = datetime.now(UTC)
        try:
            await asyncio.to_thread(self._store.keys.touch, dict.fromkeys(seen, now))
            await asyncio.to_thread(self._store.keys.add_usage, dict(self._writing))
        except BaseException:
            self._seen = seen | self._seen
            self._used += self._writing
            raise
        finally:
            self._writing = Counter()
