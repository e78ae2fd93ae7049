"""Corrections: labels that people gave, beside those of the model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from reviewmill.store import tables
from reviewmill.store.rows import digest, new_id, page

if TYPE_CHECKING:
    from datetime import datetime

    from reviewmill.store.engine import Database

_T = tables.corrections


@dataclass(frozen=True, slots=True)
class CorrectionRecord:
    """One person's label for one text; `model_label` and `confidence` are what the model had said."""

    id: str
    owner: str
    text: str
    text_sha256: str
    task: str
    label: str
    model_label: str | None
    confidence: float | None
    note: str | None
    author: str | None
    external_id: str | None
    created_at: datetime
    updated_at: datetime


_COLUMNS: Final = [_T.c[field.name] for field in fields(CorrectionRecord)]


class Corrections:
    """The corrections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        owner: str,
        *,
        text: str,
        text_sha256: str,
        task: str,
        label: str,
        model_label: str | None = None,
        confidence: float | None = None,
        note: str | None = None,
        author: str | None = None,
        external_id: str | None = None,
    ) -> tuple[CorrectionRecord, bool]:
        """Keep a correction; the latest one about the same thing replaces the one before.

        "The same thing" is the owner's `external_id` if there is one, else the owner's text, task and author.

        Returns:
            The correction, and whether it is a new one.
        """
        given: dict[str, Any] = {
            "text": text,
            "text_sha256": text_sha256,
            "task": task,
            "label": label,
            "model_label": model_label,
            "confidence": confidence,
            "note": note,
            "author": author,
            "external_id": external_id,
        }
        about = ("text", text_sha256, task, author) if external_id is None else ("external id", external_id)
        identity = {"owner": owner, "identity_sha256": digest(*about)}
        same = sa.and_(*(_T.c[name] == value for name, value in identity.items()))
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = {"id": new_id(), "created_at": now, "updated_at": now, **identity, **given}
            insert = self._database.insert(_T).values(row)
            latest = given | {"updated_at": now}
            connection.execute(insert.on_conflict_do_update(index_elements=list(identity), set_=latest))
            kept = connection.execute(sa.select(*_COLUMNS).where(same)).mappings().one()
        return CorrectionRecord(**kept), kept["id"] == row["id"]

    def list(
        self, *, task: str | None = None, owner: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[CorrectionRecord], str | None]:
        """One page of corrections, newest first, and the cursor of the next page (None on the last).

        Args:
            task: those of one task; None: all.
            owner: those of one owner; None: everybody's.
            cursor: what the page before gave; None for the first.
            limit: how many, at most 1,000.

        Raises:
            CursorError: the cursor is none that was given out.
        """
        query = sa.select(*_COLUMNS)
        if task is not None:
            query = query.where(_T.c.task == task)
        if owner is not None:
            query = query.where(_T.c.owner == owner)
        rows, following = page(self._database, query, _T.c.id, cursor, limit)
        return [CorrectionRecord(**row) for row in rows], following

    def delete(self, *, text_sha256: str, owner: str | None = None) -> int:
        """Delete the corrections of a text (they hold it), one owner's or everybody's; returns how many."""
        chosen = _T.c.text_sha256 == text_sha256
        if owner is not None:
            chosen = sa.and_(chosen, _T.c.owner == owner)
        with self._database.write() as connection:
            return connection.execute(_T.delete().where(chosen)).rowcount
