"""`reviewmill chat --webui` with a password and thumbs, as compose's `chat-wiring` does it. Open WebUI is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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
from reviewmill.cli.main import program
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

    def _change(self, **changed: object) -> None:
        assert httpx2.post(f"{self.url}/fake/change", json=changed, trust_env=False).is_success

    def put_thumb(self, name: str, chat: str, message: str, comment: str) -> None:
        data = {"rating": -1, "comment": comment, "model_id": "reviewmill-sentiment"}
        meta = {"chat_id": chat, "message_id": message}
        thumb = {"id": name, "user_id": "0", "data": data, "meta": meta, "updated_at": time.time_ns()}
        self._change(feedbacks=[*self.state()["feedbacks"], thumb])

    def end_sessions(self) -> None:
        self._change(token=self.state()["token"] + "-next")

    def wired(self, running: RunningService, *more: str, **variables: str | None):
        arguments = ["chat", "--webui", self.url, "--service", running.url]
        key = ["--service-key-file", str(self.key_file)]
        return CliRunner().invoke(program(), [*arguments, *key, *more], env={TOKEN_VARIABLE: None, **variables})


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


class Bringing:
    """`reviewmill chat --webui … --thumbs`, as a process."""

    def __init__(self, webui: FakeWebUI, running: RunningService, folder: Path) -> None:
        arguments = ["chat", "--webui", webui.url, "--service", running.url, "--thumbs"]
        self.said = folder / "said"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reviewmill", *arguments, "--service-key-file", str(webui.key_file)],
                env={
                    **os.environ,
                    PASSWORD_VARIABLE: PASSWORD,
                    "REVIEWMILL_CHAT__DATA_DIR": str(folder / "notes"),
                    "REVIEWMILL_CHAT__THUMBS_S": "1",
                },
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def text(self) -> str:
        return self.said.read_text("utf-8")


@pytest.fixture
def bringing(webui: FakeWebUI, running: RunningService, tmp_path: Path) -> Iterator[Bringing]:
    started = Bringing(webui, running, tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.slow
def test_thumbs_are_brought_until_the_end_and_a_session_that_is_over_is_renewed(
    running: RunningService, webui: FakeWebUI, bringing: Bringing
) -> None:
    wait_until(lambda: "are brought to" in bringing.text(), 60)
    asks = {
        "X-OpenWebUI-User-Id": "0",
        "X-Chat": "c",
        "X-Msg": "m",
        "Authorization": f"Bearer {webui.key_file.read_text()}",
    }
    body = {"model": "reviewmill-sentiment", "messages": [{"role": "user", "content": "屏幕很好"}]}
    with httpx2.Client(base_url=running.url, headers=asks, trust_env=False, timeout=60) as http:
        assert http.post("/v1/chat/completions", json=body).status_code == 200

        def kept() -> dict[str, str]:
            return {one["external_id"]: one["label"] for one in http.get("/v1/corrections").json()["items"]}

        webui.put_thumb("one", "c", "m", "应该是中性")
        wait_until(lambda: kept() == {"webui:feedback:one": "neutral"}, 60)
        webui.end_sessions()
        webui.put_thumb("two", "c", "m", "should be negative")
        wait_until(lambda: kept().get("webui:feedback:two") == "negative", 60)
    assert "are not brought" not in bringing.text()
    assert PASSWORD not in bringing.text()

    webui.process.terminate()
    webui.process.wait(10)
    wait_until(lambda: "Thumbs are not brought to the service: Open WebUI" in bringing.text(), 60)
    bringing.process.terminate()
    assert bringing.process.wait(60) == 0


def test_what_belongs_to_a_teams_open_webui_is_refused_without_one() -> None:
    for option in ("--thumbs", "--files"):
        done = CliRunner().invoke(program(), ["chat", option])
        assert isinstance(done.exception, SettingsError)
        assert option in str(done.exception)
