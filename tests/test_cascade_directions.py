"""Directions: they are the main ones, and a student learns along them what no label has told it of single words."""

from __future__ import annotations

import numpy as np

from reviewmill.cascade.directions import find_directions, weighed
from reviewmill.cascade.features import Hasher, frequencies, matrix
from reviewmill.cascade.student import Lesson, rarity, train

LABELS = ("positive", "negative")
WORDS = tuple(
    tuple(f"{chr(0x4E00 + 600 * kind + 2 * n)}{chr(0x4E01 + 600 * kind + 2 * n)}" for n in range(200))
    for kind in (0, 1)
)


def world(count: int, chance: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Comments of four of a kind's many words, so that words of a kind keep company; and their labels as 0 and 1."""
    kinds = chance.integers(0, 2, count)
    return ["，".join(chance.choice(WORDS[kind], 4, replace=False)) for kind in kinds], np.eye(2)[kinds]


def measured(hasher: Hasher, texts: list[str]) -> np.ndarray:
    return rarity(frequencies(hasher, texts), len(texts))


def test_they_are_orthonormal_and_hold_nearly_as_much_as_the_best_ones() -> None:
    chance = np.random.default_rng(0)
    hasher = Hasher(bits=12)
    texts, _ = world(600, chance)
    idf = measured(hasher, texts)
    found = find_directions(hasher, texts, idf, seed=1)
    assert found is not None
    count = found.table.shape[1]
    np.testing.assert_allclose(found.table.T @ found.table, np.eye(count), atol=1e-3)
    rows = weighed(matrix(hasher.blocks(texts), hasher.size).astype(np.float64), idf, found.features).toarray()
    best = np.sort(np.linalg.svd(rows, compute_uv=False))[::-1][:count]
    assert (np.linalg.norm(rows @ found.table) ** 2) > 0.95 * (best**2).sum()


def test_without_comments_there_are_none() -> None:
    hasher = Hasher(bits=12)
    assert find_directions(hasher, [], np.ones(hasher.size), seed=0) is None


def test_words_without_a_label_are_understood_by_their_company() -> None:
    chance = np.random.default_rng(2)
    hasher = Hasher(bits=16)
    texts, targets = world(4000, chance)
    idf = measured(hasher, texts)
    lesson = Lesson(texts[:60], targets[:60], np.ones(60))
    right = []
    for directions in (None, find_directions(hasher, texts, idf, seed=3)):
        student = train(lesson, LABELS, hasher, idf, directions=directions).student
        right.append((student.choices(student.logits(texts[60:])) == targets[60:].argmax(axis=1)).mean())
    assert right[0] < 0.9
    assert right[1] > 0.97
