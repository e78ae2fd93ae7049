"""`reviewmill challenge` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from stub_endpoint import StubEndpoint
from warm import warm_reviewmill


@pytest.fixture(scope="module")
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture
def run(stub, tmp_path):
    def call(*arguments: str):
        env = os.environ | {"REVIEWMILL_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "200"}
        words = warm_reviewmill("challenge", "--endpoint", stub.url, *arguments)
        return subprocess.run(words, env=env, capture_output=True, text=True, encoding="utf-8", timeout=120)

    return call


def test_shows_the_table_and_what_was_missed(run, tmp_path):
    done = run("--only", "emoji", "--only", "default_text", "-o", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    assert "Emoji" in done.stdout
    assert "Default texts" in done.stdout
    assert "Irony" not in done.stdout
    assert "missed:" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["kind"] == "challenge"
    for share in report["by_phenomenon"]:
        assert f"{share['right']}/{share['rows']}" in done.stdout
    for case in report["cases"]:
        assert (case["id"] in done.stdout) == (not case["right"]), case["id"]
    assert "missed:" not in run("--only", "emoji", "--no-missed").stdout


def test_json_is_all_that_goes_to_stdout(run):
    done = run("--only", "question", "--json")
    report = json.loads(done.stdout)
    assert report["overall"]["rows"] == 20


def test_the_usual_way_is_asked_in_its_own_words(run):
    ours, plain = (
        json.loads(run("--only", "question", "--json", *more).stdout) for more in ((), ("--baseline", "plain"))
    )
    assert plain["subject"]["prompt"] != ours["subject"]["prompt"]
    assert [case["text"] for case in plain["cases"]] == [case["text"] for case in ours["cases"]]
    assert all(case["probabilities"] for case in ours["cases"])
    assert not any(case["probabilities"] for case in plain["cases"])


def test_what_does_not_exist_is_told(run):
    done = run("--only", "sarcasm")
    assert done.returncode == 1
    assert "irony" in done.stderr


def test_a_task_about_something_else_is_refused_before_anything_is_asked(run, stub):
    asked = sum(stub.asked.values())
    done = run("--task", "emotion")
    assert done.returncode == 1
    assert "--map" in done.stderr
    assert sum(stub.asked.values()) == asked
