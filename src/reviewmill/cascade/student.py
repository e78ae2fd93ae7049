"""The student: a linear classifier over hashed n-grams that predicts what the model would say.

A comment's features weigh like TF-IDF, divided by their length, so that long comments say no more than short ones:

    x_f = tf_f * idf_f / sqrt(sum_g tf_g * idf_g ** 2)

where tf counts occurrences in the comment, and idf = ln((n + 1) / (occurrences in all n comments + 1)), never below 0.
Numerator and denominator are sums over *occurrences*, so that predicting is one product with a table of weights that
holds the labels' columns and one for the length; nothing is sorted or counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from reviewmill.cascade.directions import Directions, weighed
from reviewmill.cascade.features import Floats, Hasher, matrix, products
from reviewmill.cascade.learning import Calibrated, Reals, calibrate, cross_entropy, fit

RARE: Final = 2
"""A feature that fewer training comments have gets no weight."""


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student.

    Attributes:
        hasher: makes the features.
        labels: the labels, in the order of the columns.
        table: features x (labels + 1), float32: weights times idf, and idf squared.
        bias: of each label.
        spoken: makes its probabilities those that the model would give, on average.
        ranked: makes its confidence the probability that its label is the model's; comments are ordered by it.
    """

    hasher: Hasher
    labels: tuple[str, ...]
    table: Floats
    bias: Reals
    spoken: Calibrated
    ranked: Calibrated

    def logits(self, texts: Sequence[str], *, threads: int = 2) -> Reals:
        """What it thinks of comments, uncalibrated: comments x labels."""
        sums = products(self.hasher, texts, self.table, threads=threads).astype(np.float64)
        length = np.sqrt(sums[:, -1:])
        logits: Reals = sums[:, :-1] / np.where(length > 0, length, 1.0) + self.bias
        return logits

    def probabilities(self, logits: Reals) -> Reals:
        """What it says: comments x labels."""
        return self.spoken.probabilities(logits)

    def choices(self, logits: Reals) -> npt.NDArray[np.intp]:
        """The labels that it gives, as columns."""
        chosen: npt.NDArray[np.intp] = self.probabilities(logits).argmax(axis=1)
        return chosen

    def confidence(self, logits: Reals) -> Reals:
        """How probable it holds it that the model gives the same label."""
        sure: Reals = self.ranked.probabilities(logits)[np.arange(len(logits)), self.choices(logits)]
        return sure


@dataclass(frozen=True, slots=True)
class Trained:
    """A student, and what it said of its own training comments when it had not seen them.

    Attributes:
        student: trained on all of them.
        held_out: comments x labels, logits by cross-validation.
        strength: the regularisation that was chosen.
        loss: cross-entropy of what it said of them, in nats.
    """

    student: Student
    held_out: Reals
    strength: float
    loss: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a student learns from.

    Attributes:
        texts: training comments.
        targets: comments x labels: the model's probabilities (or 0 and 1).
        weight: how many comments without a label each of them stands for; the student is calibrated for those.
        balance: see `learning.fit`.
        seed: decides the folds of the cross-validation.
    """

    texts: Sequence[str]
    targets: Reals
    weight: Reals
    balance: float = 0.0
    seed: int = 0


def train(
    lesson: Lesson,
    labels: Sequence[str],
    hasher: Hasher,
    idf: Reals,
    *,
    directions: Directions | None = None,
    start: Student | None = None,
) -> Trained:
    """Train a student.

    Args:
        lesson: what it learns from.
        labels: the labels.
        hasher: makes the features.
        idf: weight of each feature (`rarity`).
        directions: main directions of the file, found with the same hasher and idf; each gets a weight too.
        start: a student to begin with, made with the same hasher and idf: the new one is kept near to it, as far as
            the comments do not say otherwise.
    """
    counted = matrix(hasher.blocks(lesson.texts), hasher.size).astype(np.float64)
    kept = np.flatnonzero((np.bincount(counted.indices, minlength=hasher.size) >= RARE) & (idf > 0))
    rows = weighed(counted, idf, kept)
    plain = 0
    if directions is not None:
        plain = directions.table.shape[1]
        along = weighed(counted, idf, directions.features) @ directions.table
        rows = sparse.csr_array(sparse.hstack([rows, sparse.csr_array(along)]))
    targets, weight = lesson.targets, lesson.weight
    before = None if start is None else _adapted(start, lesson)
    offset = None if before is None else before.logits
    found = fit(rows, targets, weight=weight, offset=offset, balance=lesson.balance, plain=plain, seed=lesson.seed)
    table = np.zeros((hasher.size, len(labels) + 1), dtype=np.float32)
    bias = found.weights.bias
    if start is not None and before is not None:
        table[:, :-1] = start.table[:, :-1] * np.float32(before.by.scale)
        bias = bias + start.bias * before.by.scale + before.by.shift
    weights = found.weights.table
    table[kept, :-1] += (weights[: len(kept)] * idf[kept, None]).astype(np.float32)
    if directions is not None:
        by_feature = directions.table @ weights[len(kept) :].astype(np.float32)
        table[directions.features, :-1] += by_feature * idf[directions.features, None].astype(np.float32)
    table[:, -1] = idf**2
    spoken = calibrate(found.held_out, targets, weight)
    ranked = calibrate(found.held_out, np.eye(len(labels))[targets.argmax(axis=1)], weight)
    student = Student(hasher, tuple(labels), table, bias, spoken, ranked)
    loss = cross_entropy(spoken.logits(found.held_out), targets, weight)
    return Trained(student, found.held_out, found.strength, loss)


@dataclass(frozen=True, slots=True)
class _Adapted:
    """What another student says of comments, made right for these by one scale and a shift for each label."""

    by: Calibrated
    logits: Reals


def _adapted(start: Student, lesson: Lesson) -> _Adapted:
    """A student that knows nothing of these comments gets a scale near 0, and so hardly a say."""
    logits = start.logits(lesson.texts)
    by = calibrate(logits, lesson.targets, lesson.weight)
    return _Adapted(by, by.logits(logits))


def rarity(counts: Floats, total: int) -> Reals:
    """The idf of each feature.

    Args:
        counts: how often each occurs in a large sample of comments (`frequencies`); the last means nothing.
        total: how many comments that sample had.
    """
    idf = np.maximum(np.log((total + 1) / (counts.astype(np.float64) + 1)), 0.0)
    idf[-1] = 0.0
    return idf
