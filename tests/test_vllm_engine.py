"""`reviewmill engine` around a program that behaves like vLLM: real processes, real HTTP, the real command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psutil
import pytest

from conftest import free_port
from reviewmill import SentimentAnalyzer
from reviewmill.cli import main
from reviewmill.endpoints.vllm.environment import REQUIREMENTS, folder_for, installed
from reviewmill.endpoints.vllm.metrics import parse_metrics
from reviewmill.errors import EndpointRefusedError, ProcessError, SettingsError
from test_vllm_plan import CONFIG, model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
Run = "Callable[..., subprocess.CompletedProcess[str]]"


class Place:
    """Folders of one test, an environment with the fake vLLM, and the command line working in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.model = model_folder(folder / "tiny", CONFIG)
        self.settings = {
            "cache_dir": folder / "cache",
            "state_dir": folder / "state",
            "models_dir": folder / "models",
            "engine_dir": folder / "engine",
        }
        self.fault = ""

    def install_fake(self) -> None:
        python = folder_for(self.folder / "engine", "cpu") / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {HERE / "fake_vllm.py"} "$@"\n')
        python.chmod(0o755)
        made = {"kind": "cpu", "folder": "", "vllm": "0", "torch": "0", "transformers": "0", "seconds": 1.0}
        (python.parents[2] / "installed.json").write_text(json.dumps(made))

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The command line, in this process: a new one costs seconds, and these tests give many commands."""
        own = {f"REVIEWMILL_{name.upper()}": str(value) for name, value in self.settings.items()}
        out, err = io.StringIO(), io.StringIO()
        status = 0
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (own | {"FAKE_VLLM": self.fault}).items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["reviewmill", *map(str, arguments)])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as end:
                    status = int(end.code or 0)
        return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())

    def start(self, *more: object) -> subprocess.CompletedProcess[str]:
        return self.run("engine", "start", "--gpu", "cpu", "--model", self.model, "--port", 0, *more)

    def status(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.run("engine", "status", "--json").stdout)
        return said

    def analyzer(self, **more: Any) -> SentimentAnalyzer:
        return SentimentAnalyzer(**self.settings, cache="none", **more)

    def processes(self) -> list[psutil.Process]:
        status = json.loads((self.folder / "state" / "engine" / "status.json").read_text())
        supervisor = psutil.Process(status["supervisor"]["pid"])
        return [supervisor, *supervisor.children(recursive=True)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Ends what was started, whatever happens."""
    made = Place(tmp_path)
    made.install_fake()
    yield made
    made.run("engine", "stop")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One engine for all tests that leave it running."""
    made = Place(tmp_path_factory.mktemp("engine"))
    made.install_fake()
    started = made.start()
    assert started.returncode == 0, started.stderr
    made.started = started  # type: ignore[attr-defined]
    yield made
    made.run("engine", "stop")


# Start, look, stop


def test_start_waits_and_tries_everything_that_a_run_needs(running: Place) -> None:
    said = running.started.stdout.splitlines()  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in said] == [
        "✓ model",
        "✓ formats",
        "✓ JSON",
        "✓ probabilities",
        "✓ prefix cache",
    ]
    assert said[0].startswith("✓ model: tiny@weights-")
    assert "ready after" in running.started.stderr  # type: ignore[attr-defined]


def test_status_shows_vllm_s_own_numbers(running: Place) -> None:
    seen = running.status()
    assert seen["state"] == "ready"
    assert seen["model"] == "tiny"
    assert seen["metrics"]["preemptions"] == 3
    assert seen["metrics"]["kv_tokens"] == 16000
    assert 0 < seen["metrics"]["hit_rate"] < 1
    shown = running.run("engine", "status")
    assert shown.returncode == 0
    for part in ("is ready since", "0 computed of at most 32, 0 waiting", "25.0% in use of 16,000 tokens (planned:"):
        assert part in shown.stdout


def test_the_key_is_in_no_argument_file_or_log_but_its_own(running: Place) -> None:
    folder = running.folder / "state" / "engine"
    key = (folder / "key").read_text()
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert not [process for process in running.processes() if key in " ".join(process.cmdline())]
    holders = [path.name for path in folder.iterdir() if path.is_file() and key in path.read_text(errors="replace")]
    assert holders == ["key"]
    assert "the key is ***" in running.run("engine", "logs").stdout


def test_the_program_does_not_get_our_search_path(running: Place) -> None:
    assert "PYTHONPATH=None" in running.run("engine", "logs", "-n", 5).stdout


def test_analyze_alone_uses_it_and_says_so(running: Place) -> None:
    with running.analyzer() as analyzer:
        result = analyzer.analyze("质量很好")
        assert result["sentiment"] == "positive"
        assert result["provenance"]["model"] == "tiny"
        assert result["provenance"]["endpoint"] == running.status()["url"]
        assert any("--engine embedded" in warning for warning in analyzer.warnings)
    done = running.run("analyze", "质量很好", "--json")
    assert json.loads(done.stdout)["sentiment"] == "positive"
    assert "Answers come from the vLLM that `reviewmill engine` runs: tiny at" in done.stderr


def test_analyze_with_the_engine_named_says_nothing(running: Place) -> None:
    done = running.run("analyze", "质量很好", "太差", "--engine", "vllm", "--json")
    assert [json.loads(line)["sentiment"] for line in done.stdout.splitlines()] == ["positive", "negative"]
    assert done.stderr == ""


def test_a_model_or_engine_that_was_named_is_not_overruled(running: Place) -> None:
    """The embedded model is not here, so that the error shows where the answers would have come from."""
    for arguments in (["--engine", "embedded"], ["--model", "qwen2.5-1.5b-instruct-q4_k_m"]):
        done = running.run("analyze", "质量很好", *arguments)
        assert done.returncode == 1
        assert "is not on this machine" in done.stderr
    with running.analyzer(engine="vllm", model="another") as analyzer, pytest.raises(EndpointRefusedError) as refusal:
        analyzer.analyze("质量很好")
    assert "does not serve 'another'; it serves: tiny" in str(refusal.value)


def test_an_endpoint_and_an_engine_contradict_each_other(running: Place) -> None:
    with running.analyzer(engine="vllm", endpoint="http://127.0.0.1:9/v1") as analyzer, pytest.raises(SettingsError):
        analyzer.analyze("质量很好")


def test_answers_are_kept_under_the_digest_of_the_weights(running: Place) -> None:
    with running.analyzer() as analyzer:
        about = analyzer.about()
    assert about.fingerprint.startswith("tiny@weights-")
    assert about.model == "tiny"


def test_a_key_that_others_can_read_is_refused(running: Place) -> None:
    key = running.folder / "state" / "engine" / "key"
    key.chmod(0o644)
    try:
        with running.analyzer() as analyzer, pytest.raises(ProcessError, match="can be read by others"):
            analyzer.analyze("质量很好")
    finally:
        key.chmod(0o600)


def test_a_second_start_is_refused(running: Place) -> None:
    done = running.start()
    assert done.returncode == 1
    assert "vLLM runs already (ready)" in done.stderr


def test_stop_leaves_nothing_and_start_keeps_the_key(place: Place) -> None:
    assert place.start().returncode == 0
    processes, key = place.processes(), (place.folder / "state" / "engine" / "key").read_text()
    assert len(processes) == 2
    assert place.run("engine", "stop").stdout == "vLLM is stopped.\n"
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    assert place.run("engine", "status").returncode == 1
    assert place.run("engine", "stop").stdout == "vLLM was not running.\n"
    assert place.start("--no-wait").returncode == 0
    assert (place.folder / "state" / "engine" / "key").read_text() == key


def test_other_weights_have_another_digest(place: Place) -> None:
    fingerprints = []
    for content in (b"a", b"b"):
        (place.model / "model.safetensors").write_bytes(content * 5000)
        assert place.start().returncode == 0
        with place.analyzer() as analyzer:
            fingerprints.append(analyzer.about().fingerprint)
        place.run("engine", "stop")
    assert fingerprints[0] != fingerprints[1]


def test_a_killed_engine_comes_back_and_answers_under_the_same_key(place: Place) -> None:
    assert place.start().returncode == 0
    with place.analyzer() as analyzer:
        assert analyzer.analyze("质量很好")["sentiment"] == "positive"
        place.processes()[1].kill()
        deadline = time.monotonic() + 30
        while place.status()["restarts"] != 1 or place.status()["state"] != "ready":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert analyzer.analyze("太差了")["sentiment"] == "negative"
    assert "started again 1 times; last: it was ended by SIGKILL" in place.run("engine", "status").stdout


def test_the_service_uses_it_and_knows_it_again(running: Place) -> None:
    own = {f"REVIEWMILL_{name.upper()}": str(value) for name, value in running.settings.items()}
    own |= {"REVIEWMILL_SERVICE__DATA_DIR": str(running.folder / "data"), "REVIEWMILL_CACHE": "none"}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "reviewmill", "serve", "--engine", "vllm", "--port", "0", "--no-auth"]
    log = running.folder / "serve.log"
    with log.open("w") as file:
        service = subprocess.Popen(command, stderr=file, stdout=file, env=os.environ | own | {"PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 60
        while "reviewmill serves " not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        url = log.read_text().partition("reviewmill serves ")[2].split(";")[0]
        with httpx2.Client(base_url=url, trust_env=False, timeout=30) as http:
            (answer,) = http.post("/v1/analyze", json={"text": "质量很好"}).json()["results"]
            time.sleep(2.5)  # what was found of the model counts for two seconds; then it is asked anew
            health = http.get("/readyz")
        assert answer["sentiment"] == "positive"
        assert answer["provenance"]["model"] == "tiny"
        assert health.status_code == 200, health.text
        assert "another model" not in log.read_text()
    finally:
        service.terminate()
        service.wait(40)


# What goes wrong


def test_an_engine_that_does_not_come_up_shows_why(place: Place) -> None:
    place.fault = "dies"
    done = place.start()
    assert done.returncode == 1
    assert "vLLM does not come up: it ended with status 1" in done.stderr
    assert "no room for the weights" in place.run("engine", "logs").stdout
    with place.analyzer(engine="vllm") as analyzer, pytest.raises(ProcessError, match="vLLM of `reviewmill engine` is"):
        analyzer.analyze("质量很好")


@pytest.mark.parametrize(
    ("fault", "check", "said"),
    [
        ("runaway", "JSON", "is no JSON (it ended with 'length')"),
        ("no-schema", "formats", "not enforced: JSON Schema"),
        ("no-cache", "prefix cache", "0 of"),
    ],
)
def test_an_engine_that_answers_wrongly_is_not_called_ready(place: Place, fault: str, check: str, said: str) -> None:
    place.fault = fault
    done = place.start()
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"✗ {check}: ")
    assert said in last


def test_without_a_running_engine_it_is_named_only_if_it_was_asked_for(place: Place) -> None:
    done = place.run("analyze", "质量很好", "--engine", "vllm")
    assert done.returncode == 1
    assert "The vLLM of `reviewmill engine` does not run" in done.stderr
    assert "reviewmill engine start" in done.stderr
    assert "is not on this machine" in place.run("analyze", "质量很好").stderr
    assert "was never started here" in place.run("engine", "status").stdout


def test_an_engine_that_is_not_ready_is_not_used(place: Place) -> None:
    place.fault = "deaf"
    assert place.start("--no-wait").returncode == 0
    assert place.status()["state"] == "starting"
    assert "is not on this machine" in place.run("analyze", "质量很好").stderr
    assert "is starting" in place.run("analyze", "质量很好", "--engine", "vllm").stderr


def test_start_says_what_is_missing(tmp_path: Path) -> None:
    bare = Place(tmp_path)
    done = bare.start()
    assert "vLLM for cpu is not installed" in done.stderr
    assert "reviewmill engine install --kind cpu" in done.stderr
    bare.install_fake()
    done = bare.run("engine", "start", "--gpu", "cpu", "--model", "qwen3-4b-instruct-2507", "--max-model-len", 512)
    assert "reviewmill models pull qwen3-4b-instruct-2507" in done.stderr or "does not fit" in done.stderr


def test_a_port_that_is_taken_is_refused(place: Place) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = place.run("engine", "start", "--gpu", "cpu", "--model", place.model, "--port", port)
    assert done.returncode == 1
    assert f"Port {port} cannot be used" in done.stderr


def test_an_installation_that_broke_off_is_none(tmp_path: Path) -> None:
    assert installed(tmp_path, "cpu") is None
    folder = folder_for(tmp_path, "cpu")
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python").touch()
    assert installed(tmp_path, "cpu") is None
    assert folder.name == "vllm-cpu-0.32.0"
    assert [
        requirement
        for step in REQUIREMENTS.values()
        for part in step
        for requirement in part
        if "==" not in requirement
    ] == []


def test_a_step_of_the_installation_that_fails_shows_the_end_of_what_pip_said(tmp_path: Path) -> None:
    folder = folder_for(tmp_path / "engine", "cpu")
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "ERROR: No matching distribution found for $6"; exit 1\n')
    python.chmod(0o755)
    env = os.environ | {"REVIEWMILL_ENGINE_DIR": str(tmp_path / "engine"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "reviewmill", "engine", "install", "--kind", "cpu", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert done.returncode == 1
    assert "vLLM could not be installed" in done.stderr
    assert "No matching distribution found for" in done.stderr
    assert not (folder / "installed.json").exists()


# Planning on the command line


def test_plan_prints_budget_reasons_and_command(tmp_path: Path) -> None:
    done = Place(tmp_path).run("engine", "plan", "--gpu", "rtx3060")
    assert done.returncode == 0
    for part in ("qwen2.5-7b-instruct-awq on rtx3060", "key-value cache", "--gpu-memory-utilization", "vllm serve /"):
        assert part in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith('VLLM_API_KEY="$(cat ')
    as_json = json.loads(Place(tmp_path / "2").run("engine", "plan", "--gpu", "2x3090", "--json").stdout)
    assert as_json["data_parallel"] == 2
    assert "--data-parallel-size 2" in as_json["command"]


def test_plan_measures_a_file_of_comments(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "c.csv").write_text("text\n" + "好用\n" * 20)
    said = json.loads(place.run("engine", "plan", "--gpu", "rtx3060", "--comments", "c.csv", "--json").stdout)
    assert said["lengths"]["source"] == "c.csv"
    assert said["lengths"]["comment"] == said["lengths"]["comment_long"] < 20


def test_plan_refuses_with_what_fits(tmp_path: Path) -> None:
    done = Place(tmp_path).run("engine", "plan", "--gpu", "rtx3060", "--model", "qwen2.5-7b-instruct")
    assert done.returncode == 1
    assert "does not fit rtx3060: its weights take 14.2 GiB" in done.stderr
    assert "What would fit: --model qwen2.5-7b-instruct-awq (AWQ)" in done.stderr


# vLLM's metrics


def test_metrics_of_several_copies_are_added_and_odd_lines_passed_over() -> None:
    text = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="a}b\\"c"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 4.0 1700000000
vllm:num_requests_waiting{engine="0"} 5.0
vllm:kv_cache_usage_perc{engine="0"} 0.1
vllm:kv_cache_usage_perc{engine="1"} 0.9
vllm:prefix_cache_queries_total{engine="0"} 100.0
vllm:prefix_cache_queries_created{engine="0"} 1.7e+09
vllm:prefix_cache_hits{engine="0"} 25
vllm:request_success_total{finished_reason="length"} 2.0
vllm:request_success_total{finished_reason="abort"} 0.0
vllm:cache_config_info{kv_cache_size_tokens="2097152",num_gpu_blocks="1",block_size="16"} 1.0
vllm:broken{ 1
other_metric 7
vllm:num_preemptions_total not-a-number
"""
    seen = parse_metrics(text)
    assert seen is not None
    assert (seen.running, seen.waiting, seen.kv_usage) == (7, 5, 0.9)
    assert seen.hit_rate == 0.25
    assert seen.finished == {"length": 2}
    assert seen.kv_tokens == 2097152
    assert seen.preemptions == 0


def test_what_is_not_vllm_has_no_metrics() -> None:
    assert parse_metrics("llamacpp:requests_processing 1\n") is None
    assert parse_metrics("<html>") is None
    idle = parse_metrics("vllm:num_requests_running 0\n")
    assert idle is not None
    assert idle.hit_rate is None
    assert idle.kv_tokens is None
