"""`reviewmill chat --webui` with a password, as compose's `chat-wiring` does it. Open WebUI is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
from typer.testing import CliRunner

from chat_process import FAKE
from conftest import free_port
from reviewmill.chat.environment import Wiring, environment
from reviewmill.chat.place import Secrets
from reviewmill.chat.wire import FUNCTION
from reviewmill.cli.chat import PASSWORD_VARIABLE, TOKEN_VARIABLE
from reviewmill.cli.main import app
from reviewmill.errors import SettingsError, WebUIError
from service import RunningService, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a-password"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningService]:
    with StubEndpoint() as stub, running_service(tmp_path, stub) as service:
        yield service


class FakeWebUI:
    """What stands for Open WebUI, with the administrator that compose gives it."""

    def __init__(self, folder: Path, running: RunningService) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.data = folder / "webui"
        self.data.mkdir()
        self.key_file = folder / "chat_key"
        self.key_file.write_text(running.key("analyse", "jobs", "chat"))
        wiring = Wiring(running.url, self.key_file.read_text(), ["reviewmill-sentiment"], self.url, [self.url])
        variables = environment(wiring, Secrets("signs", PASSWORD), self.data, slim=True)
        variables["WEBUI_ADMIN_EMAIL"] = "admin@localhost"
        self.process = subprocess.Popen(
            [sys.executable, str(FAKE), "--host", "127.0.0.1", "--port", str(port)],
            env={"PATH": os.environ["PATH"], **variables},
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._well, 30)

    def _well(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health", trust_env=False).is_success
        except httpx2.TransportError:
            return False

    def state(self) -> dict:
        return json.loads((self.data / "state.json").read_text("utf-8"))

    def wired(self, running: RunningService, *more: str, **variables: str | None):
        arguments = ["chat", "--webui", self.url, "--service", running.url]
        key = ["--service-key-file", str(self.key_file)]
        return CliRunner().invoke(app, [*arguments, *key, *more], env={TOKEN_VARIABLE: None, **variables})


@pytest.fixture
def webui(tmp_path: Path, running: RunningService) -> Iterator[FakeWebUI]:
    fake = FakeWebUI(tmp_path, running)
    yield fake
    fake.process.terminate()
    fake.process.wait(10)


def test_a_password_is_enough_and_nothing_is_changed_twice(running: RunningService, webui: FakeWebUI) -> None:
    done = webui.wired(running, **{PASSWORD_VARIABLE: PASSWORD})
    assert done.exit_code == 0, done.output
    assert f"function {FUNCTION}: installed" in done.stdout
    assert "model reviewmill-sentiment: described" in done.stdout
    assert PASSWORD not in done.output
    assert webui.key_file.read_text() not in done.output
    state = webui.state()
    assert state["functions"][FUNCTION]["is_active"]
    assert state["valves"][FUNCTION] == {"service": running.url, "key": webui.key_file.read_text()}
    # The connection that its environment names is the one; none is added.
    assert state["connections"]["OPENAI_API_BASE_URLS"] == [f"{running.url}/v1"]
    sentiment = next(model for model in state["models"] if model["id"] == "reviewmill-sentiment")
    assert sentiment["meta"]["actionIds"] == [FUNCTION]

    again = webui.wired(running, **{PASSWORD_VARIABLE: PASSWORD})
    assert again.exit_code == 0, again.output
    assert again.stdout == ""
    assert "Nothing to change" in again.stderr


def test_a_token_goes_before_a_password(running: RunningService, webui: FakeWebUI) -> None:
    done = webui.wired(running, **{TOKEN_VARIABLE: "token", PASSWORD_VARIABLE: "wrong"})
    assert done.exit_code == 0, done.output


def test_a_wrong_password_or_none_changes_nothing(running: RunningService, webui: FakeWebUI) -> None:
    wrong = webui.wired(running, **{PASSWORD_VARIABLE: "wrong"})
    assert isinstance(wrong.exception, WebUIError)
    assert "incorrect" in str(wrong.exception)
    none = webui.wired(running, **{PASSWORD_VARIABLE: None})
    assert isinstance(none.exception, SettingsError)
    assert TOKEN_VARIABLE in str(none.exception.hint)
    assert PASSWORD_VARIABLE in str(none.exception.hint)
    assert webui.state()["functions"] == {}
