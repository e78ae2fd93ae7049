"""Directions in which a file's comments differ: which features occur together. Found without any label.

Some hundred labels say nothing of most words of a file. But words that occur in like company mean alike, and who writes
"没有想象中好" writes other things that the labelled comments hold. So the student also learns a weight for each of the
file's main directions (latent semantic analysis: Deerwester et al. 1990; found by randomised subspace iteration: Halko,
Martinsson and Tropp 2011, arXiv 0909.4061). A direction is a sum over features, so what was learned of it is added to
the features' own weights, and predicting costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from reviewmill.cascade.features import CHUNK, Floats, Hasher, matrix
from reviewmill.cascade.learning import Reals

COUNT: Final = 256
SAMPLE: Final = 20_000
"""Comments that they are found from, at most."""

_OFTEN: Final = 10
_PER_COMMENTS: Final = 10
_EXTRA: Final = 8
_ITERATIONS: Final = 2

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Directions:
    """Main directions of a file.

    Attributes:
        features: the features that they are made of.
        table: these features x directions, orthonormal columns.
    """

    features: Places
    table: Floats


def find_directions(hasher: Hasher, texts: Sequence[str], idf: Reals, *, seed: int) -> Directions | None:
    """Find the main directions; None where there are too few comments for any.

    Args:
        hasher: makes the features.
        texts: comments, with or without labels.
        idf: weight of each feature (`rarity`).
        seed: decides where the iteration begins, and which comments are taken of many.
    """
    chance = np.random.default_rng(seed)
    if len(texts) > SAMPLE:
        texts = [texts[at] for at in np.sort(chance.choice(len(texts), SAMPLE, replace=False)).tolist()]
    parts = [matrix(hasher.blocks(texts[at : at + CHUNK]), hasher.size) for at in range(0, len(texts), CHUNK)]
    counted = sparse.csr_array(sparse.vstack(parts)) if parts else sparse.csr_array((0, hasher.size))
    often = np.bincount(counted.indices, minlength=hasher.size) >= _OFTEN
    features = np.flatnonzero(often & (idf > 0))
    count = min(COUNT, len(texts) // _PER_COMMENTS, len(features) // 2)
    if count < 1:
        return None
    return Directions(features, _main(weighed(counted, idf, features).astype(np.float32), count, chance))


def weighed(counted: sparse.csr_array, idf: Reals, kept: Places) -> sparse.csr_array:
    """Some features of comments, weighed by idf, over the comments' whole length.

    Args:
        counted: comments x all features, occurrences.
        idf: weight of each feature.
        kept: the features to keep, ascending.
    """
    length = np.sqrt(counted @ idf**2)
    rows = counted[:, kept].tocsr().astype(np.float64)
    rows.data *= idf[kept][rows.indices] / np.repeat(np.where(length > 0, length, 1.0), np.diff(rows.indptr))
    return rows


def _main(rows: sparse.csr_array, count: int, chance: np.random.Generator) -> Floats:
    """The first right singular vectors, as columns."""
    turned = rows.T.tocsr()
    spread = rows @ chance.normal(size=(rows.shape[1], count + _EXTRA)).astype(np.float32)
    for _ in range(_ITERATIONS):
        spread = rows @ _orthonormal(turned @ _orthonormal(spread))
    return _orthonormal(turned @ _orthonormal(spread))[:, :count]


def _orthonormal(columns: Floats) -> Floats:
    """What the columns span, the strongest first; by their products, much faster than QR where rows are many."""
    values, vectors = np.linalg.eigh((columns.T @ columns).astype(np.float64))
    strongest = np.argsort(-values)
    scale = np.sqrt(np.maximum(values[strongest], values.max() * 1e-10))
    found: Floats = columns @ (vectors[:, strongest] / scale).astype(np.float32)
    return found
