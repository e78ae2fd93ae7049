"""Fitting a calibration: labels and log-probabilities in, temperature and biases out. Pure (numpy, scipy).

What is minimised, over a = 1/T and the biases b, is the negative log-likelihood of the labels plus what holds the
parameters near a prior (a Gaussian one, so this is a posterior's mode):

    Σ_i -log p(y_i) + (a/a₀ - 1)² / 2σ_a² + Σ_k (b_k - b₀_k)² / 2σ_b²,   p(k) ∝ exp(a z_k + b_k)

It is convex, so there is one answer and it does not depend on where the search begins. With few rows the prior decides,
with many the rows. The prior is the calibration that is in force already (the one shipped for the model, or the task's
weights at T = 1), so that a small file can only move away from what is known to work as far as its rows show.

A label that occurs in no row: the rows do not say that it is wrong, only that nobody labelled with it (many labelled
files know no "neutral"). By default the likelihood is that of choosing *among the labels that occur*; the absent label
then keeps the prior's bias, because nothing pulls at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from reviewmill.scoring.calibration import Prior, centred
from reviewmill.scoring.stack import TextPart, feature_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SIGMA_SLOPE: Final = 0.4
"""σ_a: how far, relative to itself, 1/T may be from the prior's."""
SIGMA_BIAS: Final = 0.6
"""σ_b: how far a bias may be from the prior's, in natural logarithms of odds."""
_SLOPES: Final = (0.01, 20.0)
_DIGITS: Final = 6
_DENSE: Final = 1_500

Absent = Literal["keep", "fit"]
"""What becomes of labels that occur in no row: they keep their bias, or count as never right."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One labelled comment: the label that people gave, the model's log-probabilities, and the cleaned comment."""

    label: str
    logprobs: Mapping[str, float]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit found: temperature, biases (mean 0), and the weights of n-grams if it was asked for them."""

    temperature: float
    bias: dict[str, float]
    text: TextPart | None = None

    def prior(self) -> Prior:
        """Temperature and biases, to start another fit from."""
        return Prior(temperature=self.temperature, bias=self.bias)


def fit(
    rows: Sequence[Scored],
    prior: Prior,
    *,
    absent: Absent = "keep",
    weights: Sequence[float] | None = None,
    sigma_slope: float = SIGMA_SLOPE,
    sigma_bias: float = SIGMA_BIAS,
) -> Fit:
    """Fit temperature and biases.

    Args:
        rows: labelled rows (at least 1); all have log-probabilities for exactly the prior's labels.
        prior: what to shrink towards.
        absent: what becomes of labels that occur in no row.
        weights: how often each row counts; None: once.
        sigma_slope: σ_a.
        sigma_bias: σ_b.

    Raises:
        ValueError: there are no rows, or a row's label is not among the prior's.
    """
    problem = _Problem(rows, prior, absent, weights, sigma_slope, sigma_bias)
    slope, bias, _ = problem.solve()
    return Fit(_temperature(slope), centred(bias))


def fit_stack(
    rows: Sequence[Scored],
    prior: Prior,
    *,
    strength: float,
    absent: Absent = "keep",
    features: TextFeatures | None = None,
    at: Sequence[int] | None = None,
) -> Fit:
    """Fit temperature, biases and the weights of n-grams together.

    The same problem with one more term: the n-grams' weights W have a Gaussian prior around 0 with the variance
    `strength`. As `strength` goes to 0, this becomes `fit`.

    Args:
        rows: as in `fit`, with their comments.
        prior: as in `fit`; n-grams begin at 0.
        strength: variance of an n-gram's weight, above 0. A comment's n-grams are a vector of length 1, so this is
            also the variance of what all of them add to a label's score.
        absent: as in `fit`; labels that keep their bias get no weights.
        features: the n-grams of these comments, or of more, if they are known.
        at: which of those comments these are; None: all.
    """
    features = features or TextFeatures([row.text for row in rows])
    inputs = features.inputs if at is None else features.inputs[np.asarray(at)]
    problem = _Problem(rows, prior, absent, None, SIGMA_SLOPE, SIGMA_BIAS, matrix=inputs, strength=strength)
    slope, bias, text_weights = problem.solve()
    part = TextPart(problem.present, features.index, features.to_ngrams(text_weights).astype(np.float32))
    return Fit(_temperature(slope), centred(bias), part)


class TextFeatures:
    """The n-grams of many comments, once for all fits on parts of them.

    There are far more n-grams than comments. Weights that minimise a sum over comments plus their own squares lie in
    the span of the comments (Kimeldorf & Wahba 1970), so that for up to `_DENSE` comments the problem is solved in
    that span's coordinates, and its solution carried back: the same weights, many times sooner.

    Args:
        texts: the cleaned comments.

    Attributes:
        inputs: one row a comment.
        index: the numbers of the n-grams that occur, ascending.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        matrix, self.index = feature_matrix(texts)
        self._back: Any = None
        self.inputs: Any = matrix
        if len(texts) <= _DENSE:
            values, vectors = np.linalg.eigh((matrix @ matrix.T).toarray())
            kept = values > values[-1] * 1e-10 if len(values) else values > 0
            roots = np.sqrt(values[kept])
            self.inputs = vectors[:, kept] * roots
            self._back = matrix.T @ (vectors[:, kept] / roots)

    def to_ngrams(self, weights: Floats) -> Floats:
        """Weights of the inputs' columns as weights of the n-grams."""
        carried: Floats = weights if self._back is None else self._back @ weights
        return carried


