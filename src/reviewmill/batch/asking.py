"""Asking the model about a journal's texts: so many at once, each answer committed before the next question."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Final

from reviewmill.batch.journal import Journal, Outcome, Pending
from reviewmill.batch.progress import OnProgress, Progress
from reviewmill.endpoints import Connection, PoolConnection
from reviewmill.errors import EndpointError, EndpointLostError, EndpointTimeoutError, EndpointUnreachableError
from reviewmill.pipeline import Pipeline, error_info

_GIVE_UP_AFTER: Final = 3
"""Rounds of nothing but lost connections (a round is one failure for each place in flight) before a run stops."""


class Asker:
    """Asks, and commits what comes to the journal and the cache.

    Args:
        pipeline: asks, and keeps answers.
        journal: the run's.
        progress: told of each answer.
        on_progress: called after each answer; must be quick.
        insist: raise `EndpointLostError` if a comment found the endpoint unreachable, instead of leaving it that error.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        journal: Journal,
        progress: Progress,
        on_progress: OnProgress,
        *,
        insist: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self.journal = journal
        self.progress = progress
        self.on_progress = on_progress
        self._insist = insist
        self._lost = 0
        self._unreachable = 0

    async def ask(self, pending: Iterator[Pending], most: int) -> None:
        """Ask about these texts, at most so many at once as the endpoint takes; nothing is opened if there are none.

        Args:
            pending: the texts.
            most: how many they are at most; a pool lets fast endpoints help slow ones when few are left.

        Raises:
            EndpointLostError: the endpoint went away; what was answered is kept.
            OutputError: the journal cannot be written.
            ReviewmillError: the endpoint cannot be opened.
        """
        first = next(pending, None)
        if first is None:
            return
        pending = itertools.chain([first], pending)
        connection: Connection = self.pipeline.labeller.connection
        await connection.open(self.pipeline.labeller.prompt)
        self.progress.began = self.progress.began or time.perf_counter()
        commit = _committer(self._commit)
        pool = connection if isinstance(connection, PoolConnection) else None
        try:
            with pool.expecting(most) if pool is not None else nullcontext():
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(connection.concurrency, most)):
                        group.create_task(self._work(pending, commit, connection))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if self._insist and self._unreachable:
            raise self._lost_endpoint(self._unreachable)

    async def _work(self, pending: Iterator[Pending], commit: Commit, connection: Connection) -> None:
        """Take texts one after another; a place in flight is free again only when its answer is committed."""
        for item in pending:
            outcome = await self._outcome(item)
            await commit(item, outcome)
            self.progress.routes[outcome.route or "error"] += 1
            self.progress.asked += outcome.error is None
            self.on_progress(self.progress)
            if self._lost >= _GIVE_UP_AFTER * connection.limit:
                raise self._lost_endpoint(self._lost)

    def _lost_endpoint(self, comments: int) -> EndpointLostError:
        return EndpointLostError(
            f"{self.pipeline.labeller.connection.about.endpoint} went away: the last {comments} comments "
            "found no connection. Everything answered so far is kept.",
            hint="Bring it back and run the same command again: it continues.",
        )

    async def _outcome(self, item: Pending) -> Outcome:
        try:
            answer = await self.pipeline.labeller.label(item.text, "job")
        except EndpointError as error:
            self._lost += isinstance(error, EndpointUnreachableError | EndpointTimeoutError)
            self._unreachable += isinstance(error, EndpointUnreachableError)
            return Outcome(None, None, error_info(error))
        self._lost = 0
        return Outcome(answer, "model", None)

    async def _commit(self, outcomes: dict[Pending, Outcome]) -> None:
        self.journal.record({item.key: outcome for item, outcome in outcomes.items()})
        await self.pipeline.keep((item.text, outcome.answer) for item, outcome in outcomes.items() if outcome.answer)


Commit = Callable[[Pending, Outcome], Awaitable[None]]


def _committer(write: Callable[[dict[Pending, Outcome]], Awaitable[None]]) -> Commit:
    """Group commit: whoever commits waits until it is done; what arrives meanwhile goes in one next transaction.

    A fast engine's answers come in handfuls, so what came in the same moment goes along in this one.
    """
    waiting: dict[Pending, Outcome] = {}
    turn = asyncio.Lock()

    async def commit(item: Pending, outcome: Outcome) -> None:
        waiting[item] = outcome
        async with turn:
            if item in waiting:  # else the one before took it along
                await asyncio.sleep(0)
                batch = dict(waiting)
                waiting.clear()
                await write(batch)

    return commit
