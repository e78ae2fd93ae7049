"""Audits of finished runs: who is asked about what, what the numbers are, and that no answer is evidence for itself."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cascades import comments, model_label, write_csv
from reviewmill import SentimentAnalyzer
from reviewmill.batch.audit import report_path
from reviewmill.batch.goals import CascadeOptions
from reviewmill.batch.manifest import Manifest
from reviewmill.cascade.agreement import Finding, Seen
from reviewmill.cli.main import program
from reviewmill.errors import InputError, RunError, SettingsError
from stub_endpoint import StubEndpoint

COUNT = 2000


@pytest.fixture(scope="module")
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture(scope="module")
def finished(stub: StubEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run in which a student answered, with duplicates and rows without words; and of a plain one."""
    folder = tmp_path_factory.mktemp("finished")
    texts = comments(COUNT, noise=0.1)
    with SentimentAnalyzer(stub.url, cache="none", state_dir=folder / "state", attempts=1) as analyzer:
        source = write_csv(folder / "in.csv", [*texts, *texts[:30], "！！！"])
        analyzer.analyze_file(source, folder / "out.csv", cascade=CascadeOptions(0.9, seed=1))
        analyzer.analyze_file(write_csv(folder / "few.csv", texts[:50]), folder / "plain.csv")
    return folder / "out.csv"


@pytest.fixture
def reviewmill(stub: StubEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name in ("CACHE_DIR", "STATE_DIR", "MODELS_DIR"):
        monkeypatch.setenv(f"REVIEWMILL_{name}", str(tmp_path / name.lower()))
    for name, value in {"ENDPOINT": stub.url, "ATTEMPTS": "1", "CACHE": "none"}.items():
        monkeypatch.setenv(f"REVIEWMILL_{name}", value)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(program(), [str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="module")
def truth(finished: Path) -> dict[str, dict[str, Any]]:
    """The output's distinct texts."""
    with finished.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    return {row["original_text"]: row for row in reversed(rows)}


def told(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_only_what_the_student_said_is_asked_and_the_rest_is_named(finished, stub, reviewmill, truth) -> None:
    by_student = {text for text, row in truth.items() if row["route"] == "student"}
    before = dict(stub.asked)
    found = told(reviewmill("audit", finished, "--n", 150, "--seed", 3, "--json", "-q"))
    asked = {text for text, times in stub.asked.items() if times > before.get(text, 0) and text in truth}
    assert asked <= by_student
    assert len(asked) == found["student"]["drawn"] == 150
    agreeing = sum(truth[text]["sentiment"] == model_label(text) for text in asked)
    assert found["student"]["agreeing"] == agreeing
    assert found["student"]["population"] == len(by_student)
    assert found["model"] is None
    assert found["all"]["population"] == COUNT
    assert found["all"]["agreeing_by_definition"] == COUNT - len(by_student)
    assert found["judge"] == {"kind": "model", "name": "stub-model"}
    assert found["seed"] == 3
    bad = sum(truth[text]["sentiment"] != model_label(text) for text in by_student)
    assert found["student"]["low"] <= 1 - bad / len(by_student) <= found["student"]["high"]
    assert found["all"]["low"] <= 1 - bad / COUNT <= found["all"]["high"]
    assert json.loads(report_path(finished).read_text(encoding="utf-8")) == found
    assert not list(finished.parent.glob("*.audit.journal*"))


def test_a_sentence_for_people(finished, reviewmill) -> None:
    said = reviewmill("audit", finished, "--n", 100)
    assert said.exit_code == 0
    assert "were not asked again" in said.stdout
    assert "100 of the" in said.stdout


def test_a_run_that_the_model_answered_shows_nothing(finished, reviewmill) -> None:
    result = reviewmill("audit", finished.with_name("plain.csv"))
    assert isinstance(result.exception, RunError)
    assert "its own" in str(result.exception) or "own" in str(result.exception)
    assert "--sheet" in str(result.exception)


def test_another_model_or_task_is_no_judge_of_this_run(finished, reviewmill, tmp_path) -> None:
    with StubEndpoint(models=("another",)) as other:
        result = reviewmill("audit", finished, "--endpoint", other.url)
    assert isinstance(result.exception, SettingsError)
    assert "another" in str(result.exception)
    result = reviewmill("audit", finished, "--task", "emotion")
    assert "another task" in str(result.exception) or "other words" in str(result.exception)
    assert isinstance(reviewmill("audit", finished, "--n", 5).exception, SettingsError)
    assert isinstance(reviewmill("audit", tmp_path / "none.csv").exception, InputError)


def test_an_audit_that_was_stopped_goes_on_with_its_sample(finished, stub, reviewmill) -> None:
    stub.fail_texts = {"快": 500}
    try:
        first = told(reviewmill("audit", finished, "--n", 120, "--json", "-q"))
    finally:
        stub.fail_texts = {}
    unknown = first["student"]["unknown"]
    assert unknown > 0
    assert list(finished.parent.glob("*.audit.journal"))
    before = stub.total
    second = told(reviewmill("audit", finished, "--n", 120, "--json", "-q"))
    assert second["seed"] == first["seed"]
    assert second["student"]["unknown"] == 0
    assert stub.total - before <= unknown + 12  # what failed, and the look at what the endpoint can do
    assert first["student"]["low"] <= second["student"]["agreement"] <= first["student"]["high"]


def filled(sheet: Path, label: Callable[[str], str]) -> None:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        columns, *rows = list(csv.reader(file))
    with sheet.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *([key, text, label(text)] for key, text, _ in rows)])


def test_a_person_is_shown_no_label_and_is_counted_by_who_answered(finished, reviewmill, truth, tmp_path) -> None:
    sheet = tmp_path / "sheet.csv"
    assert reviewmill("audit", finished, "--n", 200, "--sheet", sheet, "--seed", 8).exit_code == 0
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        columns, *rows = list(csv.reader(file))
    assert columns[:2] == ["id", "text"]
    assert "positive / negative / neutral" in columns[2]
    assert {row[2] for row in rows} == {""}
    drawn = [row[1] for row in rows]
    assert len(set(drawn)) == 200
    result = reviewmill("audit", finished, "--sheet", sheet)
    assert isinstance(result.exception, InputError)
    assert "200 of 200 texts have no label" in str(result.exception)
    filled(sheet, lambda text: {"positive": "正面"}.get(model_label(text), model_label(text)))
    found = told(reviewmill("audit", finished, "--sheet", sheet, "--json"))
    by_student = [text for text in drawn if truth[text]["route"] == "student"]
    wrong = sum(truth[text]["sentiment"] != model_label(text) for text in by_student)
    assert found["judge"]["kind"] == "person"
    assert found["student"]["drawn"] == len(by_student)
    assert found["student"]["agreeing"] == len(by_student) - wrong
    assert found["model"]["agreement"] == 1.0
    assert found["all"]["agreeing"] == 200 - wrong
    assert found["all"]["population"] == COUNT


def test_a_sheet_that_is_no_sample_any_more_is_refused(finished, reviewmill, tmp_path) -> None:
    sheet = tmp_path / "sheet.csv"
    reviewmill("audit", finished, "--n", 40, "--sheet", sheet)
    filled(sheet, model_label)
    whole = sheet.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    wrong = {
        "lacks 1 of the 40": "".join(lines[:-1]),
        "is no label": whole.replace(",positive", ",excellent", 1),
        "is no sheet of one audit": whole.replace("s", "t", 2),
    }
    for message, content in wrong.items():
        sheet.write_text(content, encoding="utf-8")
        result = reviewmill("audit", finished, "--sheet", sheet)
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)
    sheet.write_text(whole, encoding="utf-8")
    result = reviewmill("audit", finished.with_name("plain.csv"), "--sheet", sheet)
    assert "another output" in str(result.exception)


