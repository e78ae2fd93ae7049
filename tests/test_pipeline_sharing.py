"""Equal texts asked about at the same time share one request, which belongs to all who ask."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from reviewmill.cache import open_cache
from reviewmill.endpoints import Gate, Labeller, connect
from reviewmill.errors import EndpointError
from reviewmill.pipeline import Pipeline
from reviewmill.settings import load_settings
from reviewmill.tasks import load_task
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

TEXT = "质量很好"


@asynccontextmanager
async def pipeline(stub: StubEndpoint, folder: Path, gate: Gate | None = None) -> AsyncIterator[Pipeline]:
    settings = load_settings(endpoint=stub.url, cache_dir=folder, attempts=1, timeout=20)
    connection = await connect(settings)
    cache = open_cache("sqlite", cache_dir=folder)
    try:
        yield Pipeline(settings, Labeller(connection, task=load_task("sentiment"), keywords=True, gate=gate), cache)
    finally:
        await connection.aclose()
        if cache is not None:
            cache.close()


async def arrived(stub: StubEndpoint, count: int = 1) -> None:
    for _ in range(500):
        if stub.asked[TEXT] >= count:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the question did not arrive")


def with_stub(
    folder: Path,
    test: Callable[[StubEndpoint, Pipeline], Coroutine[Any, Any, None]],
    *,
    gate: Gate | None = None,
    **knobs: Any,
) -> None:
    async def body(stub: StubEndpoint) -> None:
        async with pipeline(stub, folder, gate) as asking:
            await test(stub, asking)

    with StubEndpoint(**knobs) as stub:
        asyncio.run(body(stub))


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_one_who_leaves_fails_nobody_else(tmp_path, leaver: int) -> None:
    async def test(stub: StubEndpoint, asking: Pipeline) -> None:
        askers = [asyncio.create_task(asking.answer(TEXT)) for _ in range(3)]
        await arrived(stub)
        askers.pop(leaver).cancel()
        answers = await asyncio.gather(*askers)
        assert [answer.label for answer, _ in answers] == ["positive", "positive"]
        # Whoever left, one of those who stayed shows that a model answered.
        assert [route for _, route in answers] == ["model", "cache"]
        assert stub.asked[TEXT] == 1

    with_stub(tmp_path, test, latency=0.2)


def test_the_request_ends_when_its_last_asker_is_gone(tmp_path) -> None:
    gate = Gate(1, 1, 10)

    async def test(stub: StubEndpoint, asking: Pipeline) -> None:
        stub.hang = True
        askers = [asyncio.create_task(asking.answer(TEXT)) for _ in range(3)]
        await arrived(stub)
        for asker in askers:
            asker.cancel()
        results = await asyncio.gather(*askers, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 3
        async with asyncio.timeout(2):  # the place in front of the model is free, though the server still hangs
            async with gate.place("interactive"):
                pass

    with_stub(tmp_path, test, gate=gate)


def test_who_asks_after_everybody_left_asks_anew(tmp_path) -> None:
    async def test(stub: StubEndpoint, asking: Pipeline) -> None:
        gone = asyncio.create_task(asking.answer(TEXT))
        await arrived(stub)
        gone.cancel()
        new = asyncio.create_task(asking.answer(TEXT))
        answer, route = await new
        assert (answer.label, route) == ("positive", "model")
        assert stub.asked[TEXT] == 2

    with_stub(tmp_path, test, latency=0.1)


def test_a_failure_is_everybodys_and_is_not_kept(tmp_path) -> None:
    async def test(stub: StubEndpoint, asking: Pipeline) -> None:
        stub.fail_next.append(500)
        results = await asyncio.gather(*(asking.answer(TEXT) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, EndpointError) for result in results)
        assert stub.asked[TEXT] == 1
        answer, route = await asking.answer(TEXT)
        assert (answer.label, route) == ("positive", "model")
        assert (await asking.answer(TEXT))[1] == "cache"

    with_stub(tmp_path, test)


@pytest.mark.clock
def test_a_person_does_not_wait_for_a_jobs_request_of_the_same_text(tmp_path) -> None:
    async def test(stub: StubEndpoint, asking: Pipeline) -> None:
        jobs = [asyncio.create_task(asking.answer(f"第{n}条", "job")) for n in range(5)]
        last = asyncio.create_task(asking.answer(TEXT, "job"))
        await asyncio.sleep(0.01)
        began = time.monotonic()
        assert (await asking.answer(TEXT))[0].label == "positive"
        assert time.monotonic() - began < 0.6
        assert not last.done()
        await asyncio.gather(last, *jobs)

    with_stub(tmp_path, test, latency=0.2, gate=Gate(2, 1, 10))
