"""Three disjoint parts of labelled rows: near-duplicates stay together, labels are spread evenly, the third is sealed.

A text that differs from another by a word is no independent witness: were one in the first part and the other in the
third, an example copied from the first would be judged on itself.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from reviewmill.errors import InputError
from reviewmill.text.language import to_simplified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from reviewmill.evaluate.labelled import LabelledRow

SHARES: Final = (0.30, 0.35, 0.35)
"""What share of the rows each part gets: to propose from, to select on, to judge on."""

LEAST_ROWS: Final = 60
"""With fewer rows nothing that a prompt can plausibly gain would show in the third part."""

NEAR: Final = 0.7
"""Texts whose sets of three-character pieces overlap by so much (Jaccard) are near-duplicates."""

_PIECE: Final = 3
_BLOCK: Final = 512
_NOT_WRITTEN: Final = re.compile(r"[\W_\d]+")


def near_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """Number the groups of near-duplicates: two texts of the same number belong together.

    Texts are compared without punctuation, space, digits, case and the difference of Simplified and Traditional
    Chinese. Who is alike is found exactly, not by sketches: the pieces that texts share are counted by a product of
    sparse matrices, a block at a time.

    Args:
        texts: the comments.

    Returns:
        One number a text.
    """
    keys = [_bare(text) for text in texts]
    links = _links_of_equals(keys)
    long = [number for number, key in enumerate(keys) if len(key) >= _PIECE]
    if long:
        links += _links_of_alikes(keys, long)
    ends = np.array(links, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(keys), len(keys)))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return groups


def _bare(text: str) -> str:
    return _NOT_WRITTEN.sub("", to_simplified(text.lower())) or text


def _links_of_equals(keys: Sequence[str]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [(first.setdefault(key, number), number) for number, key in enumerate(keys)]


def _links_of_alikes(keys: Sequence[str], long: Sequence[int]) -> list[tuple[int, int]]:
    pieces = CountVectorizer(analyzer="char", ngram_range=(_PIECE, _PIECE), binary=True, dtype=np.float32)
    held = csr_array(pieces.fit_transform([keys[number] for number in long]))
    sizes = np.asarray(held.sum(axis=1)).ravel()
    links: list[tuple[int, int]] = []
    for start in range(0, len(long), _BLOCK):
        shared = coo_array(held[start : start + _BLOCK] @ held.T)
        one, other = shared.coords[0] + start, shared.coords[1]
        alike = shared.data >= NEAR * (sizes[one] + sizes[other] - shared.data)
        near = alike & (one < other)
        links += [(long[a], long[b]) for a, b in zip(one[near].tolist(), other[near].tolist(), strict=True)]
    return links


def text_digest(text: str) -> str:
    """Name (16 hex digits) of a comment's text, without the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class SealedPart:
    """Rows that nothing may look at before they judge, once.

    Args:
        rows: the rows.
        texts: their cleaned texts, in the same order.
    """

    def __init__(self, rows: Sequence[LabelledRow], texts: Sequence[str]) -> None:
        self._rows: tuple[LabelledRow, ...] | None = tuple(rows)
        self.size = len(rows)
        self.labels = Counter(row.label for row in rows)
        self.digests = tuple(map(text_digest, texts))

    @property
    def digest(self) -> str:
        """Name of the whole part."""
        return hashlib.sha256("".join(sorted(self.digests)).encode()).hexdigest()[:16]

    def open(self, record: Callable[[SealedPart], None]) -> tuple[LabelledRow, ...]:
        """Give the rows out, once, after `record` has written down that they are used.

        Raises:
            RuntimeError: they were given out before.
        """
        if self._rows is None:
            raise RuntimeError("the third part was opened twice")
        record(self)
        rows, self._rows = self._rows, None
        return rows


