"""Thumbs become corrections: what people say of an answer in the chat goes to the service, once.

A thumb is about one comment where the answer is about one, or where it names the row ("第3行 应该是负面", "row 3:
neutral"). Its comment names the right label; a thumb up with a comment or the reason "accurate" confirms the model's.
What names neither is counted and left where it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reviewmill.chat.place import write_private
from reviewmill.chat.service import PREFIX, Person, ServiceFace
from reviewmill.chat.webui import WebUI
from reviewmill.errors import ServiceError

_ALIASES: Final = {
    "positive": ("正面", "积极", "好评", "正向"),
    "neutral": ("中性", "中立", "中评"),
    "negative": ("负面", "消极", "差评", "负向"),
}
_NOT: Final = re.compile(
    r"(?:不是|并非|不算|不该是|不应该是|而非|\bnot|\bisn'?t|n't be|\brather than|\binstead of)\W*(?:a |an )?\W*$",
    re.IGNORECASE,
)
_ROW: Final = re.compile(
    r"第\s*(\d{1,7})\s*[行条个]|(?:\brows?|\bline|#)\s*(\d{1,7})|^\s*(\d{1,7})\s*[:：、.]", re.IGNORECASE
)
_NOTE_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a thumb says.

    Attributes:
        row: the row that it names, if any.
        label: the label that it names, if any.
        confirms: whether it says that the model was right.
        note: its comment.
    """

    row: int | None
    label: str | None
    confirms: bool
    note: str


def read_thumb(data: Mapping[str, Any], labels: Sequence[str]) -> Verdict:
    """Read a thumb. Pure.

    Args:
        data: a feedback's `data`.
        labels: of the task.
    """
    note = str(data.get("comment") or "").strip()
    named = {label for label in labels if _names(note, label)}
    row = _ROW.search(note)
    number = next((int(digits) for digits in row.groups() if digits), None) if row else None
    up = str(data.get("rating")) == "1"
    confirms = up and not named and (bool(note) or data.get("reason") == "accurate_information")
    return Verdict(number, named.pop() if len(named) == 1 else None, confirms, note[:_NOTE_CHARS])


def _names(note: str, label: str) -> bool:
    """Whether a label is named, and not only as what it is not."""
    words = [rf"\b{re.escape(label)}\b", *map(re.escape, _ALIASES.get(label, ()))]
    found = re.finditer("|".join(words), note, re.IGNORECASE)
    return any(not _NOT.search(note[: one.start()]) for one in found)


@dataclass(frozen=True, slots=True)
class Synced:
    """What a look at the thumbs brought."""

    kept: int = 0
    unread: int = 0


class FeedbackSync:
    """Brings thumbs to the service.

    What was brought is noted with the time of its last change, so that only what is new is fetched whole; a note that
    is lost does no harm, because the service knows each thumb by its id.

    Args:
        notes: the file that remembers what was brought.
        ui: an administrator's.
        service: with a key that may speak for others.
    """

    def __init__(self, notes: Path, ui: WebUI, service: ServiceFace) -> None:
        self._path = notes
        self._ui = ui
        self._service = service
        self._done = self._read()

    def _read(self) -> dict[str, int]:
        try:
            return {str(name): int(when) for name, when in json.loads(self._path.read_text("utf-8")).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def look(self) -> Synced:
        """Bring what is new or was changed.

        Raises:
            WebUIError: Open WebUI does not answer.
            ServiceUnreachableError: the service does not.
        """
        there = {one["id"]: int(one["updated_at"]) for one in self._ui.get("/api/v1/evaluations/feedbacks/all/ids")}
        new = {name for name, when in there.items() if self._done.get(name) != when}
        if not new:
            return Synced()
        people = {user["id"]: user for user in self._ui.get("/api/v1/users/all")["users"]}
        kept = unread = 0
        try:
            for one in self._ui.get("/api/v1/evaluations/feedbacks/all/export"):
                if one["id"] in new:
                    good = self._bring(one, people.get(one["user_id"], {}))
                    kept, unread = kept + good, unread + (not good)
                    self._done[one["id"]] = int(one["updated_at"])
        finally:
            self._done = {name: when for name, when in self._done.items() if name in there}
            write_private(self._path, json.dumps(self._done))
        return Synced(kept, unread)

    def _bring(self, one: Mapping[str, Any], user: Mapping[str, Any]) -> bool:
        """Bring one thumb; False if it is none that says something about a label."""
        data, meta = one.get("data") or {}, one.get("meta") or {}
        model = str(data.get("model_id") or meta.get("model_id") or "")
        if not model.startswith(PREFIX):
            return False
        chat, message = str(meta.get("chat_id") or ""), str(meta.get("message_id") or "")
        person = Person(str(one["user_id"]), str(user.get("email", "")), str(user.get("name", "")), chat, message)
        rows = self._service.rows(person, row=read_thumb(data, ()).row)
        if rows is None or rows.row is None:
            return False
        verdict = read_thumb(data, rows.labels)
        label = verdict.label or (rows.row["label"] if verdict.confirms else None)
        if label is None:
            return False
        correction = {
            "text": rows.row["text"],
            "task": rows.task,
            "label": label,
            "model_label": rows.row["label"],
            "confidence": rows.row["confidence"],
            "note": verdict.note or None,
            "author": person.email or person.name or person.id,
            "id": f"webui:feedback:{one['id']}",
        }
        try:
            self._service.correct({name: value for name, value in correction.items() if value is not None}, person)
        except ServiceError as error:
            if error.status in {400, 404, 409, 422}:
                return False  # the service can keep nothing of the kind, and will not be able to later
            raise
        return True
