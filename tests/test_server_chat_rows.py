"""`GET /v1/chat/rows` over real HTTP: what the action "Correct this label" looks up before it asks for a label."""

from __future__ import annotations

import csv
import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from chat_client import COMMENTS, FILE, Chat, table
from service import RunningService, assert_problem, bearer, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPES = ("analyse", "jobs", "chat")
LABELS = ["positive", "negative", "neutral"]
TYPED = ["质量很好", "物流太慢了", "是蓝色的"]


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
    return Chat(running, running.key(*SCOPES))


def ask(asker: Chat, /, **query: Any) -> httpx2.Response:
    """As the chat's own account, the chat named in the query."""
    return asker.http.get("/v1/chat/rows", params={"chat": asker.chat, **query}, headers=asker.who())


def attached(chat: Chat, content: bytes) -> dict[str, str]:
    return {FILE: chat.attach(content).json()["page_content"]}


def found(asker: Chat, /, **query: Any) -> dict[str, Any]:
    reply = ask(asker, **query)
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- what an answer is about ------------------------------------------------------------------------------------------


def test_the_only_comment_needs_no_number(chat: Chat) -> None:
    chat.ask("物流太慢了，差评")
    about = found(chat)
    row = about.pop("row")
    assert about == {"task": "sentiment", "labels": LABELS, "total": 1}
    assert (row["row"], row["text"], row["label"]) == (1, "物流太慢了，差评", "negative")
    assert 0.5 < row["confidence"] <= 1


def test_of_several_comments_one_is_named(chat: Chat) -> None:
    chat.ask("\n".join(TYPED))
    assert found(chat) == {"task": "sentiment", "labels": LABELS, "total": 3, "row": None}
    shown = [found(chat, row=number)["row"] for number in (1, 2, 3)]
    assert [(row["row"], row["text"], row["label"]) for row in shown] == [
        (1, "质量很好", "positive"),
        (2, "物流太慢了", "negative"),
        (3, "是蓝色的", "neutral"),
    ]


def test_it_is_about_the_last_comments_or_about_those_of_an_answer(chat: Chat) -> None:
    chat.ask("\n".join(TYPED))  # the answer c1-m1
    chat.ask("包装差\n很满意")  # c1-m2
    assert found(chat, row=1)["row"]["text"] == "包装差"
    assert found(chat)["total"] == 2
    first = found(chat, message="c1-m1", row=1)
    assert (first["total"], first["row"]["text"]) == (3, "质量很好")
    # An answer that is itself a question's has no rows of its own.
    assert found(chat, message="no-such-answer")["total"] == 2


def test_headers_name_the_chat_and_the_answer_too(chat: Chat) -> None:
    chat.ask("\n".join(TYPED))
    chat.ask("包装差\n很满意")
    named = chat.who() | {"X-Chat": "c1", "X-Msg": "c1-m1"}
    reply = chat.http.get("/v1/chat/rows", params={"row": 3}, headers=named)
    assert reply.json()["row"]["text"] == "是蓝色的"
    # What is asked for explicitly wins.
    reply = chat.http.get("/v1/chat/rows", params={"row": 1, "message": "c1-m2"}, headers=named)
    assert reply.json()["row"]["text"] == "包装差"


def test_rows_of_a_file(chat: Chat) -> None:
    chat.ask("请分析", attached(chat, table(COMMENTS)))
    about = found(chat, row=len(COMMENTS))
    assert about["total"] == len(COMMENTS)
    assert about["row"]["text"] == COMMENTS[-1]
    assert found(chat)["row"] is None


def test_a_task_chooses_among_those_that_the_chat_used(chat: Chat) -> None:
    chat.ask("很满意", model="reviewmill-emotion")
    chat.ask("包装差")
    emotion = found(chat, task="emotion")
    assert emotion["task"] == "emotion"
    assert emotion["row"]["text"] == "很满意"
    assert set(LABELS).isdisjoint(emotion["labels"])
    assert found(chat)["task"] == "sentiment"
    assert_problem(ask(chat, task="stars"), 404, "not-found")


def test_what_was_not_judged_has_no_label(chat: Chat) -> None:
    chat.ask("！！！\n很满意")
    row = found(chat, row=1)["row"]
    assert row == {"row": 1, "text": "！！！", "label": None, "confidence": None}


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_a_key_with_the_right_scope_is_needed(running: RunningService, chat: Chat) -> None:
    chat.ask("很满意")
    assert_problem(running.http.get("/v1/chat/rows", params={"chat": "c1"}), 401, "unauthorised")
    for scope in ("jobs", "chat", "admin"):
        reply = running.http.get("/v1/chat/rows", params={"chat": "c1"}, headers=bearer(running.key(scope)))
        assert_problem(reply, 403, "scope-missing")