def fit_prior(rows: Sequence[Mapping[str, float]], prior: Prior, shares: Mapping[str, float], *, most: float) -> Fit:
    """Batch calibration: divide by the mean probabilities over comments without labels (arXiv 2309.17249, eq. 4 and 5).

    What the model gives each label on average over the file is taken for what it gives away before it has read
    anything; dividing by it leaves labels whose expected shares are `shares`.

    Args:
        rows: log-probabilities of the comments (at least 1).
        prior: the calibration in force, whose probabilities are averaged; its temperature stays.
        shares: the share of each label that is expected in such a file, above 0; the paper's is the same for all.
        most: no label's odds are changed by more than this factor, whatever the averages say.
    """
    labels = tuple(prior.bias)
    scores = _matrix(rows, labels) / prior.temperature + np.array([prior.bias[label] for label in labels])
    mean = np.exp(scores - _log_sum(scores)[:, None]).mean(axis=0)
    wanted = np.array([shares[label] for label in labels])
    moved = np.log(wanted / wanted.sum()) - np.log(np.maximum(mean, np.finfo(float).tiny))
    moved = np.clip(moved - moved.mean(), -np.log(most) / 2, np.log(most) / 2)
    bias = {label: prior.bias[label] + float(by) for label, by in zip(labels, moved, strict=True)}
    return Fit(prior.temperature, centred(bias))


class _Problem:
    """The convex problem, over one flat vector: slope, biases of the labels that are fitted, weights of n-grams."""

    def __init__(
        self,
        rows: Sequence[Scored],
        prior: Prior,
        absent: Absent,
        weights: Sequence[float] | None,
        sigma_slope: float,
        sigma_bias: float,
        *,
        matrix: Any = None,
        strength: float = 0.0,
    ) -> None:
        if not rows:
            raise ValueError("there are no rows to fit on")
        given = {row.label for row in rows}
        if not given <= prior.bias.keys():
            raise ValueError(f"labels {sorted(given - prior.bias.keys())} are not among {sorted(prior.bias)}")
        self.all_labels = tuple(prior.bias)
        self.present = tuple(label for label in prior.bias if absent == "fit" or label in given)
        self.z = _matrix([row.logprobs for row in rows], self.present)
        places = {label: at for at, label in enumerate(self.present)}
        self.gold = np.array([places[row.label] for row in rows])
        self.hot = np.eye(len(self.present))[self.gold]
        self.weights = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
        self.prior = prior
        self.slope0 = 1 / prior.temperature
        self.bias0 = np.array([prior.bias[label] for label in self.present])
        self.sigma_slope, self.sigma_bias = sigma_slope, sigma_bias
        self.matrix, self.strength = matrix, strength

    def solve(self) -> tuple[float, dict[str, float], Floats]:
        """The slope, the bias of every label, and the weights of the n-grams (n, labels present)."""
        width = len(self.present)
        grams = self.matrix.shape[1] if self.matrix is not None else 0
        start = np.concatenate([[self.slope0], self.bias0, np.zeros(grams * width)])
        bounds = [_SLOPES] + [(None, None)] * (len(start) - 1)
        found = minimize(
            self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "maxfun": 4000}
        )
        slope, bias, text_weights = self._parts(found.x)
        values = dict(self.prior.bias) | dict(zip(self.present, bias.tolist(), strict=True))
        return float(slope), values, text_weights

    def loss(self, at: Floats) -> tuple[float, Floats]:
        """The value to minimise, and its gradient."""
        slope, bias, text_weights = self._parts(at)
        scores = slope * self.z + bias
        if self.matrix is not None:
            scores = scores + self.matrix @ text_weights
        norms = _log_sum(scores)
        lost = self.weights @ (norms - scores[np.arange(len(self.gold)), self.gold])
        residual = (np.exp(scores - norms[:, None]) - self.hot) * self.weights[:, None]
        off_slope, off_bias = slope / self.slope0 - 1, bias - self.bias0
        lost += off_slope**2 / (2 * self.sigma_slope**2) + off_bias @ off_bias / (2 * self.sigma_bias**2)
        gradient = [
            [(residual * self.z).sum() + off_slope / (self.slope0 * self.sigma_slope**2)],
            residual.sum(axis=0) + off_bias / self.sigma_bias**2,
        ]
        if self.matrix is not None:
            lost += (text_weights**2).sum() / (2 * self.strength)
            gradient.append((self.matrix.T @ residual + text_weights / self.strength).ravel())
        return float(lost), np.concatenate(gradient)

    def _parts(self, at: Floats) -> tuple[float, Floats, Floats]:
        width = len(self.present)
        return float(at[0]), at[1 : 1 + width], at[1 + width :].reshape(-1, width)


def _temperature(slope: float) -> float:
    return round(1 / slope, _DIGITS)


def _matrix(rows: Sequence[Mapping[str, float]], labels: Sequence[str]) -> Floats:
    return np.array([[row[label] for label in labels] for row in rows], dtype=float)


def _log_sum(scores: Floats) -> Floats:
    sums: Floats = logsumexp(scores, axis=1)
    return sums
