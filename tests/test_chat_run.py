"""`reviewmill chat` as a process: both programs really run, crash and are killed; Open WebUI itself is replaced."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psutil
import pytest

from chat_process import ChatProcess, until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[ChatProcess]:
    with StubEndpoint() as stub:
        process = ChatProcess(tmp_path, stub)
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatProcess]:
    """One that runs and is left running, for several tests."""
    with StubEndpoint() as stub:
        process = ChatProcess(tmp_path_factory.mktemp("running"), stub)
        try:
            process.start(OPENAI_API_KEY="sk-users-own", REVIEWMILL_CHAT__ENVIRONMENT='{"WEBUI_BANNERS": "[]"}')
            yield process
        finally:
            process.kill()


def test_from_nothing_to_a_page_and_again_with_the_same_data(chat: ChatProcess) -> None:
    chat.start()
    said = chat.until("Ctrl-C")
    assert f"\n{chat.url}\n" in said
    password = said.partition("admin@localhost, password ")[2].split()[0]
    assert chat.state()["passwords"]["admin@localhost"] == password
    assert [user["role"] for user in chat.state()["users"]] == ["admin", "admin"]
    assert {model["id"] for model in chat.state()["models"]} >= {"reviewmill-sentiment", "reviewmill-emotion"}
    secrets = chat.place / "secrets.json"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert stat.S_IMODE(chat.place.stat().st_mode) == 0o700
    assert chat.ended(signal.SIGINT) == 130
    assert chat.family() == []

    known = json.loads(secrets.read_text())
    asked = len(chat.state()["asked"])
    chat.start()
    said = chat.until("Ctrl-C")
    assert "password" not in said
    assert "installed" not in said
    assert json.loads(secrets.read_text()) == known
    assert not [line for line in chat.state()["asked"][asked:] if "create" in line or "update" in line]
    assert chat.ended(signal.SIGTERM) == 0
    assert chat.family() == []
    # Neither keys nor passwords where other users of the machine, or whoever gets a log, can read them.
    logs = "".join(path.read_text("utf-8", "replace") for path in (chat.place / "run").rglob("*") if path.is_file())
    for secret in (password, known["webui_key"], known["machine_password"], known["service_key"]):
        assert secret
        assert secret not in logs
    assert "the key is ***" in logs


def test_no_secret_stands_in_any_command_line(running_chat: ChatProcess) -> None:
    chat = running_chat
    known = json.loads((chat.place / "secrets.json").read_text())
    lines = [" ".join(process.cmdline()) for process in chat.family()]
    assert len(lines) == 4  # two programs, two supervisors; the chat itself is this test's child and names no folder
    lines.append(Path(f"/proc/{chat.process.pid}/cmdline").read_text() if chat.process else "")
    for secret in (known["webui_key"], known["machine_password"], known["service_key"]):
        assert not any(secret in line for line in lines)


def test_open_webui_gets_what_it_needs_and_nothing_of_the_users_environment(running_chat: ChatProcess) -> None:
    chat = running_chat
    env = json.loads((chat.place / "data" / "env.json").read_text())
    for name in ("DATABASE_URL", "OPENAI_API_KEY", "HTTP_PROXY", "REVIEWMILL_ENDPOINT"):
        assert name not in env
    assert not env.get("PYTHONPATH")
    assert env["WEBUI_BANNERS"] == "[]"
    assert env["OPENAI_API_BASE_URLS"] == f"http://127.0.0.1:{chat.service_port}/v1"
    assert env["ENABLE_SIGNUP"] == "false"
    with chat.service() as http:  # the key is good, and may speak for people
        assert http.get("/v1/tasks").status_code == 200


@pytest.mark.parametrize("name", ["service", "open-webui"])
def test_a_crash_is_told_and_healed(chat: ChatProcess, name: str) -> None:
    chat.start()
    title = {"service": "The service", "open-webui": "Open WebUI"}[name]
    before = chat.pid(name)
    os.kill(before, signal.SIGKILL)
    chat.until(f"{title} ended: it was ended by SIGKILL. It is started again.")
    chat.until(f"{title} is back.")
    assert chat.pid(name) != before
    assert chat.ended(signal.SIGINT) == 130
    assert chat.family() == []


def test_what_crashes_again_and_again_is_given_up_with_its_last_words(chat: ChatProcess) -> None:
    (chat.place / "data").mkdir()
    (chat.place / "data" / "crash").touch()
    chat.start(wait=None)
    assert chat.ended(seconds=90) == 1
    said = chat.said.read_text()
    assert "Open WebUI ended again and again (it ended with status 7)" in said
    assert "the key is ***" in said
    pauses = [line.rpartition("again in ")[2] for line in said.splitlines() if "again in" in line]
    assert pauses == sorted(pauses, key=lambda pause: float(pause.split()[0]))
    assert len(pauses) > 2
    assert chat.family() == []


def test_killed_it_leaves_no_orphan_and_starts_again(chat: ChatProcess) -> None:
    chat.start()
    family = chat.family()
    assert chat.ended(signal.SIGKILL) == -signal.SIGKILL
    _, left = psutil.wait_procs(family, timeout=40)
    assert left == []
    chat.start()
    assert chat.ended(signal.SIGTERM) == 0


def test_even_a_killed_supervisor_takes_its_program_along(chat: ChatProcess) -> None:
    chat.start()
    program = psutil.Process(chat.pid("open-webui"))
    os.kill(int(chat.status("open-webui")["supervisor"]["pid"]), signal.SIGKILL)
    program.wait(timeout=20)
    assert chat.ended(seconds=60) == 1
    assert "supervisor was killed" in chat.said.read_text()
    assert chat.family() == []


def test_two_at_once_are_refused(chat: ChatProcess) -> None:
    chat.start()
    second = chat.run()
    assert second.returncode == 1
    assert "A chat runs already" in second.stderr
    shown = chat.run("status")
    assert shown.returncode == 0
    assert shown.stdout.startswith(chat.url)
    assert shown.stdout.count("ready") == 2
    reset = chat.run("reset", "--yes")
    assert reset.returncode == 1
    assert chat.run("stop").returncode == 0
    assert chat.ended(seconds=5) == 0
    assert chat.family() == []
    assert chat.run("status").returncode == 1


@pytest.mark.parametrize("which", ["port", "service_port"])
def test_a_port_that_is_taken_is_told_before_anything_starts(chat: ChatProcess, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(chat, which)))
        taken.listen()
        done = chat.run()
    assert done.returncode == 1
    assert f"port {getattr(chat, which)}" in done.stderr
    assert "--" + {"port": "port", "service_port": "service-port"}[which] in done.stderr
    assert not (chat.place / "run" / "service").exists()


def test_a_start_that_is_broken_off_leaves_nothing_and_the_password_is_shown_next_time(chat: ChatProcess) -> None:
    chat.start(wait=None)
    chat.until("The service is ready")
    assert chat.ended(signal.SIGINT) == 130
    assert chat.family() == []
    if "password" not in chat.said.read_text():
        chat.start()
        assert "admin@localhost, password " in chat.until("Ctrl-C")


def test_accounts_backup_reset_and_restore(chat: ChatProcess, tmp_path: Path) -> None:
    assert "does not run" in chat.run("users", "add", "li@example.com").stderr
    chat.start()
    made = chat.run("users", "add", "Li@example.com", "--name", "Li")
    assert made.returncode == 0, made.stderr
    assert chat.state()["passwords"]["li@example.com"] == made.stdout.strip()
    again = chat.run("users", "add", "li@example.com")
    assert again.stdout != made.stdout
    assert chat.state()["passwords"]["li@example.com"] == again.stdout.strip()
    assert "li@example.com" in chat.run("users", "list").stdout
    assert chat.ended(signal.SIGINT) == 130

    import sqlite3

    with sqlite3.connect(chat.place / "data" / "webui.db") as database:
        database.execute("CREATE TABLE chat (words TEXT)")
        database.execute("INSERT INTO chat VALUES ('hello')")
    archive = tmp_path / "kept.tar.gz"
    secrets = (chat.place / "secrets.json").read_text()
    saved = chat.run("backup", "-o", str(archive))
    assert saved.returncode == 0, saved.stderr
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as packed:
        assert {"data/webui.db", "data/state.json", "secrets.json"} <= set(packed.getnames())
    assert "There are accounts" in chat.run("restore", str(archive)).stderr
    assert chat.run("reset").returncode == 1
    assert chat.run("reset", "--yes").returncode == 0
    assert not (chat.place / "secrets.json").exists()
    assert list((chat.place / "data").iterdir()) == []
    assert chat.run("restore", str(archive)).returncode == 0
    assert (chat.place / "secrets.json").read_text() == secrets
    assert stat.S_IMODE((chat.place / "secrets.json").stat().st_mode) == 0o600
    with sqlite3.connect(chat.place / "data" / "webui.db") as database:
        assert database.execute("SELECT words FROM chat").fetchall() == [("hello",)]


def test_thumbs_become_corrections_once(running_chat: ChatProcess) -> None:
    chat = running_chat
    person = {"X-OpenWebUI-User-Id": "1", "X-OpenWebUI-User-Email": "admin@localhost", "X-Chat": "c"}
    with chat.service() as http:
        for message, asked in (("a", "屏幕很好\n物流太慢"), ("a1", "屏幕很好")):
            body = {"model": "reviewmill-sentiment", "messages": [{"role": "user", "content": asked}]}
            answer = http.post("/v1/chat/completions", json=body, headers={**person, "X-Msg": message})
            assert answer.status_code == 200, answer.text

    def thumb(name: str, message: str, rating: int, comment: str, **more: object) -> dict[str, object]:
        return {
            "id": name,
            "user_id": "1",
            "data": {"rating": rating, "comment": comment, "model_id": "reviewmill-sentiment", **more},
            "meta": {"chat_id": "c", "message_id": message},
            "updated_at": time.time_ns(),
        }

    def put(*thumbs: dict[str, object]) -> None:
        change = {"feedbacks": list(thumbs)}
        assert httpx2.post(f"{chat.url}/fake/change", json=change, trust_env=False).is_success

    put(
        thumb("row", "a", -1, "第2行应该是中性，不是负面"),
        thumb("one", "a1", -1, "should be negative"),
        thumb("right", "a1", 1, "", reason="accurate_information"),
        thumb("idle", "a", -1, "bad"),
        thumb("raw", "a1", -1, "negative", model_id="stub-model"),
    )

    def kept() -> dict[str, dict[str, object]]:
        with chat.service() as http:
            return {one["external_id"]: one for one in http.get("/v1/corrections").json()["items"]}

    until(lambda: len(kept()) == 3)
    row = kept()["webui:feedback:row"]
    assert (row["text"], row["label"], row["author"]) == ("物流太慢", "neutral", "admin@localhost")
    assert kept()["webui:feedback:one"]["label"] == "negative"
    right = kept()["webui:feedback:right"]
    assert right["label"] == right["model_label"]
    put(thumb("one", "a1", -1, "no: neutral"))
    until(lambda: kept()["webui:feedback:one"]["label"] == "neutral")
    assert len(kept()) == 3
