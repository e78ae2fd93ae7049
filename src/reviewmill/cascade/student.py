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

from reviewmill.cascade.features import Floats, Hasher, frequencies, matrix, products
from reviewmill.cascade.learning import Reals, apply, fit, softmax

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
        scale: of all logits (calibration).
        shift: of each label's logit (calibration).
    """

    hasher: Hasher
    labels: tuple[str, ...]
    table: Floats
    bias: Reals
    scale: float
    shift: Reals

    def probabilities(self, texts: Sequence[str], *, threads: int = 2) -> Reals:
        """The student's calibrated probabilities: comments x labels."""
        sums = products(self.hasher, texts, self.table, threads=threads).astype(np.float64)
        length = np.sqrt(sums[:, -1:])
        logits = sums[:, :-1] / np.where(length > 0, length, 1.0) + self.bias
        return softmax(apply(logits, self.scale, self.shift))


@dataclass(frozen=True, slots=True)
class Trained:
    """A student, and what it said of its own training comments when it had not seen them.

    Attributes:
        student: trained on all of them.
        held_out: comments x labels, calibrated probabilities by cross-validation.
        strength: the regularisation that was chosen.
    """

    student: Student
    held_out: Reals
    strength: float


def train(
    texts: Sequence[str],
    targets: Reals,
    labels: Sequence[str],
    counts: Floats,
    total: int,
    *,
    hasher: Hasher,
    balance: float = 0.0,
    seed: int = 0,
) -> Trained:
    """Train a student.

    Args:
        texts: training comments.
        targets: comments x labels: the model's probabilities (or 0 and 1).
        labels: the labels.
        counts: how often each feature occurs in a large sample of comments (`frequencies`).
        total: how many comments that sample had.
        hasher: makes the features.
        balance: see `learning.fit`.
        seed: decides the folds of the cross-validation.
    """
    idf = np.maximum(np.log((total + 1) / (counts.astype(np.float64) + 1)), 0.0)
    idf[-1] = 0.0
    counted = matrix(hasher.blocks(texts), hasher.size).astype(np.float64)
    kept = np.flatnonzero((np.bincount(counted.indices, minlength=hasher.size) >= RARE) & (idf > 0))
    rows = _weighed(counted, idf, kept)
    found = fit(rows, targets, balance=balance, seed=seed)
    table = np.zeros((hasher.size, len(labels) + 1), dtype=np.float32)
    table[kept, :-1] = found.weights.table * idf[kept, None]
    table[:, -1] = idf**2
    student = Student(hasher, tuple(labels), table, found.weights.bias, found.scale, found.shift)
    return Trained(student, found.held_out, found.strength)


def _weighed(counted: sparse.csr_array, idf: Reals, kept: npt.NDArray[np.intp]) -> sparse.csr_array:
    length = np.sqrt(counted @ idf**2)
    rows = counted[:, kept].tocsr()
    rows.data *= idf[kept][rows.indices] / np.repeat(np.where(length > 0, length, 1.0), np.diff(rows.indptr))
    return rows
