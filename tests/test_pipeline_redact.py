"""With `redact`, personal data reach neither the model, nor the cache, nor the journal; the results are as before."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reviewmill
from personal import emails, houses, numbers
from reviewmill import SentimentAnalyzer
from reviewmill.pipeline import prepare
from reviewmill.schema import Comment
from stub_endpoint import StubEndpoint

NUMBERS = {
    "电话": "138 0013 8000",
    "身份证": "11010519491231002X",
    "邮箱": "zhang.san@example.com",
    "卡号": "6222021001116245702",
    "门牌": "12号3栋502室",
}
COMMENTS = [f"太差了，我的{name}是中山路{number}，客服不回" for name, number in NUMBERS.items()]


@pytest.fixture
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "state_dir": tmp_path / "state", "attempts": 1}


def everything_sent(stub: StubEndpoint) -> str:
    return json.dumps(stub.requests, ensure_ascii=False)


def everything_kept(folder: Path, *, besides: set[Path]) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file() and path not in besides]
    assert files
    return b"".join(path.read_bytes() for path in files)


def analyze(stub: StubEndpoint, source: Path, output: Path, **more: Any) -> Any:
    with SentimentAnalyzer(stub.url, **more) as analyzer:
        return analyzer.analyze_file(source, output)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["评论"], *([comment] for comment in COMMENTS), ["这条会失败 13900139000"]])
    return path


def test_without_it_numbers_are_sent(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, **folders) as analyzer:
        analyzer.analyze_batch(COMMENTS)
    assert all(number in everything_sent(stub) for number in NUMBERS.values())


def test_a_text_comes_back_as_it_was_and_leaves_as_placeholders(stub, folders, tmp_path) -> None:
    with SentimentAnalyzer(stub.url, redact=True, **folders) as analyzer:
        results = analyzer.analyze_batch(COMMENTS)
    assert [result.original_text for result in results] == COMMENTS
    assert all(result.label == "negative" and "redacted" in result.flags for result in results)
    for result in results:
        assert result.keywords
        for span in result.spans:
            assert result.original_text[span["start"] : span["end"]] == span["text"]
    sent, kept = everything_sent(stub), everything_kept(tmp_path, besides=set())
    for name, number in NUMBERS.items():
        assert f"[{name}]" in sent
        assert number not in sent
        assert number.encode() not in kept


def test_a_run_keeps_no_number_in_journal_cache_or_manifest(stub, folders, source, tmp_path) -> None:
    stub.fail_texts = {"这条会失败": 500}  # so that the journal stays
    output = tmp_path / "out.csv"
    manifest = analyze(stub, source, output, redact=True, **folders)
    assert manifest.tally.errors == 1
    assert (tmp_path / "out.csv.journal").exists()
    kept, sent = everything_kept(tmp_path, besides={source, output}), everything_sent(stub)
    assert "[电话]".encode() in kept
    for number in (*NUMBERS.values(), "13900139000"):
        assert number.encode() not in kept
        assert number not in sent
    with output.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["original_text"] for row in rows[:-1]] == COMMENTS
    assert all("redacted" in row["flags"] for row in rows)


def test_the_run_says_whether_it_masked_and_is_not_continued_by_one_that_does_otherwise(
    stub, folders, source, tmp_path
) -> None:
    stub.fail_texts = {"这条会失败": 500}
    open_run = analyze(stub, source, tmp_path / "out.csv", **folders)
    masked = analyze(stub, source, tmp_path / "out.csv", redact=True, **folders)
    again = analyze(stub, source, tmp_path / "out.csv", redact=True, **folders)
    assert open_run.description["settings"]["redact"] is False
    assert masked.description["settings"]["redact"] is True
    assert not masked.continued
    assert again.continued
    assert b"13900139000" not in (tmp_path / "out.csv.journal").read_bytes()


def test_comments_that_differ_only_in_a_number_are_asked_once(stub, folders) -> None:
    with SentimentAnalyzer(stub.url, redact=True, **folders) as analyzer:
        results = analyzer.analyze_batch([f"打1380013800{digit}没人接" for digit in range(5)])
    assert stub.asked["打[电话]没人接"] == 1
    assert [result.original_text[-4] for result in results] == list("01234")


def test_a_model_that_answers_with_a_placeholder_brings_no_number_back(folders) -> None:
    class Placeholders(StubEndpoint):
        def _decide(self, request):
            before, label, after, labels = super()._decide(request)
            return before, label, "|[电话],电话,没人接" if after else after, labels

    with Placeholders() as stub, SentimentAnalyzer(stub.url, redact=True, **folders) as analyzer:
        assert analyzer.analyze("打13800138000没人接").keywords == ["没人接"]


def test_a_number_at_the_place_where_a_long_comment_is_cut_is_masked_whole() -> None:
    words = "".join(chr(0x4E00 + n) for n in range(80))
    for before in range(80):
        text = f"{words[:before]}，13800138000，{words[before:]}"
        ready = prepare(Comment(text), max_chars=50, max_raw_chars=1000, redacted=True)
        assert ready.text is not None
        assert not re.search(r"\d", ready.text)
        assert not set("[电话]") & set(ready.text.replace("[电话]", ""))


@settings(max_examples=20)
@given(st.lists(st.one_of(numbers, emails, houses), min_size=1, max_size=6))
def test_no_number_survives_in_what_others_receive(said: list[str]) -> None:
    comments = [f"客服不回，我是{number}，等了很久" for number in said]
    with tempfile.TemporaryDirectory() as name, StubEndpoint() as stub:
        folder = Path(name)
        source, output = folder / "in.jsonl", folder / "out.jsonl"
        rows = [*comments, "这条会失败"]
        source.write_text(
            "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        stub.fail_texts = {"这条会失败": 500}
        analyze(stub, source, output, redact=True, attempts=1, cache_dir=folder / "cache", state_dir=folder / "state")
        kept = everything_kept(folder, besides={source, output})
        prompts = {request["messages"][-1]["content"] for request in stub.requests}
        for number in said:
            assert number.encode() not in kept
            assert not any(number in prompt for prompt in prompts)
        written = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        assert [row["original_text"] for row in written] == rows


def test_the_setting_comes_from_everywhere(monkeypatch) -> None:
    assert not reviewmill.Settings().redact
    monkeypatch.setenv("REVIEWMILL_REDACT", "1")
    assert reviewmill.Settings().redact
    assert not SentimentAnalyzer(redact=False).settings.redact
