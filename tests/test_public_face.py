"""The public face is exactly this; adding to it is a decision, taking from it a break."""

from __future__ import annotations

import json

import pandas as pd
import polars as pl
import pytest
from pydantic import TypeAdapter

import reviewmill
from reviewmill import Analysis, Comment, SentimentAnalyzer
from reviewmill.errors import InputError, SettingsError, TaskError
from stub_endpoint import StubEndpoint


@pytest.fixture
def analyzer(tmp_path):
    with StubEndpoint() as stub, SentimentAnalyzer(stub.url, cache_dir=tmp_path, cache="none") as made:
        yield made


def test_the_face() -> None:
    assert sorted(reviewmill.__all__) == [
        "Analysis",
        "AsyncSentimentAnalyzer",
        "Client",
        "Comment",
        "ReviewmillError",
        "SentimentAnalyzer",
        "Settings",
        "StudentAnalyzer",
        "Task",
        "__version__",
        "load_task",
    ]
    assert all(hasattr(reviewmill, name) for name in reviewmill.__all__)


def test_an_analysis_is_a_dict_an_object_and_a_schema(analyzer) -> None:
    result = analyzer.analyze(Comment("质量很好", id=7, metadata={"stars": 5}))
    assert result["sentiment"] == result.label == "positive"
    assert result.id == 7
    assert json.loads(json.dumps(result)) == result
    adapter = TypeAdapter(Analysis)
    assert adapter.validate_python(dict(result)) == result
    assert isinstance(adapter.validate_json(json.dumps(result)), Analysis)
    assert {"confidence", "keywords", "original_text", "spans"} <= set(adapter.json_schema()["properties"])
    with pytest.raises(AttributeError, match="no field 'nonsense'"):
        _ = result.nonsense


def test_batch_and_stream_keep_order_and_length(analyzer) -> None:
    texts = [f"第{n}条{'很好' if n % 3 else '太差'}" for n in range(100)] + ["", "系统默认好评"]
    batch = analyzer.analyze_batch(texts)
    assert [result.original_text for result in batch] == texts
    assert [result.label for result in batch[:3]] == ["negative", "positive", "positive"]
    assert [result.status for result in batch[-2:]] == ["insufficient"] * 2
    assert [result.original_text for result in analyzer.stream(iter(texts))] == texts


def test_a_stream_is_lazy(analyzer) -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"第{taken}条很好"

    results = analyzer.stream(endless())
    assert [next(results).label for _ in range(5)] == ["positive"] * 5
    results.close()
    assert taken < 1000


def test_equal_texts_at_the_same_time_are_asked_once(tmp_path) -> None:
    with StubEndpoint(latency=0.1) as stub, SentimentAnalyzer(stub.url, cache_dir=tmp_path, cache="none") as analyzer:
        results = analyzer.analyze_batch(["质量很好"] * 20)
        assert stub.asked["质量很好"] == 1
    assert [result.route for result in results] == ["model"] + ["cache"] * 19


def test_a_labels_weight_decides_what_is_nearly_even_without_asking_again(tmp_path) -> None:
    def task(weight: float) -> reviewmill.Task:
        labels = [{"name": "positive", "definition": "good"}, {"name": "negative", "definition": "bad"}]
        labels[0]["weight"] = weight
        return reviewmill.Task(name="mood", description="Find the mood.", language="en", labels=labels)

    with StubEndpoint(confidence=0.6) as stub:
        results = []
        for weight in (1, 0.25):
            with SentimentAnalyzer(stub.url, task=task(weight), cache_dir=tmp_path) as analyzer:
                results.append(analyzer.analyze("质量很好"))
        assert stub.asked["质量很好"] == 1
    plain, weighed = results
    odds = plain.probabilities["positive"] / plain.probabilities["negative"]
    assert plain.mood == "positive"
    assert weighed.mood == "negative"
    assert weighed.confidence == pytest.approx(1 / (1 + odds / 4), abs=1e-3)


def test_failures_are_in_the_rows_of_a_batch_and_raised_for_one(tmp_path) -> None:
    with (
        StubEndpoint(fail_texts={"坏": 400}) as stub,
        SentimentAnalyzer(stub.url, cache_dir=tmp_path, cache="none") as analyzer,
    ):
        good, bad = analyzer.analyze_batch(["很好", "坏"])
        assert (good.status, bad.status, bad.label) == ("ok", "error", None)
        assert bad.error["type"] == "endpoint_refused"
        with pytest.raises(reviewmill.ReviewmillError, match="refused"):
            analyzer.analyze("坏")


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_frames_come_back_as_they_went(analyzer, kind) -> None:
    data = {"评论": ["质量很好", None, "太差了"], "星级": [5, 3, 1]}
    frame = pd.DataFrame(data, index=[10, 20, 30]) if kind == "pandas" else pl.DataFrame(data)
    result = analyzer.analyze_frame(frame)
    assert type(result) is type(frame)
    # pandas shows what is missing as NaN
    assert [None if pd.isna(label) else label for label in result["sentiment"]] == ["positive", None, "negative"]
    assert list(result["星级"]) == [5, 3, 1]
    assert list(result["status"]) == ["ok", "insufficient", "ok"]
    if kind == "pandas":
        assert list(result.index) == [10, 20, 30]
    with pytest.raises(InputError, match="nothing"):
        analyzer.analyze_frame(frame, text="nothing")


def test_an_analyzer_can_be_closed_and_used_again(analyzer) -> None:
    assert analyzer.analyze("很好").label == "positive"
    analyzer.close()
    assert analyzer.analyze("太差").label == "negative"


def test_mistakes_are_told_at_once(tmp_path) -> None:
    with pytest.raises(SettingsError, match="concurrency"):
        SentimentAnalyzer(concurrency=0)
    with pytest.raises(SettingsError, match="nonsense"):
        SentimentAnalyzer(nonsense=1)
    with pytest.raises(TaskError, match="no task 'feelings'"):
        SentimentAnalyzer(task="feelings")


def test_what_is_no_text_is_refused(analyzer) -> None:
    with pytest.raises(InputError, match="float"):
        analyzer.analyze(3.5)  # type: ignore[arg-type]


def test_settings_file_environment_arguments_in_that_order(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviewmill.toml").write_text('review_below = 0.5\ntimeout = 7\nmodel = "file"\n', encoding="utf-8")
    monkeypatch.setenv("REVIEWMILL_TIMEOUT", "8")
    monkeypatch.setenv("REVIEWMILL_MODEL", "environment")
    settings = SentimentAnalyzer(model="argument").settings
    assert (settings.review_below, settings.timeout, settings.model) == (0.5, 8, "argument")
