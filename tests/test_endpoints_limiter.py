"""The limiter against simulated engines: it fills them and does not pile up in front of them."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.endpoints.limiter import Limiter
from reviewmill.endpoints.load import Line, read_line


class Engine:
    """An engine in simulated time.

    Args:
        slots: requests worked on at once.
        seconds: time of one request, given how many are worked on when it begins.
        spread: its coefficient of variation.
        shows_line: whether the limiter is told of the line once a second.
        refuses_above: it refuses what comes when so many wait.
    """

    def __init__(
        self,
        slots: int,
        seconds: Callable[[int], float],
        *,
        spread: float = 0.3,
        shows_line: bool = False,
        refuses_above: int | None = None,
        seed: int = 0,
        start: int = 16,
    ) -> None:
        self.now = 0.0
        self.limiter = Limiter(start, 512, clock=lambda: self.now)
        self.slots = slots
        self._seconds = seconds
        self._spread = spread
        self._shows_line = shows_line
        self._refuses_above = refuses_above
        self._random = random.Random(seed)
        self._running: list[tuple[float, float]] = []
        self._waiting: deque[float] = deque()
        self._next_look = 1.0
        self.limits: list[int] = []
        self.refused = 0

    def work(self, answers: int) -> float:
        """Ask until so many were answered; answers a second."""
        began, done = self.now, 0
        while done < answers:
            while self.limiter.is_free:
                self.limiter.enter()
                if len(self._running) < self.slots:
                    self._begin(self.now)
                elif self._refuses_above is not None and len(self._waiting) >= self._refuses_above:
                    self.refused += 1
                    self.limiter.leave("overloaded", 0.001)
                    self.now += 0.001
                else:
                    self._waiting.append(self.now)
            end, asked = heapq.heappop(self._running)
            while self._shows_line and self._next_look < end:
                self.now = self._next_look
                self.limiter.observe_queue(len(self._running) + 1, len(self._waiting))
                self._next_look += 1.0
            self.now = max(self.now, end)
            done += 1
            while self._waiting and len(self._running) < self.slots:
                self._begin(self._waiting.popleft())
            self.limiter.leave("answered", self.now - asked)
            self.limits.append(self.limiter.limit)
        return done / (self.now - began)

    def _begin(self, asked: float) -> None:
        seconds = self._seconds(len(self._running) + 1) * self._random.lognormvariate(
            -(self._spread**2) / 2, self._spread
        )
        heapq.heappush(self._running, (self.now + seconds, asked))


@pytest.mark.parametrize("shows_line", [False, True], ids=["by throughput", "by its line"])
@pytest.mark.parametrize("slots", [1, 2, 4, 10, 16, 32, 100, 256])
def test_it_finds_the_slots_of_an_engine(slots: int, shows_line: bool) -> None:
    engine = Engine(slots, lambda _: 1.0, shows_line=shows_line)
    engine.work(max(2000, 60 * slots))
    engine.limits.clear()
    rate = engine.work(max(2000, 60 * slots))
    assert rate >= 0.95 * slots
    mean = sum(engine.limits) / len(engine.limits)
    assert slots * 0.95 <= mean <= 1.7 * slots + 2, "no more wait than work"


@pytest.mark.parametrize(("fixed_ms", "each_ms", "slots"), [(10, 1, 64), (5, 5, 16), (20, 0.2, 256)])
def test_it_fills_an_engine_whose_latency_grows_with_its_batch(fixed_ms: float, each_ms: float, slots: int) -> None:
    """As on a CPU or a GPU: a limiter that watched latency alone would stop at the first sign of growth."""
    engine = Engine(slots, lambda batch: (fixed_ms + each_ms * batch) / 100, spread=0.1)
    engine.work(6000)
    best = slots / ((fixed_ms + each_ms * slots) / 100)
    assert engine.work(6000) >= 0.95 * best


def test_it_follows_an_engine_that_gets_slower_and_faster_again() -> None:
    engine = Engine(64, lambda _: 1.0, shows_line=True)
    engine.work(3000)
    assert engine.limiter.limit >= 60
    engine.slots = 8
    engine.work(1500)
    assert engine.limiter.limit <= 16
    engine.slots = 64
    engine.work(4000)
    assert engine.limiter.limit >= 50


def test_an_engine_that_refuses_is_given_less_and_still_filled() -> None:
    engine = Engine(16, lambda _: 1.0, refuses_above=8)
    engine.work(3000)
    engine.refused = 0
    assert engine.work(3000) >= 0.9 * 16
    assert engine.refused < 60


def test_a_fixed_limit_is_never_moved() -> None:
    limiter = Limiter(5, fixed=True)
    for _ in range(200):
        limiter.enter()
        limiter.leave("answered", 0.01)
    limiter.observe_queue(5, 500)
    limiter.overloaded(1.0)
    limiter.restart()
    assert (limiter.limit, limiter.most) == (5, 5)


def test_too_little_to_do_says_nothing_about_the_engine() -> None:
    now = 0.0
    limiter = Limiter(16, 512, clock=lambda: now)
    for _ in range(1000):
        limiter.enter()
        now += 0.1
        limiter.leave("answered", 0.1)
    assert limiter.limit == 16


@given(
    st.lists(st.tuples(st.sampled_from(["answered", "overloaded", "failed", "line"]), st.floats(0, 100)), max_size=200)
)
def test_whatever_happens_the_limit_stays_in_its_bounds(events) -> None:
    now = 0.0
    limiter = Limiter(4, 32, clock=lambda: now)
    for what, number in events:
        now += number / 50
        if what == "line":
            limiter.observe_queue(int(number), int(number * 3) % 50)
        else:
            limiter.enter()
            limiter.leave(what, number)
        assert 1 <= limiter.limit <= 32
        assert limiter.in_flight == 0


def test_places_are_given_in_order_and_none_is_lost_with_who_gives_up() -> None:
    async def scenario() -> list[int]:
        limiter = Limiter(2, fixed=True)
        came: list[int] = []
        most = 0

        async def one(number: int) -> None:
            nonlocal most
            async with limiter.place() as place:
                most = max(most, limiter.in_flight)
                came.append(number)
                await asyncio.sleep(0.01)
                place.outcome = "answered"

        tasks = [asyncio.create_task(one(number)) for number in range(12)]
        await asyncio.sleep(0.005)
        for number in (3, 5, 11):
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == 0
        assert most == 2
        return came

    assert asyncio.run(scenario()) == [0, 1, 2, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            'vllm:num_requests_running{model_name="m"} 12.0\nvllm:num_requests_waiting{model_name="m"} 3.0\n',
            Line(12, 3),
        ),
        ("# HELP x\nllamacpp:requests_processing 4\nllamacpp:requests_deferred 9\n", Line(4, 9)),
        ('sglang:num_running_reqs{a="b"} 7.0\nsglang:num_queue_reqs{a="b"} 0.0\n', Line(7, 0)),
        ("process_cpu_seconds_total 3\n", None),
        ("", None),
        ("llamacpp:requests_processing NaN\nllamacpp:requests_deferred x\n", None),
    ],
)
def test_the_line_of_each_engine_is_read(text: str, line: Line | None) -> None:
    assert read_line(text) == line
