"""The embedded default model, for real: Qwen2.5 on this machine's processor."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostile import HOSTILE
from reviewmill import Analysis, AsyncSentimentAnalyzer, SentimentAnalyzer
from reviewmill.endpoints.capabilities import probe
from reviewmill.endpoints.connection import EMBEDDED_CAPABILITIES
from reviewmill.errors import ModelError
from reviewmill.models import resolve
from reviewmill.settings import DEFAULT_MODEL, load_settings

EXAMPLES = Path(__file__).parent.parent / "examples" / "comments.csv"
MISSION = {
    "这个手机拍照太差了，根本不像宣传那样清晰。": "negative",
    "手机收到了，运行流畅，屏幕清晰，拍照效果非常好，很满意！": "positive",
    "请问这款手机支持双卡双待吗？": "neutral",
}


def _model_is_here() -> bool:
    try:
        resolve(DEFAULT_MODEL, models_dir=load_settings().models_dir)
    except ModelError:
        return False
    return True


pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(not _model_is_here(), reason=f"the model is not here: reviewmill models pull {DEFAULT_MODEL}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prefixes) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "cache").mkdir()
    (folder / "cache" / "prefixes").symlink_to(prefixes)
    return folder


@pytest.fixture(scope="module")
def analyzer(folder):
    with SentimentAnalyzer(cache_dir=folder / "cache", state_dir=folder / "state", cache="none") as made:
        yield made


def test_the_loop_of_the_missions_example_prints_the_same_keys(analyzer, capsys) -> None:
    for comment, label in MISSION.items():
        result = analyzer.analyze(comment)
        print(json.dumps(result, ensure_ascii=False))
        assert result["sentiment"] == label
        assert result["confidence"] > 0.5  # calibrated: the plain question is the least certain
        assert result["original_text"] == comment
        assert all(keyword in comment for keyword in result["keywords"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all({"sentiment", "confidence", "keywords", "original_text"} <= set(line) for line in printed)
    assert printed[0]["keywords"]


def test_hostile_comments_keep_their_label(analyzer) -> None:
    """Early: while no other prompt has taken slots away, of which each would compute the prompt's beginning again."""
    results = analyzer.analyze_batch([text for text, _ in HOSTILE])
    wrong = [
        (text, label, result.label)
        for (text, label), result in zip(HOSTILE, results, strict=True)
        if result.label != label
    ]
    assert len(HOSTILE) - len(wrong) >= 18, wrong


def test_probabilities_sum_to_one_and_spans_are_slices(analyzer) -> None:
    result = analyzer.analyze("颜色好看，可惜&nbsp;穿了两次就<b>开线</b>了！！！！！！")
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert result.confidence == pytest.approx(max(result.probabilities.values()), abs=1e-4)
    for span in result.spans:
        assert result.original_text[span["start"] : span["end"]] == span["text"]


def test_what_we_assume_of_the_embedded_engine_is_what_a_probe_finds(folder) -> None:
    async def found():
        async with AsyncSentimentAnalyzer(cache_dir=folder / "cache", cache="none") as analyzer:
            labeller = (await analyzer.pipeline()).labeller
            return await probe(await labeller.connection.open(labeller.prompt))

    assert asyncio.run(found()) == EMBEDDED_CAPABILITIES


def test_in_a_notebook_where_a_loop_is_running(analyzer) -> None:
    async def cell() -> Analysis:
        return analyzer.analyze("物流很快，包装完好，非常满意")

    assert asyncio.run(cell()).label == "positive"


def test_without_keywords_one_token_is_generated(folder) -> None:
    with SentimentAnalyzer(cache_dir=folder / "cache", keywords=False) as analyzer:
        result = analyzer.analyze("等了两个小时，难吃，再也不来了")
        assert (result.label, result.keywords) == ("negative", [])

        async def tokens() -> int:
            labeller = (await analyzer._analyzer.pipeline()).labeller
            return (await labeller.label("菜凉了，难吃")).tokens_out

        assert analyzer._call(tokens) == 1


def test_a_task_in_chinese_whose_labels_share_a_beginning(folder, tmp_path) -> None:
    task = tmp_path / "topic.toml"
    task.write_text(
        """
name = "topic"
description = "判断评论主要在说什么，是好评还是差评。"
labels = [
  { name = "物流好评", definition = "称赞送货快、包装好" },
  { name = "物流差评", definition = "抱怨送货慢、包装破损" },
  { name = "质量好评", definition = "称赞商品质量" },
  { name = "质量差评", definition = "抱怨商品质量" },
]
""",
        encoding="utf-8",
    )
    with SentimentAnalyzer(task=task, cache_dir=folder / "cache", cache="none") as analyzer:
        late = analyzer.analyze("下单十天还没送到，催了也没用，太慢了")
        assert late["topic"] == "物流差评"
        assert sum(late.probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert analyzer.analyze("用了两天就坏了，做工粗糙")["topic"] == "质量差评"


def _answered(journal: Path) -> int:
    """How many answers a journal holds."""
    if journal.exists():
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it is just being made
            contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as opened,
        ):
            return int(opened.execute("SELECT count(answer) FROM texts").fetchone()[0])
    return 0


def test_killed_and_run_again_the_labels_are_those_of_an_undisturbed_run(folder, tmp_path) -> None:
    env = os.environ | {
        "REVIEWMILL_CACHE_DIR": str(folder / "cache"),
        "REVIEWMILL_STATE_DIR": str(tmp_path / "state"),
        "REVIEWMILL_CACHE": "none",
    }

    few = tmp_path / "few.csv"
    few.write_text("\n".join(EXAMPLES.read_text("utf-8").split("\n")[:7]), "utf-8")
    output = tmp_path / "killed.csv"
    options = ["--no-keywords", "--concurrency", "2", "--quiet"]
    command = [sys.executable, "-m", "reviewmill", "analyze", str(few), "-o", str(output), *options]

    killed = subprocess.Popen(command, env=env)
    began = time.monotonic()
    while (answered := _answered(tmp_path / "killed.csv.journal")) < 2 and time.monotonic() - began < 120:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 2 <= answered < 6
    subprocess.run(command, env=env, check=True)
    with output.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    with SentimentAnalyzer(cache_dir=folder / "cache", cache="none", keywords=False) as analyzer:
        undisturbed = analyzer.analyze_batch([row["评论内容"] for row in rows])
    assert len(rows) == 6
    for row, result in zip(rows, undisturbed, strict=True):
        assert row["status"] == result.status
        # Which comments share a batch changes the last digits, and the label only where two are even.
        if result.confidence and result.confidence > 0.6:
            assert row["sentiment"] == result.label
            assert float(row["confidence"]) == pytest.approx(result.confidence, abs=0.1)
