"""The talk room: attached files, links and sets of chats, as one server process sees them, and what is tidied up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from reviewmill.errors import ReviewmillError
from reviewmill.server.jobs.room import JobRoom
from reviewmill.server.talk.attachments import Attachments
from reviewmill.server.talk.links import SIGNED_WITH, Links
from reviewmill.settings import ServiceSettings
from reviewmill.store import Store

if TYPE_CHECKING:
    from reviewmill.server.state import Deletion, Service

log = logging.getLogger("reviewmill.server")

SWEEP_S: Final = 600.0


class TalkRoom:
    """What chats are about.

    Args:
        store: where sets and files are noted.
        settings: folders, limits, how long things are kept.
        jobs: the jobs, which attached files become.

    Attributes:
        attachments: the files.
        links: what opens a result in a browser.
    """

    def __init__(self, store: Store, settings: ServiceSettings, jobs: JobRoom) -> None:
        self._store = store
        self._settings = settings
        self.attachments = Attachments(store, settings, jobs)
        self.links = Links(lambda: store.secrets.get(SIGNED_WITH), settings.link_days)

    def forget_job(self, job_id: str) -> None:
        """A job is deleted: the sets that it is go too, and the files that it was made of. Blocks."""
        for file in self._store.chats.forget_job(job_id):
            self.attachments.delete(file)

    def forget(self, deletion: Deletion) -> int:
        """Remove comments from what chats are about; returns how many there were. Blocks."""
        rows = self.attachments.forget(deletion.text_sha256, deletion.customer_id, deletion.owner)
        if deletion.customer_id is None:  # what is typed has no customer
            rows += self._store.chats.forget_texts(deletion.text_sha256, deletion.owner, emptied)
        return rows

    def sweep(self) -> None:
        """Delete what nobody has used for long. Blocks."""
        before = datetime.now(UTC) - timedelta(days=self._settings.retention_days)
        self._store.chats.forget_stale(before)
        self.attachments.sweep(self._store.chats.stale_files(before))

    async def sweep_now_and_then(self) -> None:
        """Tidy up, again and again, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.sweep)
            except (ReviewmillError, OSError) as error:
                log.warning("tidying up chats was not finished: %s", type(error).__name__)
            await asyncio.sleep(SWEEP_S)


def emptied(analysis: dict[str, Any]) -> dict[str, Any]:
    """What is left of the analysis of a comment that was deleted, as in the results of jobs."""
    task = analysis["provenance"]["task"]
    gone: dict[str, Any] = dict.fromkeys((task, "original_text", "confidence", "language", "route", "error"))
    gone |= {"keywords": [], "spans": [], "probabilities": {}, "flags": [], "needs_review": False, "status": "deleted"}
    return {**analysis, **gone, "provenance": {**analysis["provenance"], "latency_ms": None}}


@asynccontextmanager
async def keeping_talks(service: Service) -> AsyncIterator[None]:
    """Look after what chats are about for as long as the service is there."""

    async def scrub(deletion: Deletion) -> int:
        return await asyncio.to_thread(service.talk.forget, deletion)

    service.scrubbers.append(scrub)
    service.jobs.on_delete.append(service.talk.forget_job)
    sweeping = asyncio.create_task(service.talk.sweep_now_and_then())
    try:
        yield
    finally:
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        service.jobs.on_delete.remove(service.talk.forget_job)
        service.scrubbers.remove(scrub)