def test_who_cannot_tell_widens_the_interval(finished, reviewmill, tmp_path) -> None:
    sheet = tmp_path / "sheet.csv"
    reviewmill("audit", finished, "--n", 60, "--sheet", sheet, "--seed", 1)
    filled(sheet, model_label)
    sure = told(reviewmill("audit", finished, "--sheet", sheet, "--json"))
    filled(sheet, lambda text: "?" if "好" in text else model_label(text))
    unsure = told(reviewmill("audit", finished, "--sheet", sheet, "--json"))
    assert unsure["all"]["unknown"] > 0
    assert unsure["all"]["low"] < sure["all"]["low"]
    assert unsure["all"]["high"] >= sure["all"]["high"] - 1e-9


@pytest.mark.parametrize("kind", ["jsonl", "xlsx", "parquet"])
def test_every_format_that_a_run_writes_can_be_audited(kind, stub, finished, reviewmill, tmp_path, truth) -> None:
    texts = [*list(truth)[:60], "=1+1 太差了", "-好"]
    output = tmp_path / f"out.{kind}"
    with SentimentAnalyzer(stub.url, cache="none", state_dir=tmp_path / "state") as analyzer:
        analyzer.analyze_file(write_csv(tmp_path / "in.csv", texts), output)
    sheet = tmp_path / "sheet.xlsx"
    assert reviewmill("audit", output, "--n", 62, "--sheet", sheet).exit_code == 0
    assert "have no label yet" in str(reviewmill("audit", output, "--sheet", sheet).exception)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = np.random.default_rng(0)
    for population, bad, size in ((500, 25, 100), (2000, 300, 200), (60, 3, 40)):
        held = 0
        for _ in range(1000):
            seen = int(chance.hypergeometric(bad, population - bad, size))
            low, high = Finding(Seen(population, size, size - seen), certain=100).interval
            held += low - 1e-12 <= 1 - bad / (population + 100) <= high + 1e-12
        assert held >= 940


def test_a_manifest_beside_is_all_that_an_audit_needs_to_find_its_run(finished, reviewmill) -> None:
    assert told(reviewmill("audit", Manifest.path_for(finished), "--n", 30, "--json", "-q"))["student"]["drawn"] == 30
