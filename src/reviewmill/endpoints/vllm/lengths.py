"""How many tokens a task's comments take, without a tokenizer: measured rates by family and script."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from reviewmill.tasks import CompactWire, render

if TYPE_CHECKING:
    from reviewmill.tasks import Task

# Tokens a wide character (Chinese, Japanese, Korean) and any other, fitted to 24,000 comments of 24 public data sets
# with each family's own tokenizer (`docs/serving.md`); 95% of single comments need at most 1.4 times as many.
_RATES: Final = {"qwen2": (0.71, 0.28), "qwen3": (0.71, 0.28), "llama": (0.90, 0.27), "mistral": (1.23, 0.36)}
_UNKNOWN: Final = (1.3, 0.4)  # a little above the worst of them
_FIRST_WIDE: Final = 0x2E80  # CJK radicals; everything before is alphabets and signs

_MESSAGE_TOKENS: Final = 5
"""What a chat template puts around one message."""
_FENCE_TOKENS: Final = 6
_TYPICAL_KEYWORD: Final = 4  # tokens

TYPICAL_CHARS: Final = 60
"""Characters of an ordinary shop review, where no file says better: the mean of the public sets in Chinese."""
LONG_CHARS: Final = 200
"""The same for the 95th percentile."""


@dataclass(frozen=True, slots=True)
class CommentLengths:
    """Characters of comments.

    Attributes:
        typical: their mean.
        long: their 95th percentile.
        longest: where they are cut (`max_comment_chars`).
        wide: the share of Chinese, Japanese and Korean characters (0 to 1).
        source: where that is from.
    """

    typical: float = TYPICAL_CHARS
    long: float = LONG_CHARS
    longest: int = 3000
    wide: float = 1.0
    source: str = "ordinary shop reviews in Chinese"

    @classmethod
    def of(cls, texts: Iterable[str], *, longest: int, source: str) -> CommentLengths:
        """Measure them; without any texts the ordinary lengths stand."""
        lengths: list[int] = []
        wide = 0
        for text in texts:
            lengths.append(min(len(text), longest))
            wide += sum(ord(char) >= _FIRST_WIDE for char in text[:longest])
        if not lengths or not sum(lengths):
            return cls(longest=longest)
        lengths.sort()
        at = min(len(lengths) - 1, math.ceil(0.95 * len(lengths)) - 1)
        return cls(sum(lengths) / len(lengths), lengths[at], longest, wide / sum(lengths), source)


@dataclass(frozen=True, slots=True)
class TaskLengths:
    """Tokens of a task's questions.

    Attributes:
        prefix: system part and examples, the same for every comment.
        comment, comment_long, comment_longest: a typical comment with its frame, one of the 95th percentile, and the
            longest that is sent.
        answer: a typical answer.
        answer_longest: where it is cut.
        source: where the comments' lengths are from.
    """

    prefix: int
    comment: int
    comment_long: int
    comment_longest: int
    answer: int
    answer_longest: int
    source: str

    @property
    def longest(self) -> int:
        """What the longest question and answer take together."""
        return self.prefix + self.comment_longest + self.answer_longest


def task_lengths(task: Task, kind: str, comments: CommentLengths, *, keywords: bool) -> TaskLengths:
    """Reckon a task's tokens for a family of models.

    Args:
        task: the task.
        kind: the model's `model_type`.
        comments: characters of the comments.
        keywords: whether keywords are asked for.
    """
    wide, other = _RATES.get(kind, _UNKNOWN)
    wire = CompactWire(task, keywords and task.keywords)
    prompt = render(task, wire, keywords=wire.keywords)
    prefix = sum(_tokens(message["content"], wide, other) + _MESSAGE_TOKENS for message in prompt.prefix)
    rate = comments.wide * wide + (1 - comments.wide) * other
    frame = _FENCE_TOKENS + 2 * _MESSAGE_TOKENS
    label = 3  # the longest label's tokens, its bar and the end
    return TaskLengths(
        prefix=prefix,
        comment=frame + math.ceil(comments.typical * rate),
        comment_long=frame + math.ceil(comments.long * rate),
        comment_longest=frame + math.ceil(comments.longest * max(rate, wide)),
        answer=label + (2 * _TYPICAL_KEYWORD if wire.keywords else 0),
        answer_longest=wire.max_tokens,
        source=comments.source,
    )


def _tokens(text: str, wide: float, other: float) -> int:
    broad = sum(ord(char) >= _FIRST_WIDE for char in text)
    return math.ceil(broad * wide + (len(text) - broad) * other)
