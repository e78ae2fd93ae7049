"""The real Open WebUI, started by `reviewmill chat`: accounts, models, corrections, what it costs, what leaves."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx2
import psutil
import pytest

from chat_process import RealChat, until
from reviewmill.chat.wire import FUNCTION, wire_connection, wire_files, wire_function, wire_models
from reviewmill.errors import WebUIError

if TYPE_CHECKING:
    from reviewmill.chat.webui import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.chat]

MOST_READY_S = 40.0
MOST_IDLE_BYTES = 450_000_000


@pytest.fixture(scope="module")
def people(real_chat: RealChat) -> dict[str, WebUI]:
    """Two accounts without rights, and an administrator."""
    made = {}
    for name in ("li", "wang", "boss"):
        email = f"{name}@example.com"
        made[name] = real_chat.signed_in(email, real_chat.account(email, admin=name == "boss"))
    return made


def ask(ui: WebUI, content: str, model: str = "reviewmill-sentiment", **more: Any) -> str:
    """Ask in Open WebUI's own API, as its page does."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": False, **more}
    answer: str = ui.post("/api/chat/completions", body)["choices"][0]["message"]["content"]
    return answer


def test_it_is_small_when_nobody_asks(real_chat: RealChat) -> None:
    time.sleep(3)
    process = psutil.Process(real_chat.process.pid("open-webui"))
    family = [process, *process.children(recursive=True)]
    resident = sum(each.memory_info().rss for each in family)
    print(f"resident: {resident / 1e6:.0f} MB; ready after {real_chat.ready_s:.1f} s")
    assert resident < MOST_IDLE_BYTES


def test_nobody_signs_up_by_himself_and_nothing_opens_without_a_password(real_chat: RealChat) -> None:
    with httpx2.Client(base_url=real_chat.process.url, trust_env=False) as http:
        form = {"name": "x", "email": "x@example.com", "password": "long enough 1"}
        assert http.post("/api/v1/auths/signup", json=form).status_code == 403
        assert http.get("/api/models").status_code == 401
        config = http.get("/api/config").json()
        assert config["features"]["enable_signup"] is False
        assert config["features"]["auth"] is True
    listening = {one.laddr.ip for process in real_chat.process.family() for one in process.net_connections("tcp")}
    assert listening <= {"127.0.0.1"}


def test_everybody_sees_the_models_and_only_their_own_chats(people: dict[str, WebUI]) -> None:
    for name in ("li", "wang"):
        models = {model["id"] for model in people[name].get("/api/models")["data"]}
        assert {"reviewmill-sentiment", "reviewmill-emotion", "stub-model"} <= models
        assert not any("arena" in model for model in models)
    people["li"].post("/api/v1/chats/new", {"chat": {"title": "mine", "messages": [], "history": {"messages": {}}}})
    assert [chat["title"] for chat in people["li"].get("/api/v1/chats/")] == ["mine"]
    assert people["wang"].get("/api/v1/chats/") == []


