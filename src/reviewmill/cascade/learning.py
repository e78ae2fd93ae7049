"""Fitting: multinomial logistic regression on soft labels, its regularisation by cross-validation, its calibration.

The loss is the cross-entropy between the model's probabilities and the student's (distillation: Hinton, Vinyals and
Dean 2015, arXiv 1503.02531), plus half the squared weights times `strength`; L-BFGS finds its one minimum. Everything is
deterministic: the same rows give the same student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize

STRENGTHS: Final = (1e-4, 3e-5, 1e-5)
"""Candidates for the regularisation, the strongest first: each fit starts where the stronger one ended."""

FOLDS: Final = 3
_ROUGH: Final = 25
_FINE: Final = 100
_MEMORY: Final = 6

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


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` found.

    Attributes:
        weights: fitted on all rows.
        strength: the regularisation that predicted held-out rows best.
        held_out: for each row the calibrated probabilities by classifiers that had not seen it.
        scale: what logits are multiplied by.
        shift: what is added to them then.
    """

    weights: Weights
    strength: float
    held_out: Reals
    scale: float
    shift: Reals


def fit(rows: sparse.csr_array, targets: Reals, *, balance: float = 0.0, seed: int = 0) -> Fitted:
    """Fit, choose the regularisation, calibrate on held-out rows.

    Args:
        rows: comments x features.
        targets: comments x labels, probabilities.
        balance: 0 takes labels as often as they come, 1 gives each label the same weight in all, and what is between
            lies between. The calibration puts the labels' frequencies back into the probabilities.
        seed: decides the folds.
    """
    importance = balanced(targets, balance)
    fold = np.random.default_rng(seed).permutation(len(targets)) % FOLDS
    held_out = np.zeros((len(STRENGTHS), *targets.shape))
    for number in range(FOLDS):
        learn, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        part, start = rows[learn], None
        turned = part.T.tocsr()
        for at, strength in enumerate(STRENGTHS):
            start = descend(part, turned, targets[learn], importance[learn], strength, start=start, steps=_ROUGH)
            held_out[at, test] = start.logits(rows[test])
    calibrated = [calibrate(logits, targets) for logits in held_out]
    losses = [
        cross_entropy(apply(logits, *found), targets) for logits, found in zip(held_out, calibrated, strict=True)
    ]
    best = int(np.argmin(losses))
    weights = descend(rows, rows.T.tocsr(), targets, importance, STRENGTHS[best], steps=_FINE)
    scale, shift = calibrated[best]
    return Fitted(weights, STRENGTHS[best], softmax(apply(held_out[best], scale, shift)), scale, shift)


def descend(
    rows: sparse.csr_array,
    turned: sparse.csr_array,
    targets: Reals,
    importance: Reals,
    strength: float,
    *,
    start: Weights | None = None,
    steps: int,
) -> Weights:
    """Minimise the regularised cross-entropy.

    Args:
        rows: comments x features; `turned` is its transpose.
        turned: see `rows`.
        targets: comments x labels, probabilities.
        importance: weight of each comment; they sum to 1.
        strength: of the regularisation.
        start: where to begin; None: at zero.
        steps: at most so many steps of L-BFGS.
    """
    features, labels = rows.shape[1], targets.shape[1]
    importance = importance / importance.sum()

    def loss(flat: Reals) -> tuple[float, Reals]:
        table, bias = flat[: features * labels].reshape(features, labels), flat[features * labels :]
        logits = rows @ table + bias
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        total = shares.sum(axis=1, keepdims=True)
        value = importance @ (np.log(total[:, 0]) * targets.sum(axis=1) - (targets * logits).sum(axis=1))
        slope = (shares / total - targets) * importance[:, None]
        gradient = np.concatenate([(turned @ slope + strength * table).reshape(-1), slope.sum(axis=0)])
        return float(value + strength / 2 * np.vdot(table, table)), gradient

    first = np.zeros(features * labels + labels)
    if start is not None:
        first = np.concatenate([start.table.reshape(-1), start.bias])
    options = {"maxiter": steps, "maxcor": _MEMORY, "ftol": 1e-6, "gtol": 1e-6}
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x
    return Weights(found[: features * labels].reshape(features, labels), found[features * labels :])


def balanced(targets: Reals, balance: float) -> Reals:
    """Weights of comments under which each label weighs frequency ** (1 - balance)."""
    frequency = np.maximum(targets.mean(axis=0), 1 / len(targets))
    importance: Reals = targets @ frequency**-balance
    return importance / importance.sum()


def calibrate(logits: Reals, targets: Reals) -> tuple[float, Reals]:
    """One scale for all logits, and a shift for each label, that make held-out probabilities right (Platt's manner).

    A weak pull towards no change keeps labels that are nearly absent from running away.
    """
    count, labels = logits.shape

    def loss(flat: Reals) -> tuple[float, Reals]:
        moved = apply(logits, float(np.exp(flat[0])), flat[1:])
        slope = (softmax(moved) - targets) / count
        value = cross_entropy(moved, targets) + (flat @ flat) / count
        gradient = np.concatenate([[np.exp(flat[0]) * np.vdot(slope, logits)], slope.sum(axis=0)]) + 2 * flat / count
        return value, gradient

    found = minimize(loss, np.zeros(labels + 1), jac=True, method="L-BFGS-B").x
    return float(np.exp(found[0])), found[1:]


def apply(logits: Reals, scale: float, shift: Reals) -> Reals:
    """Calibrated logits."""
    return logits * scale + shift


def softmax(logits: Reals) -> Reals:
    """Rows of probabilities."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Reals = shares / shares.sum(axis=1, keepdims=True)
    return found


def cross_entropy(logits: Reals, targets: Reals) -> float:
    """Mean over the rows, in nats."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - (targets * logits).sum(axis=1)))


def chosen(probabilities: Reals) -> npt.NDArray[np.intp]:
    """The most probable label of each row."""
    found: npt.NDArray[np.intp] = probabilities.argmax(axis=1)
    return found
