"""Long comments through the public face: in parts or whole, in the library and in a run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reviewmill import SentimentAnalyzer
from reviewmill.scoring.parts import overall
from stub_endpoint import BARE, StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = """[10:02] 客服小王：您好，服务很好的我们，请问有什么可以帮您？
[10:03] 用户：我买的手机，屏幕太差了！
[10:04] 客服小王：非常好，马上处理。
[10:05] 用户：物流也慢。
[10:06] 用户：。。。"""
ARTICLE = "\n\n".join(
    [
        "外观&amp;手感\n" + "".join(f"第{number}天看它的外观还是很好看，手感也让人喜欢。" for number in range(13)),
        "电池\n" + "".join(f"第{number}天电池半天就没电，实在太差了。" for number in range(15)),
        "包装\n" + "".join(f"第{number}个盒子是蓝色的，里面有说明书和一根线。" for number in range(14)),
    ]
)


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as running:
        yield running


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "state_dir": tmp_path / "state", "attempts": 1}


def test_a_conversation_is_judged_by_what_the_customer_says(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, long="split", **folders) as analyzer:
        result = analyzer.analyze(CHAT)
    assert result["sentiment"] == "negative"
    assert result["status"] == "ok"
    assert "split" in result["flags"]
    parts = result["parts"]
    assert [(part["role"], part["counts"], part.get("sentiment")) for part in parts] == [
        ("agent", False, None),
        ("customer", True, "negative"),
        ("agent", False, None),
        ("customer", True, "negative"),
        ("customer", True, None),
    ]
    assert [part["status"] for part in parts if part["counts"]] == ["ok", "ok", "insufficient"]
    assert not any("客服" in text or "马上处理" in text for text in stub.asked), "what an agent says is asked of nobody"
    assert "我买的手机，屏幕太差了！" in stub.asked, "without the speaker's name and the time"
    for part in parts:
        assert CHAT[part["start"] : part["end"]] == part["text"]


def test_spans_point_into_the_original_and_the_verdict_follows_the_rule(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, long="split", **folders) as analyzer:
        result = analyzer.analyze(ARTICLE)
    assert len(result["parts"]) == 3
    assert [part["sentiment"] for part in result["parts"]] == ["positive", "negative", "neutral"]
    assert result["spans"]
    assert {span["start"] // 100 for span in result["spans"]} != {0}
    for span in result["spans"]:
        assert ARTICLE[span["start"] : span["end"]] == span["text"]
    assert set(result["keywords"]) == {span["text"] for span in result["spans"]}
    lengths = [len(part["text"].replace("&amp;", "&").replace("\n", " ")) for part in result["parts"]]
    expected = overall([(part["probabilities"], n) for part, n in zip(result["parts"], lengths, strict=True)])
    assert all(math.isclose(result["probabilities"][label], p, abs_tol=0.01) for label, p in expected.items())
    assert result["needs_review"], "a text that says everything at once is one for people"


def test_without_the_wish_nothing_is_split(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, **folders) as analyzer:
        result = analyzer.analyze(CHAT)
    assert "parts" not in result
    assert len(stub.asked) == 1


def test_a_short_comment_is_the_same_with_and_without(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, **folders) as analyzer:
        plain = analyzer.analyze("质量很好")
    with SentimentAnalyzer(stub.url, long="split", **folders) as analyzer:
        split = analyzer.analyze("质量很好")
    assert split["route"] == "cache", "its key is the same"
    assert {**split, "route": None, "provenance": None} == {**plain, "route": None, "provenance": None}


def test_without_log_probabilities_most_of_the_text_decides(folders) -> None:
    with StubEndpoint(capabilities=BARE) as stub, SentimentAnalyzer(stub.url, long="split", **folders) as analyzer:
        result = analyzer.analyze(ARTICLE)
    assert result["sentiment"] in {part["sentiment"] for part in result["parts"]}
    assert result["confidence"] is None
    assert result["needs_review"]


def test_a_conversation_without_words_of_the_customer_is_insufficient(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, long="split", **folders) as analyzer:
        result = analyzer.analyze("客服：您好，在吗？\n用户：。。。\n客服：再见")
    assert (result["status"], result["sentiment"]) == ("insufficient", None)
    assert not stub.asked


def test_personal_data_in_parts_are_masked(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, long="split", redact=True, **folders) as analyzer:
        analyzer.analyze("客服：您好\n用户：我的电话是13812345678，太差了")
    assert not any("13812345678" in text for text in stub.asked)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_run_keeps_the_parts_and_asks_equal_ones_once(stub, tmp_path, folders, name: str) -> None:
    source = tmp_path / "in.jsonl"
    rows = [CHAT, "质量很好", ARTICLE, CHAT]
    source.write_text("\n".join(json.dumps({"id": n, "text": text}) for n, text in enumerate(rows)), encoding="utf-8")
    with SentimentAnalyzer(stub.url, long="split", **folders) as analyzer:
        manifest = analyzer.analyze_file(source, tmp_path / name)
    if name.endswith("jsonl"):
        written = [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        parts = [row["parts"] for row in written]
    else:
        with (tmp_path / name).open(newline="", encoding="utf-8-sig") as file:
            written = list(csv.DictReader(file))
        parts = [json.loads(row["parts"]) if row["parts"] else [] for row in written]
    assert [row["original_text"] for row in written] == rows
    assert [len(each) for each in parts] == [5, 0, 3, 5]
    assert [row["route"] for row in written] == ["model", "model", "model", "cache"]
    assert set(stub.asked.values()) == {1}
    assert manifest.asked == 6
    assert manifest.as_json()["settings"]["long"] == "split"


def test_a_part_that_fails_fails_the_row_and_only_it_is_asked_again(stub, tmp_path, folders) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": ARTICLE}), encoding="utf-8")
    stub.fail_texts = {"电池": 500}
    with SentimentAnalyzer(stub.url, long="split", cache="none", **folders) as analyzer:
        manifest = analyzer.analyze_file(source, tmp_path / "out.jsonl")
        (row,) = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
        assert (row["status"], row["sentiment"]) == ("error", None)
        assert [part["status"] for part in row["parts"]] == ["ok", "error", "ok"]
        assert manifest.tally.errors == 1
        stub.fail_texts = {}
        manifest = analyzer.analyze_file(source, tmp_path / "out.jsonl")
    assert manifest.asked == 1
    (row,) = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert row["status"] == "ok"


def test_whole_sends_all_that_the_engine_takes_and_shortens_to_what_fits(stub, folders) -> None:
    text = "开头很好。" + "".join(f"中间说了第{number}件别的事情。" for number in range(3000)) + "结尾太差。"
    with SentimentAnalyzer(stub.url, long="whole", **folders) as analyzer:
        result = analyzer.analyze(text)
        assert "shortened" not in result["flags"]
        assert max(map(len, stub.asked)) > 30_000
        stub.context_chars = 20_000
        result = analyzer.analyze(text + "再说一句。")
    assert "shortened" in result["flags"]
    assert result["needs_review"]
    answered = min(stub.asked, key=len)
    assert 14_000 < len(answered) <= 20_000, "most of what fits is used"
    assert answered.startswith("开头")
    assert answered.endswith("再说一句。")


def test_without_it_a_long_comment_is_shortened_as_before(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, **folders) as analyzer:
        analyzer.analyze("".join(f"说了第{number}件别的事情。" for number in range(3000)))
    assert max(map(len, stub.asked)) <= 3010
