"""What a comment's own n-grams add to the model's log-probabilities: the second part of a stacked calibration.

A comment becomes the set of its character n-grams, hashed (the "hashing trick", Weinberger et al. 2009, arXiv
0902.2206), as a vector of length 1; each n-gram has one weight a label, and their sum is added to the label's score.
Characters, not words: Chinese is written without spaces, and net slang is in no dictionary.

The weights are stored for the n-grams that occurred where they were fitted; all others weigh nothing.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEATURES: Final = "chars-1-4/crc32-18"
"""Names how n-grams are made and numbered; weights for other ones are refused."""

BUCKETS: Final = 1 << 18
_LONGEST: Final = 4
_MOST_CHARS: Final = 2_000
"""Of longer comments, the beginning and the end are read, half each."""


def ngrams(text: str) -> list[int]:
    """The numbers (0 to `BUCKETS` - 1) of a comment's n-grams of one to four characters, each once, ascending.

    Case and width do not count; white space is one space; both ends are marked, so that "差" alone is another n-gram
    than "差" in a sentence.
    """
    half = _MOST_CHARS // 2
    read = text if len(text) <= _MOST_CHARS else f"{text[:half]} {text[-half:]}"
    marked = f" {' '.join(unicodedata.normalize('NFKC', read).casefold().split())} "
    found = {marked[at : at + size] for size in range(1, _LONGEST + 1) for at in range(len(marked) - size + 1)}
    found.discard(" ")
    return sorted({zlib.crc32(gram.encode("utf-8", "surrogatepass")) % BUCKETS for gram in found})


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
        import numpy as np

        self.labels = tuple(labels)
        if index.ndim != 1 or weights.shape != (len(index), len(self.labels)):
            raise ValueError(f"{weights.shape} weights do not fit {index.shape} n-grams and {len(self.labels)} labels")
        if len(index) and not (index[0] >= 0 and index[-1] < BUCKETS and bool(np.all(np.diff(index) > 0))):
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
        import numpy as np

        found = ngrams(text)
        if not found or not len(self.index):
            return dict.fromkeys(self.labels, 0.0)
        wanted = np.asarray(found, dtype=np.int32)
        places = np.minimum(np.searchsorted(self.index, wanted), len(self.index) - 1)
        places = places[self.index[places] == wanted]
        sums = self.weights[places].sum(axis=0, dtype=np.float64) / math.sqrt(len(found))
        return dict(zip(self.labels, sums.tolist(), strict=True))


def log_sum(values: Sequence[float]) -> float:
    """log Σ exp(v); the values are finite."""
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


def feature_matrix(texts: Sequence[str]) -> tuple[Any, NDArray[np.int32]]:
    """The n-grams of many comments.

    Returns:
        A sparse matrix (`scipy.sparse.csr_array`, float64) with one row a comment, of length 1, and one column for
        each n-gram that occurs; and the columns' numbers, ascending.
    """
    import numpy as np
    from scipy import sparse

    rows = [ngrams(text) for text in texts]
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    numbers = np.fromiter((number for row in rows for number in row), dtype=np.int32, count=int(sizes.sum()))
    index, columns = np.unique(numbers, return_inverse=True)
    values = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return sparse.csr_array((values, columns, starts), shape=(len(rows), len(index))), index
