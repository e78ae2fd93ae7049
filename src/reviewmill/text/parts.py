"""Cut a long text into parts that each say one thing: the utterances of a conversation, the paragraphs of an article.

Pure, and linear in the text. Parts are slices of the text as it was written, so that whatever is found in one has its
place in the whole. They do not overlap, stand in order, and hold every character that is not white space, a speaker's
name or a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["customer", "agent"]
Kind = Literal["whole", "transcript", "article"]

SPLIT_OVER: Final = 600
"""Code points: an article that is longer is cut into parts. A conversation always is."""

_AIM: Final = 400
"""Code points that a part of an article should have at most: about what the models read at once in training data."""
_LEAST: Final = 60
"""Code points: a paragraph that has fewer (a heading, "优点：") goes with the next one."""

_DATE = r"\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?[ T]*"
_TIME = rf"[\[(（【]?\s*(?:{_DATE})?\d{{1,2}}[:：]\d{{2}}(?:[:：]\d{{2}})?(?:[.,]\d+)?\s*[\])）】]?"
_LETTER = r"[^\s:：,，。.!！?？;；\[\]【】(（)）<>《》\"“”]"
_NAME = rf"{_LETTER}{{1,12}}(?:[ \t]?{_LETTER}{{1,12}}){{0,2}}"
# A name with or without a time, then a colon, as in [10:02] 客服小王：您好
_UTTERANCE: Final = re.compile(rf"[ \t]*(?:{_TIME}[ \t]*)?(?P<name>{_NAME})[ \t]*(?:{_TIME}[ \t]*)?[:：](?!//)[ \t]*")
# A name and a time on a line of their own; what is said stands on the next ones.
_HEADER: Final = re.compile(rf"[ \t]*(?:{_TIME}[ \t]+(?P<after>{_NAME})|(?P<name>{_NAME})[ \t]+{_TIME})[ \t]*$")

_CUSTOMER: Final = (
    *("用户", "客户", "顾客", "买家", "消费者", "会员", "访客", "来电", "乘客", "患者", "家长", "学员", "旅客", "住户"),
    *("customer", "client", "user", "buyer", "caller", "guest", "visitor", "consumer", "passenger", "patient"),
)
_AGENT: Final = (
    *(
        "客服",
        "坐席",
        "座席",
        "商家",
        "卖家",
        "店家",
        "店主",
        "店小二",
        "机器人",
        "助手",
        "助理",
        "系统",
        "话务员",
        "顾问",
    ),
    *(
        "专员",
        "接线员",
        "agent",
        "support",
        "representative",
        "rep",
        "advisor",
        "adviser",
        "assistant",
        "bot",
        "system",
    ),
    *("operator", "seller", "staff", "service", "shop", "ivr"),
)
_SENTENCE: Final = re.compile(r"[^。！？!?；;\n]*(?:[。！？!?；;\n]+[”\"』」）)]*|$)")
_ENGLISH: Final = re.compile(r"(?<=[.])\s+")


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a text.

    Attributes:
        start, end: where it stands (code points, half-open).
        speaker: who says it, as written; None in an article.
        role: what the speaker is, if the name tells.
    """

    start: int
    end: int
    speaker: str | None = None
    role: Role | None = None


def split_text(text: str, *, over: int = SPLIT_OVER) -> tuple[Kind, list[Part]]:
    """Cut a text into parts.

    Args:
        text: the text as it was written.
        over: an article is cut if it is longer (code points).

    Returns:
        What it is, and its parts: one, if it is to be read whole.
    """
    utterances = list(_utterances(text))
    if _is_conversation(utterances):
        parts = [piece for part in utterances for piece in _short_enough(text, part)]
        return "transcript", parts
    if len(text) > over:
        parts = _paragraphs(text)
        if len(parts) > 1:
            return "article", parts
    return "whole", [Part(0, len(text))]


# --- conversations ---


