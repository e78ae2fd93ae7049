"""The audit: who did what to which thing, and when. Lines are only ever added."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from reviewmill.store import tables
from reviewmill.store.rows import new_id, page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reviewmill.store.engine import Database

_T = tables.audit


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One line; `subject` names what was acted on, and never holds a comment's text."""

    id: str
    created_at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class Audit:
    """The lines of the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> AuditRecord:
        """Add a line.

        Args:
            actor: a key's id, or "local".
            action: such as "comments.delete".
            subject: what was acted on: an id or a digest.
            detail: more facts, without texts.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            record = AuditRecord(new_id(), now, actor, action, subject, dict(detail or {}))
            connection.execute(_T.insert().values({f.name: getattr(record, f.name) for f in fields(record)}))
        return record

    def list(self, cursor: str | None = None, limit: int = 100) -> tuple[list[AuditRecord], str | None]:
        """One page of lines, newest first, and the cursor of the next page (None on the last).

        Raises:
            CursorError: the cursor is none that was given out.
        """
        rows, following = page(self._database, sa.select(_T), _T.c.id, cursor, limit)
        return [AuditRecord(**row) for row in rows], following
