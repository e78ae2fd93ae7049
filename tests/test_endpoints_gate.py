"""Who may ask the model next: the gate alone, and in front of a real connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.batch.read import open_source
from reviewmill.batch.run import Run
from reviewmill.endpoints import Gate, Labeller, connect
from reviewmill.errors import BusyError
from reviewmill.pipeline import Pipeline
from reviewmill.settings import load_settings
from reviewmill.tasks import load_task
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from reviewmill.endpoints import Priority


class Visitor:
    """Somebody who takes a place and stays until told to leave."""

    def __init__(self, gate: Gate, priority: Priority, order: list[Visitor]) -> None:
        self.priority = priority
        self.inside = False
        self._leave = asyncio.Event()
        self._order = order
        self.task = asyncio.create_task(self._visit(gate))

    async def _visit(self, gate: Gate) -> None:
        async with gate.place(self.priority):
            self.inside = True
            self._order.append(self)
            try:
                await self._leave.wait()
            finally:
                self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task

    async def give_up(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool], *, each_s: float = 0) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(each_s)
    pytest.fail("it did not come to that")


async def visitors(gate: Gate, *priorities: Priority, order: list[Visitor] | None = None) -> list[Visitor]:
    came = [Visitor(gate, priority, order if order is not None else []) for priority in priorities]
    await settle()
    return came


def run(test: Any) -> Any:
    return asyncio.run(test())


def test_a_class_is_served_in_the_order_of_arrival() -> None:
    async def test() -> None:
        gate, order = Gate(1, 1, 10), []
        came = await visitors(gate, *["interactive"] * 4, order=order)
        for visitor in came:
            await visitor.leave()
        assert order == came

    run(test)


def test_interactive_comments_overtake_jobs() -> None:
    async def test() -> None:
        gate, order = Gate(1, 1, 10), []
        first, job, late = await visitors(gate, "job", "job", "interactive", order=order)
        assert gate.depth() == {"interactive": 1, "job": 1}
        await first.leave()
        await settle()
        assert late.inside
        assert not job.inside
        await late.leave()
        await job.leave()
        assert order == [first, late, job]
        assert gate.inside() == gate.depth() == {"interactive": 0, "job": 0}

    run(test)


def test_jobs_never_take_all_places() -> None:
    async def test() -> None:
        gate = Gate(4, 2, 10)
        jobs = await visitors(gate, *["job"] * 5)
        assert [job.inside for job in jobs] == [True, True, False, False, False]
        people = await visitors(gate, "interactive", "interactive", "interactive")
        assert [person.inside for person in people] == [True, True, False]
        await jobs[0].leave()
        await settle()
        assert people[2].inside
        assert gate.inside() == {"interactive": 3, "job": 1}
        for visitor in [*people, *jobs[1:]]:
            await visitor.give_up()

    run(test)


def test_a_full_line_turns_away_and_says_when_to_come_again() -> None:
    async def test() -> None:
        gate = Gate(2, 1, 3)
        inside = await visitors(gate, "interactive", "interactive")
        await asyncio.sleep(0.5)
        for visitor in inside:
            await visitor.leave()
        waiting = await visitors(gate, *["interactive"] * 5)
        with pytest.raises(BusyError, match="3 comments wait") as refused:
            async with gate.place("interactive"):
                pytest.fail("there was no room")
        # Half a second a place, two places, four to serve: about one second.
        assert refused.value.retry_after in {1, 2}
        assert gate.depth()["interactive"] == 3
        async with asyncio.timeout(1):
            for visitor in waiting:
                await visitor.leave()

    run(test)


def test_slow_answers_make_for_a_longer_wait_but_not_for_ever(monkeypatch) -> None:
    async def told(held_s: float) -> int:
        now = 0.0
        monkeypatch.setattr("reviewmill.endpoints.gate.time.monotonic", lambda: now)
        gate = Gate(1, 1, 1)
        (slow,) = await visitors(gate, "interactive")
        now = held_s
        await slow.leave()
        waiting = await visitors(gate, "interactive", "interactive")
        with pytest.raises(BusyError) as refused:
            async with gate.place("interactive"):
                pytest.fail("there was no room")
        for visitor in waiting:
            await visitor.give_up()
        return refused.value.retry_after

    assert asyncio.run(told(0.001)) == 1
    assert asyncio.run(told(7.2)) == 15
    assert asyncio.run(told(5000)) == 60


def test_jobs_wait_without_a_limit() -> None:
    async def test() -> None:
        gate = Gate(1, 1, 0)
        jobs = await visitors(gate, *["job"] * 50)
        assert gate.depth() == {"interactive": 0, "job": 49}
        for job in jobs:
            await job.leave()

    run(test)


def test_one_who_gives_up_frees_the_place_in_the_line() -> None:
    async def test() -> None:
        gate = Gate(1, 1, 1)
        first, second = await visitors(gate, "interactive", "interactive")
        await second.give_up()
        assert gate.depth()["interactive"] == 0
        (third,) = await visitors(gate, "interactive")
        await first.leave()
        await settle()
        assert third.inside
        await third.give_up()
        assert gate.inside()["interactive"] == 0

    run(test)


def test_a_place_that_gets_free_while_the_next_gives_up_is_not_lost() -> None:
    async def test() -> None:
        gate = Gate(1, 1, 5)
        first, second, job = await visitors(gate, "interactive", "interactive", "job")
        first._leave.set()
        second.task.cancel()  # it is still in the line when first leaves
        await settle()
        assert job.inside
        assert second.task.cancelled()
        await job.leave()
        assert gate.inside() == gate.depth() == {"interactive": 0, "job": 0}

    run(test)


def test_a_place_given_in_the_moment_of_giving_up_is_passed_on() -> None:
    async def test() -> None:
        gate = Gate(1, 1, 5)
        first, second, third = await visitors(gate, *["interactive"] * 3)
        first._leave.set()
        await until(lambda: gate.depth()["interactive"] == 1)  # the place is second's, who has not run since
        assert not second.inside
        await second.give_up()
        await settle()
        assert third.inside
        await third.leave()
        await first.task
        assert gate.inside()["interactive"] == 0

    run(test)


@pytest.mark.parametrize("sizes", [(0, 0, 1), (2, 0, 1), (2, 3, 1), (2, 1, -1)])
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="a gate cannot have"):
        Gate(*sizes)


@given(
    capacity=st.integers(1, 4),
    background=st.integers(1, 4),
    acts=st.lists(
        st.tuples(st.sampled_from(["interactive", "job", "leave", "give up"]), st.integers(0, 10)), max_size=40
    ),
)
def test_whatever_happens_places_are_neither_lost_nor_given_twice(
    capacity: int, background: int, acts: list[tuple[Any, int]]
) -> None:
    background = min(background, capacity)

    async def test() -> None:
        gate = Gate(capacity, background, 1000)
        order: list[Visitor] = []
        here: list[Visitor] = []
        came: list[Visitor] = []
        gone: set[Visitor] = set()
        for act, number in acts:
            if act in {"interactive", "job"}:
                here.append(Visitor(gate, act, order))
                came.append(here[-1])
            elif here:
                visitor = here[number % len(here)]
                if act == "leave" and visitor.inside:
                    await visitor.leave()
                    here.remove(visitor)
                elif act == "give up":
                    await visitor.give_up()
                    gone.add(visitor)
                    here.remove(visitor)
            if number % 3:  # else several things happen in one turn of the loop
                await settle()
        await settle()
        jobs = sum(v.inside for v in here if v.priority == "job")
        people = sum(v.inside for v in here if v.priority == "interactive")
        waiting = gate.depth()
        assert gate.inside() == {"interactive": people, "job": jobs}
        assert people + jobs <= capacity
        assert jobs <= background
        assert not waiting["interactive"] or people + jobs == capacity
        assert not waiting["job"] or waiting["interactive"] or jobs == background or people + jobs == capacity
        for priority in ("interactive", "job"):
            served = [visitor for visitor in order if visitor.priority == priority and visitor not in gone]
            assert served == [visitor for visitor in came if visitor in served]
        for visitor in here:
            await visitor.give_up()
        assert gate.inside() == gate.depth() == {"interactive": 0, "job": 0}

    run(test)


# In front of a model


@asynccontextmanager
async def pipeline(stub: StubEndpoint, folder: Path, gate: Gate | None) -> AsyncIterator[Pipeline]:
    settings = load_settings(endpoint=stub.url, cache="none", cache_dir=folder, state_dir=folder, attempts=1)
    connection = await connect(settings)
    stub.max_in_flight = 0
    try:
        labeller = Labeller(connection, task=load_task("sentiment"), keywords=True, gate=gate)
        yield Pipeline(settings, labeller, None)
    finally:
        await connection.aclose()


def test_no_more_comments_than_places_are_with_the_model(tmp_path) -> None:
    async def test(stub: StubEndpoint) -> None:
        async with pipeline(stub, tmp_path, Gate(3, 1, 100)) as asking:
            stub.together = 3
            await asyncio.gather(*(asking.answer(f"第{n}条很好") for n in range(20)))

    with StubEndpoint(latency=0.02) as stub:
        asyncio.run(test(stub))
        assert stub.max_in_flight == 3


def test_a_comment_does_not_wait_behind_a_run(tmp_path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("评论\n" + "".join(f"第{n}条一般\n" for n in range(60)), encoding="utf-8")

    async def test(stub: StubEndpoint) -> int:
        async with pipeline(stub, tmp_path, Gate(2, 1, 100)) as asking:
            job = Run(asking, open_source(source), tmp_path / "out.csv")
            running = asyncio.create_task(job.execute())
            await until(lambda: stub.asked.total() >= 5, each_s=0.01)
            await asyncio.gather(*(asking.answer(f"第{n}件很好") for n in range(4)))
            answered = job.progress.asked
            manifest = await running
            assert manifest.tally.labels["neutral"] == 60
            return answered

    with StubEndpoint(latency=0.03) as stub:
        assert asyncio.run(test(stub)) < 20
        assert stub.max_in_flight == 2


def test_a_comment_too_many_is_an_error_of_its_own(tmp_path) -> None:
    async def test(stub: StubEndpoint) -> None:
        async with pipeline(stub, tmp_path, Gate(1, 1, 1)) as asking:
            results = await asyncio.gather(*(asking.answer(f"第{n}条很好") for n in range(4)), return_exceptions=True)
            assert [type(result) for result in results] == [tuple, tuple, BusyError, BusyError]

    with StubEndpoint(latency=0.1) as stub:
        asyncio.run(test(stub))
        assert stub.asked.total() == 2
