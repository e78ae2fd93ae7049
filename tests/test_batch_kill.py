"""SIGKILL at random moments: the same command continues, and asks nothing twice beyond what was in flight."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stub_endpoint import StubEndpoint
from warm import kill, warm_reviewmill

CONCURRENCY = 8
TESTS = Path(__file__).parent


def comments(n: int) -> list[str]:
    return [f"第{number}条：{random.Random(number).choice(['质量很好', '太差了', '是蓝色的'])}" for number in range(n)]


def write_input(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["评论"], *([text] for text in texts)])
    return path


def command(source: Path, output: Path, *more: str) -> list[str]:
    return warm_reviewmill("analyze", source, "-o", output, "--quiet", *more)


def environment(folder: Path) -> dict[str, str]:
    own = {"REVIEWMILL_CACHE_DIR": str(folder / "cache"), "REVIEWMILL_STATE_DIR": str(folder / "state")}
    return os.environ | own


class StubProcess:
    """The stub in a process of its own, so that its counting does not share the killed client's fate or its GIL."""

    def __init__(self, latency: float) -> None:
        program = [sys.executable, str(TESTS / "stub_endpoint.py"), "--latency", str(latency)]
        self.process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        match = re.search(r"http\S+", self.process.stdout.readline())
        assert match
        self.url = match[0]

    def counts(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stub/counts", timeout=10) as reply:
            return json.load(reply)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stub():
    server = StubProcess(latency=0.1)
    yield server
    server.close()


def kill_somewhere(arguments: list[str], env: dict[str, str], stub: StubProcess, chance: random.Random) -> bool:
    """Start the command and kill it: after some more answers, or after some time. False if it was done before."""
    before = stub.counts()["total"]
    answers = chance.choice([0, 1, 2, 3, 5, 8, 9, None])
    process = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE)
    wait_until = time.monotonic() + (chance.uniform(0.05, 2.0) if answers is None else 60.0)
    while process.poll() is None and time.monotonic() < wait_until:
        if answers is not None and stub.counts()["total"] - before > answers:
            time.sleep(chance.uniform(0, 0.15))  # anywhere between request and commit
            break
        time.sleep(0.01)
    if process.poll() is not None:
        return False
    kill(process)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "sqlite"])
def test_killed_twenty_times_the_output_is_that_of_an_undisturbed_run(tmp_path, stub, cache) -> None:
    texts = comments(200)
    source = write_input(tmp_path / "in.csv", texts)
    more = ["--endpoint", stub.url, "--concurrency", str(CONCURRENCY), "--cache", cache]
    chance = random.Random(20)
    disturbed = command(source, tmp_path / "disturbed.csv", *more)
    env = environment(tmp_path / "disturbed")
    kills = 0
    while kills < 20 and kill_somewhere(disturbed, env, stub, chance):
        kills += 1
    assert kills >= 15, "the run was over before it could be killed often enough"
    if kills == 20:
        assert subprocess.run(disturbed, env=env, check=False).returncode == 0
    times = {text: n for text, n in stub.counts()["asked"].items() if text in texts}

    assert set(times) == set(texts)
    extra = sum(times.values()) - len(texts)
    assert extra <= kills * CONCURRENCY
    assert max(Counter(times).values()) <= 1 + kills
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob("*.journal*"))

    undisturbed = command(source, tmp_path / "undisturbed.csv", *more)
    assert subprocess.run(undisturbed, env=environment(tmp_path / "quiet"), check=False).returncode == 0
    assert (tmp_path / "disturbed.csv").read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()


def test_what_was_committed_is_never_asked_again(tmp_path) -> None:
    """One worker, killed while its third question is open: the first two are not asked again."""
    texts = comments(6)
    source = write_input(tmp_path / "in.csv", texts)
    with StubEndpoint() as stub:
        arguments = command(
            source, tmp_path / "out.csv", "--endpoint", stub.url, "--concurrency", "1", "--cache", "none"
        )
        env = environment(tmp_path)
        process = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE)
        while texts[1] not in stub.asked and process.poll() is None:
            time.sleep(0.001)
        stub.hang = True
        while len([text for text in texts if stub.asked[text]]) < 3 and process.poll() is None:
            time.sleep(0.005)
            if len([text for text in texts if stub.asked[text]]) == len(texts):
                break
        kill(process)
        open_at_kill = [text for text in texts if stub.asked[text]][-1]
    with StubEndpoint(port=int(stub.url.rsplit(":", 1)[1].split("/")[0])) as again:
        assert subprocess.run(arguments, env=env, check=False).returncode == 0
        twice = [text for text in texts if stub.asked[text] and again.asked[text]]
    assert set(twice) <= {open_at_kill}


def test_interrupt_says_how_to_continue(tmp_path) -> None:
    texts = comments(50)
    source = write_input(tmp_path / "in.csv", texts)
    with StubEndpoint(latency=0.2) as stub:
        arguments = command(source, tmp_path / "out.csv", "--endpoint", stub.url, "--concurrency", "2")
        arguments.remove("--quiet")
        env = environment(tmp_path)
        process = subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE, text=True)
        while len([text for text in texts if stub.asked[text]]) < 6 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "run the same command again" in said
        assert "Traceback" not in said
        assert not (tmp_path / "out.csv").exists()
        stub.latency = 0
        assert subprocess.run(arguments, env=env, check=False, capture_output=True).returncode == 0
        assert sum(stub.asked[text] for text in texts) <= 50 + 2
