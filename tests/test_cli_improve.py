"""`reviewmill improve` as a user meets it: real processes, real HTTP, a stub whose answers depend on the prompt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter

import pytest

from prompted_stub import HELP, PromptedStub, write_labelled, write_pool
from reviewmill.tasks import load_task
from warm import kill, warm_reviewmill

pytestmark = pytest.mark.slow


@pytest.fixture
def stub():
    with PromptedStub() as server:
        yield server


@pytest.fixture
def command(tmp_path):
    """What to start, and in which environment."""
    env = os.environ | {
        "REVIEWMILL_CACHE_DIR": str(tmp_path / "cache"),
        "REVIEWMILL_STATE_DIR": str(tmp_path / "state"),
        "COLUMNS": "200",
    }
    labelled = write_labelled(tmp_path / "labelled.csv")
    pool = write_pool(tmp_path / "pool.toml")

    def build(url: str, *more: str, output: str = "new.toml"):
        arguments = [labelled, "--label", "rating", "--endpoint", url, "--pool", pool, "--budget", "1200", "-o"]
        words = warm_reviewmill("improve", *arguments, tmp_path / output, *more)
        return {"args": words, "env": env, "text": True, "encoding": "utf-8"}

    return build


def _run(command):
    return subprocess.run(**command, capture_output=True, timeout=180)


def test_finds_judges_writes_and_does_not_judge_twice(stub, command, tmp_path):
    done = _run(command(stub.url))
    assert done.returncode == 0, done.stderr
    assert "of at most" in done.stderr  # progress
    assert "1 propose" in done.stderr  # the cost, beforehand
    assert "Written:" in done.stdout
    task = load_task(tmp_path / "new.toml")
    assert HELP in task.guidelines
    assert task.name == "sentiment"
    assert (tmp_path / "new.toml").read_text(encoding="utf-8").startswith("# Found by `reviewmill improve`")
    for example in task.examples:  # new ones have keywords, or they would teach to write none
        assert example.keywords
    state = json.loads((tmp_path / "new.toml.improve.json").read_text(encoding="utf-8"))
    report = state["content"]["report"]
    assert report["accepted"]
    assert report["verdict"]["p_second_better"] <= 0.05
    assert {"shop"} <= {each["by"] for each in report["verdict"]["slices"]}
    assert sum(stub.asked.values()) <= 1200

    asked = stub.total
    again = _run(command(stub.url))
    assert again.returncode == 0
    assert "This search is done" in again.stderr
    assert "Written:" in again.stdout
    assert stub.total == asked

    other = _run(command(stub.url, "--budget", "1400", "--force"))
    assert other.returncode == 1
    assert "no longer fresh" in other.stderr
    assert stub.total == asked


def test_what_is_no_better_is_not_written(command, tmp_path):
    with PromptedStub(forgiving=False) as stub:
        done = _run(command(stub.url, "--no-weights", "--json"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert not report["accepted"]
    assert not (tmp_path / "new.toml").exists()


def test_the_plan_costs_nothing(stub, command, tmp_path):
    done = _run(command(stub.url, "--plan"))
    assert done.returncode == 0, done.stderr
    assert "3 judge" in done.stderr
    comments = (tmp_path / "labelled.csv").read_text(encoding="utf-8")
    assert not [comment for comment in stub.asked if comment and comment in comments]
    assert not (tmp_path / "new.toml.improve.json").exists()


def test_a_file_in_the_way_is_told_before_anything_is_asked(stub, command, tmp_path):
    (tmp_path / "new.toml").write_text("mine")
    done = _run(command(stub.url))
    assert done.returncode == 1
    assert "exists" in done.stderr
    assert (tmp_path / "new.toml").read_text() == "mine"
    assert not [comment for comment in stub.asked if comment and "满意" in comment]


def test_two_at_once_do_not_write_one_file(command, tmp_path):
    with PromptedStub(latency=0.01) as stub:
        running = subprocess.Popen(**command(stub.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        stub.wait_for_requests(100, seconds=60)
        second = _run(command(stub.url, "--calibration", "none"))
        assert second.returncode == 1
        assert "Another process is searching for" in second.stderr
        assert _run(command(stub.url, "--plan")).returncode == 0
        kill(running)
        assert _run(command(stub.url)).returncode == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_ended_in_its_middle_continues(how, command, tmp_path):
    with PromptedStub(latency=0.01) as stub:
        running = subprocess.Popen(**command(stub.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        stub.wait_for_requests(400, seconds=60)
        running.send_signal(how)
        _, told = running.communicate(timeout=30)
        if how == signal.SIGINT:
            assert running.returncode == 130
            assert "the same command again and it continues" in told
            assert "Traceback" not in told
        before = stub.total
        assert before >= 400
        done = _run(command(stub.url))
        assert done.returncode == 0, done.stderr
        assert "continues" in done.stderr
        assert "Written:" in done.stdout
        twice = Counter(json.dumps(request["messages"], sort_keys=True) for request in stub.requests)
        # What was in flight when it was ended is asked again, and nothing else. (Probes repeat by themselves.)
        again = [text for text, number in twice.items() if number > 1 and "<<<" in text]
        assert len(again) <= 2 * 32


def test_no_cache_no_search(stub, command):
    done = _run(command(stub.url, "--cache", "none"))
    assert done.returncode == 1
    assert "without a cache" in done.stderr


def test_labels_that_the_task_does_not_know_are_told(stub, command, tmp_path):
    file = tmp_path / "labelled.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",positive,", ",好评,"), encoding="utf-8")
    done = _run(command(stub.url))
    assert done.returncode == 1
    assert "好评" in done.stderr
    mapped = _run(command(stub.url, "--map", "好评=positive", "--plan"))
    assert mapped.returncode == 0, mapped.stderr


def test_ten_rows_are_too_few(stub, command, tmp_path):
    write_labelled(tmp_path / "labelled.csv", rows=10)
    done = _run(command(stub.url))
    assert done.returncode == 1
    assert "10 usable rows" in done.stderr


def test_a_lost_endpoint_stops_it_with_a_message(command, tmp_path):
    stub = PromptedStub(latency=0.005)
    running = subprocess.Popen(**command(stub.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stub.wait_for_requests(200, seconds=60)
    stub.close()
    began = time.monotonic()
    _, told = running.communicate(timeout=120)
    assert running.returncode == 1, told
    assert "Traceback" not in told
    assert "same command" in told
    assert time.monotonic() - began < 110
