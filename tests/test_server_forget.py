"""Corrections; and deletion that really deletes: cache, memory, index and corrections, with a line in the audit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from reviewmill.store import CommentRow
from service import RunningService, assert_problem, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RedisServer
    from reviewmill.server.state import Deletion

TEXT = "The Zwiebelkuchen was bad, said Mrs Quasselstrippe."
WORD = b"Zwie"  # what the stub makes of it as a keyword; it is in the cached answer


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as stub:
        yield stub


@pytest.fixture
def running(tmp_path: Path, stub: StubEndpoint) -> Iterator[RunningService]:
    with running_service(tmp_path, stub) as running:
        yield running


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cache_holds(folder: Path, word: bytes) -> bool:
    return any(word in path.read_bytes() for path in folder.glob("answers.sqlite3*"))


def test_deleted_text_is_in_no_file(running: RunningService, stub: StubEndpoint, tmp_path: Path) -> None:
    text = "Zwiebelkuchen bad"
    with running.as_key(running.key()) as client:
        body = {"comments": [{"text": f"  {text}  "}, {"text": "another, good"}]}
        assert {result["status"] for result in client.post("/v1/analyze", json=body).json()["results"]} == {"ok"}
        assert cache_holds(tmp_path, WORD)
        answer = client.delete(f"/v1/comments?text_sha256={digest(f'  {text}  ')}").json()
        assert answer == {"comments": 1, "answers": 1, "corrections": 0, "rows": 0}
        assert not cache_holds(tmp_path, WORD)
        assert client.delete(f"/v1/comments?text_sha256={digest(f'  {text}  ')}").json()["answers"] == 0
        results = client.post("/v1/analyze", json=body).json()["results"]
        assert [result["route"] for result in results] == ["model", "cache"]
        assert stub.asked[text] == 2


def test_every_task_and_form_of_the_answer_is_deleted(running: RunningService, tmp_path: Path) -> None:
    with running.as_key(running.key()) as client:
        for more in ({}, {"task": "emotion"}, {"keywords": False}):
            assert client.post("/v1/analyze", json={"text": TEXT, **more}).status_code == 200
        assert client.delete(f"/v1/comments?text_sha256={digest(TEXT)}").json()["answers"] == 3
        for more in ({}, {"task": "emotion"}, {"keywords": False}):
            assert client.post("/v1/analyze", json={"text": TEXT, **more}).json()["results"][0]["route"] == "model"


def test_all_of_a_customer(running: RunningService, stub: StubEndpoint) -> None:
    comments = [{"text": f"bad {number}", "customer_id": "anna" if number < 3 else "bert"} for number in range(5)]
    with running.as_key(running.key()) as client:
        client.post("/v1/analyze", json={"comments": comments})
        client.post("/v1/corrections", json={"text": "bad 1", "label": "neutral"})
        client.post("/v1/corrections", json={"text": "bad 4", "label": "neutral"})
        answer = client.delete("/v1/comments?customer_id=anna").json()
        assert answer == {"comments": 3, "answers": 3, "corrections": 1, "rows": 0}
        assert [item["text"] for item in client.get("/v1/corrections").json()["items"]] == ["bad 4"]
        results = client.post("/v1/analyze", json={"comments": comments}).json()["results"]
        assert [result["route"] for result in results] == ["model"] * 3 + ["cache"] * 2


def test_deletion_of_what_memory_answers(running: RunningService) -> None:
    with running.as_key(running.key()) as client:
        for _ in range(3):
            client.post("/v1/analyze", json={"text": TEXT, "customer_id": "anna"})
        assert client.delete("/v1/comments?customer_id=anna").json()["answers"] == 1
        assert client.post("/v1/analyze", json={"text": TEXT}).json()["results"][0]["route"] == "model"


def test_others_comments_stay(running: RunningService) -> None:
    with running.as_key(running.key()) as mine, running.as_key(running.key()) as other:
        mine.post("/v1/analyze", json={"text": TEXT, "customer_id": "anna"})
        mine.post("/v1/corrections", json={"text": TEXT, "label": "neutral"})
        answer = other.delete("/v1/comments?customer_id=anna").json()
        assert answer == {"comments": 0, "answers": 0, "corrections": 0, "rows": 0}
        assert other.delete(f"/v1/comments?text_sha256={digest(TEXT)}").json()["corrections"] == 0
        assert len(mine.get("/v1/corrections").json()["items"]) == 1
        assert len(running.service.store.comments.find(customer_id="anna")) == 1
    with running.as_key(running.key("analyse", "admin")) as admin:
        answer = admin.delete("/v1/comments?customer_id=anna").json()
    assert (answer["comments"], answer["corrections"]) == (1, 1)


def test_audit_says_who_and_what_and_no_text(running: RunningService) -> None:
    record, secret = running.key_record("analyse")
    with running.as_key(secret) as client:
        client.post("/v1/analyze", json={"text": TEXT, "customer_id": "anna"})
        client.delete("/v1/comments?customer_id=anna")
        client.delete(f"/v1/comments?text_sha256={digest(TEXT)}")
    lines, _ = running.service.store.audit.list()
    assert [(line.actor, line.action) for line in lines] == [(record.id, "comments.delete")] * 2
    assert lines[0].subject == f"text:{digest(TEXT)}"
    assert lines[1].subject == f"customer:sha256:{digest('anna')}"
    assert lines[1].detail["comments"] == 1
    assert "anna" not in json.dumps([line.detail for line in lines])


def test_jobs_are_told(running: RunningService) -> None:
    told: list[Deletion] = []

    async def scrub(deletion: Deletion) -> int:
        told.append(deletion)
        await asyncio.sleep(0)
        return 2

    running.service.scrubbers.append(scrub)
    record, secret = running.key_record("analyse")
    store = running.service.store
    moment = record.created_at
    store.comments.note([CommentRow(record.id, digest(TEXT), digest(TEXT), "anna", "job-1", moment)])
    with running.as_key(secret) as client:
        assert client.delete("/v1/comments?customer_id=anna").json()["rows"] == 2
        client.delete(f"/v1/comments?text_sha256={digest('never seen')}")
    assert told[0].jobs == {"job-1"}
    assert told[0].text_sha256 == {digest(TEXT)}
    assert (told[0].customer_id, told[0].owner) == ("anna", record.id)
    assert store.comments.tombstoned_customers(record.id) == {"anna"}
    assert store.comments.tombstones(record.id) == {digest("never seen")}


@pytest.mark.parametrize(
    "query",
    ["", f"?text_sha256={'0' * 64}&customer_id=x", "?text_sha256=0", f"?text_sha256={'G' * 64}", "?customer_id="],
)
def test_what_is_to_be_deleted_must_be_clear(running: RunningService, query: str) -> None:
    with running.as_key(running.key()) as client:
        assert_problem(client.delete(f"/v1/comments{query}"), 422, "invalid-request")


def test_failed_deletion_says_so_and_can_be_repeated(
    tmp_path: Path, stub: StubEndpoint, own_redis_server: RedisServer
) -> None:
    own_redis_server.start()
    with (
        running_service(tmp_path, stub, cache=own_redis_server.url) as running,
        running.as_key(running.key()) as client,
    ):
        client.post("/v1/analyze", json={"text": TEXT, "customer_id": "anna"})
        own_redis_server.kill()
        assert_problem(client.delete("/v1/comments?customer_id=anna"), 503, "unavailable")
        own_redis_server.start()
        assert client.delete("/v1/comments?customer_id=anna").json()["comments"] == 1


def test_notes_survive_a_shutdown(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub) as running:
        record, secret = running.key_record("analyse")
        with running.as_key(secret) as client:
            client.post("/v1/analyze", json={"text": TEXT, "customer_id": "anna"})
    with running_service(tmp_path, stub) as running:
        assert running.service.store.keys.usage_today(record.id) == 1
        with running.as_key(secret) as client:
            assert client.delete("/v1/comments?customer_id=anna").json()["answers"] == 1


def test_corrections_in_pages(running: RunningService) -> None:
    with running.as_key(running.key()) as client:
        for number in range(7):
            sent = {"text": f"text {number}", "label": "neutral", "task": "sentiment"}
            assert client.post("/v1/corrections", json=sent).status_code == 201
        shown, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = client.get("/v1/corrections", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
            shown += [item["text"] for item in page["items"]]
            cursor, pages = page["next_cursor"], pages + 1
        assert shown == [f"text {number}" for number in reversed(range(7))]
        assert pages == 3
        assert client.get("/v1/corrections?task=emotion").json()["items"] == []
        assert_problem(client.get("/v1/corrections?cursor=nonsense"), 422, "invalid-request")
        for limit in ("0", "1001", "x"):
            assert_problem(client.get(f"/v1/corrections?limit={limit}"), 422, "invalid-request")


def test_latest_correction_counts(running: RunningService) -> None:
    with running.as_key(running.key()) as client:
        first = client.post("/v1/corrections", json={"text": TEXT, "label": "neutral", "author": "li"})
        again = client.post("/v1/corrections", json={"text": TEXT, "label": "negative", "author": "li"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json()["id"] == first.json()["id"]
        assert again.json()["text_sha256"] == digest(TEXT)
        (kept,) = client.get("/v1/corrections").json()["items"]
        assert kept["label"] == "negative"
        wrong = client.post("/v1/corrections", json={"text": TEXT, "label": "happy"})
        assert "positive" in assert_problem(wrong, 422, "invalid-request")["hint"]


def test_store_that_is_gone_is_503_and_analyses_go_on_where_no_key_is_needed(
    tmp_path: Path, stub: StubEndpoint
) -> None:
    with running_service(tmp_path, stub, service={"no_auth": True}) as running:
        database = tmp_path / "data" / "reviewmill.sqlite"
        locked = database.with_suffix(".away")
        running.service.store.close()
        database.rename(locked)
        database.mkdir()
        assert_problem(running.http.get("/v1/corrections"), 503, "unavailable")
        assert running.http.get("/readyz").status_code == 503
        assert running.http.post("/v1/analyze", json={"text": TEXT}).status_code == 200
        database.rmdir()
        locked.rename(database)
        running.service.store.close()
        assert running.http.get("/v1/corrections").status_code == 200
        wait_until(lambda: len(running.service.store.comments.find(text_sha256=digest(TEXT))) == 1, seconds=3)