def test_a_comment_is_answered_with_one_question_to_the_model(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    before = len(real_chat.stub.requests)
    answer = ask(people["li"], "这个耳机的音质真不错，只问一次。")
    assert "%" in answer
    time.sleep(2)
    assert len(real_chat.stub.requests) == before + 1


def test_the_raw_model_talks(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    before = len(real_chat.stub.requests)
    ask(people["li"], "hello", model="stub-model")
    sent = real_chat.stub.requests[before:]
    assert len(sent) == 1
    assert "tools" not in sent[0]


def test_the_wiring_is_done_once(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    boss = people["boss"]
    with real_chat.process.service() as http:
        tasks = http.get("/v1/tasks").json()["tasks"]
    assert list(wire_function(boss)) == []
    assert list(wire_models(boss, tasks)) == []
    for model in boss.get("/api/models")["data"]:
        if model["id"].startswith("reviewmill-"):
            assert [action["id"] for action in model["actions"]] == [FUNCTION]
    with pytest.raises(WebUIError, match="refused"):
        list(wire_function(people["li"]))


def test_an_open_webui_that_a_team_runs_is_wired_by_its_api(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    """Its settings are changed here, and put back: with `ENABLE_PERSISTENT_CONFIG=false` until its next start."""
    boss = people["boss"]
    other = "http://127.0.0.1:9"
    config, files = boss.get("/openai/config"), boss.get("/api/v1/retrieval/config")
    try:
        assert list(wire_connection(boss, other, "rm_one")) == [f"connection {other}/v1: added"]
        assert list(wire_connection(boss, other, "rm_one")) == []
        assert list(wire_connection(boss, other, "rm_two")) == [f"connection {other}/v1: put right"]
        after = boss.get("/openai/config")
        assert after["OPENAI_API_BASE_URLS"] == [*config["OPENAI_API_BASE_URLS"], f"{other}/v1"]
        assert after["OPENAI_API_KEYS"][0] == config["OPENAI_API_KEYS"][0]
        assert after["OPENAI_API_CONFIGS"]["1"]["headers"]["X-Chat"] == "{{CHAT_ID}}"
        changed = list(wire_files(boss, other, "rm_one"))
        assert any("EXTERNAL_DOCUMENT_LOADER_URL: was" in line for line in changed)
        assert not any("rm_" in line for line in changed)
        assert list(wire_files(boss, other, "rm_one")) == []
        token = boss.token
        done = real_chat.process.run(
            "--webui",
            real_chat.process.url,
            "--service",
            f"http://127.0.0.1:{real_chat.process.service_port}",
            REVIEWMILL_CHAT_WEBUI_TOKEN=token,
            REVIEWMILL_CHAT_SERVICE_KEY=config["OPENAI_API_KEYS"][0],
        )
        assert done.returncode == 0, done.stderr
        assert f"connection http://127.0.0.1:{real_chat.process.service_port}/v1: put right" in done.stdout
        assert f"function {FUNCTION}: told where the service is" in done.stdout
        assert config["OPENAI_API_KEYS"][0] not in done.stdout + done.stderr
    finally:
        boss.post("/openai/config/update", config)
        boss.post("/api/v1/retrieval/config/update", {name: files[name] for name in files if "EXTERNAL" in name})


def test_a_thumb_comes_to_the_service(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    """A thumb under an answer that the service knows by chat and message."""
    li = people["li"]
    me = li.get("/api/v1/auths/")
    headers = {"X-Chat": "chat-1", "X-Msg": "msg-1", "X-OpenWebUI-User-Id": me["id"]}
    with real_chat.process.service() as http:
        message = {"role": "user", "content": "快递员态度恶劣，但东西还行。"}
        body = {"model": "reviewmill-sentiment", "messages": [message]}
        assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
        form = {
            "type": "rating",
            "data": {"rating": -1, "model_id": "reviewmill-sentiment", "comment": "应该是中性"},
            "meta": {"model_id": "reviewmill-sentiment", "chat_id": "chat-1", "message_id": "msg-1"},
            "snapshot": {"chat": {}},
        }
        made = li.post("/api/v1/evaluations/feedback", form)

        def kept() -> list[dict[str, Any]]:
            found = http.get("/v1/corrections").json()["items"]
            return [one for one in found if one["external_id"] == f"webui:feedback:{made['id']}"]

        until(lambda: kept() != [], 40)
        assert [(one["text"], one["label"], one["author"]) for one in kept()] == [
            ("快递员态度恶劣，但东西还行。", "neutral", "li@example.com")
        ]


def test_killed_it_comes_back_with_all_that_was_there(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    li = people["li"]
    before = li.get("/api/v1/chats/")
    began, said = time.monotonic(), real_chat.process.times("Open WebUI is back.")
    os.kill(real_chat.process.pid("open-webui"), signal.SIGKILL)
    real_chat.process.until("Open WebUI is back.", 120, more_than=said)
    print(f"back after {time.monotonic() - began:.1f} s")
    assert li.get("/api/v1/chats/") == before
    assert "%" in ask(li, "重启之后还能用。")


def test_without_the_service_people_are_told_and_it_works_again_afterwards(
    real_chat: RealChat, people: dict[str, WebUI]
) -> None:
    said = real_chat.process.times("The service is back.")
    service = psutil.Process(real_chat.process.pid("service"))
    service.suspend()
    os.kill(service.pid, signal.SIGKILL)
    with pytest.raises(WebUIError) as refused:
        ask(people["li"], "服务不在的时候。")
    assert "rm_" not in str(refused.value)
    real_chat.process.until("The service is back.", 60, more_than=said)
    assert "%" in ask(people["li"], "服务回来之后。")


def test_nothing_left_this_machine(real_chat: RealChat, people: dict[str, WebUI]) -> None:
    assert people
    assert real_chat.watch.looks > 100
    assert real_chat.watch.seen == []
