"""Which rule should make one verdict from a text's parts?

See docs/long.md.

    python benchmarks/long_rule.py zh_tw_gmaps.train.jsonl

FILE: JSON lines with `text` and `label` (positive, negative, neutral), long reviews among them. A linear classifier on
character n-grams learns from reviews of at most 100 characters and judges the parts of those of 200 and more. Its
probabilities are also sharpened by the exponent 1/T, to look like a language model's, which is far too sure.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from reviewmill.scoring.parts import overall

LABELS: Final = ("positive", "negative", "neutral")
SHORT: Final = 100
LONG: Final = 200
PART: Final = 120
TRAINED_ON: Final = 12_000
SHARPNESS: Final = (1.0, 0.25)
_LEAST: Final = 1e-9

Reals = npt.NDArray[np.float64]


def read(path: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The short and the long rows of a file, as text and label."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    pairs = [(row["text"], row["label"]) for row in rows if row["label"] in LABELS]
    short = [pair for pair in pairs if len(pair[0]) <= SHORT]
    random.Random(0).shuffle(short)
    return short[:TRAINED_ON], [pair for pair in pairs if len(pair[0]) >= LONG]


def cut(text: str) -> list[str]:
    """Whole sentences, at most so many characters together."""
    parts, now = [], ""
    for sentence in re.findall(r"[^。！？!?\n；;]+[。！？!?\n；;]*", text):
        if now and len(now) + len(sentence) > PART:
            parts.append(now)
            now = ""
        now += sentence
    return [part for part in (*parts, now) if part.strip()] or [text]


def geometric(parts: Reals, lengths: Reals) -> Reals:
    """The mean of log-probabilities by length, without chance."""
    mean = np.exp(lengths / lengths.sum() @ np.log(np.maximum(parts, _LEAST)))
    return np.asarray(mean / mean.sum())


def arithmetic(parts: Reals, lengths: Reals) -> Reals:
    """The mean of probabilities by length."""
    return np.asarray(lengths / lengths.sum() @ parts)


def shipped(parts: Reals, lengths: Reals) -> Reals:
    """The rule that reviewmill uses."""
    given = [(dict(zip(LABELS, part.tolist(), strict=True)), int(n)) for part, n in zip(parts, lengths, strict=True)]
    found = overall(given)
    return np.array([found[label] for label in LABELS])


def judged(verdicts: Sequence[Reals], right: Sequence[int]) -> str:
    """Accuracy and log loss."""
    table = np.array(verdicts)
    loss = -np.log(np.maximum(table[np.arange(len(right)), right], _LEAST)).mean()
    return f"{(table.argmax(axis=1) == np.array(right)).mean():>10.3f}{loss:>10.3f}"


def main() -> None:
    """Print one row a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    short, long = read(parser.parse_args().file)
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=3, sublinear_tf=True)
    model = LogisticRegression(C=4, max_iter=300).fit(
        vectorizer.fit_transform(text for text, _ in short), [label for _, label in short]
    )
    order = [list(model.classes_).index(label) for label in LABELS]
    right = [LABELS.index(label) for _, label in long]
    counts = {label: right.count(number) for number, label in enumerate(LABELS)}
    print(f"{len(short):,} short reviews to learn from, {len(long):,} long ones to judge {counts}\n")
    print(f"{'rule':<52}" + "".join(f"{f'acc T={t:g}':>10}{'log loss':>10}" for t in SHARPNESS))
    whole = model.predict_proba(vectorizer.transform(text for text, _ in long))[:, order]
    print(f"{'the whole text at once':<52}{judged(list(whole), right)}")
    parts = [cut(text) for text, _ in long]
    flat = model.predict_proba(vectorizer.transform(part for own in parts for part in own))[:, order]
    ends = np.cumsum([len(own) for own in parts])[:-1]
    lengths = [np.array([len(part) for part in own], dtype=float) for own in parts]
    for name, rule in (
        ("mean of log-probabilities by length, 5% chance", shipped),
        ("the same without chance", geometric),
        ("mean of probabilities by length", arithmetic),
    ):
        line = f"{name:<52}"
        for sharpness in SHARPNESS:
            sharp = flat ** (1 / sharpness)
            sharp /= sharp.sum(axis=1, keepdims=True)
            line += judged([rule(p, n) for p, n in zip(np.split(sharp, ends), lengths, strict=True)], right)
        print(line)


if __name__ == "__main__":
    main()
