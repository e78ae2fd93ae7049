"""Other weights of the labels: they cost no question, since answers are cached before weights. Pure."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from reviewmill.evaluate.improve.ask import Found
    from reviewmill.tasks import Task

_STEPS: Final = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_FOLDS: Final = 5
_ALL_AT_ONCE: Final = 3
"""Up to so many labels every combination is tried, with more one label after the other."""


def better_weights(
    task: Task, found: Sequence[Found], gold: Sequence[str], among: Sequence[str]
) -> tuple[dict[str, float], float] | None:
    """Weights that make more of these rows right, if they also do so on rows that they were not chosen on.

    A grid of few steps, the nearest to the present weights where several are as good. Whether choosing weights helps is
    measured by five-fold cross-validation: weights chosen on four fifths, counted on the fifth.

    Args:
        task: the task with its present weights.
        found: what its prompt found.
        gold: the right labels, in the same order.
        among: the labels that occur; the others' weights stay, and they are no answer here.

    Returns:
        The weights (of all labels) and the cross-validated accuracy, or None where none help.
    """
    if any(not each.logprobs for each in found) or len(found) < 2 * _FOLDS:
        return None
    logs = np.array([[each.logprobs.get(name, -50.0) for name in among] for each in found])
    right = np.array([list(among).index(label) for label in gold])
    present = np.log([task.weights[name] for name in among])
    whole = _choose(logs, right, present)
    if np.allclose(whole, present):
        return None
    fold = np.arange(len(found)) % _FOLDS
    hits = np.zeros(len(found), dtype=bool)
    for held in range(_FOLDS):
        chosen = _choose(logs[fold != held], right[fold != held], present)
        hits[fold == held] = (logs[fold == held] + chosen).argmax(axis=1) == right[fold == held]
    before = ((logs + present).argmax(axis=1) == right).mean()
    if hits.mean() <= before:
        return None
    return task.weights | _readable(whole, among), float(hits.mean())


def _choose(logs: NDArray[np.float64], right: NDArray[np.int64], present: NDArray[np.float64]) -> NDArray[np.float64]:
    best, best_score = present, (-1.0, 0.0)
    for tried in _grid(present):
        hits = float(((logs + tried).argmax(axis=1) == right).mean())
        score = (hits, -float(np.abs(tried - present).sum()))
        if score > best_score:
            best, best_score = tried, score
    return best


def _grid(present: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Shifts of all labels but the first: only their proportions count."""
    steps = np.log(_STEPS)
    labels = len(present)
    if labels <= _ALL_AT_ONCE:
        for shifts in product(steps, repeat=labels - 1):
            yield present + np.array([0.0, *shifts])
        return
    for label in range(labels):
        for shift in steps:
            moved = present.copy()
            moved[label] += shift
            yield moved


def _readable(logs: NDArray[np.float64], among: Sequence[str]) -> dict[str, float]:
    """Weights that a task file may hold, with three digits."""
    weights = np.exp(logs).tolist()
    return {name: float(f"{min(100.0, max(0.001, weight)):.3g}") for name, weight in zip(among, weights, strict=True)}
