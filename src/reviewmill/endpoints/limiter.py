"""How many requests one engine gets at once: as many as fill it, and not so many that they pile up in front of it.

An engine that works on a batch gives more comments a second the more it has, up to a point; beyond it a further request
only waits there. Where that point lies depends on card, model, lengths and neighbours, so it is found, not configured:

- *Where the engine shows its line* (the counters of vLLM, SGLang or llama.cpp), the limit grows while nobody waits
  there and shrinks by a fraction when more than a few do: additive increase, multiplicative decrease (Chiu & Jain
  1989, Computer Networks and ISDN Systems 17).
- *Where it does not*, the limit follows throughput. By Little's law (L = X·R) a full engine answers a larger L with a
  longer latency R and the same throughput X: a step up that does not pay is taken back, and once in a while a step down
  is tried that must not cost. Latency alone, which limiters of web services watch, would stop far too early here:
  in a batch it grows long before throughput stops growing.
- An engine that refuses (429, 503) or goes silent halves the limit at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

START: Final = 16
MOST: Final = 512

Outcome = Literal["answered", "overloaded", "failed"]

_CLEAR: Final = 1.4
"""A gain or a loss that needs no second look."""
_WORTH: Final = 0.05
"""What a doubling must bring, as a share of the throughput, to be kept; smaller steps in proportion."""
_SINKING: Final = 0.1
"""What all halvings together may cost; steps up win back what it really was."""
_ROUNDS: Final = 4
"""Rounds (one answer for each place) of which a throughput is the mean."""
_LEAST_ANSWERS: Final = 64
_HOLD_WINDOWS: Final = 4
"""Windows at one limit before another is tried again."""
_QUEUE_SHARE: Final = 0.1
"""Of what runs, so much may wait in the engine: a slot that gets free must find its next request there."""
_DECREASE: Final = 0.85


class Limiter:
    """The limit of one engine, and who is inside. It belongs to one event loop.

    Args:
        start: requests at once in the beginning.
        most: never more than so many.
        fixed: the limit is `start`, whatever happens.
        clock: seconds; for simulations.

    Attributes:
        limit: requests that may be with the engine now.
        in_flight: requests that are.
        listeners: called whenever the limit has changed.
        latency: moving mean of an answer's time, seconds; None before the first.
        rate: answers a second, as last measured with the limit in use; None before.
    """

    def __init__(
        self,
        start: int = START,
        most: int = MOST,
        *,
        fixed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = max(1, min(start, most))
        self.most: Final = self.limit if fixed else most
        self.in_flight = 0
        self.latency: float | None = None
        self.rate: float | None = None
        self.listeners: list[Callable[[], None]] = []
        self._fixed = fixed
        self._clock = clock
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._search = _Search()
        self._sees_queue = False
        self._peak = 0
        self._doubling = True
        self._cut_at = -math.inf
        self._begin_window(settle=0)

    @property
    def is_free(self) -> bool:
        """Whether one more may go in."""
        return self.in_flight < self.limit

    def enter(self) -> None:
        """Count a request in."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)

    def leave(self, outcome: Outcome, seconds: float) -> None:
        """Count a request out.

        Args:
            outcome: `overloaded`: the engine refused it for its load, or was silent; `failed`: anything else that
                says nothing about load.
            seconds: how long it took.
        """
        self.in_flight -= 1
        if outcome == "answered":
            self._answered(seconds)
        elif outcome == "overloaded":
            self.overloaded(seconds)
        self._admit()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Wait for a place and hold it; first come, first served."""
        if self._waiters or not self.is_free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[turn] = None
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._waiters.pop(turn, None)
                else:
                    self.in_flight -= 1  # the place was given in the moment in which nobody wanted it any more
                    self._admit()
                raise
        else:
            self.enter()
        place = Place()
        began = self._clock()
        try:
            yield place
        finally:
            self.leave(place.outcome, self._clock() - began)

    def _admit(self) -> None:
        while self._waiters and self.is_free:
            turn, _ = self._waiters.popitem(last=False)
            if not turn.done():  # else cancelled, and its task has not run since
                self.enter()
                turn.set_result(None)

    # --- what moves the limit ---

    def observe_queue(self, running: int, waiting: int) -> None:
        """Take in what the engine says of its own line.

        Args:
            running: requests that it works on.
            waiting: requests that stand in its line.
        """
        if self._fixed:
            return
        self._sees_queue = True
        if waiting > 1 + _QUEUE_SHARE * running:
            self._doubling = False
            fitting = max(1, self.in_flight - waiting + math.ceil(_QUEUE_SHARE * running))
            self._set(min(int(self.limit * _DECREASE), max(fitting, self.limit // 2)))
        elif waiting == 0 and self._peak >= self.limit:
            self._set(self.limit * 2 if self._doubling else self.limit + max(1, self.limit // 16))
        self._peak = self.in_flight

    def _answered(self, seconds: float) -> None:
        self.latency = seconds if self.latency is None else self.latency + 0.1 * (seconds - self.latency)
        if self._settle:
            self._settle -= 1
            if not self._settle:
                self._began = self._clock()
            return
        self._count += 1
        elapsed = self._clock() - self._began
        if elapsed <= 0:
            return
        rate = self._count / elapsed
        enough = max(_ROUNDS * self.limit, _LEAST_ANSWERS)
        early = self._count >= max(2 * self.limit, _LEAST_ANSWERS // 8) and self._search.is_clear(self.limit, rate)
        if not early and self._count < enough:
            return
        if self._peak >= self.limit:  # else there was not enough to do: it says nothing about the engine
            self.rate = rate
            if not self._fixed and not self._sees_queue:
                self._set(self._search.next(self.limit, rate, self.most))
                return
        self._begin_window(settle=0)

    def overloaded(self, seconds: float = 0.0) -> None:
        """Halve the limit, once for all the requests that were under way together.

        Args:
            seconds: how long the refused request took.
        """
        now = self._clock()
        if self._fixed or now - self._cut_at < max(seconds, self.latency or 0.0):
            return
        self._cut_at = now
        self._doubling = False
        self._search.settle()
        self._set(self.limit // 2)

    def restart(self) -> None:
        """Begin anew, carefully: the engine was away."""
        if not self._fixed:
            self._search, self._doubling = _Search(), True
            self._set(max(1, self.limit // 4))

    def _set(self, limit: int) -> None:
        limit = max(1, min(limit, self.most))
        changed, self.limit = limit != self.limit, limit
        self._begin_window(settle=self.limit if changed else 0)
        if changed:
            self._admit()
            for listener in self.listeners:
                listener()

    def _begin_window(self, *, settle: int) -> None:
        """Start counting; the first answers after a change were still asked for under the old limit."""
        self._settle = settle
        self._count = 0
        self._began = self._clock()
        self._peak = self.in_flight


class Place:
    """A place at the engine; whoever holds it says how it went."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: Outcome = "failed"


