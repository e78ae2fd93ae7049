"""The regression gate: it holds what is worse, and lets chance pass."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from evaluated import comments, reviewmill, write_rows
from reviewmill.errors import InputError, OutputError
from reviewmill.evaluate.gate import check_against
from reviewmill.evaluate.report import Report, read_report
from stub_endpoint import StubEndpoint
from warm import warm_reviewmill


@pytest.fixture(scope="module")
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("REVIEWMILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("REVIEWMILL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def measured(stub: StubEndpoint, folder: Path, name: str, rows, *options: object) -> Report:
    path = write_rows(folder / f"{name}.jsonl", rows)
    out = folder / f"{name}.json"
    assert reviewmill("evaluate", path, "--label", "label", "--endpoint", stub.url, "-o", out, *options).exit_code == 0
    return read_report(out)


def spoil(report: Report, count: int) -> Report:
    """The same report with so many of its right answers wrong."""
    rows = []
    for row in report.rows:
        if row.right and count:
            count -= 1
            rows.append(row.model_copy(update={"label": "neutral" if row.label != "neutral" else "positive"}))
        else:
            rows.append(row)
    return report.model_copy(update={"rows": rows})


def test_the_gate(stub, own) -> None:
    rows = comments(150, 150, 50)
    report = measured(stub, own, "a", rows)
    same = check_against(report, report, max_drop=0)
    assert (same.test, same.verdict, same.drop) == ("paired", "passed", 0)
    assert check_against(spoil(report, 2), report, max_drop=0).verdict == "unclear"
    worse = check_against(spoil(report, 20), report, max_drop=0.01)
    assert worse.verdict == "worse"
    assert worse.drop == pytest.approx(20 / 350)
    assert worse.only_before == 20
    assert "Significantly worse" in worse.in_words()
    assert check_against(spoil(report, 20), report, max_drop=0.06).verdict == "passed"
    assert check_against(report, spoil(report, 20), max_drop=0).verdict == "passed"

    # Corrected right labels count for both sides; a reworded layout is the same text.
    fixed = [row.model_copy(update={"gold": "negative"}) if n < 30 else row for n, row in enumerate(report.rows)]
    assert check_against(report.model_copy(update={"rows": fixed}), report, max_drop=0).drop == 0
    spaced = [row.model_copy(update={"text": f" {row.text} "}) for row in report.rows]
    assert check_against(report.model_copy(update={"rows": spaced}), report, max_drop=0).test == "paired"

    # Some rows more are still pairs; other rows are not.
    assert check_against(report, report.model_copy(update={"rows": report.rows[:300]}), max_drop=0).test == "paired"
    other = [row.model_copy(update={"text": f"另外{row.text}"}) for row in report.rows]
    found = check_against(spoil(report.model_copy(update={"rows": other}), 40), report, max_drop=0.01)
    assert (found.test, found.verdict, found.only_before) == ("two-sample", "worse", None)

    with pytest.raises(InputError, match="other labels"):
        check_against(report, report.model_copy(update={"labels": ["happy", "sad"]}), max_drop=0)


def test_failed_comments_count_as_wrong(stub, own) -> None:
    report = measured(stub, own, "b", comments(60, 60))
    failed = [
        row.model_copy(update={"label": None, "status": "error"}) if n < 15 else row
        for n, row in enumerate(report.rows)
    ]
    assert check_against(report.model_copy(update={"rows": failed}), report, max_drop=0.01).verdict == "worse"


@pytest.mark.slow
def test_exit_codes_in_a_real_process(stub, own) -> None:
    bad = own / "d.jsonl"
    environment = os.environ | {"REVIEWMILL_ENDPOINT": stub.url}
    measured(stub, own, "d", comments(60, 60, wrong=30))

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            warm_reviewmill("evaluate", *arguments, "--label", "label"),
            capture_output=True, text=True, cwd=own, env=environment, check=False, timeout=120,
        )  # fmt: skip

    # An earlier model that got everything right, although half of the good comments are said to be bad ones.
    earlier = json.loads((own / "d.json").read_text())
    for row in earlier["rows"]:
        row["label"] = row["gold"]
    (own / "golden.json").write_text(json.dumps(earlier))
    worse = call(bad, "--against", "golden.json", "--max-drop", "0.01", "-o", "g.html", "-q")
    assert worse.returncode == 4
    assert "Significantly worse" in worse.stderr
    assert 'class="verdict worse"' in (own / "g.html").read_text()
    gate = read_report(own / "g.json").gate
    assert gate is not None
    assert (gate.verdict, gate.max_drop) == ("worse", 0.01)
    missing = call(bad, "--against", "nothing.json")
    assert missing.returncode == 1
    assert "nothing.json does not exist" in missing.stderr


def test_the_report_that_is_compared_with_is_never_written_over(stub, own) -> None:
    path = write_rows(own / "h.jsonl", comments(5, 5))
    reviewmill("evaluate", path, "--label", "label", "--endpoint", stub.url)
    with pytest.raises(OutputError, match="written over"):
        reviewmill(
            "evaluate", path, "--label", "label", "--endpoint", stub.url, "--against", own / "h.evaluation.json"
        )  # fmt: skip
