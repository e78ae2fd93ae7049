"""Where comments may lie, so that all of one can be deleted: an index of digests and customers' ids, without texts.

A *tombstone* says that a text or a customer's comments were to be deleted. A job that was running then may still hold
them; it applies the tombstones since its creation when it finishes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from reviewmill.store import tables
from reviewmill.store.rows import digest, new_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from reviewmill.store.engine import Database

_T = tables.comments
_STONES = tables.tombstones
_CHUNK: Final = 1000


@dataclass(frozen=True, slots=True)
class CommentRow:
    """One place where a comment may lie.

    `text_sha256` is that of the comment as it came, `cleaned_sha256` that of the text that the model read, under which
    the cache keeps the answer; `job_id` is None where no job held it.
    """

    owner: str
    text_sha256: str
    cleaned_sha256: str
    customer_id: str | None
    job_id: str | None
    created_at: datetime


_COLUMNS: Final = [_T.c[field.name] for field in fields(CommentRow)]


class Comments:
    """The index of comments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, rows: Iterable[CommentRow]) -> None:
        """Add rows to the index; those that it has already change nothing. Long lists take several transactions."""
        insert = self._database.insert(_T).on_conflict_do_nothing(index_elements=["identity_sha256"])
        # In one order everywhere, so that two processes cannot wait for each other's rows in a circle.
        values = sorted((_values(row) for row in rows), key=lambda each: each["identity_sha256"])
        for start in range(0, len(values), _CHUNK):
            with self._database.write() as connection:
                connection.execute(insert, values[start : start + _CHUNK])

    def find(
        self, *, text_sha256: str | None = None, customer_id: str | None = None, owner: str | None = None
    ) -> list[CommentRow]:
        """The rows of one text or one customer (or both at once), one owner's or everybody's.

        Raises:
            ValueError: neither a text nor a customer is named.
        """
        query = sa.select(*_COLUMNS).where(_chosen(text_sha256, customer_id, owner)).order_by(_T.c.created_at)
        with self._database.read() as connection:
            return [CommentRow(**row) for row in connection.execute(query).mappings()]

    def delete(
        self, *, text_sha256: str | None = None, customer_id: str | None = None, owner: str | None = None
    ) -> int:
        """Delete the rows that `find` would give; returns how many.

        Raises:
            ValueError: neither a text nor a customer is named.
        """
        with self._database.write() as connection:
            return connection.execute(_T.delete().where(_chosen(text_sha256, customer_id, owner))).rowcount

    def tombstone(
        self, text_sha256: str | None = None, *, customer_id: str | None = None, owner: str | None = None
    ) -> None:
        """Note that a text, or a customer's comments, are to be deleted from what is running now.

        Args:
            text_sha256: the text's digest.
            customer_id: the customer.
            owner: whose jobs it is about; None: everybody's.

        Raises:
            ValueError: neither a text nor a customer is named.
        """
        if text_sha256 is None and customer_id is None:
            raise ValueError("a tombstone names a text or a customer")
        stone = {"id": new_id(), "owner": owner, "text_sha256": text_sha256, "customer_id": customer_id}
        with self._database.write() as connection:
            connection.execute(_STONES.insert().values(stone | {"created_at": self._database.now(connection)}))

    def tombstones(self, owner: str | None = None, *, since: datetime | None = None) -> set[str]:
        """The digests of the texts to be deleted.

        Args:
            owner: those that are about this owner's jobs; None: all.
            since: those not older than this; a job takes the time it was created, so that a text that was deleted once
                may come again later.
        """
        return self._stones(_STONES.c.text_sha256, owner, since)

    def tombstoned_customers(self, owner: str | None = None, *, since: datetime | None = None) -> set[str]:
        """The ids of the customers whose comments are to be deleted; arguments as for `tombstones`."""
        return self._stones(_STONES.c.customer_id, owner, since)

    def clear_tombstones(self, before: datetime) -> int:
        """Drop tombstones that are older than every job that has not ended; returns how many."""
        with self._database.write() as connection:
            return connection.execute(_STONES.delete().where(_STONES.c.created_at < before)).rowcount

    def _stones(self, column: sa.Column[Any], owner: str | None, since: datetime | None) -> set[str]:
        query = sa.select(column).where(column.is_not(None)).distinct()
        if owner is not None:
            query = query.where(sa.or_(_STONES.c.owner.is_(None), _STONES.c.owner == owner))
        if since is not None:
            query = query.where(_STONES.c.created_at >= since)
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())


def _values(row: CommentRow) -> dict[str, Any]:
    return {
        "owner": row.owner,
        "text_sha256": row.text_sha256,
        "cleaned_sha256": row.cleaned_sha256,
        "customer_id": row.customer_id,
        "customer_sha256": None if row.customer_id is None else digest(row.customer_id),
        "job_id": row.job_id,
        "created_at": row.created_at,
        "identity_sha256": digest(row.owner, row.text_sha256, row.cleaned_sha256, row.customer_id, row.job_id),
    }


def _chosen(text_sha256: str | None, customer_id: str | None, owner: str | None) -> sa.ColumnElement[bool]:
    if text_sha256 is None and customer_id is None:
        raise ValueError("a comment is found by its text or its customer")
    conditions = []
    if text_sha256 is not None:
        conditions.append(_T.c.text_sha256 == text_sha256)
    if customer_id is not None:
        conditions.append(_T.c.customer_sha256 == digest(customer_id))
    if owner is not None:
        conditions.append(_T.c.owner == owner)
    return sa.and_(*conditions)
