"""The store: API keys, jobs, corrections, chats, the index of comments, secrets, and the audit; SQLite or PostgreSQL.

All calls are synchronous and safe from any thread; times are aware and in UTC. Every call raises `StoreError` when the
database refuses it, and `StoreUnavailableError` when the same call may succeed later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from reviewmill.store.audit import Audit, AuditRecord
from reviewmill.store.chats import ChatFile, ChatKey, Chats, ChatSet
from reviewmill.store.comments import CommentRow, Comments
from reviewmill.store.corrections import CorrectionRecord, Corrections
from reviewmill.store.engine import Database, database_url
from reviewmill.store.jobs import HeartbeatAnswer, JobRecord, Jobs, JobState
from reviewmill.store.keys import SCOPES, KeyRecord, Keys, KeyState
from reviewmill.store.migrate import migrate
from reviewmill.store.rows import digest, new_id
from reviewmill.store.secrets import Secrets

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "SCOPES",
    "AuditRecord",
    "ChatFile",
    "ChatKey",
    "ChatSet",
    "CommentRow",
    "CorrectionRecord",
    "HeartbeatAnswer",
    "JobRecord",
    "JobState",
    "KeyRecord",
    "KeyState",
    "Store",
    "database_url",
    "digest",
    "new_id",
]


class Store:
    """Everything that the service remembers; made by `Store.open`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keys = Keys(database)
        self.jobs = Jobs(database)
        self.corrections = Corrections(database)
        self.comments = Comments(database)
        self.chats = Chats(database)
        self.secrets = Secrets(database)
        self.audit = Audit(database)

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a database, and bring its tables to this version; safe when several processes do so at once.

        Args:
            url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`.

        Raises:
            StoreError: the URL is of neither kind, or the database is damaged, not ours, or of a newer version.
            StoreUnavailableError: the database cannot be reached.
        """
        database = Database(url)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            StoreError: it gives none.
        """
        self._database.ping()

    def describe(self) -> str:
        """The database's URL, without a password."""
        return self._database.describe()

    def close(self) -> None:
        """Close all connections; a second call does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