def test_another_keys_chat_is_not_there(running: RunningService, chat: Chat) -> None:
    chat.ask("很满意")
    other = Chat(running, running.key(*SCOPES, name="other"))
    theirs = assert_problem(ask(other), 404, "not-found")
    nobodys = assert_problem(ask(chat, chat="c2"), 404, "not-found")
    # The two cannot be told apart.
    assert {**theirs, "request_id": nobodys["request_id"]} == nobodys
    assert_problem(ask(other, message="c1-m1", row=1), 404, "not-found")


def test_another_accounts_chat_is_not_there(running: RunningService, chat: Chat) -> None:
    chat.ask("很满意")
    assert_problem(ask(Chat(running, chat.key, account="u2")), 404, "not-found")
    assert found(chat)["row"]["text"] == "很满意"


def test_a_key_that_may_not_speak_for_others_cannot_take_an_account(running: RunningService, chat: Chat) -> None:
    chat.ask("很满意")
    plain = Chat(running, running.key("analyse", name="plain"))
    assert_problem(ask(plain), 404, "not-found")
    # Its own chats are there, whatever account it names.
    plain.ask("包装差")
    assert found(Chat(running, plain.key, account="u9"))["row"]["text"] == "包装差"


# --- what cannot be answered ------------------------------------------------------------------------------------------


def test_a_chat_must_be_named_and_known(chat: Chat) -> None:
    nameless = chat.http.get("/v1/chat/rows", headers=chat.who())
    assert "X-Chat" in assert_problem(nameless, 404, "not-found")["hint"]
    assert_problem(ask(chat), 404, "not-found")


def test_a_row_that_is_not_there(chat: Chat) -> None:
    chat.ask("\n".join(TYPED))
    for row in (4, 2**53 - 1):
        assert_problem(ask(chat, row=row), 404, "not-found")


@pytest.mark.parametrize(
    "query",
    [
        {"row": 0},
        {"row": -1},
        {"row": 2**53},
        {"row": "1.5"},
        {"row": "one"},
        {"row": ""},
        {"chat": ""},
        {"chat": "c" * 201},
        {"message": ""},
        {"message": "m" * 201},
        {"task": ""},
        {"task": "t" * 101},
    ],
    ids=str,
)
def test_bad_parameters_are_named(chat: Chat, query: dict[str, Any]) -> None:
    chat.ask("很满意")
    problem = assert_problem(ask(chat, **query), 422, "invalid-request")
    assert next(iter(query)) in str(problem["errors"])


@pytest.mark.parametrize("name", ["c1' OR '1'='1", "c1%", "../c1", "c1\x00", "聊天", "C1"])
def test_a_name_is_no_pattern_and_no_order(chat: Chat, name: str) -> None:
    chat.ask("很满意")
    assert_problem(ask(chat, chat=name), 404, "not-found")


def test_a_file_whose_job_runs_has_no_rows_yet(chat: Chat, stub: StubEndpoint) -> None:
    files = attached(chat, table(COMMENTS))
    stub.latency = 0.3
    asking = threading.Thread(target=chat.ask, args=("请分析", files))
    asking.start()
    wait_until(lambda: ask(chat, row=1).status_code == 409)
    assert_problem(ask(chat, row=1), 409, "job-not-done")
    # How many rows there are, and which labels, is known before.
    assert found(chat)["labels"] == LABELS
    stub.latency = 0
    asking.join(30)
    assert found(chat, row=1)["row"]["text"] == COMMENTS[0]


def test_a_file_whose_job_was_deleted_has_no_rows_any_more(chat: Chat) -> None:
    chat.ask("请分析", attached(chat, table(COMMENTS)))
    (job,) = chat.http.get("/v1/jobs", headers=bearer(chat.key)).json()["items"]
    assert chat.http.delete(f"/v1/jobs/{job['id']}", headers=bearer(chat.key)).is_success
    assert_problem(ask(chat, row=1), 404, "not-found")


# --- hostile text -----------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script> 差",
    "[click](javascript:alert(1)) ![x](http://evil.example/p.png) 差",
    "**bold** `code` | cell | # head 差",
    "&lt;b&gt; &#42; &amp; 差",
    '"}], "row": {"label": "positive"} 差',
    "\\n \\u0000 \\\\ ' ; DROP TABLE chats; -- 差",
    "差 \u202egnp.exe \u200d \ufeff 😀 é e\u0301",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_as_it_was(chat: Chat, text: str) -> None:
    chat.ask(text)
    assert found(chat)["row"]["text"] == text


def test_hostile_cells_of_a_file_come_back_as_they_were(chat: Chat) -> None:
    cells = [*HOSTILE, '=HYPERLINK("http://evil.example")', "+cmd|' /C calc'!A0 差", '两行\n差,"x"']
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["评论"], *([cell] for cell in cells)])
    chat.ask("请分析", attached(chat, buffer.getvalue().encode()))
    assert [found(chat, row=number)["row"]["text"] for number in range(1, len(cells) + 1)] == cells
