"""What a test would bring: how large a sample is worth its cost, and which comments will go to the model anyway.

Only guesses, made from the student's own confidence. No guarantee rests on them; a bad guess costs questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from reviewmill.cascade.guarantee import likely_bound, most_seen, worth
from reviewmill.cascade.learning import Reals

_LEAST: Final = 50
_GROWTH: Final = 1.25
_MOST: Final = 1 / 3
_LUCK: Final = (np.arange(15) + 0.5) / 15

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Group:
    """Comments that are certified together.

    Attributes:
        name: the label that the student gives them; None: all comments.
        order: their places, the most confident first.
        limit: how many disagreements a prefix of some size may hold.
        base: comments that the model gave this label already.
        delta: error probability of this group's test.
    """

    name: str | None
    order: Places
    limit: Callable[[int], int]
    base: int
    delta: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The best guess.

    Attributes:
        sample: size of the sample that costs least in all.
        calls: questions from here to the end: the sample, and what the student may not answer.
        beyond: places of the comments that the student may probably not answer.
    """

    sample: int
    calls: int
    beyond: Places


def forecast(groups: Sequence[Group], doubt: Reals, total: int) -> Forecast:
    """Look for the sample size with the fewest questions.

    Args:
        groups: what is certified together.
        doubt: for each comment the probability that the student is not of the model's opinion.
        total: comments from which the sample is drawn.
    """
    bads = [np.cumsum(doubt[group.order]) for group in groups]
    limits = [_limits(group) for group in groups]
    best: tuple[int, int, list[int]] | None = None
    size = float(min(_LEAST, total))
    while size <= max(_LEAST, total * _MOST) and size <= total:
        sample = int(size)
        reach = [
            _reach_of_all(group, bad, sample) if group.name is None else _reach(group, bad, limit, sample / total)
            for group, bad, limit in zip(groups, bads, limits, strict=True)
        ]
        calls = total - round(sum(reach) * (1 - sample / total))
        if best is None or calls < best[1]:
            best = (sample, calls, reach)
        size *= _GROWTH
    if best is None:
        return Forecast(total, total, np.arange(total))
    beyond = np.concatenate([group.order[reach:] for group, reach in zip(groups, best[2], strict=True)])
    return Forecast(best[0], best[1], np.sort(beyond))


def _reach_of_all(group: Group, bad: Reals, sample: int) -> int:
    """The prefix that passes the test of all comments, on average over what the sample may find.

    The prefix ends where the sample finds one disagreement more than it may. What lies before the k-th of rare finds
    has a gamma distribution; a small sample finds it far too early as often as too late, and beyond the last comment
    there is nothing to gain, so the average is less than what an average sample brings.
    """
    total = len(group.order)
    limit = group.limit(total)
    most = most_seen(total, sample, limit, group.delta)
    if most < 0:
        return 0
    ends = np.searchsorted(bad, stats.gamma.ppf(_LUCK, most + 1) * total / sample)
    return int(np.where(2 * limit <= ends, ends, 0).mean())  # as in `worth`


def _reach(group: Group, bad: Reals, limit: npt.NDArray[np.int64], share: float) -> int:
    """The largest prefix that is likely to pass its label's test, and all before it too, give or take the smallest."""
    passing = np.flatnonzero(likely_bound(bad, 1 / share - 1, group.delta) <= limit)
    size = int(passing[-1]) + 1 if len(passing) else 0
    return size if size and worth(size, int(limit[size - 1])) else 0


def _limits(group: Group) -> npt.NDArray[np.int64]:
    """The limits of all prefixes, by straight lines between some: they are exact where it counts, in the test."""
    sizes = np.unique(np.linspace(1, max(1, len(group.order)), 200).astype(np.int64))
    some = [group.limit(int(size)) for size in sizes]
    return np.interp(np.arange(1, len(group.order) + 1), sizes, some).astype(np.int64)
