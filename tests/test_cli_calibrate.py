"""`reviewmill calibrate` and what it changes, as a user meets it; the stub is always 90% sure."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from service import running_service
from stub_endpoint import LLAMA_CPP, StubEndpoint
from warm import warm_reviewmill


@pytest.fixture
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture
def run(tmp_path, stub):
    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        own = {f"REVIEWMILL_{name}_DIR": str(tmp_path / name.lower()) for name in ("CACHE", "STATE", "CALIBRATIONS")}
        return subprocess.run(
            warm_reviewmill(*arguments),
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=os.environ | own | {"REVIEWMILL_ENDPOINT": stub.url} | env,
            check=False,
            timeout=120,
        )

    return call


def labelled(folder: Path, rows: int = 150, *, right: float = 0.7, words: str = "好差", name: str = "gold.csv") -> str:
    """The stub calls 好 positive and 差 negative; so often it is right."""
    draw = random.Random(3)
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for number in range(rows):
            word = words[number % len(words)]
            said = {"好": "positive", "差": "negative", "平": "neutral"}[word]
            other = {"positive": "negative", "negative": "positive", "neutral": "positive"}[said]
            out.writerow([f"第{number}个东西{word}", said if draw.random() < right else other])
    return name


def test_a_calibration_is_fitted_saved_and_used_from_then_on(run, stub, tmp_path) -> None:
    before = json.loads(run("analyze", "质量好", "--json").stdout)
    assert before["confidence"] > 0.89
    assert before["provenance"]["calibration"] is None
    done = run("calibrate", labelled(tmp_path), "--label", "label", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["after"]["ece"] < record["before"]["ece"] - 0.1
    assert record["nll_change"]["high"] < 0
    assert record["after"]["rows"] == record["before"]["rows"] == 150
    assert Path(record["saved"]).parent == tmp_path / "calibrations"
    asked = stub.total
    after = json.loads(run("analyze", "质量好", "--json").stdout)
    assert stub.total == asked  # the cached answer is uncalibrated, and is calibrated now
    assert after["confidence"] < 0.8  # some of it goes to "neutral", which these rows say nothing about
    assert after["needs_review"] is (after["confidence"] < 0.7)
    assert sum(after["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert after["provenance"]["calibration"] == record["id"]
    without = json.loads(run("analyze", "质量好", "--json", "--calibration", "none").stdout)
    assert without["confidence"] == before["confidence"]


def test_the_table_for_people_and_the_list(run, tmp_path) -> None:
    done = run("calibrate", labelled(tmp_path), "--label", "label", "-o", "mine")
    assert done.returncode == 0, done.stderr
    for said in ("on rows not fitted on", "among the labels that occur", "ECE", "temperature", "No row is labelled"):
        assert said in done.stdout
    assert (tmp_path / "calibrations" / "mine.json").exists()
    listed = run("calibrations", "list").stdout
    assert "gold.csv (150)" in listed
    shown = json.loads(run("calibrations", "show", "mine").stdout)
    assert shown["id"] in listed
    assert shown["id"] in run("tasks", "show", "sentiment").stdout
    assert shown["id"] in run("doctor", "--quick").stdout
    assert run("calibrations", "remove", "mine").returncode == 0
    assert "gold.csv" not in run("calibrations", "list").stdout
    assert run("calibrations", "remove", "mine").returncode == 1


def test_a_run_says_which_calibration_decided(run, tmp_path) -> None:
    record = json.loads(run("calibrate", labelled(tmp_path), "--label", "label", "--json", "-q").stdout)
    (tmp_path / "in.csv").write_text("评论\n质量很好\n", encoding="utf-8")
    done = run("analyze", "in.csv", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["calibration"] == record["id"]
    assert any(record["id"] in note and "is calibrated" in note for note in manifest["notes"])
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["provenance"]["calibration"] == record["id"]
    # without it the same file gives another result, and nothing is asked again
    run("analyze", "in.csv", "-o", "out.jsonl", "--calibration", "none")
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["calibration"] is None
    assert manifest["model_answers_this_time"] == 0


def test_one_that_was_named_must_match(run, tmp_path) -> None:
    record = json.loads(
        run("calibrate", labelled(tmp_path), "--label", "label", "-o", "./elsewhere.json", "--json", "-q").stdout
    )
    assert Path(record["saved"]) == Path("elsewhere.json")
    # elsewhere is used only where it is named
    assert json.loads(run("analyze", "质量好", "--json").stdout)["provenance"]["calibration"] is None
    named = run("analyze", "质量好", "--json", "--calibration", "elsewhere.json")
    assert json.loads(named.stdout)["provenance"]["calibration"] == record["id"]
    for changed in (["--no-keywords"], ["--task", "emotion"]):
        done = run("analyze", "质量好", "--calibration", "elsewhere.json", *changed)
        assert done.returncode == 1
        assert "does not fit" in done.stderr
        assert "reviewmill calibrate" in done.stderr
    assert run("analyze", "质量好", "--calibration", "nothing").returncode == 1
    # by itself it is left out, and that is told
    run("calibrate", "gold.csv", "--label", "label", "-q")
    (tmp_path / "in.csv").write_text("评论\n质量很好\n", encoding="utf-8")
    run("analyze", "in.csv", "-o", "out.jsonl", "--no-keywords")
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["calibration"] is None
    assert any(record["id"] in note and "not used" in note for note in manifest["notes"])


def test_two_label_files_do_not_forbid_the_third(run, tmp_path) -> None:
    gold = labelled(tmp_path, 200, right=0.8)
    kept = json.loads(run("calibrate", gold, "--label", "label", "--json", "-q").stdout)
    assert any("No row is labelled 'neutral'" in said for said in kept["said"])
    assert json.loads(run("analyze", "第三个东西", "--json").stdout)["sentiment"] == "neutral"
    assert set(kept["restricted"]) == {"before", "after"}
    fitted = json.loads(run("calibrate", gold, "--label", "label", "--absent", "fit", "--json", "-q").stdout)
    neutral = [each["calibration"]["bias"]["neutral"] for each in (kept, fitted)]
    assert neutral[1] < neutral[0] - 0.3


def test_what_does_not_help_is_not_saved(run, tmp_path) -> None:
    """The stub is right in nine of ten, as it says."""
    done = run("calibrate", labelled(tmp_path, 60, right=0.9, words="好差平"), "--label", "label", "--json", "-q")
    record = json.loads(done.stdout)
    if record["saved"] is None:
        assert record["nll_change"]["value"] >= 0
        assert any("Nothing was saved" in said for said in record["said"])
        assert not list((tmp_path / "calibrations").glob("*"))
    else:  # by chance these rows may be a little off; then it moves little
        assert record["calibration"]["temperature"] == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\n好,positive\n差,negative\n", "at least 20"),
        ("text,label\n" + "".join(f"第{n}个好,positive\n" for n in range(40)), "one label"),
        ("text,label\n" + "".join(f"第{n}个好,gut\n" for n in range(40)), "'gut'"),
        ("text,label\n" + "".join(f"第{n}个好,\n" for n in range(40)), "no label"),
        ("text,rating\n第一个好,positive\n", "no column"),
        ("text,label\n" + "".join("都一样好,positive\n" for n in range(40)), "at least 20"),
    ],
)
def test_bad_files_are_refused_with_what_to_do(run, tmp_path, content, said) -> None:
    (tmp_path / "gold.csv").write_text(content, encoding="utf-8")
    done = run("calibrate", "gold.csv", "--label", "label")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "calibrations").exists()


def test_labels_are_translated(run, tmp_path) -> None:
    labelled(tmp_path, 60)
    text = (tmp_path / "gold.csv").read_text(encoding="utf-8").replace("positive", "好评").replace("negative", "差评")
    (tmp_path / "gold.csv").write_text(text, encoding="utf-8")
    done = run("calibrate", "gold.csv", "--label", "label", "--map", "好评=positive,差评=negative", "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["after"]["rows"] == 60


def test_comments_without_labels_fit_the_shares_alone_and_say_what_is_assumed(run, tmp_path) -> None:
    words = "好好好好差平"
    lines = "".join(f"第{number}个东西{words[number % 6]}\n" for number in range(120))
    (tmp_path / "new.csv").write_text(f"评论\n{lines}", encoding="utf-8")
    done = run("calibrate", "--unlabelled", "new.csv", "--json", "-q")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["calibration"]["method"] == "prior"
    assert record["calibration"]["temperature"] == 1
    assert any("Assumed: positive 33%" in said for said in record["said"])
    assert any("Warning" in said and "'positive'" in said for said in record["said"])
    bias = record["calibration"]["bias"]
    assert bias["positive"] < min(bias["negative"], bias["neutral"])
    expected = "positive=66,negative=17,neutral=17"
    told = json.loads(run("calibrate", "--unlabelled", "new.csv", "--expect", expected, "--json", "-q").stdout)
    assert not any("Warning" in said for said in told["said"])
    assert max(abs(value) for value in told["calibration"]["bias"].values()) < 0.5
    for wrong in ("positive", "positive=0,negative=1,neutral=1"):
        assert run("calibrate", "--unlabelled", "new.csv", "--expect", wrong).returncode == 1


def test_an_endpoint_without_probabilities_has_nothing_to_calibrate(run, tmp_path) -> None:
    with StubEndpoint(capabilities=LLAMA_CPP - {"logprobs"}) as bare:
        done = run("calibrate", labelled(tmp_path), "--label", "label", "--endpoint", bare.url)
    assert done.returncode == 1
    assert "nothing to calibrate" in done.stderr


def test_usage_is_told(run, tmp_path) -> None:
    for arguments in ([], [labelled(tmp_path), "--unlabelled", "gold.csv"], ["gold.csv"]):
        done = run("calibrate", *arguments)
        assert done.returncode == 1
        assert "→" in done.stderr


@pytest.mark.slow
def test_n_grams_are_kept_where_they_win_and_used_by_themselves(run, tmp_path) -> None:
    """The stub calls all of them positive; a word that it does not know decides."""
    draw = random.Random(5)
    with (tmp_path / "gold.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for number in range(240):
            label = draw.choice(["positive", "negative"])
            out.writerow([f"第{number}次买好{'翻车' if label == 'negative' else '回购'}", label])
    record = json.loads(run("calibrate", "gold.csv", "--label", "label", "--method", "stack", "--json", "-q").stdout)
    assert record["calibration"]["method"] == "stack"
    assert record["saved"].endswith(".npz")
    assert record["after"]["accuracy"] > 0.9 > record["before"]["accuracy"]
    found = [json.loads(run("analyze", text, "--json").stdout) for text in ("这次买好翻车", "这次买好回购")]
    assert [each["sentiment"] for each in found] == ["negative", "positive"]
    assert found[0]["provenance"]["calibration"] == record["id"]
    # where they do not win they are left out
    labelled(tmp_path, 120, name="plain.csv")
    plain = json.loads(run("calibrate", "plain.csv", "--label", "label", "--method", "stack", "--json", "-q").stdout)
    assert plain["calibration"]["method"] == "vector"
    assert any("left out" in said for said in plain["said"])


def test_the_service_carries_it(run, stub, tmp_path) -> None:
    record = json.loads(run("calibrate", labelled(tmp_path), "--label", "label", "--json", "-q").stdout)
    folder = {"calibrations_dir": tmp_path / "calibrations"}
    # A service asks whoever it is told to; it is the same model, whatever its address.
    with running_service(tmp_path, stub, **folder, service={"no_auth": True}) as service:
        result = service.http.post("/v1/analyze", json={"text": "质量好"}).json()["results"][0]
        assert result["provenance"]["calibration"] == record["id"]
        assert result["confidence"] < 0.8
        bare = service.http.post("/v1/analyze", json={"text": "质量好", "keywords": False}).json()["results"][0]
        assert bare["provenance"]["calibration"] is None
    with running_service(tmp_path, stub, **folder, calibration="none", service={"no_auth": True}) as service:
        result = service.http.post("/v1/analyze", json={"text": "质量好"}).json()["results"][0]
        assert result["provenance"]["calibration"] is None
    # One that is named is for the default task as it is asked by default; another prompt goes without it.
    with running_service(tmp_path, stub, **folder, calibration=record["id"], service={"no_auth": True}) as service:
        for body, calibration in (({}, record["id"]), ({"keywords": False}, None), ({"task": "emotion"}, None)):
            result = service.http.post("/v1/analyze", json={"text": "质量好", **body}).json()["results"][0]
            assert result["provenance"]["calibration"] == calibration
    done = run("serve", "--no-auth", "--port", "0", "--task", "emotion", "--calibration", record["id"])
    assert done.returncode == 1
    assert "does not fit" in done.stderr


def test_evaluate_uses_it_and_says_where_it_was_fitted_on_these_very_rows(run, tmp_path) -> None:
    gold = labelled(tmp_path)
    record = json.loads(run("calibrate", gold, "--label", "label", "--json", "-q").stdout)

    def report(file: str, *options: str) -> dict:
        done = run("evaluate", file, "--label", "label", "-o", "report.json", "-q", "--force", *options)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    own = report(gold)
    assert own["system"]["calibration"] == record["id"]
    assert any("fitted on this very file" in warning for warning in own["warnings"])
    page = run("evaluate", gold, "--label", "label", "-o", "report.html", "-q", "--map", "nobody=positive")
    assert page.returncode == 0, page.stderr
    for words in (
        "fitted on this very file",
        "所用校准正是在本文件上拟合的",
        "--map names what no usable row has",
        "--map 中有文件里没有的标签：nobody",
    ):
        assert words in (tmp_path / "report.html").read_text(encoding="utf-8")
    plain = report(gold, "--calibration", "none")
    assert plain["system"]["calibration"] is None
    assert not any("fitted on" in warning for warning in plain["warnings"])
    assert own["measures"]["reliability"]["ece"]["value"] < plain["measures"]["reliability"]["ece"]["value"]