@dataclass(frozen=True, slots=True)
class Parts:
    """The three parts. Rows of the first two stand in a random order, so that any beginning of them is a sample.

    Attributes:
        propose: what proposals are drawn from.
        select: what the best proposal is chosen on.
        judge: what decides, sealed.
        fresh: rows that could judge; `judge` has at most as many as the budget allows.
        stale: rows of the third part that were left out because they have judged before.
        grouped: rows that stand in a group of near-duplicates.
    """

    propose: tuple[LabelledRow, ...]
    select: tuple[LabelledRow, ...]
    judge: SealedPart
    fresh: int
    stale: int
    grouped: int


def split(
    rows: Sequence[LabelledRow], texts: Sequence[str], *, seed: int, used: Iterable[str] = (), most_judged: int
) -> Parts:
    """Split labelled rows into three disjoint parts.

    Which part a row falls into depends on the rows and the seed alone, not on the budget.

    Args:
        rows: the rows.
        texts: their cleaned texts, in the same order.
        seed: of the random order.
        used: `text_digest` of texts that have judged before; they are left out of the third part.
        most_judged: the most rows that the third part may have.

    Raises:
        InputError: there are too few rows, or only one label.
    """
    _check(rows)
    groups = near_duplicates(texts)
    part_of = _assign(rows, groups, random.Random(seed))  # noqa: S311 - no secret
    members: list[list[int]] = [[], [], []]
    for number, part in enumerate(part_of):
        members[part].append(number)
    for number, held in enumerate(members):
        random.Random(f"{seed} {number}").shuffle(held)  # noqa: S311
    seen = frozenset(used)
    fresh = [number for number in members[2] if text_digest(texts[number]) not in seen]
    judged = _stratified_beginning(rows, fresh, most_judged)
    sizes = Counter(groups.tolist())
    return Parts(
        propose=tuple(rows[number] for number in members[0]),
        select=tuple(rows[number] for number in members[1]),
        judge=SealedPart([rows[number] for number in judged], [texts[number] for number in judged]),
        fresh=len(fresh),
        stale=len(members[2]) - len(fresh),
        grouped=sum(size for size in sizes.values() if size > 1),
    )


def _check(rows: Sequence[LabelledRow]) -> None:
    if len(rows) < LEAST_ROWS:
        raise InputError(
            f"There are {len(rows)} usable rows; a search needs at least {LEAST_ROWS}, and a few hundred to be of use.",
            hint="Label more comments. With few rows, write examples into the task file by hand.",
        )
    labels = Counter(row.label for row in rows)
    if len(labels) == 1:
        raise InputError(
            f"Every row has the label {next(iter(labels))!r}: the best prompt would be one that always says it.",
            hint="Add rows with the other labels.",
        )


def _assign(rows: Sequence[LabelledRow], groups: NDArray[np.int64], chance: random.Random) -> list[int]:
    """The part of each row: whole groups, the largest first, to the part that lacks that label most."""
    members: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups.tolist()):
        members[group].append(number)
    together = list(members.values())
    chance.shuffle(together)
    together.sort(key=len, reverse=True)
    wanted = {label: [share * count for share in SHARES] for label, count in _label_counts(rows).items()}
    part_of = [0] * len(rows)
    for group in together:
        counts = Counter(rows[number].label for number in group)
        lack = [sum(wanted[label][part] * count for label, count in counts.items()) for part in range(len(SHARES))]
        # In proportion to what is lacking, so that parts grow side by side and which one comes first is chance.
        weights = [max(0.0, value) for value in lack]
        chosen = chance.choices(range(len(SHARES)), weights if any(weights) else SHARES)[0]
        for number in group:
            part_of[number] = chosen
            wanted[rows[number].label][chosen] -= 1
    return part_of


def _label_counts(rows: Iterable[LabelledRow]) -> Counter[str]:
    return Counter(row.label for row in rows)


def _stratified_beginning(rows: Sequence[LabelledRow], numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the rows, with the labels in proportion."""
    if len(numbers) <= most:
        return list(numbers)
    by_label: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        by_label[rows[number].label].append(number)
    # Each row's place within its label, from 0 to 1: taking the least takes the same share of every label.
    place = {n: (at + 0.5) / len(held) for held in by_label.values() for at, n in enumerate(held)}
    return sorted(numbers, key=place.__getitem__)[:most]
