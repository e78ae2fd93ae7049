"""Error sets: wrong rows with what may have caused them, and right labels that look wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evaluated import comments, reviewmill, write_rows
from reviewmill import Client
from reviewmill.errors import InputError, OutputError
from reviewmill.evaluate.errors import NO_CAUSE, corrections_in, errors_from_corrections, errors_of
from reviewmill.evaluate.report import Report, read_report
from service import running_service
from stub_endpoint import StubEndpoint


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    """205 comments; of the 45 with an irony cue 30 are judged wrongly, of the others 10."""
    folder = tmp_path_factory.mktemp("errors")
    rows = comments(80, 80, wrong=10)
    rows += [{"text": f"真棒，第{n}次等很久", "label": "negative"} for n in range(15)]
    rows += [{"text": f"真棒，第{n}次很好吃", "label": "negative" if n < 15 else "positive"} for n in range(30)]
    path = write_rows(folder / "rows.jsonl", [row | {"id": f"r{n}"} for n, row in enumerate(rows)])
    with pytest.MonkeyPatch.context() as patch, StubEndpoint(confidence=0.97) as stub:
        patch.setenv("REVIEWMILL_CACHE_DIR", str(folder / "cache"))
        reviewmill("evaluate", path, "--label", "label", "--endpoint", stub.url, "-o", folder / "r.json")
    return read_report(folder / "r.json")


def test_every_wrong_row_is_there_with_all_that_is_known(report: Report) -> None:
    found = errors_of(report, suspicious=1)
    wrong = {row.number for row in report.rows if not row.right}
    assert {row.number for row in (*found.errors, *found.suspects)} == wrong
    one = next(row for row in found.errors if "真棒" in row.text)
    assert one.gold == "negative"
    assert one.label in one.probabilities
    assert one.keywords
    assert "irony_cue" in one.tags
    assert one.language in {"zh", "zh-Hans"}
    assert one.length in {"1-9", "10-29"}
    sure = [row.confidence or 0 for row in found.errors]
    assert sure == sorted(sure, reverse=True)


def test_causes_are_signs_that_errors_are_over_represented_with(report: Report) -> None:
    found = errors_of(report, suspicious=1)
    group = next(one for one in found.by_cause if one.name == "irony_cue")
    assert group.rows == 45
    assert group.errors == 30
    assert group.rate == pytest.approx(30 / 45)
    assert group.ratio is not None
    assert group.ratio > 5
    assert group.p_value is not None
    assert group.p_value < 1e-6
    assert {row.cause for row in found.errors} == {"irony_cue", NO_CAUSE}
    assert sum(row.cause == "irony_cue" for row in found.errors) == 30
    assert sum(one.errors for one in found.by_kind) == len(found.errors)


def test_confident_disagreement_puts_the_right_label_under_suspicion(report: Report) -> None:
    found = errors_of(report, suspicious=0.95)
    assert found.suspects
    assert all(row.suspect and row.why_suspect and (row.confidence or 0) >= 0.95 for row in found.suspects)
    assert not any(row.suspect for row in found.errors)
    # The file has no neutral: an answer that could not be right here says nothing about its labels.
    assert not any(row.label == "neutral" for row in found.suspects)


def test_confident_learning(report: Report) -> None:
    pytest.importorskip("cleanlab")
    found = errors_of(report, how="cleanlab")
    assert {row.number for row in found.suspects} <= {row.number for row in report.rows if not row.right}
    assert all(row.why_suspect == "confident learning (cleanlab)" for row in found.suspects)


def test_confident_learning_needs_probabilities_or_says_what_is_missing(report: Report) -> None:
    bare = report.model_copy(update={"rows": [row.model_copy(update={"probabilities": {}}) for row in report.rows]})
    with pytest.raises(InputError, match=r"cleanlab is not installed|needs probabilities"):
        errors_of(bare, how="cleanlab")


def test_the_command(report: Report, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(report.model_dump_json())
    out = tmp_path / "errors.jsonl"
    done = reviewmill("errors", tmp_path / "r.json", "-o", out)
    assert "irony cue" in done.stderr
    assert "right label suspected" in done.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == sum(not row.right for row in report.rows)
    suspects = [row["suspect"] for row in rows]
    assert suspects == sorted(suspects)
    with pytest.raises(OutputError, match="exists"):
        reviewmill("errors", tmp_path / "r.json", "-o", out)
    with pytest.raises(InputError, match="not both"):
        reviewmill("errors")


def test_no_errors(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("REVIEWMILL_CACHE_DIR", str(tmp_path / "cache"))
    path = write_rows(tmp_path / "rows.jsonl", comments(5, 5, 5))
    with StubEndpoint() as stub:
        reviewmill("evaluate", path, "--label", "label", "--endpoint", stub.url, "-o", tmp_path / "r.json")
    done = reviewmill("errors", tmp_path / "r.json", "-o", tmp_path / "e.jsonl")
    assert "0 wrong labels of 15" in done.stderr
    assert (tmp_path / "e.jsonl").read_text() == ""


CORRECTIONS = [
    {"text": "真棒，等了两小时", "task": "sentiment", "label": "negative", "model_label": "positive", "confidence": 0.9,
     "id": "c1", "note": "反讽", "author": "li", "updated_at": "2026-01-02T00:00:00Z"},
    {"text": " 真棒，等了两小时", "task": "sentiment", "label": "neutral", "model_label": "positive", "id": "c0",
     "updated_at": "2026-01-01T00:00:00Z"},
    {"text": "很好", "task": "sentiment", "label": "positive", "model_label": "positive", "id": "c2"},
    {"text": "不知道", "task": "sentiment", "label": "neutral", "id": "c3"},
    {"text": "气死我了", "task": "emotion", "label": "angry", "model_label": "sad", "id": "c4"},
]  # fmt: skip


def test_corrections_from_a_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "corrections.jsonl", CORRECTIONS)
    found = errors_from_corrections(corrections_in(path, task="sentiment"))
    assert len(found.errors) == 1
    one = found.errors[0]
    assert (one.label, one.gold, one.note, one.author, one.source) == (
        "positive",
        "negative",
        "反讽",
        "li",
        "correction",
    )
    assert one.cause == "irony_cue"
    told = " ".join(found.warnings)
    assert "a later one" in told
    assert "without what the model had said" in told
    assert "confirm" in told
    assert len(errors_from_corrections(corrections_in(path)).errors) == 2
    assert "1 wrong labels" in reviewmill("errors", "--corrections", path, "--task", "emotion").stderr


def test_lines_that_are_no_corrections(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    for content in ('{"text": "a"}', "[1]", "no json", '{"text": "a", "task": "t", "label": null}'):
        path.write_text(json.dumps(CORRECTIONS[0]) + "\n" + content)
        with pytest.raises(InputError, match="line 2 is no correction"):
            corrections_in(path)


def test_corrections_from_a_service(tmp_path: Path, monkeypatch) -> None:
    with StubEndpoint() as stub, running_service(tmp_path / "service", stub, task="sentiment") as service:
        key = service.key("analyse")

        async def correct() -> None:
            async with Client(service.url, key) as client:
                wrong = await client.analyze("真棒，等了两小时，很好")
                await client.correct(wrong, "negative", author="li")
                right = await client.analyze("质量很好")
                await client.correct(right, "positive")

        asyncio.run(correct())
        monkeypatch.setenv("REVIEWMILL_SERVICE_KEY", key)
        done = reviewmill("errors", "--corrections", service.url, "-o", tmp_path / "e.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["label"], row["gold"]) for row in rows] == [("positive", "negative")]
    assert "confirm" in done.stderr
