"""Answers of the last minute in memory, in front of the cache: a comment that is asked about often costs no look-up.

An analysis is kept as it would be if the answer came from the cache. It is kept for `KEEP_S` at most, so that what was
deleted by another process is gone here too.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from reviewmill.schema import Analysis

KEEP_S: Final = 60.0
MOST: Final = 10_000
LONGEST: Final = 2_000
"""Characters; longer comments are not kept."""

Name = tuple[str, bool, str]
"""Task, whether keywords were asked for, and the comment as it was written."""


@dataclass(frozen=True, slots=True)
class Hot:
    """One analysis, and the digests of the comment and of what the model read (None: the model read nothing)."""

    analysis: Analysis
    text_sha256: str
    cleaned_sha256: str | None
    until: float

    def for_id(self, comment_id: str | int | None) -> Analysis:
        """The analysis for a comment with this id."""
        analysis = Analysis(self.analysis)
        analysis["id"] = comment_id
        return analysis


class HotAnswers:
    """The answers, the least recently used ones dropped first. It belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Name, Hot] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: Name) -> Hot | None:
        """What is kept about a comment."""
        hot = self._kept.get(name)
        if hot is None:
            return None
        if hot.until < time.monotonic():
            del self._kept[name]
            return None
        self._kept.move_to_end(name)
        return hot

    def keep(self, name: Name, analysis: Analysis, text_sha256: str, cleaned_sha256: str | None) -> None:
        """Keep an analysis that is no error."""
        if analysis["status"] == "error" or len(name[2]) > LONGEST:
            return
        kept = Analysis(analysis)
        if kept["route"] == "model":
            kept["route"] = "cache"
            kept["provenance"] = {**kept["provenance"], "latency_ms": None}
        self._kept[name] = Hot(kept, text_sha256, cleaned_sha256, time.monotonic() + KEEP_S)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def forget(self, digests: Collection[str]) -> None:
        """Drop what is kept about texts with these digests, of the comments or of what the model read."""
        gone = [n for n, hot in self._kept.items() if hot.text_sha256 in digests or hot.cleaned_sha256 in digests]
        for name in gone:
            del self._kept[name]

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
