"""Fitting: multinomial logistic regression on soft labels, its regularisation by cross-validation, its calibration.

The loss is the cross-entropy between the model's probabilities and the student's (distillation: Hinton, Vinyals and
Dean 2015, arXiv 1503.02531), plus half the squared weights times `strength`; L-BFGS finds its one minimum. Everything
is deterministic: the same rows give the same student.

Features that go with one label rather than with others are let weigh more (naive Bayes log-count ratios: Wang and
Manning 2012, "Baselines and Bigrams", ACL P12-2018), which is the same as regularising them less.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

STRENGTHS: Final = (1e-4, 3e-5, 1e-5, 3e-6)
"""Candidates for the regularisation, the strongest first: each fit starts where the stronger one ended."""

FOLDS: Final = 3
_SMOOTH: Final = 1.0
_TELLING: Final = 0.5
_ROUGH: Final = 15
_FINE: Final = 60
_MEMORY: Final = 6
_THREADS: Final = 2

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """A linear classifier: `x @ table + bias`."""

    table: Reals
    bias: Reals

    def logits(self, rows: sparse.csr_array) -> Reals:
        """Rows x labels."""
        found: Reals = rows @ self.table + self.bias
        return found

    def scaled(self, scale: Reals) -> Weights:
        """The same classifier for rows whose features are not multiplied by `scale`."""
        return Weights(self.table * scale[:, None], self.bias)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` found.

    Attributes:
        weights: fitted on all rows.
        strength: the regularisation that predicted held-out rows best.
        held_out: for each row the logits by classifiers that had not seen it.
    """

    weights: Weights
    strength: float
    held_out: Reals


