"""Who may ask the model next: people who wait for an answer go before jobs.

A model answers a bounded number of comments at once. The gate hands out those places: a job gets one only while nobody
who waits stands in the line, and never all of them, so that a job of a million rows costs a single comment at most the
answer that is under way.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

from reviewmill.errors import BusyError

Priority = Literal["interactive", "job"]

_MEMORY: Final = 0.1
"""Weight of the newest answer in the moving mean of how long a place is held."""
_LONGEST_WAIT: Final = 60
"""Seconds; who is sent away is never told to stay away for longer, however slow the last answers were."""


class Gate:
    """Hands out places in front of a model. It belongs to one event loop.

    Args:
        capacity: comments that may be with the model at once.
        background: how many of these may be a job's.
        queue: interactive comments that may wait for a place; one more is turned away.

    Raises:
        ValueError: `background` is not from 1 to `capacity`, or `queue` is negative.
    """

    def __init__(self, capacity: int, background: int, queue: int) -> None:
        if not 1 <= background <= capacity or queue < 0:
            raise ValueError(f"a gate cannot have capacity {capacity}, background {background} and queue {queue}")
        self.capacity = capacity
        self.background = background
        self.queue: Final = queue
        self._inside: dict[Priority, int] = {"interactive": 0, "job": 0}
        # Ordered by arrival; a dict, so that one who gives up leaves the middle of the line at once.
        self._lines: dict[Priority, OrderedDict[asyncio.Future[None], None]] = {
            "interactive": OrderedDict(),
            "job": OrderedDict(),
        }
        self._held_s: float | None = None

    def resize(self, capacity: int, background: int) -> None:
        """Have another number of places from now on; nobody who has one loses it.

        Raises:
            ValueError: `background` is not from 1 to `capacity`.
        """
        if not 1 <= background <= capacity:
            raise ValueError(f"a gate cannot have capacity {capacity} and background {background}")
        self.capacity, self.background = capacity, background
        self._admit()

    def depth(self) -> dict[Priority, int]:
        """How many wait, by class."""
        return {priority: len(line) for priority, line in self._lines.items()}

    def inside(self) -> dict[Priority, int]:
        """How many have a place, by class."""
        return dict(self._inside)

    @asynccontextmanager
    async def place(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a place and hold it; within a class, first come, first served.

        Cancelling one who waits frees the place in the line.

        Raises:
            BusyError: the line of interactive comments is full; `retry_after` says when to come again.
        """
        await self._enter(priority)
        entered = time.monotonic()
        try:
            yield
        finally:
            self._remember(time.monotonic() - entered)
            self._leave(priority)

    async def _enter(self, priority: Priority) -> None:
        if self._free(priority):  # then nobody of this class waits: `_admit` leaves no place that one could have
            self._inside[priority] += 1
            return
        line = self._lines[priority]
        if priority == "interactive" and len(line) >= self.queue:
            raise self._busy()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                line.pop(turn, None)
            else:
                self._leave(priority)  # the place was given in the moment in which nobody wanted it any more
            raise

    def _free(self, priority: Priority) -> bool:
        if sum(self._inside.values()) >= self.capacity:
            return False
        return priority == "interactive" or self._inside["job"] < self.background

    def _leave(self, priority: Priority) -> None:
        self._inside[priority] -= 1
        self._admit()

    def _admit(self) -> None:
        """Give every free place to the next in line, interactive comments first.

        So a place is free only while no interactive comment waits, and no job can take one from under its nose.
        """
        for priority, line in self._lines.items():
            while line and self._free(priority):
                turn, _ = line.popitem(last=False)
                if not turn.done():  # else cancelled, and its task has not run since
                    self._inside[priority] += 1
                    turn.set_result(None)

    def _remember(self, seconds: float) -> None:
        self._held_s = seconds if self._held_s is None else self._held_s + _MEMORY * (seconds - self._held_s)

    def retry_after(self, waiting: int) -> int:
        """Whole seconds after which a line of so many will have moved on.

        With every place taken, `capacity` places get free in the time that one is held (Little's law).
        """
        seconds = (self._held_s or 0.0) * (waiting + 1) / self.capacity
        return min(_LONGEST_WAIT, max(1, math.ceil(seconds)))

    def _busy(self) -> BusyError:
        waiting = len(self._lines["interactive"])
        return BusyError(waiting, retry_after=self.retry_after(waiting))
