"""Which comment somebody points at who names a chat, an answer in it and a row. Blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reviewmill.schema import Analysis
from reviewmill.server.jobs.results import ResultGoneError
from reviewmill.server.problems import Problem, invalid, not_found
from reviewmill.server.talk.material import JobMaterial, row_of

if TYPE_CHECKING:
    from reviewmill.server.state import Service
    from reviewmill.store import ChatKey, ChatSet


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said of a comment, as far as it is known."""

    task: str | None
    text: str
    model_label: str | None
    confidence: float | None


def said_in_chat(service: Service, chat: ChatKey, message: str | None, row: int | None, given: Said) -> Said:
    """What was said of a row in a chat.

    Args:
        service: where it was said.
        chat: the chat.
        message: the answer in which the row stands. One that is itself about earlier rows ("the negative ones") has no
            rows of its own; then, as without a message, it is what the chat was about last.
        row: its number; None: the only one.
        given: what whoever points knows; it fills nothing that is found, but its task chooses.

    Raises:
        Problem: there is no such chat, or no such row.
    """
    chat_set = _set_of(service, chat, message, row, given.task)
    if row is None and chat_set.rows != 1:
        raise invalid("row", f"it is needed: there are {chat_set.rows:,} rows.")
    analysis = _row_of(service, chat_set, row or 1)
    if analysis is None or analysis["status"] == "deleted" or analysis["original_text"] is None:
        raise not_found("such row in this chat")
    label, confidence = analysis[chat_set.task], analysis["confidence"]
    return replace(given, task=chat_set.task, text=analysis["original_text"], model_label=label, confidence=confidence)


def _set_of(service: Service, chat: ChatKey, message: str | None, row: int | None, task: str | None) -> ChatSet:
    chats = service.store.chats
    named = chats.set_of_message(chat, message) if message is not None else None
    if named is not None and (task is None or named.task == task):
        return named
    sets = chats.sets(chat, task)
    found = next((each for each in sets if each.rows >= (row or 1)), next(iter(sets), None))
    if found is None:
        raise not_found("chat of this name in which anything was analysed")
    return found


def _row_of(service: Service, chat_set: ChatSet, row: int) -> Analysis | None:
    if chat_set.job_id is None:
        rows = service.store.chats.rows(chat_set.id, row)
        return Analysis(rows[0][1]) if rows else None
    job = service.store.jobs.get(chat_set.job_id)
    if job is None:
        return None
    if job.state != "done":
        detail, hint = f"The job is {job.state}.", "Wait until it is done."
        raise Problem(409, "job-not-done", "The job has no result", detail, hint)
    try:
        return row_of(JobMaterial(job, service.jobs.files(job.id)), row)
    except ResultGoneError:  # deleted meanwhile
        return None


@dataclass(frozen=True, slots=True)
class Pointed:
    """What an answer in a chat is about, and one row of it."""

    task: str
    labels: list[str]
    total: int
    row: int | None
    analysis: Analysis | None


def pointed_at(service: Service, chat: ChatKey, message: str | None, row: int | None, task: str | None) -> Pointed:
    """Look up what an answer is about, before somebody decides on a row.

    Args:
        service: where it was said.
        chat: the chat.
        message: as for `said_in_chat`.
        row: its number; None: the only one, if there is only one.
        task: the task that is meant; None: whichever it was.

    Raises:
        Problem: there is no such chat, or no such row.
    """
    chat_set = _set_of(service, chat, message, row, task)
    number = row if row is not None else 1 if chat_set.rows == 1 else None
    analysis = _row_of(service, chat_set, number) if number is not None else None
    gone = analysis is None or analysis["status"] == "deleted" or analysis["original_text"] is None
    if number is not None and gone:
        raise not_found("such row in this chat")
    return Pointed(chat_set.task, chat_set.labels, chat_set.rows, number, analysis)