class _Search:
    """Looks for the smallest limit that gives nearly the most throughput. Pure.

    It doubles while that pays; where even the first doubling does not, it halves while that costs nothing. Then it
    holds, and once in a while tries a step up or down from there, in turn.
    """

    def __init__(self) -> None:
        self._phase: Literal["first", "climbing", "sinking", "holding"] = "first"
        self._base: tuple[int, float] | None = None  # the limit to fall back on, and its throughput
        self._held = 0
        self._upwards = False

    def is_clear(self, limit: int, rate: float) -> bool:
        """Whether this throughput says enough after a short look."""
        if self._base is None:
            return False
        return rate > self._base[1] * _CLEAR if limit > self._base[0] else rate < self._base[1] / _CLEAR

    def settle(self) -> None:
        """Stop climbing: the engine was overrun."""
        self._phase, self._base, self._held = "holding", None, 0

    def next(self, limit: int, rate: float, most: int) -> int:
        """The limit to try after one that gave this throughput."""
        if self._base is None or limit == self._base[0]:
            return self._again(limit, rate, most)
        before, rate_before = self._base
        self._held = 0
        # Of a step down the logarithm is negative: it must not cost more than a step up must bring.
        enough = 1 - _SINKING if self._phase == "sinking" else 1 + _WORTH * math.log2(limit / before)
        if rate < rate_before * enough:
            if self._phase == "first" and before > 1:
                self._phase = "sinking"
                return before // 2
            self._phase = "holding"
            return before
        # On the way down the best so far is what counts: many small losses would add up.
        self._base = (limit, rate if limit > before else max(rate, rate_before))
        if self._phase in {"first", "climbing"} and limit < most:
            self._phase = "climbing"
            return limit * 2
        return limit // 2 if self._phase == "sinking" and limit > 1 else limit

    def _again(self, limit: int, rate: float, most: int) -> int:
        """Another throughput of the limit that is held."""
        mean = rate if self._base is None else self._base[1] + 0.3 * (rate - self._base[1])
        self._base = (limit, mean)
        if self._phase == "first" and limit < most:
            return limit * 2
        self._phase = "holding"
        self._held += 1
        if self._held < _HOLD_WINDOWS:
            return limit
        self._held = 0
        self._upwards = not self._upwards
        if self._upwards:
            return max(limit + 1, limit * 4 // 3)
        return max(1, limit * 3 // 4)
