"""The service as a process of its own: how it starts, and what is left when a signal ends it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from reviewmill.store import Store
from stub_endpoint import StubEndpoint
from warm import kill, warm_reviewmill

pytestmark = pytest.mark.slow


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as endpoint:
        yield endpoint


def _start(folder: Path, stub: StubEndpoint, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The process and its address."""
    where = ["--data-dir", folder / "data", "--cache", f"sqlite:{folder / 'cache'}"]
    command = warm_reviewmill("serve", "--port", "0", "--endpoint", stub.url, *where, *options)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "reviewmill serves http://" in line, line + process.stderr.read()
    return process, line.split("serves ")[1].split(";")[0].strip()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_came_in_just_before_a_signal_is_written_down(
    tmp_path: Path, stub: StubEndpoint, number: signal.Signals, status: int
) -> None:
    process, url = _start(tmp_path, stub, "--no-auth")
    body = {"text": "物流很差", "customer_id": "anna"}
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.post("/v1/analyze", json=body).json()["results"][0]["status"] == "ok"
        process.send_signal(number)
    assert process.wait(timeout=60) == status
    database = tmp_path / "data" / "reviewmill.sqlite"
    assert not database.with_name(database.name + "-wal").exists()
    store = Store.open(f"sqlite:///{database}")
    try:
        assert len(store.comments.find(customer_id="anna")) == 1
    finally:
        store.close()


def test_a_killed_service_starts_again_and_remembers(tmp_path: Path, stub: StubEndpoint) -> None:
    process, url = _start(tmp_path, stub, "--no-auth")
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.post("/v1/analyze", json={"text": "味道很好"}).json()["results"][0]["route"] == "model"
        assert client.post("/v1/corrections", json={"text": "味道很好", "label": "neutral"}).status_code == 201
    kill(process)
    process, url = _start(tmp_path, stub, "--no-auth")
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            assert client.post("/v1/analyze", json={"text": "味道很好"}).json()["results"][0]["route"] == "cache"
            assert len(client.get("/v1/corrections").json()["items"]) == 1
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert stub.asked["味道很好"] == 1


@pytest.mark.clock
def test_a_taken_port_and_an_open_door_are_refused(tmp_path: Path, stub: StubEndpoint) -> None:
    process, url = _start(tmp_path, stub, "--no-auth")
    try:
        serve = warm_reviewmill("serve", "--endpoint", stub.url, "--data-dir", tmp_path / "b")
        began = time.monotonic()
        taken = subprocess.run([*serve, "--port", url.rsplit(":", 1)[1]], capture_output=True, text=True, check=False)
        assert taken.returncode == 1
        assert "cannot listen" in taken.stderr
        opened = subprocess.run([*serve, "--no-auth", "--host", "0.0.0.0"], capture_output=True, text=True, check=False)
        assert opened.returncode == 1
        assert "loopback" in opened.stderr
        assert time.monotonic() - began < 60
    finally:
        process.terminate()
        process.wait(timeout=60)
