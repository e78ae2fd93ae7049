"""Which slot of the embedded engine answers which question, where several prompts are in use."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class _Waiting:
    loop: asyncio.AbstractEventLoop
    slot: asyncio.Future[int]


class Slots:
    """The slots of one engine: which are free, and whose prompt's beginning each holds.

    Those who use an engine may run in different event loops.

    Args:
        count: how many there are, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = list(range(count))  # what was used longest ago comes first
        self._holds: list[str | None] = [None] * count
        self._waiting: deque[_Waiting] = deque()

    async def take(self, prompt: str) -> tuple[int, bool]:
        """Wait for a slot, first come, first served; one that holds the prompt's beginning if several are free.

        Returns:
            The slot, to be given back, and whether it holds the prompt's beginning.
        """
        with self._lock:
            if self._free:
                held = [slot for slot in self._free if self._holds[slot] == prompt]
                slot = held[0] if held else self._free[0]
                self._free.remove(slot)
                return slot, bool(held)
            loop = asyncio.get_running_loop()
            waiting = _Waiting(loop, loop.create_future())
            self._waiting.append(waiting)
        try:
            slot = await waiting.slot
        except asyncio.CancelledError:
            self._leave(waiting)
            raise
        return slot, self._holds[slot] == prompt

    def give(self, slot: int, prompt: str | None) -> None:
        """Give a slot back.

        Args:
            slot: which.
            prompt: whose beginning it holds now; None: nobody knows.
        """
        with self._lock:
            self._holds[slot] = prompt
            while self._waiting:
                waiting = self._waiting.popleft()
                with suppress(RuntimeError):  # its loop is closed: whoever waited there is gone
                    waiting.loop.call_soon_threadsafe(self._hand_over, waiting, slot)
                    return
            self._free.append(slot)

    def _hand_over(self, waiting: _Waiting, slot: int) -> None:
        if waiting.slot.done():  # cancelled meanwhile
            self.give(slot, self._holds[slot])
        else:
            waiting.slot.set_result(slot)

    def _leave(self, waiting: _Waiting) -> None:
        with self._lock:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if waiting.slot.done() and not waiting.slot.cancelled():
            self.give(waiting.slot.result(), self._holds[waiting.slot.result()])