def fit(
    rows: sparse.csr_array,
    targets: Reals,
    *,
    weight: Reals,
    offset: Reals | None = None,
    balance: float = 0.0,
    plain: int = 0,
    seed: int = 0,
) -> Fitted:
    """Fit, choose the regularisation, calibrate on held-out rows.

    Args:
        rows: comments x features.
        targets: comments x labels, probabilities.
        weight: how many others each comment stands for; it decides about the regularisation and the calibration, not
            about the fit, which profits from hard comments beyond their number.
        offset: logits to begin with, comments x labels: what is fitted is the difference to them.
        balance: 0 takes labels as often as they come, 1 gives each label the same weight in all, and what is between
            lies between. The calibration puts the labels' frequencies back into the probabilities.
        plain: so many of the last features are no occurrences; they weigh as they are.
        seed: decides the folds.
    """
    importance = balanced(targets, balance)
    offset = np.zeros(targets.shape) if offset is None else offset
    fold = np.random.default_rng(seed).permutation(len(targets)) % FOLDS
    held_out = np.zeros((len(STRENGTHS), *targets.shape))

    def work(number: int) -> None:
        learn, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        scale, start = telling(rows[learn], targets[learn], plain), None
        problem = _problem(rows[learn], scale, targets[learn], importance[learn], offset[learn])
        for at, strength in enumerate(STRENGTHS):
            start = descend(problem, strength, start=start, steps=_ROUGH)
            held_out[at, test] = start.scaled(scale).logits(rows[test]) + offset[test]

    # The matrices are small: threads of BLAS below our own would wait for each other most of the time.
    with ThreadpoolController().limit(limits=1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(work, range(FOLDS)):
            pass
    losses = [cross_entropy(calibrate(logits, targets, weight).logits(logits), targets, weight) for logits in held_out]
    best = int(np.argmin(losses))
    scale = telling(rows, targets, plain)
    weights = descend(_problem(rows, scale, targets, importance, offset), STRENGTHS[best], steps=_FINE)
    return Fitted(weights.scaled(scale), STRENGTHS[best], held_out[best])


def telling(rows: sparse.csr_array, targets: Reals, plain: int) -> Reals:
    """How much each feature is let weigh: half as it is, half by how far it tells the labels apart.

    Args:
        rows: comments x features; where a feature occurs it is above 0.
        targets: comments x labels, probabilities.
        plain: so many of the last features weigh 1.
    """
    occurring = rows[:, : rows.shape[1] - plain].copy()
    occurring.data = np.ones(len(occurring.data))
    counts = occurring.T @ targets + _SMOOTH
    others = counts.sum(axis=1, keepdims=True) - counts
    ratios = np.log(counts / counts.sum(axis=0)) - np.log(others / others.sum(axis=0))
    told = np.sqrt(ratios**2 @ targets.mean(axis=0))
    usual = np.sqrt(np.mean(told**2)) if len(told) else 0.0
    scale = 1 - _TELLING + _TELLING * told / usual if usual > 0 else np.ones(len(told))
    return np.concatenate([scale, np.ones(plain)])


def _problem(rows: sparse.csr_array, scale: Reals, targets: Reals, importance: Reals, offset: Reals) -> Problem:
    scaled = rows.copy()
    scaled.data = scaled.data * scale[scaled.indices]
    return Problem(scaled, scaled.T.tocsr(), targets, importance, offset)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a classifier is fitted to.

    Attributes:
        rows: comments x features.
        turned: its transpose.
        targets: comments x labels, probabilities.
        importance: weight of each comment.
        offset: comments x labels, logits to begin with.
    """

    rows: sparse.csr_array
    turned: sparse.csr_array
    targets: Reals
    importance: Reals
    offset: Reals


def descend(problem: Problem, strength: float, *, start: Weights | None = None, steps: int) -> Weights:
    """Minimise the regularised cross-entropy.

    Args:
        problem: what to fit.
        strength: of the regularisation.
        start: where to begin; None: at zero.
        steps: at most so many steps of L-BFGS.
    """
    rows, targets = problem.rows, problem.targets
    features, labels = rows.shape[1], targets.shape[1]
    importance = problem.importance / problem.importance.sum()
    # One logit of them all is redundant. In an orthonormal basis of what is left, the penalty stays symmetric in the
    # labels (the optimum's columns sum to zero anyway), and the work is that of one label less.
    basis = np.linalg.svd(np.eye(labels) - 1 / labels)[0][:, : labels - 1]
    free = labels - 1

    def loss(flat: Reals) -> tuple[float, Reals]:
        table, bias = flat[: features * free].reshape(features, free), flat[features * free :]
        logits = (rows @ table + bias) @ basis.T + problem.offset
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        total = shares.sum(axis=1, keepdims=True)
        value = importance @ (np.log(total[:, 0]) * targets.sum(axis=1) - (targets * logits).sum(axis=1))
        slope = ((shares / total - targets) * importance[:, None]) @ basis
        gradient = np.concatenate([(problem.turned @ slope + strength * table).reshape(-1), slope.sum(axis=0)])
        return float(value + strength / 2 * np.vdot(table, table)), gradient

    first = np.zeros((features + 1) * free)
    if start is not None:
        first = np.concatenate([(start.table @ basis).reshape(-1), start.bias @ basis])
    options = {"maxiter": steps, "maxcor": _MEMORY, "ftol": 1e-6, "gtol": 1e-6}
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x
    return Weights(found[: features * free].reshape(features, free) @ basis.T, basis @ found[features * free :])


def balanced(targets: Reals, balance: float) -> Reals:
    """Weights of comments under which each label weighs frequency ** (1 - balance)."""
    frequency = np.maximum(targets.mean(axis=0), 1 / len(targets))
    importance = targets @ frequency**-balance
    shares: Reals = importance / importance.sum()
    return shares


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What makes held-out logits right: all are multiplied by `scale`, then each label's is moved by its `shift`."""

    scale: float
    shift: Reals

    def logits(self, logits: Reals) -> Reals:
        """Calibrated logits."""
        return logits * self.scale + self.shift

    def probabilities(self, logits: Reals) -> Reals:
        """Calibrated probabilities."""
        return softmax(self.logits(logits))


def calibrate(logits: Reals, targets: Reals, weight: Reals) -> Calibrated:
    """One scale for all logits, and a shift for each label, that make held-out probabilities right (Platt's manner).

    A weak pull towards no change keeps labels that are nearly absent from running away.

    Args:
        logits: comments x labels.
        targets: comments x labels, probabilities.
        weight: how many others each comment stands for.
    """
    share = weight / weight.sum()
    pull = float(share @ share)  # one over the number of comments, where all weigh the same

    def loss(flat: Reals) -> tuple[float, Reals]:
        moved = logits * np.exp(flat[0]) + flat[1:]
        slope = (softmax(moved) - targets) * share[:, None]
        value = cross_entropy(moved, targets, weight) + float(flat @ flat) * pull
        gradient = np.concatenate([[np.exp(flat[0]) * np.vdot(slope, logits)], slope.sum(axis=0)]) + 2 * flat * pull
        return value, gradient

    found = minimize(loss, np.zeros(logits.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return Calibrated(float(np.exp(found[0])), found[1:])


def softmax(logits: Reals) -> Reals:
    """Rows of probabilities."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Reals = shares / shares.sum(axis=1, keepdims=True)
    return found


def cross_entropy(logits: Reals, targets: Reals, weight: Reals) -> float:
    """Weighted mean over the rows, in nats."""
    logits = logits - logits.max(axis=1, keepdims=True)
    each = np.log(np.exp(logits).sum(axis=1)) * targets.sum(axis=1) - (targets * logits).sum(axis=1)
    return float(each @ weight / weight.sum())
