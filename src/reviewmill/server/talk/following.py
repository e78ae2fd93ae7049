"""Follows a job for a chat: a line that says how far it is, until it has ended or the service is to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

from reviewmill.server.face.overview import time_left
from reviewmill.server.face.words import Words
from reviewmill.server.jobs.events import ENDED

if TYPE_CHECKING:
    from reviewmill.store import JobRecord

POLL_S: Final = 0.25
STEP_PERCENT: Final = 10
QUIET_S: Final = 20.0
"""After so long without a step, something is said all the same."""

MOST_MARKS: Final = 60
"""Marks on one line; a job that takes days fills no chat with them."""

QUICK_S: Final = 1.5
"""A job that takes no longer needs no line."""


class Following:
    """Follows one job.

    Args:
        read: reads the job; called in a thread.
        before: how many jobs come first; likewise.
        closing: whether the service is to stop.
        words: the language of the line.

    Attributes:
        job: the job as it was seen last; None: it was deleted.
    """

    def __init__(
        self,
        read: Callable[[], JobRecord | None],
        before: Callable[[], int],
        closing: Callable[[], bool],
        words: Words,
    ) -> None:
        self._read = read
        self._before = before
        self._closing = closing
        self._words = words
        self._marks = 0
        self._step = 0
        self._said = time.monotonic()
        self.job: JobRecord | None = None

    async def line(self) -> AsyncIterator[str]:
        """The line, mark by mark; it ends when the job has, or the service is to stop."""
        began = time.monotonic()
        while True:
            self.job = await asyncio.to_thread(self._read)
            if self.job is None or self.job.state in ENDED or self._closing():
                break
            if time.monotonic() - began >= QUICK_S and (mark := await self._mark(self.job)):
                yield mark if self._marks > 1 else self._words.say["progress"] + mark
            await asyncio.sleep(POLL_S)
        if self._marks:
            yield "100%\n\n" if self.job is not None and self.job.state == "done" else "\n\n"

    async def _mark(self, job: JobRecord) -> str:
        """What there is to say now, if anything."""
        quiet = time.monotonic() - self._said >= QUIET_S
        share = _share(job.progress)
        stepped = share // STEP_PERCENT > self._step
        if not (stepped or quiet or not self._marks) or self._marks >= MOST_MARKS:
            return ""
        self._step = share // STEP_PERCENT
        self._marks += 1
        self._said = time.monotonic()
        if job.state == "queued":
            return self._words.say["queued"].format(count=await asyncio.to_thread(self._before))
        if job.progress.get("waiting"):
            return self._words.say["model_away"]
        eta = job.progress.get("eta_s")
        left = f" ({time_left(eta, self._words)})" if eta and (self._marks == 1 or quiet) else ""
        return f"{share}%{left} · "


def _share(progress: dict[str, Any]) -> int:
    """How much of a job is done, in whole per cent, never 100."""
    distinct, done = progress.get("distinct") or 0, progress.get("done") or 0
    if progress.get("phase") == "plan" or not distinct:
        return 0
    return min(99, done * 100 // distinct)
