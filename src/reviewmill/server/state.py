"""What all routes share: the settings, the store, the engine room, who may do what, and what is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastapi import Request

from reviewmill.errors import ReviewmillError, SettingsError, StoreError
from reviewmill.schema import Analysis, Comment
from reviewmill.server.access import LOCAL, Caller, Keyring, refund, spend
from reviewmill.server.engine import EngineRoom
from reviewmill.server.jobs.room import JobRoom
from reviewmill.server.ledger import Ledger
from reviewmill.server.logs import AccessLog
from reviewmill.server.metrics import Metrics
from reviewmill.server.shield import is_loopback
from reviewmill.server.talk.room import TalkRoom
from reviewmill.store import Store, database_url

if TYPE_CHECKING:
    from reviewmill.settings import ServiceSettings, Settings

log = logging.getLogger("reviewmill.server")

CUSTOMER: Final = "customer_id"
"""The key in a comment's metadata that names its customer."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What somebody wants to be gone.

    Attributes:
        text_sha256: digests of the comments as they came.
        customer_id: the customer whose comments these are, if they were named so.
        owner: whose data it is about; None: everybody's.
        jobs: the jobs in which these comments lie.
    """

    text_sha256: frozenset[str]
    customer_id: str | None
    owner: str | None
    jobs: frozenset[str]


Scrub = Callable[[Deletion], Awaitable[int]]
"""Removes comments from what a room keeps, and says how many there were."""


class Service:
    """Everything behind the HTTP face; made by `Service.open`, and given back by `aclose`.

    Attributes:
        settings: all settings.
        store: keys, jobs, corrections, the index of comments, the audit.
        room: answers comments.
        metrics: what Prometheus is told.
        access_log: lines about requests.
        ledger: writes usage and the index of comments in the background.
        keyring: who calls.
        started_at: when it was opened, in seconds since 1970.
        closing: set when the service begins to shut down; long answers (events) end then.
        scrubbers: what else must act when comments are deleted.
        jobs: long jobs over files; `working_on_jobs` lets it work.
        talk: what chats are about; `keeping_talks` looks after it.
    """

    def __init__(self, settings: Settings, store: Store, room: EngineRoom, metrics: Metrics) -> None:
        self.settings = settings
        self.store = store
        self.room = room
        self.metrics = metrics
        self.access_log = AccessLog(metrics.log_lost.inc)
        self.ledger = Ledger(store)
        self.keyring = Keyring(store, settings.service, self.ledger.pending)
        self.started_at = time.time()
        self.closing = asyncio.Event()
        self.scrubbers: list[Scrub] = []
        self.jobs = JobRoom(store, settings.service, lambda task, keywords: room.pipeline(task, keywords=keywords))
        self.talk = TalkRoom(store, settings.service, self.jobs)
        self._resources = AsyncExitStack()

    @classmethod
    async def open(cls, settings: Settings) -> Service:
        """Open the store and the cache, load the tasks, and begin to look after the model.

        Raises:
            SettingsError: `no_auth` with an address that others can reach.
            StoreError: the database cannot be opened.
            ReviewmillError: a task or the cache is not usable.
        """
        check_address(settings.service)
        async with AsyncExitStack() as stack:
            store = await asyncio.to_thread(Store.open, database_url(settings.service))
            stack.callback(store.close)
            metrics = Metrics()
            room = await asyncio.to_thread(EngineRoom, settings, metrics)
            stack.push_async_callback(room.aclose)
            service = cls(settings, store, room, metrics)
            stack.push_async_callback(service._last_words)
            for work in (service.access_log.run, service.ledger.run, room.watch):
                stack.push_async_callback(_ended, asyncio.create_task(_kept_running(work)))
            service._resources = stack.pop_all()
        return service

    async def aclose(self) -> None:
        """Write down what is not written yet, and give everything back."""
        self.closing.set()
        await self._resources.aclose()

    async def _last_words(self) -> None:
        try:
            await self.ledger.flush()
        except StoreError:
            log.exception("What is known of the last requests could not be written, and is lost.")
        await asyncio.to_thread(self.access_log.write)

    async def analyse(
        self, caller: Caller, comments: Sequence[Comment], task: str | None = None, *, keywords: bool | None = None
    ) -> list[Analysis]:
        """Analyse a caller's comments: counted against its rate and quota, and noted so that they can be deleted.

        A comment's customer is `metadata["customer_id"]`.

        Raises:
            Problem: the caller's rate or quota is used up, or the database takes no notes.
            TaskError: there is no such task.
            BusyError: too many comments wait already; nothing was done.
            ReviewmillError: the model cannot be reached at all.
        """
        self.room.task(task)
        spend(caller, len(comments))

        def note(comment: Comment, text_sha256: str, cleaned_sha256: str) -> None:
            self.ledger.note(caller.key_id, text_sha256, cleaned_sha256, comment.metadata.get(CUSTOMER))

        try:
            analyses = await self.room.analyse(comments, task, keywords=keywords, on_read=note)
        except ReviewmillError:
            refund(caller, len(comments))
            raise
        if caller.key_id != LOCAL:
            self.ledger.used(caller.key_id, len(comments))
        return analyses


@asynccontextmanager
async def working_on_jobs(service: Service) -> AsyncIterator[None]:
    """Work on jobs for as long as the service is there, and remove from their results what is deleted."""

    async def scrub(deletion: Deletion) -> int:
        if deletion.customer_id is None:
            return await asyncio.to_thread(service.jobs.forget, deletion.jobs, deletion.text_sha256)
        return await asyncio.to_thread(service.jobs.forget, deletion.jobs, (), {deletion.customer_id})

    await service.jobs.start()
    service.scrubbers.append(scrub)
    try:
        yield
    finally:
        service.scrubbers.remove(scrub)
        await service.jobs.aclose()


async def _kept_running(work: Callable[[], Awaitable[None]]) -> None:
    """Do something without end; an error that nobody expected is logged, and it begins again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("Work in the background failed, and begins again.")
        await asyncio.sleep(1)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def check_address(settings: ServiceSettings) -> None:
    """Refuse to serve without keys where others can reach us.

    Raises:
        SettingsError: the address is not this machine's own.
    """
    if settings.no_auth and not is_loopback(settings.host):
        raise SettingsError(
            f"--no-auth lets in everybody who can reach {settings.host}; it goes with a loopback address only.",
            hint="Leave --no-auth out and make a key (`reviewmill keys create`), or use --host 127.0.0.1.",
        )


def service_of(request: Request) -> Service:
    """A dependency: the service that answers this request."""
    service: Service = request.app.state.service
    return service