def _utterances(text: str) -> Iterator[Part]:
    """What each line's speaker says, with the lines below that name none; what stands before the first is nobody's."""
    name: str | None = None
    start = at = 0
    for line in text.splitlines(keepends=True):
        said = _speaker(line)
        if said is not None:
            yield from _trimmed(text, start, at, name)
            name, offset = said
            start = at + offset
        at += len(line)
    yield from _trimmed(text, start, at, name)


def _speaker(line: str) -> tuple[str, int] | None:
    """Who begins to speak in this line, and where the words begin in it."""
    bare = line.rstrip("\r\n")
    if header := _HEADER.match(bare):
        return header["after"] or header["name"], len(line)
    if begun := _UTTERANCE.match(bare):
        return begun["name"].strip(), begun.end()
    return None


def _trimmed(text: str, start: int, end: int, name: str | None) -> Iterator[Part]:
    words = text[start:end]
    if stripped := words.strip():
        first = start + len(words) - len(words.lstrip())
        yield Part(first, first + len(stripped), name, role_of(name) if name else None)


def role_of(name: str) -> Role | None:
    """What a speaker is, if the name tells: 客服小王 is an agent, 用户01 a customer."""
    bare = re.sub(r"[\d#_\-\s]+", " ", name.lower()).strip()
    for role, words in (("customer", _CUSTOMER), ("agent", _AGENT)):
        for word in words:
            # A letter behind an English word makes another word of it ("reporter").
            pattern = rf"\b{word}s?\b" if word.isascii() else re.escape(word)
            if re.search(pattern, bare):
                return role  # type: ignore[return-value]
    return None


def _is_conversation(utterances: list[Part]) -> bool:
    """Whether people speak in turn: not a list of points ("优点：…" once, "缺点：…" once)."""
    names = Counter(part.speaker for part in utterances if part.speaker)
    roles = {part.role for part in utterances if part.role}
    if len(names) < 2:
        return False
    return roles == {"customer", "agent"} or (sum(names.values()) >= 4 and min(names.most_common(2)[1][1], 2) == 2)


# --- articles ---


def _paragraphs(text: str) -> list[Part]:
    """Paragraphs, short ones with the next, long ones cut between sentences."""
    parts: list[Part] = []
    start: int | None = None
    for match in re.finditer(r"[^\n]+", text):
        if not match[0].strip():
            continue
        start = match.start() if start is None else start
        if match.end() - start >= _LEAST:
            parts += _short_enough(text, next(_trimmed(text, start, match.end(), None)))
            start = None
    if start is not None:
        rest = next(_trimmed(text, start, len(text), None))
        if parts and rest.start - parts[-1].start < _AIM:
            parts[-1] = Part(parts[-1].start, rest.end)
        else:
            parts.append(rest)
    return parts


def _short_enough(text: str, part: Part) -> Iterator[Part]:
    """The part, or pieces of it of which each holds whole sentences, as many as fit."""
    if part.end - part.start <= _AIM:
        yield part
        return
    start = end = part.start
    for stop in _stops(text, part):
        if stop - start > _AIM and end > start:
            yield from _like(text, start, end, part)
            start = end
        end = stop
    yield from _like(text, start, part.end, part)


def _stops(text: str, part: Part) -> Iterator[int]:
    """Where sentences end; a sentence that is too long by itself is cut by length."""
    at = part.start
    for match in _SENTENCE.finditer(text, part.start, part.end):
        sentence = match[0]
        ends = [match.start() + found.start() for found in _ENGLISH.finditer(sentence)]
        for end in (*ends, match.end()):
            while end - at > 2 * _AIM:
                at += _AIM
                yield at
            if end > at:
                at = end
                yield end


def _like(text: str, start: int, end: int, part: Part) -> Iterator[Part]:
    for piece in _trimmed(text, start, end, None):
        yield Part(piece.start, piece.end, part.speaker, part.role)
