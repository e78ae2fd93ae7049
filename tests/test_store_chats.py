"""Chats in the store: files, sets, typed comments; and the service's secrets. On both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from reviewmill.store import ChatFile, ChatKey, Store, new_id

CHAT = ChatKey("key-1", "anna", "c1")


def facts(sha256: str = "a" * 64, **more: Any) -> dict[str, Any]:
    base = {"id": new_id(), "filename": "a.csv", "format": "csv", "text_column": "评论", "id_column": None}
    base |= {"customer_column": None, "rows": 3, "size": 10, "sha256": sha256}
    return base | more


def file_of(store: Store, **more: Any) -> ChatFile:
    return store.chats.keep_file("key-1", "anna", "file-1", facts(**more))[0]


def analysis(text: str) -> dict[str, Any]:
    return {"sentiment": "positive", "original_text": text, "provenance": {"task": "sentiment"}}


def typed(store: Store, *texts: str, chat: ChatKey = CHAT, message: str | None = None, task: str = "sentiment") -> Any:
    rows = [(text, analysis(text)) for text in texts]
    return store.chats.keep_typed(chat, task=task, labels=["positive"], message=message, rows=rows)


def emptied(analysed: dict[str, Any]) -> dict[str, Any]:
    return {**analysed, "original_text": None}


def test_a_file_that_comes_again_is_the_same_and_another_takes_its_place(store: Store) -> None:
    first = file_of(store)
    same, gone = store.chats.keep_file("key-1", "anna", "file-1", given := facts())
    assert (same.id, gone) == (first.id, [given["id"]])
    other, gone = store.chats.keep_file("key-1", "anna", "file-1", facts("b" * 64))
    assert other.id != first.id
    assert gone == [first.id]
    assert [file.id for file in store.chats.files()] == [other.id]


def test_accounts_see_their_own_files_and_those_of_nobody(store: Store) -> None:
    mine = file_of(store)
    assert store.chats.file("key-1", "anna", "file-1") == mine
    assert store.chats.file("key-1", "ben", "file-1") is None
    assert store.chats.file("key-2", "anna", "file-1") is None
    assert store.chats.file("key-1", "", "file-1") is not None  # a program that names nobody
    common, _ = store.chats.keep_file("key-1", "", "file-2", facts())
    found = store.chats.file("key-1", "ben", "file-2")
    assert found is not None
    assert found.id == common.id


def test_one_job_for_a_chat_a_file_and_a_task_also_at_once(store: Store) -> None:
    file = file_of(store)

    def keep(number: int) -> str | None:
        kept = store.chats.keep_job(
            CHAT, task="sentiment", labels=["positive"], file=file, job_id=f"job-{number}", instead_of=None
        )
        return kept.job_id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(keep, range(6)))) == 1
    (kept,) = store.chats.sets(CHAT)
    again = store.chats.keep_job(
        CHAT, task="sentiment", labels=["positive"], file=file, job_id="job-9", instead_of=kept.job_id
    )
    assert (again.id, again.job_id) == (kept.id, "job-9")
    assert store.chats.set_of_file(CHAT, file, "emotion") is None
    assert store.chats.set_of_file(ChatKey("key-1", "ben", "c1"), file, "sentiment") is None


def test_sets_come_in_the_order_of_their_use(store: Store) -> None:
    first, second = typed(store, "a", "b"), typed(store, "\x00\ud800很好")
    assert [each.id for each in store.chats.sets(CHAT)] == [second.id, first.id]
    store.chats.use(first.id)
    assert [each.id for each in store.chats.sets(CHAT, "sentiment")] == [first.id, second.id]
    assert store.chats.sets(CHAT, "emotion") == []
    assert store.chats.rows(second.id)[0][1]["original_text"] == "\x00\ud800很好"
    assert [number for number, _ in store.chats.rows(first.id)] == [1, 2]
    assert store.chats.rows(first.id, 3) == []


def test_a_message_names_its_set_and_comes_again(store: Store) -> None:
    typed(store, "a", message="m1")
    again = typed(store, "b", message="m1")
    assert store.chats.set_of_message(CHAT, "m1") == again
    assert len(store.chats.sets(CHAT)) == 1
    assert store.chats.set_of_message(ChatKey("key-1", "anna", "c2"), "m1") is None


def test_texts_are_forgotten_owner_by_owner(store: Store) -> None:
    mine = typed(store, "a", "b")
    other = typed(store, "a", chat=ChatKey("key-2", "", "c1"))
    assert store.chats.forget_texts({"a", "z"}, "key-1", emptied) == 1
    assert [row["original_text"] for _, row in store.chats.rows(mine.id)] == [None, "b"]
    assert store.chats.rows(other.id)[0][1]["original_text"] == "a"
    assert store.chats.forget_texts({"a"}, None, emptied) == 1
    assert store.chats.forget_texts(["a"], None, emptied) == 0


def test_what_a_deleted_job_was_goes_and_what_is_old_too(store: Store) -> None:
    file = file_of(store)
    store.chats.keep_job(CHAT, task="sentiment", labels=["x"], file=file, job_id="job-1", instead_of=None)
    kept = typed(store, "a")
    assert store.chats.forget_job("job-1") == [file.id]
    assert [each.id for each in store.chats.sets(CHAT)] == [kept.id]
    now = datetime.now(UTC)
    assert store.chats.forget_stale(now - timedelta(hours=1)) == 0
    assert store.chats.forget_stale(now + timedelta(hours=1)) == 1
    assert store.chats.rows(kept.id) == []
    assert store.chats.stale_files(now + timedelta(hours=1)) == [file.id]
    assert store.chats.delete_file(file.id)
    assert not store.chats.delete_file(file.id)


def test_secrets_are_made_once_also_at_once(store: Store) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(lambda _: store.secrets.get("x"), range(6)))
    assert len(made) == 1
    assert store.secrets.get("y") not in made


def test_jobs_say_how_many_come_before(store: Store) -> None:
    given = {"task": "sentiment", "filename": "a.csv", "format": "csv", "text_column": None, "id_column": None}
    jobs = [store.jobs.create("k", **given, size=1, sha256="0" * 64)[0] for _ in range(3)]
    assert store.jobs.before(jobs[2].id) == 2
    store.jobs.cancel(jobs[0].id)
    assert store.jobs.before(jobs[2].id) == 1
