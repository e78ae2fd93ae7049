"""Comparisons: systems over the same rows, the plain baseline among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluated import comments, reviewmill, write_rows
from reviewmill.cli.comparing import contenders
from reviewmill.errors import InputError, SettingsError
from reviewmill.evaluate.compare import Comparison, compare
from reviewmill.evaluate.plain import spoken_in
from reviewmill.evaluate.report import read_report
from reviewmill.settings import Settings
from reviewmill.tasks import task_source
from stub_endpoint import BARE, StubEndpoint


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("REVIEWMILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("REVIEWMILL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def stub():
    with StubEndpoint() as server:
        yield server


def compared(folder: Path, rows, *options: object, code: int = 0) -> Comparison:
    path = write_rows(folder / "rows.jsonl", rows)
    done = reviewmill("compare", path, "--label", "label", "-o", folder / "c.html", "--force", *options)
    assert done.exit_code == code
    return Comparison.model_validate_json((folder / "c.json").read_bytes())


def test_the_plain_baseline_and_its_stated_confidence(stub, tmp_path) -> None:
    found = compared(tmp_path, comments(60, 40, 20, wrong=12), "--endpoint", stub.url, "--baseline", "plain")
    plain, ours = found.systems
    assert [plain.name, ours.name] == ["plain", "reviewmill"]
    assert plain.system.confidence == "spoken"
    assert plain.measures.reliability is not None
    assert plain.measures.reliability.ece.value == pytest.approx(0.95 - 108 / 120)
    assert plain.measures.reliability.nll is None
    assert plain.measures.scores.accuracy == ours.measures.scores.accuracy
    pair = found.pairs[0]
    assert (pair.only_first, pair.only_second, pair.agreement, pair.p_value) == (0, 0, 1, 1)
    asked = [request for request in stub.requests if len(request["messages"]) == 1]
    assert len(asked) >= 120
    content = asked[-1]["messages"][0]["content"]
    assert content.endswith(tuple(row["text"] for row in comments(60, 40, 20)))
    assert "confidence" in content
    assert "confidence" in json.dumps(asked[-1]["response_format"])
    assert plain.effort.per_second is not None


def test_plain_answers_are_cached_and_never_mixed_up_with_ours(stub, tmp_path) -> None:
    options = ("--endpoint", stub.url, "--baseline", "plain")
    compared(tmp_path, comments(10, 10), *options)
    before = sum(stub.asked.values())
    again = compared(tmp_path, comments(10, 10), *options)
    assert sum(stub.asked.values()) == before
    assert again.systems[0].measures.reliability is not None
    assert again.systems[0].effort.per_second is None


def test_tasks_and_wires_are_combined_and_a_worse_one_is_found_out(tmp_path) -> None:
    rows = comments(60, 60, 30)
    with StubEndpoint(models=["good", "bad"]) as stub:
        task = task_source("sentiment")[0].replace("双重否定", "两重否定")
        (tmp_path / "other.toml").write_text(task, encoding="utf-8")
        found = compared(
            tmp_path, rows, "--endpoint", stub.url, "--model", "good", "--task", "sentiment",
            "--task", tmp_path / "other.toml", "--wire", "compact,json",
        )  # fmt: skip
    assert [one.name for one in found.systems] == [
        "sentiment · compact", "sentiment · json", "other · compact", "other · json"
    ]  # fmt: skip
    assert len(found.pairs) == 6
    assert found.differing == []

    report = read_report(_report_of(tmp_path, rows))
    spoiled = [
        row.model_copy(update={"label": "neutral", "confidence": 0.5}) if n < 40 else row
        for n, row in enumerate(report.rows)
    ]
    pair = compare({"now": report, "then": report.model_copy(update={"rows": spoiled})}).pairs[0]
    assert pair.difference.value == pytest.approx(-40 / 150)
    assert pair.difference.low < pair.difference.value < pair.difference.high < 0
    assert pair.p_value < 1e-6
    assert pair.agreement == pytest.approx(110 / 150)


def _report_of(folder: Path, rows) -> Path:
    path = write_rows(folder / "r.jsonl", rows)
    with StubEndpoint() as stub:
        reviewmill("evaluate", path, "--label", "label", "--endpoint", stub.url, "-o", folder / "r.json")
    return folder / "r.json"


def test_rows_where_they_differ_are_shown(tmp_path) -> None:
    report = read_report(_report_of(tmp_path, comments(20, 20)))
    other = [row.model_copy(update={"label": "neutral"}) if n == 7 else row for n, row in enumerate(report.rows)]
    found = compare({"a": report, "b": report.model_copy(update={"rows": other})})
    assert [row.number for row in found.differing] == [8]
    assert found.differing[0].labels == ["positive", "neutral"]


def test_two_labels_are_compared_among_these_where_both_can_be(stub, tmp_path) -> None:
    rows = comments(30, 30) + [{"text": f"第{n}次买，黑色", "label": "positive"} for n in range(20)]
    found = compared(tmp_path, rows, "--endpoint", stub.url, "--wire", "compact,json")
    assert found.all_restricted
    assert found.pairs[0].scored == "labels that occur"
    assert found.systems[0].outside == {"neutral": 20}
    with_plain = compared(tmp_path, rows, "--endpoint", stub.url, "--baseline", "plain")
    assert not with_plain.all_restricted
    assert with_plain.pairs[0].scored == "all labels"


def test_a_random_part_of_the_rows(stub, tmp_path) -> None:
    found = compared(
        tmp_path, comments(40, 40), "--endpoint", stub.url, "--wire", "compact,json", "--rows", "25", "--seed", "3"
    )  # fmt: skip
    assert found.data.rows == 25
    assert any("25 of 80 rows" in warning for warning in found.warnings)
    numbers = [row.number for row in found.rows]
    assert numbers == sorted(numbers)


def test_a_server_that_enforces_nothing(tmp_path) -> None:
    with StubEndpoint(capabilities=BARE) as stub:
        found = compared(tmp_path, comments(10, 10), "--endpoint", stub.url, "--wire", "free,json")
    assert [one.measures.reliability for one in found.systems] == [None, None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "1 system"),
        (("--wire", "compact,compact"), "given twice"),
        (("--model", "a", "--model", "b", "--endpoint", "http://x", "--endpoint", "http://y", "--endpoint", "http://z"),
         "2 models and 3 endpoints"),
        (("--task", "sentiment", "--task", "emotion"), "different labels"),
        (("--model", *" --model ".join("abcdefghi").split()), "9 systems"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(tmp_path, options, said: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", comments(3, 3))
    with pytest.raises(SettingsError, match=said):
        reviewmill("compare", path, "--label", "label", *options)


def test_models_and_endpoints_go_together(monkeypatch) -> None:
    monkeypatch.setenv("REVIEWMILL_ENDPOINT", "http://elsewhere:1")
    settings = Settings()
    found = contenders(settings, ["a", "b"], ["embedded", "http://x:1"], [], [], plain=True)
    assert [(one.name, one.settings.endpoint, one.plain) for one in found] == [
        ("a · embedded · plain", None, True),
        ("b · http://x:1 · plain", "http://x:1", True),
        ("a · embedded", None, False),
        ("b · http://x:1", "http://x:1", False),
    ]


def test_reports_over_other_rows_are_refused(tmp_path) -> None:
    report = read_report(_report_of(tmp_path, comments(10, 10)))
    with pytest.raises(InputError, match="other rows"):
        compare({"a": report, "b": report.model_copy(update={"rows": report.rows[:5]})})
    with pytest.raises(InputError, match="1 systems"):
        compare({"a": report})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"sentiment":"positive","confidence":0.95}', 0.95),
        ('{"confidence": 95, "sentiment": "x"}', 0.95),
        ('{"confidence":"0.8"}', 0.8),
        ('{"confidence": 1}', 1.0),
        ('{"confidence": -2}', None),
        ('{"confidence": 1e9}', None),
        ('{"sentiment":"positive"}', None),
        ('{"confidence": null}', None),
    ],
)
def test_stated_confidences(text: str, value: float | None) -> None:
    assert spoken_in(text) == value
