"""Directions in which a file's comments differ, found without any label: which features mean alike.

Some hundred labels say nothing of most words of a file. But words that occur in like company mean alike, and who writes
"没有想象中好" writes other things that the labelled comments hold. So the student also learns a weight for each of the
file's main directions (latent semantic analysis: Deerwester et al. 1990; found by randomised subspace iteration: Halko,
Martinsson and Tropp 2011, arXiv 0909.4061). A language model has learned from far more company what words are like;
where its token embeddings are at hand, the main directions of the comments' mean embeddings count too. A direction is
a sum over features, so what was learned of it is added to the features' own weights, and predicting costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from reviewmill.cascade.features import CHUNK, Floats, Hasher, matrix
from reviewmill.cascade.learning import Reals

COUNT: Final = 256
SAMPLE: Final = 20_000
"""Comments that they are found from, at most."""

EMBEDDED_COUNT: Final = 128
"""Directions of a model's token embeddings."""

_OFTEN: Final = 10
_KNOWN: Final = 2
_SPREAD: Final = 5_000
_FINE_BITS: Final = 30
_PER_COMMENTS: Final = 10
_EXTRA: Final = 8
_ITERATIONS: Final = 2

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Directions:
    """Main directions of a file.

    Attributes:
        features: the features that they are made of, ascending.
        table: these features x directions.
    """

    features: Places
    table: Floats

    def __add__(self, other: Directions) -> Directions:
        """The directions of both."""
        features = np.union1d(self.features, other.features)
        mine = self.table.shape[1]
        table = np.zeros((len(features), mine + other.table.shape[1]), dtype=np.float32)
        table[np.searchsorted(features, self.features), :mine] = self.table
        table[np.searchsorted(features, other.features), mine:] = other.table
        return Directions(features, table)


class Embeddings(Protocol):
    """What a model knows of words."""

    @property
    def words(self) -> Sequence[str]:
        """By token; "" where a token is no word."""

    def of(self, tokens: Places) -> Floats:
        """The vectors of some tokens: tokens x width."""


def find_directions(
    hasher: Hasher, texts: Sequence[str], idf: Reals, *, seed: int, embeddings: Embeddings | None = None
) -> Directions | None:
    """Find the main directions; None where there are too few comments for any.

    Args:
        hasher: makes the features.
        texts: comments, with or without labels.
        idf: weight of each feature (`rarity`).
        seed: decides where the iteration begins, and which comments are taken of many.
        embeddings: a model's, for directions of meaning beside those of company.
    """
    chance = np.random.default_rng(seed)
    if len(texts) > SAMPLE:
        texts = [texts[at] for at in np.sort(chance.choice(len(texts), SAMPLE, replace=False)).tolist()]
    parts = [matrix(hasher.blocks(texts[at : at + CHUNK]), hasher.size) for at in range(0, len(texts), CHUNK)]
    counted = sparse.csr_array(sparse.vstack(parts)) if parts else sparse.csr_array((0, hasher.size))
    features = np.flatnonzero(_in_many(counted, _OFTEN) & (idf > 0))
    count = min(COUNT, len(texts) // _PER_COMMENTS, len(features) // 2)
    if count < 1:
        return None
    rows = weighed(counted, idf, features).astype(np.float32)
    company = Directions(features, _main(rows, count, chance))
    if embeddings is None:
        return company
    known, vectors = _vectors(hasher, texts, np.flatnonzero(_in_many(counted, _KNOWN) & (idf > 0)), embeddings)
    if not len(known):
        return company
    some = counted[np.sort(chance.choice(len(texts), min(_SPREAD, len(texts)), replace=False))]
    return company + _meaning(weighed(some, idf, known), known, vectors, _size(rows @ company.table))


def _in_many(counted: sparse.csr_array, comments: int) -> npt.NDArray[np.bool_]:
    """Which features at least so many comments have."""
    many: npt.NDArray[np.bool_] = np.bincount(counted.indices, minlength=counted.shape[1]) >= comments
    return many


def _vectors(hasher: Hasher, texts: Sequence[str], occurring: Places, embeddings: Embeddings) -> tuple[Places, Floats]:
    """The features that are a word of the model's, and how each word's vector differs from the usual, at length 1."""
    whole = hasher.wholes(embeddings.words)
    # A model has many words that no comment has, and some of them share a feature with one that occurs.
    finer = replace(hasher, bits=_FINE_BITS)
    parts = [
        np.unique(block.indices) for at in range(0, len(texts), CHUNK) for block in finer.blocks(texts[at : at + CHUNK])
    ]
    there = np.isin(finer.wholes(embeddings.words), np.unique(np.concatenate(parts)))
    tokens = np.flatnonzero(there & np.isin(whole, occurring))
    features, place = np.unique(whole[tokens], return_inverse=True)
    summed: Floats | None = None
    for at in range(0, len(tokens), CHUNK):
        vectors = embeddings.of(tokens[at : at + CHUNK])
        if summed is None:
            summed = np.zeros((len(features), vectors.shape[1]), dtype=np.float32)
        np.add.at(summed, place[at : at + CHUNK], vectors)  # "good", " good" and "Good" are one word here
    if summed is None:
        return features.astype(np.intp), np.empty((0, 0), dtype=np.float32)
    summed /= np.bincount(place)[:, None].astype(np.float32)
    summed -= summed.mean(axis=0)
    summed /= np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), np.float32(1e-9))
    return features.astype(np.intp), summed


def _meaning(rows: sparse.csr_array, features: Places, vectors: Floats, size: float) -> Directions:
    """The main directions of the comments' sums of vectors, scaled to a certain mean size of comments along them."""
    sums = rows.astype(np.float32) @ vectors
    sums -= sums.mean(axis=0)
    _, main = np.linalg.eigh((sums.T @ sums).astype(np.float64))
    table: Floats = vectors @ main[:, : -EMBEDDED_COUNT - 1 : -1].astype(np.float32)
    return Directions(features, table * np.float32(size / max(_size(rows @ table), 1e-9)))


def _size(along: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(along).sum(axis=1).mean()))


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
