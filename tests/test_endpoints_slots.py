"""Slots of the embedded engine: one question each, from several event loops, whatever is cancelled."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from reviewmill.endpoints.slots import Slots


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def filled(count: int, prompt: str) -> Slots:
    slots = Slots(count)
    for _ in range(count):
        await slots.take(prompt)
    for slot in range(count):
        slots.give(slot, prompt)
    return slots


@pytest.mark.anyio
async def test_a_slot_that_holds_the_prompt_is_preferred_and_else_the_one_longest_unused() -> None:
    slots = await filled(3, "a")
    assert await slots.take("a") == (0, True)
    assert await slots.take("b") == (1, False)
    slots.give(1, "b")
    assert await slots.take("b") == (1, True)
    slots.give(0, "a")
    assert await slots.take("c") == (2, False)


@pytest.mark.anyio
async def test_who_waits_is_served_in_turn() -> None:
    slots = Slots(1)
    slot, _ = await slots.take("a")
    waiting = [asyncio.create_task(slots.take(name)) for name in "bcd"]
    await asyncio.sleep(0)
    waiting[1].cancel()
    served = []
    for number in (0, 2):
        slots.give(slot, "a" if number == 0 else "b")
        assert await waiting[number] == (0, False)
        served.append(number)
    assert not waiting[1].done() or waiting[1].cancelled()
    slots.give(0, None)
    assert await slots.take("a") == (0, False)


@pytest.mark.anyio
async def test_a_slot_that_was_given_to_somebody_who_left_comes_back() -> None:
    slots = Slots(1)
    await slots.take("a")
    waiting = asyncio.create_task(slots.take("b"))
    await asyncio.sleep(0)
    slots.give(0, "a")
    waiting.cancel()  # in the moment between
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        assert await slots.take("a") == (0, True)


@pytest.mark.parametrize("seed", range(5))
def test_no_slot_is_used_twice_and_none_is_lost(seed) -> None:
    slots = asyncio.run(filled(3, "a"))
    used: set[int] = set()
    holds = {0: "a", 1: "a", 2: "a"}
    wrong: list[str] = []

    async def question(prompt: str, chance: random.Random) -> None:
        slot, held = await slots.take(prompt)
        try:
            if slot in used:
                wrong.append(f"slot {slot} is used twice")
            if held != (holds[slot] == prompt):
                wrong.append(f"slot {slot} holds {holds[slot]}, and {held} was said of {prompt}")
            used.add(slot)
            await asyncio.sleep(chance.choice([0, 0.001, 0.003]))
        finally:
            used.discard(slot)
            holds[slot] = prompt
            slots.give(slot, prompt)

    async def user(seed: int) -> None:
        chance = random.Random(seed)
        questions = []
        for _ in range(100):
            questions.append(asyncio.create_task(question(chance.choice("abc"), chance)))
            if chance.random() < 0.2:
                chance.choice(questions).cancel()
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
        await asyncio.gather(*questions, return_exceptions=True)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(user(10 * seed + n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong

    async def all_of_them() -> list[int]:
        async with asyncio.timeout(5):
            return sorted([(await slots.take("a"))[0] for _ in range(3)])

    assert asyncio.run(all_of_them()) == [0, 1, 2]


def test_a_loop_that_is_closed_holds_up_nobody() -> None:
    slots = Slots(1)

    async def leave_waiting() -> None:
        await slots.take("a")
        coroutine = slots.take("b")
        coroutine.send(None)  # as if its loop had ended in the middle

    asyncio.run(leave_waiting())
    slots.give(0, "a")
    assert asyncio.run(slots.take("a")) == (0, True)
