"""Find a model's keywords in the comment that they were taken from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from reviewmill.schema import Span
from reviewmill.text.clean import CleanText

# Fullwidth forms and their ASCII twins, one to one, so that positions stay.
_HALFWIDTH: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def _fold(text: str) -> str:
    """The text without case and width; every character stays at its position."""
    text = text.translate(_HALFWIDTH)
    folded = text.lower()
    if len(folded) == len(text):
        return folded
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def _word_pattern(keyword: str) -> re.Pattern[str]:
    """Match the keyword where it does not begin or end inside a longer word of ASCII letters ("art" in "smart")."""
    inside = "[A-Za-z0-9]"
    before = f"(?<!{inside})" if re.match(inside, keyword) else ""
    after = f"(?!{inside})" if re.match(inside, keyword[-1]) else ""
    return re.compile(before + re.escape(keyword) + after)


def _find(keyword: str, text: str, regions: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The first occurrence as a whole word, else the first occurrence, that lies inside one region."""
    inside_word = None
    for start, end in regions:
        at = text.find(keyword, start, end)
        if at < 0:
            continue
        if not keyword.isascii():
            return at, at + len(keyword)
        if match := _word_pattern(keyword).search(text, at, end):
            return match.span()
        inside_word = inside_word or (at, at + len(keyword))
    return inside_word


def _regions(cleaned: CleanText) -> list[tuple[int, int]]:
    """The parts of the text that the comment's writer wrote, in order."""
    gaps = sorted((*cleaned.masked, *([cleaned.joint] if cleaned.joint else [])))
    starts = [0, *(end for _, end in gaps)]
    ends = [*(start for start, _ in gaps), len(cleaned.text)]
    return list(zip(starts, ends, strict=True))


def _candidates(keyword: str, cleaned: CleanText) -> Iterator[tuple[str, str]]:
    """Ever looser pairs of what to look for and where; the second text has the positions of the first."""
    yield keyword, cleaned.text
    if stripped := keyword.strip():
        yield stripped, cleaned.text
        yield _fold(stripped), _fold(cleaned.text)


def locate(keywords: Iterable[str], cleaned: CleanText) -> list[Span]:
    """Find each keyword in the comment; those that do not occur are dropped.

    A keyword is looked for exactly, then without surrounding white space, then ignoring case and width; the first
    occurrence counts, for words of ASCII letters the first as a whole word. Nothing is found across the place where
    `shorten` cut the middle out, nor in a placeholder: what it stands for must not come back as a keyword.

    Args:
        keywords: as the model generated them from `cleaned.text`, in order.
        cleaned: the comment.

    Returns:
        At most one span for each keyword, in order, without duplicates. Always
        `cleaned.original[span["start"]:span["end"]] == span["text"]`, and never empty.
    """
    regions = _regions(cleaned)
    spans: list[Span] = []
    seen: set[str] = set()
    for keyword in filter(None, keywords):
        pairs = _candidates(keyword, cleaned)
        found = next((at for what, where in pairs if (at := _find(what, where, regions))), None)
        if found is None:
            continue
        first, after = cleaned.to_original(*found)
        text = cleaned.original[first:after]
        if text not in seen:
            seen.add(text)
            spans.append({"text": text, "start": first, "end": after})
    return spans
