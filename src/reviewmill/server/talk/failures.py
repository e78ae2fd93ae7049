"""Failures as a person in a chat is told of them: in the language of the question, and what it was besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reviewmill.errors import ChatError
from reviewmill.server.face.faults import told
from reviewmill.server.face.sources import read_sources
from reviewmill.server.face.words import CHINESE, words_of
from reviewmill.server.problems import Problem

if TYPE_CHECKING:
    from reviewmill.server.talk.speaker import Speaker

_SAID: Final = {
    "busy": "busy",
    "rate_exceeded": "rate",
    "quota_exceeded": "rate",
    "endpoint_unreachable": "unreachable",
    "endpoint_error": "unreachable",
    "endpoint_timeout": "timeout",
    "store_unavailable": "store",
}


def said_to(speaker: Speaker, question: str, error: Exception) -> Exception:
    """The error as whoever speaks is told of it: status and code stay, and words that the person knows come first.

    Programs, and people who ask in English about what is their own mistake, get it as it is.
    """
    if not speaker.is_person:
        return error
    status, body, headers = told(error)
    code = body["error"]["code"] or ""
    words = words_of(read_sources(question).text)
    if isinstance(error, ChatError) and words is not CHINESE:
        return error
    said = words.say[_SAID.get(code, "store" if status == 503 else "broken")]
    if isinstance(error, ChatError):
        said = words.say["mistake"]
    kind = code.replace("_", "-")
    return Problem(status, kind, "It could not be answered", f"{said} ({body['error']['message']})", headers=headers)
