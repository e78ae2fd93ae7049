"""Everything about jobs that one server process does: its workers, deletion, and what is tidied up now and then."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from reviewmill.errors import OutputError, ReviewmillError
from reviewmill.server.jobs.files import JobFiles, job_folders
from reviewmill.server.jobs.results import ResultGoneError, forget_texts
from reviewmill.server.jobs.worker import PipelineOf, Worker
from reviewmill.settings import ServiceSettings
from reviewmill.store import JobRecord, Store

log = logging.getLogger(__name__)

SWEEP_S: Final = 600.0
"""Seconds between two looks for jobs whose time is over, and for files that nobody needs."""

ORPHAN_S: Final = 3600.0
"""A folder without a job is an upload under way or, after so many seconds, what a killed process left."""

CHECKS_AT_ONCE: Final = 2
"""Uploads that are looked at in processes of their own at the same time."""

CONVERSIONS_AT_ONCE: Final = 2
"""Results that are brought into another format at the same time."""

_ENDED: Final = frozenset({"done", "failed", "cancelled"})


class JobRoom:
    """The jobs, as one process sees them.

    Args:
        store: where jobs are kept.
        settings: folders, limits, workers.
        pipeline_of: gives the pipeline of a task.

    Attributes:
        root: the folder of all jobs.
        looking: whose turn it is to look at an upload.
        converting: whose turn it is to make a result's other format; threads must be left for everybody else.
        on_delete: what else must go when a job is deleted; called with its id, in a thread, before it goes.
    """

    def __init__(self, store: Store, settings: ServiceSettings, pipeline_of: PipelineOf) -> None:
        self.root = settings.data_dir / "jobs"
        self._store = store
        self._settings = settings
        name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._workers = [
            Worker(store, self.root, pipeline_of, name=f"{name}:{number}", lease_s=settings.lease_s)
            for number in range(settings.job_workers)
        ]
        self.looking = asyncio.Semaphore(CHECKS_AT_ONCE)
        self.converting = asyncio.Semaphore(CONVERSIONS_AT_ONCE)
        self.on_delete: list[Callable[[str], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Make the folder of jobs, and start working.

        Raises:
            OutputError: the folder cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(
                f"{self.root} cannot be created: {error.strerror}.", hint="Set service.data_dir to a folder of yours."
            ) from error
        self._tasks = [asyncio.create_task(worker.work()) for worker in self._workers]
        self._tasks.append(asyncio.create_task(self._sweep_now_and_then()))

    async def aclose(self) -> None:
        """Give the jobs in hand back to the queue, and stop."""
        for worker in self._workers:
            worker.stop()
        if self._tasks:
            self._tasks[-1].cancel()
            await asyncio.wait(self._tasks)
        self._tasks = []

    def nudge(self) -> None:
        """Say that there is a new job."""
        for worker in self._workers:
            worker.nudge()

    def files(self, job_id: str) -> JobFiles:
        """The folder of a job."""
        return JobFiles(self.root, job_id)

    # -- deletion -----------------------------------------------------------------------------------------------

    def delete(self, job: JobRecord, *, actor: str, action: str = "jobs.delete") -> None:
        """Delete a job, in whatever state it is: its files, its row; a line in the audit says so. Blocks.

        Whoever runs it is told by the next heartbeat, and removes what it wrote meanwhile. The index of comments is
        left: it says which answers in the cache a customer's deletion is about.

        Raises:
            OutputError: its files cannot be deleted.
            StoreError: the store is not there; trying again is safe.
        """
        self._store.jobs.cancel(job.id)
        files = self.files(job.id)
        for also in self.on_delete:
            also(job.id)
        try:
            files.remove()
            ours = self._store.jobs.delete(job.id)
            files.remove()  # what its worker wrote in between
        except OSError as error:
            raise OutputError(f"The files of job {job.id} cannot be deleted: {error.strerror}.") from error
        if ours:  # else somebody else was quicker
            detail = {"owner": job.owner, "state": job.state, "sha256": job.sha256}
            self._store.audit.write(actor, action, job.id, detail)

    def forget(
        self, job_ids: Iterable[str], text_sha256s: Collection[str] = (), customer_ids: Collection[str] = ()
    ) -> int:
        """Remove comments from the results of finished jobs. Blocks.

        Jobs that are not finished apply the store's tombstones when they are: set those first.

        Args:
            job_ids: the jobs; those that are not there any more are skipped.
            text_sha256s: digests of the comments, in hexadecimal.
            customer_ids: customers whose comments go.

        Returns:
            How many rows were emptied.

        Raises:
            OutputError: a result cannot be written; those before it are changed, and trying again is safe.
            StoreError: the store is not there; likewise.
        """
        rows = 0
        for job_id in dict.fromkeys(job_ids):
            job = self._store.jobs.get(job_id)
            if job is None or job.state != "done":
                continue
            try:
                forgotten = forget_texts(
                    self.files(job.id), job.token, texts=set(text_sha256s), customers=set(customer_ids)
                )
            except ResultGoneError:  # deleted meanwhile
                continue
            if forgotten is not None:
                self._store.jobs.amend(job.id, (job.summary or {}) | forgotten.counts)
                rows += forgotten.rows
        return rows

    # -- tidying ------------------------------------------------------------------------------------------------

    async def _sweep_now_and_then(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.sweep)
            except (ReviewmillError, OSError) as error:
                log.warning("tidying up was not finished: %s", error)
            await asyncio.sleep(SWEEP_S)

    def sweep(self) -> None:
        """Delete jobs whose time is over, and files that no job needs. Blocks.

        Raises:
            ReviewmillError, OSError: something cannot be deleted now; the next sweep tries again.
        """
        kept = timedelta(days=self._settings.retention_days)
        for job_id in self._store.jobs.expired(datetime.now(UTC) - kept):
            job = self._store.jobs.get(job_id)
            if job is not None:
                self.delete(job, actor="retention", action="jobs.expire")
        for job_id, folder in job_folders(self.root):
            job = self._store.jobs.get(job_id)
            if job is None:
                if time.time() - folder.stat().st_mtime > ORPHAN_S:
                    self.files(job_id).remove()
            elif job.state in _ENDED:
                self.files(job_id).tidy(job.token if job.state == "done" else None)
