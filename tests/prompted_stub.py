"""A stub endpoint whose answers depend on the prompt: it errs on some comments unless a certain sentence is there."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

from stub_endpoint import StubEndpoint, decide

if TYPE_CHECKING:
    from pathlib import Path

HELP = "这一句真的有用。"
LABELS = ["positive", "negative", "neutral"]
POOL = 'labels = ["positive", "negative", "neutral"]\nlanguage = "zh"\n'


class PromptedStub(StubEndpoint):
    """Errs on a quarter of the comments, unless `HELP` stands in the system part.

    `forgiving=False`: whatever stands there.
    """

    def __init__(self, *, forgiving: bool = True, **knobs: Any) -> None:
        self.forgiving = forgiving
        super().__init__(**knobs)

    def _decide(self, request: dict[str, Any]) -> tuple[str, str, str, list[str]]:
        before, label, after, labels = super()._decide(request)
        comment, system = request["messages"][-1]["content"], request["messages"][0]["content"]
        helped = self.forgiving and HELP in system
        if label in labels and is_hard(comment) and not helped:
            label = labels[(labels.index(label) + 1) % len(labels)]
        return before, label, after, labels


def is_hard(comment: str) -> bool:
    """Whether the stub errs on it."""
    return zlib.crc32(comment.strip("<> ").encode()) % 4 == 0


def write_pool(path: Path, *, helps: bool = True) -> Path:
    """A pool of idle sentences, and the one that helps."""
    sentences = [(f"第{n}条没有用的规则。", f"idle{n}") for n in range(3)] + ([(HELP, "help")] if helps else [])
    tables = "".join(f'[[sentence]]\ntag = "{tag}"\ntext = "{text}"\n' for text, tag in sentences)
    path.write_text(POOL + tables, encoding="utf-8")
    return path


def write_labelled(path: Path, rows: int = 400) -> Path:
    """A labelled CSV whose labels are what the stub says where it does not err."""
    chance = random.Random(1)
    letters = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
    words = {"positive": "满意", "negative": "太烂", "neutral": "三件"}
    lines = ["id,comment,rating,shop"]
    for number in range(rows):
        text = "".join(chance.choices(letters, k=10)) + words[chance.choice(LABELS)]
        lines.append(f"{number},{text},{decide(text, LABELS)},{'AB'[number % 2]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
