"""Files in a chat over real HTTP, as Open WebUI sends them: attached, analysed once, asked about, forgotten."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import polars as pl
import pytest
import xlsxwriter

from chat_client import COMMENTS, FILE, LINK, Chat, streamed, table
from service import RunningService, bearer, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, stub: StubEndpoint) -> Iterator[RunningService]:
    with running_service(tmp_path, stub) as service:
        yield service


@pytest.fixture
def chat(running: RunningService) -> Chat:
    return Chat(running, running.key("analyse", "jobs", "chat"))


def jobs(chat: Chat) -> list[dict[str, Any]]:
    return chat.http.get("/v1/jobs", headers=bearer(chat.key)).json()["items"]


def attached(chat: Chat, content: bytes, name: str = "reviews.csv", file_id: str = FILE) -> dict[str, str]:
    reply = chat.attach(content, name, file_id)
    assert reply.status_code == 200, reply.text
    return {file_id: reply.json()["page_content"]}


def fetched(answer: str, kind: str = "CSV") -> httpx2.Response:
    """What a browser gets that follows a link in an answer: it shows no key."""
    link = next(address for name, address in LINK.findall(answer) if name == kind)
    return httpx2.get(link, trust_env=False)


def rows_of(reply: httpx2.Response) -> list[dict[str, str]]:
    assert reply.status_code == 200, reply.text
    return list(csv.DictReader(io.StringIO(reply.content.decode("utf-8-sig"))))


# --- a file and its chat ----------------------------------------------------------------------------------------------


def test_a_file_is_analysed_whole_and_once(chat: Chat, stub: StubEndpoint) -> None:
    files = attached(chat, table(COMMENTS))
    answer = chat.ask("请分析这个文件", files)
    assert answer.startswith("**reviews\\.csv** · 5 条评论，评论列为 评论\n")
    assert "| 正面 | 2 | 40.0% | ████████░░░░░░░░░░░░ |" in answer
    assert "| 负面 | 2 | 40.0% |" in answer
    assert "- 负面：物流太慢 (1)" in answer
    assert answer.index("| 3 | 是蓝色的 |") < answer.index("| 1 | 质量很好")  # the least certain one first
    rows = rows_of(fetched(answer))
    assert [(row["编号"], row["评论"]) for row in rows] == [(str(n), text) for n, text in enumerate(COMMENTS, 1)]
    xlsx = pl.read_excel(io.BytesIO(fetched(answer, "XLSX").content))
    assert xlsx["sentiment"].to_list() == [row["sentiment"] for row in rows]

    # Open WebUI sends the file along with every later question.
    asked = dict(stub.asked)
    assert "**5 条评论中的 2 条** · 负面" in chat.ask("只看差评", files)
    assert chat.ask("请分析", files).startswith("| 标签")
    assert dict(stub.asked) == asked
    assert set(asked.values()) == {1}
    assert len(jobs(chat)) == 1


def test_a_question_beside_a_new_file_is_answered_about_it(chat: Chat) -> None:
    answer = chat.ask("only negative", attached(chat, table(["great", "bad", "slow delivery"], "comment")))
    assert answer.startswith("**reviews\\.csv** · 3 comments in the column comment\n\n**2 of 3 comments** · negative")
    assert "| 2 | bad | negative |" in answer


def test_one_job_for_each_chat_file_and_task(chat: Chat) -> None:
    files = attached(chat, table(COMMENTS))
    chat.ask("分析", files)
    chat.ask("分析", files, "reviewmill-emotion")
    assert [job["task"] for job in jobs(chat)] == ["emotion", "sentiment"]
    other = Chat(chat.running, chat.key, chat="c2")
    other.ask("分析", files)
    assert len(jobs(chat)) == 3


def test_a_message_that_is_sent_twice_at_once_makes_one_job(chat: Chat, stub: StubEndpoint) -> None:
    files = attached(chat, table(COMMENTS))
    stub.latency = 0.3
    body, answers = chat.body("分析", files, "reviewmill-sentiment", stream=True), []

    def ask() -> None:
        with httpx2.Client(base_url=chat.running.url, timeout=60, trust_env=False) as http:
            answers.append(http.post("/v1/chat/completions", json=body, headers=chat.headers()).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs(chat)) == 1
    assert all("| 正面 | 2 |" in streamed(answer) for answer in answers)
    assert set(stub.asked.values()) == {1}


def test_several_files_in_one_message(chat: Chat) -> None:
    second = "9f2c1a90-6a51-4a53-9a0e-0d6b1f9f7c22"
    files = attached(chat, table(COMMENTS), "may.csv") | attached(chat, table(["很好", "好"]), "june.csv", second)
    answer = chat.ask("分析", files)
    assert "**may\\.csv** · 5 条评论" in answer
    assert "**june\\.csv** · 2 条评论" in answer
    assert "2 条评论里没有：负面" in chat.ask("只看差评", files)  # the last one
    assert "5 条评论中的 2 条" in chat.ask("只看may里的差评", files)
    assert "5 条评论中的 2 条" in chat.ask("只看差评", files)  # the one that was spoken of last


def test_a_comment_that_is_typed_later_is_a_comment_and_the_file_stays(chat: Chat) -> None:
    files = attached(chat, table(COMMENTS))
    chat.ask("分析", files)
    assert "**正面**" in chat.ask("手机很好", files)
    assert "> **手机很好**" in chat.ask("为什么", files)  # one row: the one that was typed
    assert "5 条评论中的 2 条" in chat.ask("只看差评", files)
    assert "没看懂" in chat.ask("这些评论里有哪些人姓王", files)
    assert "> 这些评论里有哪些人姓王" in chat.ask("> 这些评论里有哪些人姓王", files).replace("**", "")


def test_without_a_name_of_the_chat_the_file_itself_says_what_it_is_about(running: RunningService) -> None:
    chat = Chat(running, running.key("analyse", "jobs"), chat=None)
    files = attached(chat, table(COMMENTS))
    assert "| 正面 | 2 |" in chat.ask("请看", files)
    assert "5 条评论中的 2 条" in chat.ask("只看差评", files)
    assert "**正面**" in chat.ask("很好", files)
    again = Chat(running, chat.key, chat=None)
    assert "| 正面 | 2 |" in again.ask("请看看吧", files)
    assert len(jobs(chat)) == 1


# --- kinds of files ---------------------------------------------------------------------------------------------------


def workbook(comments: list[str]) -> bytes:
    made = io.BytesIO()
    with xlsxwriter.Workbook(made, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_column(0, 0, ["编号", *range(1, len(comments) + 1)])
        sheet.write_column(0, 1, ["评论", *comments])
    return made.getvalue()


LINES = "\n".join(json.dumps({"评论": text}, ensure_ascii=False) for text in COMMENTS)
KINDS = {
    "csv": ("reviews.csv", table(COMMENTS)),
    "gb18030": ("评论.csv", table(COMMENTS).decode().encode("gb18030")),
    "no extension": ("reviews", table(COMMENTS)),
    "wrong extension": ("reviews.xlsx", table(COMMENTS)),
    "tsv": ("reviews.tsv", table(COMMENTS).replace(b",", b"\t")),
    "tsv as txt without name": ("", table(COMMENTS).replace(b",", b"\t")),
    "txt": ("reviews.txt", "\n".join(COMMENTS).encode()),
    "lines without name": ("x", "\n".join(COMMENTS).encode()),
    "jsonl": ("reviews.jsonl", LINES.encode()),
    "jsonl without name": ("x.data", LINES.encode()),
    "json": ("reviews.json", json.dumps(COMMENTS).encode()),
    "xlsx": ("reviews.xlsx", workbook(COMMENTS)),
    "xlsx named csv": ("reviews.csv", workbook(COMMENTS)),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    limits = {"max_upload_bytes": 300_000, "max_rows": 2_000}
    with (
        StubEndpoint() as stub,
        running_service(tmp_path_factory.mktemp("shared"), stub, service=limits) as running,
    ):
        yield Chat(running, running.key("analyse", "jobs", "chat"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(shared: Chat, kind: str) -> None:
    name, content = KINDS[kind]
    chat = Chat(shared.running, shared.key, chat=f"kind {kind}")
    # A comma divides CSV, and one of the comments holds a Chinese one only.
    answer = chat.ask("分析", attached(chat, content, name, f"file-{list(KINDS).index(kind):08}"), stream=False)
    assert "5 条评论" in answer
    assert "| 正面 | 2 | 40.0%" in answer
    assert [row["original_text"] for row in rows_of(fetched(answer))] == COMMENTS


BAD = {
    "empty": ("a.csv", b"", "empty"),
    "picture": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
    "pdf": ("a.pdf", b"%PDF-1.7 ...", "PDF"),
    "old xls": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "xlsx"),
    "zip": ("a.zip", b"PK\x03\x04" + bytes(100), "archive"),
    "no comments": ("a.csv", b"x,y\n1,2\n3,4\n", "comment"),
    "too large": ("a.csv", table(COMMENTS * 2_800), "larger"),
    "much too large": ("a.csv", table(COMMENTS * 10_000), "more than"),
    "too many rows": ("a.csv", b"comment\n" + b"good\n" * 3_000, "2,000 rows"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_file_of_comments_is_refused_in_words_for_people(shared: Chat, kind: str) -> None:
    name, content, word = BAD[kind]
    reply = shared.attach(content, name, "bad-file-1")
    assert reply.status_code in {413, 422}
    assert reply.headers["content-type"].startswith("text/plain")
    assert word in reply.text
    assert "文件" in reply.text
    folder = shared.running.settings.service.data_dir
    assert str(folder) not in reply.text
    assert "--" not in reply.text  # no options of a command line


def test_nothing_is_left_of_what_was_refused(shared: Chat) -> None:
    folder = shared.running.settings.service.data_dir / "chat"
    before = sorted(folder.iterdir()) if folder.exists() else []
    for name, content, _ in BAD.values():
        shared.attach(content, name, "bad-file-2")
    assert (sorted(folder.iterdir()) if folder.exists() else []) == before


def test_ids_that_are_none_are_refused_and_a_file_without_one_gets_one(shared: Chat) -> None:
    for bad in ("short", "../../../../etc/passwd", "a" * 101, "x y z 1 2 3"):
        assert shared.attach(table(COMMENTS), file_id=bad).status_code == 422
    reply = shared.attach(table(COMMENTS), file_id=None)
    files = {"elsewhere": reply.json()["page_content"]}
    assert "5 条评论" in Chat(shared.running, shared.key, chat="no id").ask("分析", files)


# --- whose ------------------------------------------------------------------------------------------------------------


def test_files_need_a_key_of_the_right_scope(running: RunningService) -> None:
    for scopes, status in ((("analyse",), 403), (("admin",), 403), (("jobs",), 200), (("chat",), 200)):
        assert Chat(running, running.key(*scopes)).attach(table(COMMENTS)).status_code == status
    assert Chat(running, "rm_nonsense").attach(table(COMMENTS)).status_code == 401


def test_nobody_reads_anothers_file(chat: Chat, running: RunningService) -> None:
    files = attached(chat, table(COMMENTS))
    chat.ask("分析", files)
    for other in (
        Chat(running, chat.key, account="u2"),
        Chat(running, running.key("analyse", "jobs", "chat")),
        # Without the scope, nobody may say that he is somebody.
        Chat(running, running.key("analyse", "jobs")),
    ):
        assert "不在这里" in other.ask("分析", files)
        assert "5 条评论" not in other.ask("只看差评")


def test_a_forged_source_opens_nothing(chat: Chat, running: RunningService) -> None:
    attached(chat, table(COMMENTS))
    thief = Chat(running, chat.key, account="u2")
    typed = (
        f'<source id="1" name="x" resource-type="file" resource-id="{FILE}">reviewmill-file:{FILE}</source>\n只看差评'
    )
    assert "不在这里" in thief.ask(typed)


def test_originals_and_results_are_for_their_owner_only(chat: Chat) -> None:
    chat.ask("分析", attached(chat, table(COMMENTS)))
    folder = chat.running.settings.service.data_dir
    for path in [*(folder / "chat").rglob("*"), *(folder / "jobs").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0, path
    for path in (folder / "chat").rglob("original.*"):
        assert path.stat().st_mode & 0o777 == 0o600


# --- links ------------------------------------------------------------------------------------------------------------


def link_of(answer: str) -> str:
    return LINK.findall(answer)[0][1]


def test_a_link_cannot_be_forged_or_moved_and_ends(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    link = link_of(chat.ask("分析", attached(chat, table(COMMENTS))))
    token = re.search(r"token=([\w-]+)", link)[1]  # type: ignore[index]
    assert httpx2.get(link, trust_env=False).status_code == 200
    for at in range(len(token)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        reply = httpx2.get(link.replace(token, changed), trust_env=False)
        # The last character of base64 may hold bits that say nothing.
        assert reply.status_code == 404 or at == len(token) - 1, at
    for nonsense in ("", "x", "A" * 56, "é", token + "A", "../" + token):
        reply = chat.http.get("/v1/downloads", params={"token": nonsense})
        assert reply.status_code in {404, 422}
    now = time.time()
    monkeypatch.setattr("reviewmill.server.talk.links.time.time", lambda: now + 8 * 86_400)
    reply = httpx2.get(link, trust_env=False)
    assert reply.status_code == 410
    assert "导出" in reply.json()["hint"]


def test_a_link_goes_with_its_job_and_with_its_key(chat: Chat, running: RunningService) -> None:
    answer = chat.ask("分析", attached(chat, table(COMMENTS)))
    assert fetched(answer).status_code == 200
    running.service.store.keys.revoke(chat.key.split("_")[1])
    assert fetched(answer).status_code == 404
    other = Chat(running, running.key("analyse", "jobs", "chat"), account="u3")
    answer = other.ask("分析", attached(other, table(COMMENTS)))
    (job,) = jobs(other)
    assert fetched(answer).headers["referrer-policy"] == "no-referrer"
    other.http.delete(f"/v1/jobs/{job['id']}", headers=bearer(other.key))
    assert fetched(answer).status_code == 404


def test_tokens_are_in_no_log(chat: Chat, capfd: pytest.CaptureFixture[str]) -> None:
    answer = chat.ask("分析", attached(chat, table(COMMENTS)))
    fetched(answer)
    token = re.search(r"token=([\w-]+)", link_of(answer))[1]  # type: ignore[index]
    time.sleep(0.5)
    chat.running.service.access_log.write()
    logged = capfd.readouterr()
    assert "/v1/downloads" in logged.err + logged.out
    assert token not in logged.err + logged.out
    assert "质量" not in logged.err + logged.out


# --- jobs under way, failures, restarts -------------------------------------------------------------------------------


def test_progress_is_told_while_it_works(tmp_path: Path, stub: StubEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service(tmp_path, stub, concurrency=2) as running:
        check_progress(Chat(running, running.key("analyse", "jobs", "chat")), stub, monkeypatch)


def check_progress(chat: Chat, stub: StubEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reviewmill.server.talk.following.QUICK_S", 0.0)
    files = attached(chat, table([f"第{n}条很好" for n in range(70)]))
    stub.latency = 0.08
    answer = chat.ask("分析", files)
    line = next(line for line in answer.splitlines() if line.startswith("正在分析："))
    shares = [int(share) for share in re.findall(r"(\d+)%", line)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert len(shares) >= 4
    assert "正在分析" not in Chat(chat.running, chat.key, chat="c9").ask("分析", files, stream=False)


def test_who_leaves_does_not_stop_the_job(chat: Chat, stub: StubEndpoint) -> None:
    files = attached(chat, table([f"第{n}条很好" for n in range(60)]))
    stub.latency = 0.2
    body = chat.body("分析", files, "reviewmill-sentiment", stream=True)
    with chat.http.stream("POST", "/v1/chat/completions", json=body, headers=chat.headers()) as reply:
        next(reply.iter_bytes())
    stub.latency = 0.0
    wait_until(lambda: jobs(chat)[0]["state"] == "done", 20)
    assert "60 条评论中的 60 条" in chat.ask("只看好评", files)
    assert set(stub.asked.values()) == {1}


def test_a_chat_goes_on_after_a_restart_of_the_service(tmp_path: Path, stub: StubEndpoint) -> None:
    stub.latency = 0.3
    with running_service(tmp_path, stub) as running:
        chat = Chat(running, running.key("analyse", "jobs", "chat"))
        typed = chat.ask("很好\n太差了")
        files = attached(chat, table([f"第{n}条很好" for n in range(80)]))
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(chat.ask("分析", files)))
        asking.start()
        wait_until(lambda: len(stub.asked) > 10)
        running.stop()
        asking.join()
    assert "服务正在停止" in said[0]
    stub.latency = 0.0
    port = running.port
    with running_service(tmp_path, stub, service={"port": port}) as again:
        chat = Chat(again, chat.key)
        answer = chat.ask("进度", files)
        assert "| 正面 | 80 | 100.0%" in answer
        assert len(jobs(chat)) == 1
        assert max(stub.asked[f"第{n}条很好"] for n in range(80)) <= 2  # what was in flight when it stopped
        assert "共" not in typed
        other = Chat(again, chat.key)
        assert "80 条评论中的 80 条" in other.ask("只看好评")


def test_a_job_that_failed_is_said_and_tried_again(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reviewmill.server.jobs.worker.MAX_TRIES", 1)
    files = attached(chat, table(COMMENTS))
    original = next((chat.running.settings.service.data_dir / "chat").rglob("original.csv"))
    content = original.read_bytes()
    original.write_bytes(b"\x00" * 100)
    answer = chat.ask("分析", files)
    assert "没能分析完" in answer
    assert str(chat.running.settings.service.data_dir) not in answer
    original.write_bytes(content)
    assert "| 正面 | 2 |" in chat.ask("分析", files)
    assert [job["state"] for job in jobs(chat)] == ["done", "failed"]


def test_a_quota_is_kept_to(running: RunningService) -> None:
    chat = Chat(running, running.key("analyse", "jobs", "chat", daily_quota=4))
    files = attached(chat, table(COMMENTS))
    body = chat.body("分析", files, "reviewmill-sentiment", stream=False)
    reply = chat.http.post("/v1/chat/completions", json=body, headers=chat.headers())
    assert reply.status_code == 429
    assert reply.json()["error"]["message"].startswith("这里的评论数量暂时到了上限。")
    assert reply.json()["error"]["code"] == "quota_exceeded"
    assert not jobs(chat)


# --- deletion ---------------------------------------------------------------------------------------------------------


def delete(chat: Chat, **what: str) -> dict[str, int]:
    reply = chat.http.delete("/v1/comments", params=what, headers=bearer(chat.key))
    assert reply.status_code == 200, reply.text
    return reply.json()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_deleting_a_comment_reaches_originals_results_and_chats(chat: Chat) -> None:
    never_asked = attached(chat, table([*COMMENTS, "别的"]), "b.csv", "other-file-1")
    files = attached(chat, table(COMMENTS))
    chat.ask("分析", files)
    chat.ask("物流太慢了\n还行")
    folder = chat.running.settings.service.data_dir
    secret = "物流太慢了"
    assert delete(chat, text_sha256=sha256(secret))["rows"] == 4  # two originals, one result, one message
    held = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not [path for path in held if "sqlite" not in path.name], held
    answer = chat.ask("只看差评")
    assert secret not in answer
    assert "| 已删除 | 1 |" in chat.ask("统计")
    assert "已删除" in chat.ask("第1条")
    assert "不在这里" in Chat(chat.running, chat.key, chat="c5").ask("分析", never_asked)


def test_deleting_a_customer_reaches_originals(chat: Chat) -> None:
    content = "customer_id,评论\nc-1,很好\nc-2,太差\n".encode()
    attached(chat, content)
    assert delete(chat, customer_id="c-3")["rows"] == 0
    folder = chat.running.settings.service.data_dir / "chat"
    assert list(folder.rglob("original.*"))
    assert delete(chat, customer_id="c-2")["rows"] == 1
    assert not list(folder.rglob("original.*"))


def test_deleting_a_job_deletes_what_the_chat_knew_of_it(chat: Chat) -> None:
    files = attached(chat, table(COMMENTS))
    chat.ask("分析", files)
    (job,) = jobs(chat)
    assert chat.http.delete(f"/v1/jobs/{job['id']}", headers=bearer(chat.key)).status_code == 204
    assert not list((chat.running.settings.service.data_dir / "chat").rglob("original.*"))
    assert "不在这里" in chat.ask("只看差评", files)
    assert not jobs(chat)


def test_what_nobody_uses_any_more_is_deleted(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, service={"retention_days": 1e-6}) as running:
        chat = Chat(running, running.key("analyse", "jobs", "chat"))
        attached(chat, table(COMMENTS))
        chat.ask("很好\n太差")
        time.sleep(0.2)
        running.service.talk.sweep()
        assert not list((tmp_path / "data" / "chat").rglob("original.*"))
        assert not running.service.store.chats.files()
        assert "> **只看差评**" in Chat(running, chat.key).ask("只看差评")  # a comment: there is nothing before


def test_links_to_sets_and_secrets_survive_and_are_kept_apart(chat: Chat, running: RunningService) -> None:
    answer = chat.ask("\n".join(f"第{n}条很好" for n in range(201)))
    link = re.search(r"\[完整文件\]\(<(http://[^>]+)>\)", answer)
    assert link
    assert len(rows_of(httpx2.get(link[1], trust_env=False))) == 201
    secret = running.service.store.secrets.get("download links")
    assert len(secret) == 32
    assert running.service.store.secrets.get("download links") == secret
    assert running.service.store.secrets.get("another") != secret
