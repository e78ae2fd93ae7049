"""A pool through the public face: real servers in processes of their own, some of which are slow, lie, or die."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import free_port
from rate_endpoint import RateEndpoint
from reviewmill import AsyncSentimentAnalyzer, SentimentAnalyzer
from reviewmill.endpoints.member import Member
from reviewmill.endpoints.pool import connect_pool
from reviewmill.errors import EndpointLostError, EndpointUnreachableError, SettingsError
from reviewmill.settings import EndpointSettings, load_settings
from stub_endpoint import OLLAMA, StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Servers entered here are ended after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "state_dir": tmp_path / "state"}


def comments(number: int) -> list[str]:
    return [f"第{each}次买，{'很好' if each % 2 else '太差了'}" for each in range(number)]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(urls: list[Any], texts: list[str], tmp_path: Path, folders: dict[str, Any], **more: Any) -> Any:
    """One run over a pool; the manifest."""
    endpoints = [url if isinstance(url, dict) else {"url": url} for url in urls]
    with SentimentAnalyzer(endpoints=endpoints, **folders, **more) as analyzer:
        return analyzer.analyze_file(write(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl", text="text")


def check(tmp_path: Path, texts: list[str]) -> None:
    """Every text came back, in order, with its own label."""
    rows = read(tmp_path / "out.jsonl")
    assert [row["original_text"] for row in rows] == texts
    assert [row["sentiment"] for row in rows] == ["negative" if "差" in text else "positive" for text in texts]
    assert {row["status"] for row in rows} == {"ok"}


def asked(*engines: RateEndpoint | StubEndpoint) -> Counter[str]:
    total: Counter[str] = Counter()
    for engine in engines:
        total.update(engine.counts()["asked"])
    return total


@pytest.mark.clock
def test_a_slow_endpoint_helps_and_holds_up_nobody(servers, tmp_path, folders) -> None:
    """Two fast ones and a slow one: at least 95% of what the two give, from the first answer to the last."""
    fast = [servers.enter_context(RateEndpoint(slots=8, seconds=0.16)) for _ in range(2)]
    slow = servers.enter_context(RateEndpoint(slots=1, seconds=1.5))
    texts = comments(1200)
    urls = [{"url": engine.url, "concurrency": 12} for engine in fast] + [{"url": slow.url, "concurrency": 1}]
    manifest = run(urls, texts, tmp_path, folders)
    check(tmp_path, texts)
    counts = [engine.counts() for engine in fast]
    took = max(count["last"] for count in counts) - min(count["first"] for count in counts)
    assert len(texts) / (took + 0.16) >= 0.95 * 2 * 8 / 0.16
    assert manifest.seconds["answer"] < took + 1.0, "the slow one ended the run"
    assert 1 <= slow.counts()["answered"] <= 10
    assert max(asked(*fast, slow).values()) <= 2


def test_an_endpoint_that_dies_in_mid_run_costs_nothing(servers, tmp_path, folders) -> None:
    engines = [servers.enter_context(RateEndpoint(slots=4, seconds=0.05)) for _ in range(2)]
    texts = comments(400)

    def kill() -> None:
        while engines[0].counts()["answered"] < 80:
            time.sleep(0.02)
        engines[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    manifest = run([engine.url for engine in engines], texts, tmp_path, folders)
    killer.join()
    check(tmp_path, texts)
    died, lived = manifest.endpoints
    assert (died["state"], lived["state"]) == ("out", "up")
    assert died["answered"] + lived["answered"] == len(texts) == manifest.asked
    assert died["answered"] >= 60
    assert max(engines[1].counts()["asked"].values()) == 1
    assert any(engines[0].url in note for note in manifest.notes)


@pytest.mark.clock
def test_an_endpoint_that_hangs_loses_what_it_holds(servers, tmp_path, folders) -> None:
    engines = [servers.enter_context(RateEndpoint(slots=4, seconds=0.05)) for _ in range(2)]
    texts = comments(150)

    def freeze() -> None:
        while engines[0].counts()["answered"] < 40:
            time.sleep(0.02)
        engines[0].freeze()

    freezer = threading.Thread(target=freeze, daemon=True)
    freezer.start()
    began = time.monotonic()
    run([engine.url for engine in engines], texts, tmp_path, folders)
    freezer.join()
    check(tmp_path, texts)
    assert time.monotonic() - began < 40, "nobody waited for the time limit of a request"


def test_when_all_are_dead_the_run_stops_and_the_same_command_goes_on(servers, tmp_path, folders) -> None:
    engines = [servers.enter_context(RateEndpoint(slots=4, seconds=0.05)) for _ in range(2)]
    urls = [engine.url for engine in engines]
    texts = comments(300)

    def kill() -> None:
        while sum(engine.counts()["answered"] for engine in engines) < 100:
            time.sleep(0.02)
        for engine in engines:
            engine.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(EndpointLostError) as stopped:
        run(urls, texts, tmp_path, folders, attempts=2, cache="none")
    killer.join()
    assert all(url in stopped.value.message for url in urls)
    assert not (tmp_path / "out.jsonl").exists()
    again = [servers.enter_context(RateEndpoint(slots=4, seconds=0.02, port=engine.port)) for engine in engines[1:]]
    manifest = run(urls, texts, tmp_path, folders, attempts=2, cache="none")
    check(tmp_path, texts)
    assert manifest.continued
    assert manifest.asked <= 210, "what was answered before is not asked again"
    assert max(asked(*again).values()) == 1


def test_all_dead_at_the_start_is_told_with_each_reason(tmp_path, folders) -> None:
    urls = [f"http://127.0.0.1:{free_port()}/v1" for _ in range(2)]
    with pytest.raises(EndpointUnreachableError) as raised:
        run(urls, comments(3), tmp_path, folders, attempts=1)
    assert all(url in raised.value.message for url in urls)


def test_an_endpoint_that_comes_back_is_used_again(servers, tmp_path, folders) -> None:
    steady = servers.enter_context(RateEndpoint(slots=2, seconds=0.05))
    port = free_port()
    texts = comments(250)

    def come() -> None:
        time.sleep(1.5)
        servers.enter_context(RateEndpoint(slots=2, seconds=0.05, port=port))

    comer = threading.Thread(target=come, daemon=True)
    comer.start()
    manifest = run([steady.url, f"http://127.0.0.1:{port}/v1"], texts, tmp_path, folders)
    comer.join()
    check(tmp_path, texts)
    assert manifest.endpoints[1]["answered"] > 5
    assert manifest.endpoints[1]["state"] == "up"


def test_a_flapping_endpoint_loses_nothing_and_is_asked_ever_less(servers, tmp_path, folders) -> None:
    steady = servers.enter_context(RateEndpoint(slots=2, seconds=0.03))
    flapping = servers.enter_context(StubEndpoint(latency=0.02))
    texts = comments(500)
    over = threading.Event()

    def flap() -> None:
        # By what it is asked and not by the clock: a loaded machine comes late to its first question.
        many = 1_000_000
        while not over.is_set():
            enough = asked(flapping).total() + 5
            while asked(flapping).total() < enough and not over.wait(0.02):
                pass
            flapping.models_failure = 503
            flapping.drop_next = many
            over.wait(0.3)
            while flapping.drop_next == many and not over.wait(0.02):
                flapping.models_failure = None  # it must be seen to be asked
            flapping.drop_next = 0
            flapping.models_failure = None

    flapper = threading.Thread(target=flap, daemon=True)
    flapper.start()
    try:
        manifest = run([steady.url, flapping.url], texts, tmp_path, folders)
    finally:
        over.set()
        flapper.join()
    check(tmp_path, texts)
    assert sum(endpoint["answered"] for endpoint in manifest.endpoints) == len(texts)
    assert manifest.endpoints[1]["outages"] >= 1


@pytest.mark.parametrize("nonsense", ["no_label", "html", "null_content"])
def test_a_liar_is_sent_away_and_its_texts_are_answered_by_others(servers, tmp_path, folders, nonsense) -> None:
    honest = servers.enter_context(RateEndpoint(slots=2, seconds=0.05))
    liar = servers.enter_context(StubEndpoint(latency=0.02))
    folders["attempts"] = 1
    texts = comments(100)
    with SentimentAnalyzer(endpoints=[{"url": honest.url}, {"url": liar.url}], **folders) as analyzer:
        analyzer.about()  # its probes were answered well
        liar.nonsense = nonsense
        manifest = analyzer.analyze_file(write(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl", text="text")
    check(tmp_path, texts)
    assert manifest.endpoints[1]["answered"] == 0
    assert manifest.endpoints[1]["outages"] >= 1
    assert liar.total < 60, "a liar is not asked for ever"


def test_a_text_that_no_endpoint_can_answer_is_its_own_fault(servers, tmp_path, folders) -> None:
    stubs = [servers.enter_context(StubEndpoint(latency=0.01, fail_texts={"毒": 500})) for _ in range(2)]
    texts = [f"第{each}条 {'毒' if each % 5 == 0 else '好'}" for each in range(60)]
    manifest = run([stub.url for stub in stubs], texts, tmp_path, folders, attempts=2)
    statuses = [row["status"] for row in read(tmp_path / "out.jsonl")]
    assert statuses == ["error" if "毒" in text else "ok" for text in texts]
    assert manifest.tally.error_types == {"endpoint_error": 12}
    assert max(asked(*stubs).values()) <= 4


def test_at_the_end_the_slow_one_gets_what_the_fast_one_failed_at(servers, tmp_path, folders) -> None:
    # It waited for ever: the slow one would only have delayed the end, and the fast one had failed.
    fast = servers.enter_context(StubEndpoint(latency=0.01, fail_texts={"毒": 500}))
    slow = servers.enter_context(StubEndpoint(latency=0.5))
    texts = [f"第{each}条 好" for each in range(60)] + ["毒"]
    run([fast.url, slow.url], texts, tmp_path, folders, attempts=3)
    assert [row["status"] for row in read(tmp_path / "out.jsonl")] == ["ok"] * 61


@pytest.mark.clock
def test_a_straggler_is_asked_of_another_once_and_counted_once(servers, tmp_path, folders) -> None:
    fast = servers.enter_context(RateEndpoint(slots=2, seconds=0.05))
    late = servers.enter_context(StubEndpoint(latency=0.05))
    texts = comments(40)
    endpoints = [{"url": fast.url, "concurrency": 2}, {"url": late.url, "concurrency": 2}]
    with SentimentAnalyzer(endpoints=endpoints, **folders) as analyzer:
        analyzer.about()

        def slow_down() -> None:
            while late.total < 16:
                time.sleep(0.005)
            late.latency = 20.0

        slower = threading.Thread(target=slow_down, daemon=True)
        slower.start()
        began = time.monotonic()
        manifest = analyzer.analyze_file(write(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl", text="text")
        slower.join()
    check(tmp_path, texts)
    assert time.monotonic() - began < 15
    assert manifest.endpoints[0]["hedges_won"] >= 1
    assert manifest.asked == len(texts) == sum(endpoint["answered"] for endpoint in manifest.endpoints)
    assert max(asked(fast, late).values()) == 2


def test_without_hedging_nothing_is_asked_twice(servers, tmp_path, folders) -> None:
    engines = [servers.enter_context(RateEndpoint(slots=2, seconds=seconds)) for seconds in (0.02, 0.6)]
    texts = comments(60)
    run([engine.url for engine in engines], texts, tmp_path, folders, hedge=False)
    check(tmp_path, texts)
    assert set(asked(*engines).values()) == {1}


def test_other_models_are_refused(servers, tmp_path, folders) -> None:
    one = servers.enter_context(StubEndpoint())
    two = servers.enter_context(StubEndpoint(models=("other-model",)))
    with pytest.raises(SettingsError, match="depend on who answers") as raised:
        run([one.url, two.url], comments(3), tmp_path, folders)
    assert "--mixed" in str(raised.value.hint)
    assert one.url in raised.value.message
    assert two.url in raised.value.message


def test_an_endpoint_named_twice_is_refused(servers, tmp_path, folders) -> None:
    one = servers.enter_context(StubEndpoint())
    with pytest.raises(SettingsError, match="twice"):
        run([one.url, one.url.removesuffix("/v1") + "/"], comments(3), tmp_path, folders)


def test_mixed_models_share_the_work_and_each_row_says_whose_it_is(servers, tmp_path, folders) -> None:
    one = servers.enter_context(StubEndpoint(latency=0.03, confidence=0.9))
    two = servers.enter_context(
        StubEndpoint(latency=0.03, models=("other-model",), capabilities=OLLAMA | {"logprobs"}, confidence=0.6)
    )
    texts = comments(80)
    manifest = run([one.url, two.url], texts, tmp_path, folders, mixed=True)
    check(tmp_path, texts)
    rows = read(tmp_path / "out.jsonl")
    of = {one.url: "stub-model", two.url: "other-model"}
    for row in rows:
        provenance = row["provenance"]
        assert of[provenance["endpoint"]] == provenance["model"]
        assert (row["confidence"] > 0.8) == (provenance["model"] == "stub-model")
    assert {row["provenance"]["endpoint"] for row in rows} == set(of)
    assert len({row["provenance"]["prompt"] for row in rows}) == 2, "each model has its own prompt"
    assert {endpoint["model"] for endpoint in manifest.endpoints} == set(of.values())
    assert any("different models" in note for note in manifest.notes)


def test_the_answers_of_a_mixed_pool_are_each_models_own(servers, tmp_path, folders) -> None:
    one = servers.enter_context(StubEndpoint(latency=0.02))
    two = servers.enter_context(StubEndpoint(latency=0.02, models=("other-model",)))
    texts = comments(60)
    run([one.url, two.url], texts, tmp_path, folders, mixed=True)
    whose = {row["original_text"]: row["provenance"]["model"] for row in read(tmp_path / "out.jsonl")}
    before = one.total + two.total
    # The pool finds all of them again, in another run and in another order.
    manifest = run([two.url, one.url], texts, tmp_path, folders, mixed=True)
    assert manifest.asked == 0
    assert {row["original_text"]: row["provenance"]["model"] for row in read(tmp_path / "out.jsonl")} == whose
    assert one.total + two.total == before
    # One of the models alone finds its own.
    with SentimentAnalyzer(one.url, **folders) as analyzer:
        alone = analyzer.analyze_batch(texts)
    own = {text for text, model in whose.items() if model == "stub-model"}
    assert {row["original_text"] for row in alone if row["route"] == "cache"} == own
    assert {row["provenance"]["model"] for row in alone} == {"stub-model"}


def test_a_pool_of_one_model_shares_its_answers_with_each_endpoint_alone(servers, tmp_path, folders) -> None:
    stubs = [servers.enter_context(StubEndpoint()) for _ in range(2)]
    texts = comments(20)
    with SentimentAnalyzer(stubs[0].url, **folders) as analyzer:
        analyzer.analyze_batch(texts[:10])
    manifest = run([stub.url for stub in stubs], texts, tmp_path, folders)
    assert manifest.distinct == {"cache": 10, "model": 10}
    with SentimentAnalyzer(stubs[1].url, **folders) as analyzer:
        assert {row["route"] for row in analyzer.analyze_batch(texts)} == {"cache"}


def test_a_model_that_changes_in_mid_run_is_not_used(servers, tmp_path, folders) -> None:
    steady = servers.enter_context(RateEndpoint(slots=2, seconds=0.05))
    changing = servers.enter_context(StubEndpoint(latency=0.03))
    texts = comments(200)

    def change() -> None:
        changing.wait_for_requests(30)
        changing.models = ("other-model",)

    changer = threading.Thread(target=change, daemon=True)
    changer.start()
    manifest = run([steady.url, changing.url], texts, tmp_path, folders)
    changer.join()
    check(tmp_path, texts)
    assert manifest.endpoints[1]["state"] == "refused"
    assert "other-model" in manifest.endpoints[1]["why"]


def test_an_endpoint_with_half_its_weight_is_given_half(servers, tmp_path, folders) -> None:
    engines = [servers.enter_context(RateEndpoint(slots=4, seconds=0.05)) for _ in range(2)]
    texts = comments(400)
    urls = [
        {"url": engine.url, "concurrency": 4, "weight": weight}
        for engine, weight in zip(engines, (1, 0.5), strict=True)
    ]
    run(urls, texts, tmp_path, folders)
    whole, half = (engine.counts()["answered"] for engine in engines)
    assert 0.35 < half / whole < 0.65


@pytest.mark.anyio
@pytest.mark.clock
async def test_people_get_the_fastest_free_endpoint_and_jobs_leave_them_room(servers, folders) -> None:
    fast = servers.enter_context(RateEndpoint(slots=8, seconds=0.1))
    slow = servers.enter_context(RateEndpoint(slots=8, seconds=1.0))
    endpoints = [{"url": slow.url, "concurrency": 8}, {"url": fast.url, "concurrency": 8}]
    async with AsyncSentimentAnalyzer(endpoints=endpoints, **folders) as analyzer:
        labeller = (await analyzer.pipeline()).labeller
        labeller.connection.reserve = 0.25
        jobs = [asyncio.create_task(labeller.label(text, "job")) for text in comments(150)]
        await asyncio.sleep(1.5)  # both are known by now
        waits = []
        for number in range(5):
            began = time.monotonic()
            answer = await labeller.label(f"有人在等 {number}", "interactive")
            waits.append(time.monotonic() - began)
            assert answer.by is not None
            assert answer.by.endpoint == fast.url
        assert max(waits) < 0.6
        await asyncio.gather(*jobs)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.clock
async def test_who_asks_interactively_is_told_at_once_when_all_are_dead(servers, folders) -> None:
    engines = [servers.enter_context(RateEndpoint(slots=2, seconds=0.02)) for _ in range(2)]
    async with AsyncSentimentAnalyzer(endpoints=[{"url": engine.url} for engine in engines], **folders) as analyzer:
        assert (await analyzer.analyze("很好"))["sentiment"] == "positive"
        for engine in engines:
            engine.kill()
        began = time.monotonic()
        with pytest.raises(EndpointUnreachableError):
            await analyzer.analyze("太差")
        assert time.monotonic() - began < 5


@pytest.mark.anyio
async def test_cancelled_questions_leave_no_trace(servers, tmp_path) -> None:
    engine = servers.enter_context(RateEndpoint(slots=2, seconds=0.3))
    other = servers.enter_context(RateEndpoint(slots=2, seconds=0.3))
    settings = load_settings(
        endpoints=[EndpointSettings(url=each.url, concurrency=2) for each in (engine, other)], cache_dir=tmp_path
    )
    pool = await connect_pool(settings)

    async def question(member: Member) -> Any:
        await asyncio.sleep(30)

    try:
        tasks = [asyncio.create_task(pool.ask(question, "job")) for _ in range(10)]
        await asyncio.sleep(0.1)
        assert [member.limiter.in_flight for member in pool.members] == [2, 2]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert [member.limiter.in_flight for member in pool.members] == [0, 0]
    finally:
        await pool.aclose()
