"""Character n-grams and words of many comments at once, by hashing in NumPy over code points.

No Python loop runs over comments or characters. All comments of a chunk are one array of code points; the hash of every
n-gram is one rolling multiplication over that array; and since the array is ordered by comment, the result already is
the index part of a CSR matrix, which needs no sorting: a product with a table of weights adds up repeated n-grams by
itself. (Feature hashing: Weinberger et al. 2009, arXiv 0902.2206.)

Case and width do not count ("Good", "ＧＯＯＤ", "good"). One boundary stands between comments and belongs to the
n-grams on both sides of it, so that "不好" at a comment's end is another feature than in its middle.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

HASH_VERSION: Final = 1
"""Raised whenever a text gets other features than before: a saved student belongs to one version."""

CHUNK: Final = 2048
"""Comments hashed at once: their arrays fit the processor's cache, and NumPy's overhead is spread over many."""

_CODE_POINTS: Final = 0x110000
_ROLL: Final = np.uint32(0x9E3779B1)
_FINISH: Final = 0x85EBCA6B
_WORD: Final = 11
_PAIR: Final = 13
_SCRIPTS_WITHOUT_SPACES: Final = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0xA4CF),
    (0xF900, 0xFAFF),
)

Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Words32 = npt.NDArray[np.uint32]


class Block(NamedTuple):
    """Occurrences of features, ordered by comment: those of comment i are `indices[indptr[i]:indptr[i + 1]]`."""

    indices: Integers
    indptr: Integers


@dataclass(frozen=True, slots=True)
class Hasher:
    """Turns texts into occurrences of hashed features.

    Attributes:
        bits: there are 2**bits features, and one more (the last) that means nothing.
        orders: n-grams of 1 to so many characters.
        words: whether words (runs of letters and digits in scripts that write spaces) and pairs of words count too.
    """

    bits: int = 20
    orders: int = 3
    words: bool = True

    @property
    def size(self) -> int:
        """Rows that a table of weights has; the last must be zero."""
        return (1 << self.bits) + 1

    def blocks(self, texts: Sequence[str]) -> list[Block]:
        """Hash texts.

        Args:
            texts: any strings; a NUL counts as a space.

        Returns:
            One block of n-grams, and one of words if there are any.
        """
        points, separators = code_points(texts)
        scrambled = _scrambled()[points]
        blocks = [self._grams(scrambled, separators)]
        if self.words and len(texts):
            words = self._words(points, scrambled, separators)
            blocks += [words] if len(words.indices) else []
        return blocks

    def wholes(self, texts: Sequence[str]) -> Integers:
        """The feature that is the whole of each text: an n-gram, or a word; -1 where no feature is.

        Args:
            texts: without spaces around them.
        """
        points, separators = code_points(texts)
        scrambled, inside = _scrambled()[points], wordish()[points]
        lengths = np.diff(separators) - 1
        letters = np.diff(np.concatenate([[0], np.cumsum(inside)])[separators])
        found = np.full(len(texts), -1, dtype=np.int32)
        grams = self._grams(scrambled, separators).indices.reshape(-1, self.orders)
        short = np.flatnonzero((lengths >= 1) & (lengths <= self.orders) & (letters == 0))
        found[short] = grams[separators[short] + 1, lengths[short] - 1]
        if self.words:
            block = self._words(points, scrambled, separators)
            whole = np.flatnonzero((lengths >= 1) & (letters == lengths))
            found[whole] = block.indices[block.indptr[whole]]
        return found

    def _grams(self, scrambled: Words32, separators: Integers) -> Block:
        places = len(scrambled) - 1
        found = np.empty((max(places, 0), self.orders), dtype=np.int32)
        if places > 0:
            slot = np.arange(places, dtype=np.int32)
            # From its place, an n-gram may reach as far as the boundary behind its comment, and no further.
            room = np.repeat(separators[1:], np.diff(separators)) - slot + 1
            rolling = scrambled[:places].copy()
            for order in range(1, self.orders + 1):
                if order > 1:
                    rolling *= _ROLL
                    rolling[: places - order + 2] += scrambled[order - 1 :]
                bucket = self._bucket(rolling, order)
                np.copyto(bucket, self.size - 1, where=room < order)
                found[:, order - 1] = bucket
            found[separators[:-1], 0] = self.size - 1  # a boundary alone says nothing
        return Block(found.reshape(-1), separators * np.int32(self.orders))

    def _words(self, points: Words32, scrambled: Words32, separators: Integers) -> Block:
        """Whole words, and pairs of words that one character parts."""
        inside = wordish()[points]
        edges = np.diff(inside.view(np.int8))
        starts = np.flatnonzero(edges == 1).astype(np.int32) + 1  # a boundary stands before and behind everything
        ends = np.flatnonzero(edges == -1).astype(np.int32) + 1
        if not len(starts):
            return Block(np.empty(0, np.int32), np.zeros(len(separators), np.int32))
        following = np.append(np.where(inside[1:], scrambled[1:], np.uint32(0)), np.uint32(0))
        links = scrambled * _ROLL + following
        links ^= links >> np.uint32(13)
        links *= _ROLL
        # A word is its first letter and the sum over its links; every second span lies between words.
        spans = np.stack([starts, ends], axis=1).reshape(-1)
        hashed = np.add.reduceat(links, spans, dtype=np.uint32)[::2] + scrambled[starts] * _ROLL
        found = np.full((len(starts), 2), self.size - 1, dtype=np.int32)
        found[:, 0] = self._bucket(hashed, _WORD)
        near = np.flatnonzero((starts[1:] - ends[:-1] == 1) & (points[ends[:-1]] != 0))
        found[near, 1] = self._bucket(hashed[near] * _ROLL + hashed[near + 1], _PAIR)
        return Block(found.reshape(-1), (np.searchsorted(starts, separators) * 2).astype(np.int32))

    def _bucket(self, hashed: Words32, kind: int) -> Integers:
        mixed = hashed ^ (hashed >> np.uint32(15))
        mixed *= np.uint32(_FINISH + 2 * kind)
        mixed >>= np.uint32(32 - self.bits)
        return mixed.view(np.int32)


def code_points(texts: Sequence[str]) -> tuple[Words32, Integers]:
    """The code points of all texts, a boundary (0) before and behind each, and where the boundaries are."""
    joined = "\0".join(("", *texts, ""))
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    separators = np.flatnonzero(points == 0).astype(np.int32)
    if len(separators) != len(texts) + 1:  # a comment holds a NUL
        return code_points([text.replace("\0", " ") for text in texts])
    return points, separators


@cache
def _folded() -> Words32:
    """Each code point without case and width, where that is one code point again."""
    points = np.arange(_CODE_POINTS, dtype=np.uint32)
    for code in range(0x10000):
        if not 0xD800 <= code < 0xE000:
            folded = unicodedata.normalize("NFKC", chr(code)).lower()
            if len(folded) == 1:
                points[code] = ord(folded)
    return points


@cache
def _scrambled() -> Words32:
    """A number that looks random for each folded code point (the finisher of SplitMix64, Steele et al. 2014)."""
    mixed = _folded().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(32)).astype(np.uint32)


@cache
def wordish() -> npt.NDArray[np.bool_]:
    """Which code points are letters and digits of scripts that write spaces between words."""
    kinds = np.zeros(_CODE_POINTS, dtype=np.bool_)
    kinds[:0x10000] = [chr(code).isalnum() for code in range(0x10000)]
    for first, last in _SCRIPTS_WITHOUT_SPACES:
        kinds[first : last + 1] = False
    return kinds


def matrix(blocks: Sequence[Block], size: int) -> sparse.csr_array:
    """Count features: comments x features, float32, canonical.

    Args:
        blocks: what `Hasher.blocks` gave.
        size: `Hasher.size`.
    """
    parts = [_raw(block, size) for block in blocks]
    whole = parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
    whole.sum_duplicates()
    return whole


def _raw(block: Block, size: int) -> sparse.csr_array:
    ones = np.ones(len(block.indices), dtype=np.float32)
    made = sparse.csr_array((ones, block.indices, block.indptr), shape=(len(block.indptr) - 1, size), copy=False)
    made.has_canonical_format = False
    return made


def products(hasher: Hasher, texts: Sequence[str], table: Floats, *, threads: int = 2) -> Floats:
    """Add up the table's rows over the features of each comment.

    Args:
        hasher: makes the features.
        texts: the comments.
        table: features x anything; the last row zero.
        threads: chunks worked on at once (NumPy and SciPy let the interpreter's lock go).

    Returns:
        Comments x what the table's columns are.
    """
    found = np.zeros((len(texts), table.shape[1]), dtype=np.float32)

    def work(start: int) -> None:
        chunk = texts[start : start + CHUNK]
        for block in hasher.blocks(chunk):
            found[start : start + len(chunk)] += _raw(block, hasher.size) @ table

    each(work, len(texts), threads)
    return found


def each(work: Callable[[int], None], count: int, threads: int) -> None:
    """Do all chunks, some at once."""
    starts = range(0, count, CHUNK)
    if threads <= 1 or len(starts) <= 1:
        for start in starts:
            work(start)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, starts):
            pass


def frequencies(hasher: Hasher, texts: Sequence[str], *, threads: int = 2) -> Floats:
    """How often each feature occurs in these texts (counted with its repetitions)."""
    counts = np.zeros(hasher.size, dtype=np.int64)
    lock = Lock()

    def work(start: int) -> None:
        for block in hasher.blocks(texts[start : start + CHUNK]):
            counted = np.bincount(block.indices, minlength=hasher.size)
            with lock:
                np.add(counts, counted, out=counts)

    each(work, len(texts), threads)
    return counts.astype(np.float32)
