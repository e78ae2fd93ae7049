"""Comments whose label follows from a word in them, as the stub endpoint judges them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

from reviewmill.cascade.certificate import Certificate
from stub_endpoint import decide

LABELS = ("positive", "neutral", "negative")
_FILLERS = "快递包装手机屏幕颜色尺寸衣服酒店房间早餐味道客服老板价格电池声音图书内容水果洗发水蒙牛奶茶".strip()
_SAID = ("好", "满意", "喜欢", "香", "差", "不", "慢", "烂", "", "", "")


def comments(count: int, seed: int = 0, *, noise: float = 0.0) -> list[str]:
    """Distinct comments of a few words; `noise` of them hold words for and against, which only the model can weigh."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        words = ["".join(chance.choices(_FILLERS, k=chance.randint(2, 4))) for _ in range(chance.randint(2, 6))]
        said = [chance.choice(_SAID)] if chance.random() >= noise else chance.sample(_SAID, 3)
        for word in said:
            words[chance.randrange(len(words))] += word
        found["，".join(words)] = None
    return list(found)


def model_label(text: str) -> str:
    """What the stub says of it."""
    return decide(text, LABELS)


def write_csv(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["评论"], *([text] for text in texts)])
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """An output in JSONL."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def certificate(output: Path) -> tuple[dict[str, Any], Certificate]:
    """What the manifest says, and the same read back."""
    manifest = json.loads(output.with_name(output.name + ".manifest.json").read_text(encoding="utf-8"))
    return manifest, Certificate.from_json(manifest["certificate"])
