"""Make a job of a file that lies in its folder and was found good: counted, queued, told to the workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from reviewmill.batch.threads import in_thread
from reviewmill.server.access import LOCAL, Caller, spend_quota
from reviewmill.store import JobRecord

if TYPE_CHECKING:
    from reviewmill.server.state import Service


@dataclass(frozen=True, slots=True)
class Good:
    """A file in the folder of the job `job_id`; see `JobRecord` for the other fields."""

    job_id: str
    task: str
    filename: str
    format: str
    text_column: str
    id_column: str | None
    size: int
    sha256: str
    options: dict[str, Any]

    @property
    def rows(self) -> int:
        """Its comments."""
        rows: int = self.options["rows"]
        return rows


async def enqueue(service: Service, caller: Caller, good: Good, *, key: str | None) -> tuple[JobRecord, bool]:
    """Queue it; or, where it is a job already, or must not be one, remove what came. Whole or not at all.

    Args:
        service: whose job it becomes.
        caller: whose job, and whose quota.
        good: the file.
        key: names the request: the same one again makes no second job.

    Returns:
        The job, and whether it is new.

    Raises:
        Problem: the caller's quota is used up.
        IdempotencyConflictError: the key was used for another request.
        StoreError: it cannot be queued.
    """
    job, created = await in_thread(partial(_queue, service, caller, good, key))
    if created:
        service.jobs.nudge()
        if caller.key_id != LOCAL:
            service.ledger.used(caller.key_id, good.rows)
    return job, created


def _queue(service: Service, caller: Caller, good: Good, key: str | None) -> tuple[JobRecord, bool]:
    created = spent = False
    try:
        spend_quota(caller, good.rows)
        spent = True
        job, created = service.store.jobs.create(
            caller.key_id,
            job_id=good.job_id,
            task=good.task,
            filename=good.filename,
            format=good.format,
            text_column=good.text_column,
            id_column=good.id_column,
            size=good.size,
            sha256=good.sha256,
            idempotency_key=key,
            options=good.options,
        )
        return job, created
    finally:
        if not created:
            caller.allowance.used_today -= good.rows if spent else 0
            service.jobs.files(good.job_id).remove()
