"""An evaluation from file to report: what it says, what it asks, and what it writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluated import BAD, GOOD, PLAIN, comments, reviewmill, write_rows
from reviewmill.errors import EndpointLostError, InputError, OutputError
from reviewmill.evaluate.report import Report, read_report
from service import wait_until
from stub_endpoint import BARE, StubEndpoint


@pytest.fixture
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("REVIEWMILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("REVIEWMILL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("REVIEWMILL_CONFIG", raising=False)


def evaluated(stub: StubEndpoint, folder: Path, rows, *options: object, code: int = 0) -> Report:
    path = write_rows(folder / "rows.jsonl", rows)
    arguments = ("--label", "label", "--endpoint", stub.url, "-o", folder / "report.json", "--force")
    assert reviewmill("evaluate", path, *arguments, *options).exit_code == code
    return read_report(folder / "report.json")


def test_three_labels(stub, tmp_path) -> None:
    report = evaluated(stub, tmp_path, comments(50, 40, 30, wrong=6))
    assert report.data.rows == 120
    assert report.data.labels == {"negative": 46, "positive": 44, "neutral": 30}
    scores = report.measures.scores
    assert scores.accuracy.value == pytest.approx(114 / 120)
    assert scores.confusion.gold == ["positive", "negative", "neutral"]
    assert scores.confusion.counts == [[44, 0, 0], [6, 40, 0], [0, 0, 30]]
    assert report.restricted is None
    assert report.outside == {}
    assert report.measures.reliability is not None
    assert report.measures.selection is not None
    assert {one.by for one in report.slices} == {"length"}
    assert report.effort.asked == 120
    assert report.effort.per_second is not None
    assert report.effort.tokens_out is not None
    assert report.system.model == "stub-model"
    assert report.system.confidence == "logprobs"
    assert [row.number for row in report.rows] == list(range(1, 121))


def test_neutral_on_two_labels_is_counted_apart(stub, tmp_path) -> None:
    rows = [*comments(40, 40), *({"text": PLAIN.format(n), "label": "positive"} for n in range(20))]
    report = evaluated(stub, tmp_path, rows)
    assert report.outside == {"neutral": 20}
    assert report.measures.scores.accuracy.value == pytest.approx(0.8)
    assert report.decided is not None
    assert report.decided.value == 1
    assert report.restricted is not None
    # The stub's other labels share what the neutral leaves: the first of the two is taken.
    assert report.restricted.scores.accuracy.value == pytest.approx(1.0)
    assert report.restricted.scores.confusion.said == ["positive", "negative"]
    assert "neutral" in report.warnings[0]
    page = (tmp_path / "report.html").read_text()
    assert "only labels that occur" in page


def test_what_was_answered_is_not_asked_again(stub, tmp_path) -> None:
    evaluated(stub, tmp_path, comments(20, 20))
    again = evaluated(stub, tmp_path, comments(20, 25))
    assert again.effort.asked == 5
    assert max(stub.asked.values()) == 1


def test_an_endpoint_that_goes_away_keeps_what_was_answered(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", comments(40, 40))
    with StubEndpoint() as stub:
        stub.drop_next = 0
        first = write_rows(tmp_path / "some.jsonl", comments(30, 0))
        options = ("--label", "label", "--endpoint", stub.url, "--concurrency", "2", "-o", tmp_path / "report.json")
        assert reviewmill("evaluate", first, *options).exit_code == 0
        (tmp_path / "report.json").unlink()
        stub.drop_next = 10_000
        with pytest.raises(EndpointLostError, match="went away"):
            reviewmill("evaluate", path, *options)
        assert not (tmp_path / "report.json").exists()
        stub.drop_next = 0
        assert reviewmill("evaluate", path, *options).exit_code == 0
        assert read_report(tmp_path / "report.json").effort.asked == 50


@pytest.mark.slow
def test_an_interrupted_evaluation_continues(stub, tmp_path) -> None:
    stub.latency = 0.1
    path = write_rows(tmp_path / "rows.jsonl", comments(60, 60))
    command = [sys.executable, "-m", "reviewmill", "evaluate", str(path), "--label", "label", "--endpoint", stub.url]
    process = subprocess.Popen([*command, "--concurrency", "2"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: sum(stub.asked.values()) >= 20, 60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in said
    assert not (tmp_path / "rows.evaluation.json").exists()
    asked = sum(stub.asked.values())
    assert asked < 120
    stub.latency = 0
    assert reviewmill(*command[3:]).exit_code == 0
    # What was in flight when it was stopped is asked once more, and nothing else.
    assert sum(stub.asked.values()) <= 120 + 2


def test_failed_and_silent_comments_are_in_no_score_but_told(tmp_path) -> None:
    rows = [*comments(30, 30), {"text": "此用户没有填写评价。", "label": "positive"}]
    with StubEndpoint(fail_texts={GOOD.format(3): 10_000}) as stub:
        stub_options = ("--concurrency", "4")
        report = evaluated(stub, tmp_path, rows, *stub_options, code=3)
    assert report.unanswered == {"error": 1, "insufficient": 1}
    assert report.measures.scores.rows == 59
    assert report.measures.scores.accuracy.value == 1
    assert report.accuracy_of_all.value == pytest.approx(59 / 61)
    assert any("1 comment failed" in warning for warning in report.warnings)
    assert next(row for row in report.rows if row.status == "error").error


def test_a_server_without_probabilities(tmp_path) -> None:
    with StubEndpoint(capabilities=BARE) as stub:
        report = evaluated(stub, tmp_path, comments(20, 20, wrong=2))
    assert report.measures.reliability is None
    assert report.measures.selection is None
    assert report.restricted is None
    assert report.system.confidence == "none"
    assert any("no probability" in warning for warning in report.warnings)
    assert "What it got wrong" in (tmp_path / "report.html").read_text()


def test_one_class_ten_rows_and_a_single_row(stub, tmp_path) -> None:
    one = evaluated(stub, tmp_path, comments(10, 0))
    assert one.measures.scores.kappa is None
    assert one.restricted is None
    assert any("Every row has the label" in warning for warning in one.warnings)
    assert any("Only 10 rows" in warning for warning in one.warnings)
    single = evaluated(stub, tmp_path, comments(1, 0))
    assert single.measures.scores.accuracy.low < 0.5


def test_no_answer_at_all(tmp_path) -> None:
    with StubEndpoint() as stub:
        path = write_rows(tmp_path / "rows.jsonl", [{"text": "此用户没有填写评价。", "label": "positive"}])
        with pytest.raises(InputError, match="None of the 1 comments"):
            reviewmill("evaluate", path, "--label", "label", "--endpoint", stub.url)
        assert not stub.asked


def test_slices_by_the_files_own_columns(stub, tmp_path) -> None:
    rows = [row | {"shop": "A" if n % 2 else "B", "price": n} for n, row in enumerate(comments(60, 60))]
    report = evaluated(stub, tmp_path, rows)
    assert {"column shop", "column price"} <= {one.by for one in report.slices}


def test_csv_with_a_mapping(stub, tmp_path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{GOOD.format(n)},好评" for n in range(20)] + [f"{BAD.format(n)},差评" for n in range(20)]
    path.write_text("\n".join(["评论,情感", *lines, "其他评论,其他"]), encoding="gb18030")
    arguments = ("--label", "情感", "--map", "好评=positive,差评=negative", "--map", "其他=", "--endpoint", stub.url)
    assert reviewmill("evaluate", path, *arguments).exit_code == 0
    report = read_report(tmp_path / "a.evaluation.html")
    assert report.data.mapping == {"好评": "positive", "差评": "negative", "其他": ""}
    assert report.measures.scores.accuracy.value == 1


def test_files_that_are_not_ours_stay(stub, tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", comments(3, 3))
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    options = ("--label", "label", "--endpoint", stub.url)
    with pytest.raises(OutputError, match="no report of reviewmill"):
        reviewmill("evaluate", path, *options, "-o", tmp_path / "mine.html")
    assert not stub.asked
    with pytest.raises(OutputError, match=r"neither \.html nor \.json"):
        reviewmill("evaluate", path, *options, "-o", tmp_path / "mine.pdf")
    with pytest.raises(OutputError, match="does not exist"):
        reviewmill("evaluate", path, *options, "-o", tmp_path / "nowhere" / "mine.html")
    reviewmill("evaluate", path, *options, "-o", tmp_path / "mine.html", "--force")
    reviewmill("evaluate", path, *options, "-o", tmp_path / "mine.html")  # now it is


@pytest.mark.parametrize("content", ["{}", "no json", '{"schema_version": 2}', "[]"])
def test_what_is_no_report(tmp_path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match="no report of"):
        read_report(tmp_path / "r.json")


def test_the_same_rows_give_the_same_report(stub, tmp_path) -> None:
    first = evaluated(stub, tmp_path, comments(30, 30, wrong=5)).model_dump(exclude={"created", "effort"})
    second = evaluated(stub, tmp_path, comments(30, 30, wrong=5)).model_dump(exclude={"created", "effort"})
    assert first == second
    assert json.loads((tmp_path / "report.json").read_text())["schema_version"] == 1
