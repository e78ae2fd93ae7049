"""Corrections, the index of comments, and the audit."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reviewmill.errors import CursorError
from reviewmill.store import CommentRow

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
CORRECTION = {"text": "屏幕好", "text_sha256": "a" * 64, "task": "sentiment", "label": "positive"}
# Lone surrogates and NUL included, which databases refuse.
ANYTHING = st.text(st.characters(categories=None), max_size=40)


def row(**other) -> CommentRow:
    plain = {"owner": "local", "text_sha256": "a", "cleaned_sha256": "b", "customer_id": None, "job_id": None}
    return CommentRow(**(plain | {"created_at": NOW} | other))


# --- corrections ---


def test_a_correction_comes_back_as_it_was_given(store) -> None:
    more = {"model_label": "negative", "confidence": 0.75, "note": "反话", "author": "anna", "external_id": "x-1"}
    record, created = store.corrections.add("key-1", **CORRECTION, **more)

    assert created
    assert store.corrections.list() == ([record], None)
    given = {"owner": "key-1"} | CORRECTION | more
    assert {name: getattr(record, name) for name in given} == given
    assert record.created_at == record.updated_at


def test_the_latest_correction_of_the_same_thing_wins(store) -> None:
    first, _ = store.corrections.add("local", **CORRECTION, author="anna", note="sure")
    second, created = store.corrections.add("local", **(CORRECTION | {"label": "neutral"}), author="anna")
    _, by_another = store.corrections.add("local", **CORRECTION, author="ben")
    _, about_another_task = store.corrections.add("local", **(CORRECTION | {"task": "emotion"}), author="anna")
    _, of_another_owner = store.corrections.add("other", **CORRECTION, author="anna")

    assert not created
    assert (second.id, second.label, second.note, second.created_at) == (first.id, "neutral", None, first.created_at)
    assert second.updated_at > first.updated_at
    assert (by_another, about_another_task, of_another_owner) == (True, True, True)
    assert len(store.corrections.list()[0]) == 4


def test_an_external_id_names_a_correction_of_its_owner(store) -> None:
    first, _ = store.corrections.add("local", **CORRECTION, external_id="1")
    same, created = store.corrections.add("local", **CORRECTION, external_id="1")
    changed, _ = store.corrections.add("local", **(CORRECTION | {"text": "新", "text_sha256": "n"}), external_id="1")
    others, others_created = store.corrections.add("other", **CORRECTION, external_id="1")

    assert (same.id, created, changed.id, changed.text) == (first.id, False, first.id, "新")
    assert others_created
    assert others.id != first.id


def test_the_same_correction_from_many_threads_is_kept_once(store) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: store.corrections.add("local", **CORRECTION, external_id="1"), range(16))]

    assert [created for _, created in made].count(True) == 1
    assert len(store.corrections.list()[0]) == 1


def test_corrections_are_listed_by_task_and_owner_page_by_page(store) -> None:
    for n, owner in itertools.product(range(5), ("a", "b")):
        store.corrections.add(owner, **(CORRECTION | {"task": f"task {n % 2}"}), external_id=str(n))

    first, cursor = store.corrections.list(task="task 0", owner="a", limit=2)
    store.corrections.add("a", **(CORRECTION | {"task": "task 0"}), external_id="new")
    rest, end = store.corrections.list(task="task 0", owner="a", limit=2, cursor=cursor)

    assert [record.external_id for record in first + rest] == ["4", "2", "0"]
    assert end is None
    with pytest.raises(CursorError):
        store.corrections.list(cursor="nonsense")


def test_corrections_of_a_text_are_deleted_with_it(store) -> None:
    store.corrections.add("a", **CORRECTION)
    store.corrections.add("b", **CORRECTION)
    store.corrections.add("a", **(CORRECTION | {"text_sha256": "other"}))

    assert store.corrections.delete(text_sha256=CORRECTION["text_sha256"], owner="a") == 1
    assert store.corrections.delete(text_sha256=CORRECTION["text_sha256"]) == 1
    assert [record.text_sha256 for record in store.corrections.list()[0]] == ["other"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ANYTHING, note=ANYTHING, author=st.none() | ANYTHING, external_id=ANYTHING)
def test_any_words_come_back_equal(store, text, note, author, external_id) -> None:
    words = {"text": text, "note": note, "author": author, "external_id": external_id}
    record, _ = store.corrections.add("local", text_sha256="t", task=text, label=note, **words)

    assert {name: getattr(record, name) for name in words} == words
    assert record in store.corrections.list(task=text)[0]


def test_very_long_words_are_kept(store) -> None:
    long = dict.fromkeys(("text", "note", "author", "external_id", "task", "label"), "很长" * 50_000)
    record, _ = store.corrections.add("local", text_sha256="t", **long)

    assert store.corrections.list()[0] == [record]
    assert record.text == long["text"]


# --- the index of comments ---


def test_comments_are_found_by_text_and_by_customer(store) -> None:
    rows = [
        row(),
        row(text_sha256="c", customer_id="anna"),
        row(text_sha256="c", customer_id="anna", job_id="j1"),
        row(text_sha256="c", customer_id="ben", owner="other"),
    ]
    store.comments.note(rows)
    store.comments.note(iter(rows[1:]))
    store.comments.note([])

    def found(**by):
        return sorted(store.comments.find(**by), key=rows.index)

    assert found(text_sha256="a") == rows[:1]
    assert found(text_sha256="c") == rows[1:]
    assert found(customer_id="anna") == rows[1:3]
    assert found(text_sha256="c", owner="other") == rows[3:]
    assert found(text_sha256="a", customer_id="anna") == []
    assert found(customer_id="\0' OR 1=1") == []


def test_deleted_comments_are_gone_and_only_they(store) -> None:
    rows = [row(), row(text_sha256="c", customer_id="anna"), row(text_sha256="c", owner="other")]
    store.comments.note(rows)

    assert store.comments.delete(text_sha256="c", owner="other") == 1
    assert store.comments.delete(customer_id="anna") == 1
    assert store.comments.delete(customer_id="anna") == 0
    assert store.comments.find(text_sha256="c") == []
    assert store.comments.find(text_sha256="a") == rows[:1]


def test_neither_text_nor_customer_would_mean_all_and_is_refused(store) -> None:
    store.comments.note([row()])

    for call in (store.comments.find, store.comments.delete, store.comments.tombstone):
        with pytest.raises(ValueError, match="text or"):
            call(owner="local")
    assert len(store.comments.find(text_sha256="a")) == 1


def test_the_same_rows_from_many_threads_in_any_order(store) -> None:
    rows = [row(text_sha256=str(n)) for n in range(1500)]

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(store.comments.note, [rows, rows[::-1], rows[700:], rows[:800]])] == [None] * 4
    assert all(len(store.comments.find(text_sha256=str(n))) == 1 for n in (0, 750, 1499))


def test_tombstones_are_for_those_who_were_there_then(store) -> None:
    before = store.audit.write("local", "time", "before").created_at
    store.comments.tombstone("everybody's")
    store.comments.tombstone("mine", owner="me")
    store.comments.tombstone("mine", owner="me")
    store.comments.tombstone(customer_id="anna", owner="me")
    after = store.audit.write("local", "time", "after").created_at

    assert store.comments.tombstones() == {"everybody's", "mine"}
    assert store.comments.tombstones("me", since=before) == {"everybody's", "mine"}
    assert store.comments.tombstones("you") == {"everybody's"}
    assert store.comments.tombstones("me", since=after) == set()
    assert store.comments.tombstoned_customers("me", since=before) == {"anna"}
    assert store.comments.tombstoned_customers("you") == set()

    assert store.comments.clear_tombstones(before) == 0
    assert store.comments.clear_tombstones(after + timedelta(seconds=1)) == 4
    assert store.comments.tombstones() == set()


# --- the audit ---


def test_the_audit_lists_its_lines_newest_first(store) -> None:
    lines = [store.audit.write("key-1", "comments.delete", f"text {n}", {"rows": n, "名": None}) for n in range(5)]
    bare = store.audit.write("local", "job.delete", "\0\ud800")

    first, cursor = store.audit.list(limit=4)
    rest, end = store.audit.list(cursor, 4)

    assert first + rest == [bare, *reversed(lines)]
    assert end is None
    assert bare.detail == {}
    assert lines[3].detail == {"rows": 3, "名": None}
