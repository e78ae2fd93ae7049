"""What a comment's own n-grams add to the model's log-probabilities: the second part of a stacked calibration.

A comment becomes the set of its n-grams and words, hashed as for the student (`cascade/features.py`), as a vector of
length 1; each has one weight a label, and their sum is added to the label's score.

The weights are stored for the n-grams that occurred where they were fitted; all others weigh nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import sparse

from reviewmill.cascade.features import HASH_VERSION, Hasher, matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

HASHER: Final = Hasher()
FEATURES: Final = f"hash{HASH_VERSION}/{HASHER.bits}/{HASHER.orders}/{'words' if HASHER.words else 'chars'}"
"""Names how features are made and numbered; weights for other ones are refused."""


def features(text: str) -> NDArray[np.int32]:
    """The numbers of a comment's features, each once, ascending."""
    found = np.unique(np.concatenate([block.indices for block in HASHER.blocks([text])]))
    return found[found < HASHER.size - 1]  # the last means nothing


class TextPart:
    """The weights of n-grams. It does not change.

    Args:
        labels: the labels that it has weights for; others' scores stay as they are.
        index: the n-grams' numbers, ascending (n).
        weights: one row for each n-gram, one column for each label (n, labels).

    Raises:
        ValueError: the shapes do not fit, the numbers are out of range or out of order, or a weight is not finite.
    """

    def __init__(self, labels: Sequence[str], index: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        self.labels = tuple(labels)
        if index.ndim != 1 or weights.shape != (len(index), len(self.labels)):
            raise ValueError(f"{weights.shape} weights do not fit {index.shape} n-grams and {len(self.labels)} labels")
        if len(index) and not (index[0] >= 0 and index[-1] < HASHER.size - 1 and bool(np.all(np.diff(index) > 0))):
            raise ValueError("the n-grams' numbers are out of range or out of order")
        if not bool(np.all(np.isfinite(weights))):
            raise ValueError("a weight of an n-gram is not finite")
        self.index = index.astype(np.int32)
        self.weights = weights.astype(np.float32)
        digest = hashlib.sha256(FEATURES.encode())
        for part in ("\n".join(self.labels).encode(), self.index.tobytes(), self.weights.tobytes()):
            digest.update(part)
        self.digest = digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextPart) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def add(self, scores: Mapping[str, float], text: str) -> dict[str, float]:
        """Scores with the n-grams' weights added.

        The n-grams share out what the model gives to the part's labels together: scores of other labels keep their
        distance to that sum, so that a label which never occurred in the labelled file is neither raised nor lowered.

        Args:
            scores: label to score.
            text: the cleaned comment.
        """
        added = self._sums(text)
        changed = {name: scores[name] + added[name] for name in self.labels}
        kept = log_sum([scores[name] for name in self.labels]) - log_sum(list(changed.values()))
        return {name: changed[name] + kept if name in changed else value for name, value in scores.items()}

    def _sums(self, text: str) -> dict[str, float]:
        found = features(text)
        if not len(found) or not len(self.index):
            return dict.fromkeys(self.labels, 0.0)
        places = np.minimum(np.searchsorted(self.index, found), len(self.index) - 1)
        places = places[self.index[places] == found]
        sums = self.weights[places].sum(axis=0, dtype=np.float64) / math.sqrt(len(found))
        return dict(zip(self.labels, sums.tolist(), strict=True))


def log_sum(values: Sequence[float]) -> float:
    """Return log Σ exp(v); the values are finite."""
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


def feature_matrix(texts: Sequence[str]) -> tuple[sparse.csr_array, NDArray[np.int32]]:
    """The features of many comments.

    Returns:
        A matrix (float64) with one row a comment, of length 1, and one column for each feature that occurs; and the
        columns' numbers, ascending.
    """
    counted = matrix(HASHER.blocks(texts), HASHER.size)
    owners = np.repeat(np.arange(len(texts)), np.diff(counted.indptr))
    real = counted.indices < HASHER.size - 1
    index, columns = np.unique(counted.indices[real], return_inverse=True)
    owners = owners[real]
    sizes = np.bincount(owners, minlength=len(texts))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    values = 1 / np.sqrt(sizes[owners])
    return sparse.csr_array((values, columns, starts), shape=(len(texts), len(index))), index.astype(np.int32)
