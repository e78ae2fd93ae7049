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


class Known:
    """A model that knows what the words of each kind have in common, and some that never occur."""

    def __init__(self, chance: np.random.Generator) -> None:
        self.words = [*WORDS[0], *WORDS[1], "", "never", " "]
        kinds = np.repeat([1.0, -1.0, 0.0], [len(WORDS[0]), len(WORDS[1]), 3])
        self._vectors = chance.normal(size=(len(self.words), 48)).astype(np.float32)
        self._vectors[:, 7] += 4 * kinds.astype(np.float32)

    def of(self, tokens: np.ndarray) -> np.ndarray:
        return self._vectors[tokens]


def test_words_that_keep_no_company_are_understood_where_a_model_knows_them() -> None:
    chance = np.random.default_rng(4)
    hasher = Hasher(bits=16)
    kinds = chance.integers(0, 2, 3000)
    texts, targets = [str(chance.choice(WORDS[kind])) for kind in kinds], np.eye(2)[kinds]
    idf = measured(hasher, texts)
    lesson = Lesson(texts[:60], targets[:60], np.ones(60))
    unseen = np.flatnonzero(~np.isin(texts, texts[:60]))
    right = []
    for embeddings in (None, Known(chance)):
        directions = find_directions(hasher, texts, idf, seed=5, embeddings=embeddings)
        student = train(lesson, LABELS, hasher, idf, directions=directions).student
        said = student.choices(student.logits([texts[at] for at in unseen]))
        right.append((said == targets[unseen].argmax(axis=1)).mean())
    assert right[0] < 0.7
    assert right[1] > 0.9


def test_a_model_that_knows_no_word_of_a_file_changes_nothing() -> None:
    class Strange:
        words = ("", "§", "other")

        def of(self, tokens: np.ndarray) -> np.ndarray:
            return np.zeros((len(tokens), 8), dtype=np.float32)

    hasher = Hasher(bits=12)
    texts, _ = world(300, np.random.default_rng(6))
    idf = measured(hasher, texts)
    with_it, without = (find_directions(hasher, texts, idf, seed=7, embeddings=one) for one in (Strange(), None))
    np.testing.assert_array_equal(with_it.table, without.table)
    np.testing.assert_array_equal(with_it.features, without.features)
