"""`reviewmill serve` as a process: how it starts, what it logs, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from reviewmill.cli import serve
from reviewmill.errors import SettingsError
from service import bearer, wait_until
from stub_endpoint import StubEndpoint
from warm import warm_reviewmill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET_TEXT = "My unspeakable words are bad."


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as stub:
        yield stub


class Process:
    """The program, started in a folder of its own."""

    def __init__(self, folder: Path, stub: StubEndpoint, *options: str) -> None:
        self.log = folder / "log"
        own = {name: value for name, value in os.environ.items() if not name.startswith("REVIEWMILL_")}
        own |= {"REVIEWMILL_CACHE_DIR": str(folder / "cache"), "REVIEWMILL_SERVICE__DATA_DIR": str(folder / "data")}
        self.environment = own
        command = warm_reviewmill("serve", "--port", "0", "--endpoint", stub.url, *options)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=own, cwd=folder)

    def ready(self) -> str:
        """Wait until it serves; its URL."""
        wait_until(lambda: "reviewmill serves " in self.text() or self.process.poll() is not None, seconds=30)
        line = next(line for line in self.text().splitlines() if line.startswith("reviewmill serves "))
        return line.split()[2].rstrip(";")

    def text(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)


@pytest.fixture
def started(tmp_path: Path, stub: StubEndpoint) -> Iterator[Any]:
    running: list[Process] = []

    def start(*options: str) -> Process:
        running.append(Process(tmp_path, stub, *options))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.wait()


def test_logs_are_json_with_request_ids_and_no_texts(started: Any) -> None:
    process = started("--no-auth")
    url = process.ready()
    headers = {"X-Request-Id": "find-me"}
    assert httpx2.post(f"{url}/v1/analyze", json={"text": SECRET_TEXT}, headers=headers, timeout=30).status_code == 200
    query = {"customer_id": "unspeakable"}
    httpx2.request("DELETE", f"{url}/v1/comments", params=query, timeout=30)
    httpx2.post(f"{url}/v1/analyze", json={"text": SECRET_TEXT, "task": "unspeakable"}, timeout=30)
    assert process.end() == 0
    assert "unspeakable" not in process.text()
    (line,) = [line for line in process.lines() if line.get("request_id") == "find-me" and "path" in line]
    assert (line["method"], line["path"], line["status"], line["key_id"]) == ("POST", "/v1/analyze", 200, "local")
    assert line["seconds"] > 0
    assert len(process.text().splitlines()) == len(process.lines()) + 1


def test_texts_are_logged_when_asked_for(started: Any) -> None:
    process = started("--no-auth", "--log-texts")
    url = process.ready()
    httpx2.post(f"{url}/v1/analyze", json={"text": SECRET_TEXT}, headers={"X-Request-Id": "find-me"}, timeout=30)
    process.end()
    said = [line for line in process.lines() if line.get("comments") == [SECRET_TEXT]]
    assert [line["request_id"] for line in said] == ["find-me"]


def test_requests_under_way_are_answered_before_it_ends(started: Any, stub: StubEndpoint) -> None:
    process = started("--no-auth")
    url = process.ready()
    httpx2.post(f"{url}/v1/analyze", json={"text": "good"}, timeout=30)
    stub.latency = 1.5
    got: list[int] = []
    body = {"text": SECRET_TEXT}
    asking = threading.Thread(
        target=lambda: got.append(httpx2.post(f"{url}/v1/analyze", json=body, timeout=30).status_code)
    )
    asking.start()
    wait_until(lambda: stub.in_flight == 1)
    assert process.end() == 0
    asking.join()
    assert got == [200]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/healthz")


def test_keys_are_needed_unless_said_otherwise(started: Any) -> None:
    process = started()
    url = process.ready()
    assert httpx2.get(f"{url}/v1/tasks").status_code == 401
    create = warm_reviewmill("keys", "create", "me", "--scope", "analyse")
    made = subprocess.run(create, env=process.environment, capture_output=True, text=True, check=True)
    assert httpx2.get(f"{url}/v1/tasks", headers=bearer(made.stdout.strip())).status_code == 200


def test_no_auth_on_every_address_is_refused(started: Any) -> None:
    process = started("--no-auth", "--host", "0.0.0.0")
    assert process.process.wait(30) == 1
    assert "--no-auth lets in everybody" in process.text()
    assert "Traceback" not in process.text()


def test_port_in_use(started: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = started("--port", str(taken.getsockname()[1]))
        assert process.process.wait(30) == 1
    assert "cannot listen" in process.text()
    assert "Traceback" not in process.text()


def test_database_that_cannot_be_opened(started: Any) -> None:
    process = started("--database", "postgresql://me:pass-word@127.0.0.1:1/none")
    assert process.process.wait(30) == 1
    assert "cannot be reached" in process.text()
    assert "pass-word" not in process.text()
    assert "Traceback" not in process.text()


def test_task_file_that_is_not_valid(started: Any, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "bad.toml").write_text("name = 5")
    process = started("--tasks-dir", str(tmp_path / "tasks"))
    assert process.process.wait(30) == 1
    assert "bad.toml is not a valid task" in process.text()


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(SettingsError, match="uvicorn") as told:
        serve.check_extra()
    assert told.value.hint == "pip install 'reviewmill[service]'"
