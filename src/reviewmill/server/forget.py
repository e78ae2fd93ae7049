"""Deleting comments wherever they lie: index, cache, memory, corrections, jobs; with a line in the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from reviewmill.server.engine import text_sha256 as digest_of
from reviewmill.server.schemas import Deleted
from reviewmill.server.state import Deletion

if TYPE_CHECKING:
    from reviewmill.server.access import Caller
    from reviewmill.server.state import Service
    from reviewmill.store import CommentRow


async def forget(service: Service, caller: Caller, *, text_sha256: str | None, customer_id: str | None) -> Deleted:
    """Delete a caller's comments (an admin's: everybody's) with this digest, or of this customer.

    The index goes last: if anything before it fails, the same request finds everything again.

    Raises:
        StoreError, CacheError: something could not be deleted; ask again.
    """
    await service.ledger.flush()  # what was noted a moment ago must be found
    rows, texts, corrections = await asyncio.to_thread(_in_store, service, caller, text_sha256, customer_id)
    read = {row.cleaned_sha256 for row in rows}
    # Most texts are given to the model as they came; so this finds their answers even where the index lost them.
    read |= set() if text_sha256 is None else {text_sha256}
    service.room.hot.forget(texts | read)
    answers = await service.room.forget(read)
    service.room.hot.forget(texts | read)  # what was on its way meanwhile
    jobs = frozenset(row.job_id for row in rows if row.job_id is not None)
    deletion = Deletion(frozenset(texts), customer_id, caller.sees, jobs)
    scrubbed = 0
    for scrub in service.scrubbers:
        scrubbed += await scrub(deletion)
    comments = await asyncio.to_thread(
        service.store.comments.delete, text_sha256=text_sha256, customer_id=customer_id, owner=caller.sees
    )
    deleted = Deleted(comments=comments, answers=answers, corrections=corrections, rows=scrubbed)
    subject = f"text:{text_sha256}" if text_sha256 is not None else f"customer:sha256:{digest_of(customer_id or '')}"
    await asyncio.to_thread(
        service.store.audit.write, caller.key_id, "comments.delete", subject, {**deleted.model_dump()}
    )
    return deleted


def _in_store(
    service: Service, caller: Caller, text_sha256: str | None, customer_id: str | None
) -> tuple[list[CommentRow], set[str], int]:
    """Tell running jobs first; then find the rows, and delete the corrections, which hold texts."""
    store, owner = service.store, caller.sees
    store.comments.tombstone(text_sha256, customer_id=customer_id, owner=owner)
    rows = store.comments.find(text_sha256=text_sha256, customer_id=customer_id, owner=owner)
    texts: Collection[str] = {row.text_sha256 for row in rows} if text_sha256 is None else {text_sha256}
    corrections = sum(store.corrections.delete(text_sha256=each, owner=owner) for each in texts)
    return rows, set(texts), corrections
