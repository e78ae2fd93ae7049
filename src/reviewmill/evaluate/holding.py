"""How well probabilities hold: accuracy, macro-F1, log-likelihood, Brier score and calibration error, and whether
one set of probabilities does better than another on the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from reviewmill.scoring.calibration import Measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES: Final = 1000
ROWS_A_BIN: Final = 40
_BINS: Final = (5, 15)
_LEAST: Final = 1e-12
_SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95% interval (percentile bootstrap over rows)."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of probabilities for the same rows.

    Attributes:
        before, after: how each holds.
        restricted: the same among the labels that occur only, where some do not; None where all do.
        accuracy_change, macro_f1_change, nll_change, ece_change: after minus before.
        floor: the calibration error that perfectly calibrated probabilities like those after would show on so few rows.
    """

    before: Measured
    after: Measured
    restricted: tuple[Measured, Measured] | None
    accuracy_change: Interval
    macro_f1_change: Interval
    nll_change: Interval
    ece_change: Interval
    floor: float


def measure(gold: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> Measured:
    """How well probabilities hold on labelled rows (at least 1)."""
    return _Rows.of(gold, probabilities).measured()


def restricted(probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]) -> list[dict[str, float]]:
    """The same probabilities, given that one of these labels is right."""
    return [{name: row[name] / sum(row[each] for each in labels) for name in labels} for row in probabilities]


def compare(
    gold: Sequence[str], before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]
) -> Comparison:
    """Compare two sets of probabilities for the same labelled rows."""
    first, second = _Rows.of(gold, before), _Rows.of(gold, after)
    draw = np.random.default_rng(_SEED)
    changes = np.empty((RESAMPLES, 4))
    for number in range(RESAMPLES):
        rows = draw.integers(len(gold), size=len(gold))
        changes[number] = second.values(rows) - first.values(rows)
    observed = second.values(None) - first.values(None)
    low, high = np.quantile(changes, [0.025, 0.975], axis=0)
    intervals = [Interval(*map(float, each)) for each in zip(observed, low, high, strict=True)]
    labels = [name for name in after[0] if name in set(gold)]
    among = None
    if len(labels) < len(after[0]):
        among = (measure(gold, restricted(before, labels)), measure(gold, restricted(after, labels)))
    return Comparison(first.measured(), second.measured(), among, *intervals, floor=second.floor(draw))


def calibration_error(confidences: Floats, right: NDArray[np.bool_]) -> float:
    """Expected calibration error over bins of equally many rows (Nguyen & O'Connor 2015; Nixon et al. 2019).

    Few rows a bin make any probabilities look badly calibrated, so there is one bin for `ROWS_A_BIN` rows, and at
    least 5 and at most 15.

    Args:
        confidences: probability of the label that was given (0 to 1).
        right: whether it was right.
    """
    bins = int(np.clip(len(confidences) // ROWS_A_BIN, *_BINS))
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(confidences[part].mean() - right[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(confidences))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Labelled rows as arrays: places of the right label and of the given one, and what each row contributes."""

    gold: NDArray[np.int64]
    given: NDArray[np.int64]
    confidences: Floats
    nll: Floats
    brier: Floats

    @classmethod
    def of(cls, gold: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> _Rows:
        labels = list(probabilities[0])
        matrix = np.array([[row[name] for name in labels] for row in probabilities])
        right = np.array([labels.index(name) for name in gold])
        own = matrix[np.arange(len(right)), right]
        brier = ((matrix - np.eye(len(labels))[right]) ** 2).sum(axis=1)
        return cls(right, matrix.argmax(axis=1), matrix.max(axis=1), -np.log(np.maximum(own, _LEAST)), brier)

    def values(self, rows: NDArray[np.int64] | None) -> Floats:
        """Accuracy, macro-F1, NLL and ECE over these rows."""
        chosen = slice(None) if rows is None else rows
        gold, given = self.gold[chosen], self.given[chosen]
        error = calibration_error(self.confidences[chosen], gold == given)
        return np.array([(gold == given).mean(), _macro_f1(gold, given), self.nll[chosen].mean(), error])

    def measured(self) -> Measured:
        accuracy, f1, nll, error = (round(float(value), 4) for value in self.values(None))
        brier = round(float(self.brier.mean()), 4)
        return Measured(rows=len(self.gold), accuracy=accuracy, macro_f1=f1, nll=nll, brier=brier, ece=error)

    def floor(self, draw: np.random.Generator) -> float:
        errors = [
            calibration_error(self.confidences, draw.random(len(self.confidences)) < self.confidences)
            for _ in range(200)
        ]
        return float(np.mean(errors))


def _macro_f1(gold: NDArray[np.int64], given: NDArray[np.int64]) -> float:
    """scikit-learn's `f1_score(average="macro")` over the labels that occur; it takes too long for a bootstrap."""
    size = int(max(gold.max(), given.max())) + 1
    right = np.bincount(gold[gold == given], minlength=size)
    occurring, said = np.bincount(gold, minlength=size), np.bincount(given, minlength=size)
    present = occurring > 0
    return float((2 * right[present] / (occurring[present] + said[present])).mean())
