"""Which words of a comment made the student say what it said: its own weights, merged to words.

Every n-gram's weight for the chosen label is spread evenly over its characters. A word of a script that writes spaces
gets the mean of its characters. What stands out in a comment is cut out at whatever is no letter, digit or symbol; the
pieces with the largest sums are its keywords. They are slices of the text, so they occur in it verbatim.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from reviewmill.cascade.features import CHUNK, code_points, wordish
from reviewmill.cascade.learning import Reals
from reviewmill.cascade.student import Student

_STANDS_OUT: Final = 0.3
_STANDS_OUT_MORE: Final = 0.6
_LONGEST: Final = 8
_SINGLE: Final = 0.4
"""A lone character of a script without spaces says less than its weight."""


def keywords(student: Student, texts: Sequence[str], columns: npt.NDArray[np.intp], most: int) -> list[tuple[str, ...]]:
    """The keywords of comments, the most telling first.

    Args:
        student: whose weights count.
        texts: the comments.
        columns: for each the label that it got.
        most: at most so many for each comment.
    """
    found: list[tuple[str, ...]] = []
    for start in range(0, len(texts), CHUNK):
        found += _chunk(student, texts[start : start + CHUNK], columns[start : start + CHUNK], most)
    return found


def _chunk(student: Student, texts: Sequence[str], columns: npt.NDArray[np.intp], most: int) -> list[tuple[str, ...]]:
    points, separators = code_points(texts)
    weight = _weights(student, texts, columns, separators)
    weight = np.where(_speakable()[points], weight, 0.0)
    pieces = _pieces(weight, points, separators)
    comment = np.searchsorted(separators, pieces[:, 0], side="right") - 1
    sums = np.add.reduceat(np.append(weight, 0.0), pieces.reshape(-1))[::2] if len(pieces) else np.empty(0)
    alone = (pieces[:, 1] - pieces[:, 0] == 1) & ~wordish()[points[pieces[:, 0]]] & (points[pieces[:, 0]] < 0x10000)
    sums = np.where(alone, sums * _SINGLE, sums)
    chosen: list[list[str]] = [[] for _ in texts]
    for at in np.lexsort((-sums, comment)):
        words, text = chosen[comment[at]], texts[comment[at]]
        first = separators[comment[at]] + 1
        word = text[pieces[at, 0] - first : pieces[at, 1] - first]
        if len(words) < most and word not in words:
            words.append(word)
    return [tuple(words) for words in chosen]


def _weights(
    student: Student, texts: Sequence[str], columns: npt.NDArray[np.intp], separators: npt.NDArray[np.int32]
) -> Reals:
    """The weight of every character (and of the boundaries between the comments) for its comment's label."""
    orders = student.hasher.orders
    grams = student.hasher.blocks(texts)[0].indices.reshape(-1, orders)
    column = np.repeat(columns, np.diff(separators))
    weight = np.zeros(len(grams) + orders)
    for order in range(1, orders + 1):
        share = student.table[grams[:, order - 1], column] / order
        for shift in range(order):
            weight[shift : shift + len(share)] += share
    return weight[: len(grams) + 1]


def _pieces(weight: Reals, points: npt.NDArray[np.uint32], separators: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Runs of characters that stand out: pairs of places, [start, end)."""
    words = _runs(wordish()[points])
    if len(words):
        mean = np.add.reduceat(np.append(weight, 0.0), words.reshape(-1))[::2] / (words[:, 1] - words[:, 0])
        for (start, end), value in zip(words, mean, strict=True):
            weight[start:end] = value
    highest = (
        np.repeat(np.maximum.reduceat(weight, separators[:-1]), np.diff(separators)) if len(separators) > 1 else weight
    )
    highest = np.append(highest, 0.0)[: len(weight)]
    runs = _runs((weight > 0) & (weight >= _STANDS_OUT * highest))
    long = runs[runs[:, 1] - runs[:, 0] > _LONGEST]
    if len(long):
        inside = np.zeros(len(weight), dtype=np.bool_)
        for start, end in long:
            inside[start:end] = True
        finer = _runs(inside & ((weight >= _STANDS_OUT_MORE * highest) | wordish()[points]))
        finer[:, 1] = np.where(
            wordish()[points[finer[:, 0]]], finer[:, 1], np.minimum(finer[:, 1], finer[:, 0] + _LONGEST)
        )
        runs = np.concatenate([runs[runs[:, 1] - runs[:, 0] <= _LONGEST], finer])
    return runs


def _runs(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    edges = np.diff(np.concatenate([[False], flags, [False]]).view(np.int8))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


@cache
def _speakable() -> npt.NDArray[np.bool_]:
    """What a keyword may consist of: letters, digits, marks and symbols such as emoji."""
    kinds = np.ones(0x110000, dtype=np.bool_)
    kinds[:0x10000] = [unicodedata.category(chr(code))[0] in "LNMS" for code in range(0x10000)]
    return kinds
