"""Whether probabilities hold better after calibration than before, on the same labelled rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from reviewmill.evaluate.measures import Estimate, Reliability, Scores
from reviewmill.evaluate.metrics import Judgements, expected_calibration_error, indices, reliability, scores
from reviewmill.evaluate.paired import Paired, compare_paired
from reviewmill.scoring.calibration import Held

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES: Final = 2000
_PERFECT: Final = 200
_LEAST: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Holding:
    """How one set of probabilities does on labelled rows.

    Attributes:
        scores: right and wrong.
        reliability: calibration.
        floor: the calibration error that perfectly calibrated probabilities like these would show on so few rows, by
            chance alone (mean of simulations).
    """

    scores: Scores
    reliability: Reliability
    floor: float

    @classmethod
    def of(cls, judged: Judgements) -> Holding:
        """Measure rows with probabilities."""
        return cls(scores(judged), reliability(judged), _floor(judged))

    def brief(self) -> Held:
        """The numbers that a calibration carries."""
        held = self.reliability
        return Held(
            rows=held.rows,
            accuracy=round(self.scores.accuracy.value, 4),
            macro_f1=round(self.scores.macro_f1.value, 4),
            nll=round(held.nll.value if held.nll else 0.0, 4),
            brier=round(held.brier.value if held.brier else 0.0, 4),
            ece=round(held.ece.value, 4),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of probabilities for the same rows.

    Attributes:
        before, after: how each does.
        restricted: the same among the labels that occur; None where all of the task's do.
        accuracy: the paired comparison of right and wrong.
        nll: change of the mean negative log-likelihood (below 0: better), with its 95% bootstrap interval.
    """

    before: Holding
    after: Holding
    restricted: tuple[Holding, Holding] | None
    accuracy: Paired
    nll: Estimate


def judgements(gold: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> Judgements:
    """Labelled rows with probabilities as arrays; the given label is the most probable."""
    labels = tuple(probabilities[0])
    matrix = np.array([[row[name] for name in labels] for row in probabilities])
    return Judgements(labels, indices(gold, labels), matrix.argmax(axis=1), matrix, matrix.max(axis=1))


def compare(
    gold: Sequence[str], before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]
) -> Comparison:
    """Compare two sets of probabilities for the same labelled rows (at least 1)."""
    first, second = judgements(gold, before), judgements(gold, after)
    narrow = (first.restricted(), second.restricted())
    few = np.unique(first.gold).size < len(first.labels)
    among = (Holding.of(narrow[0]), Holding.of(narrow[1])) if few and narrow[0] and narrow[1] else None
    return Comparison(
        before=Holding.of(first),
        after=Holding.of(second),
        restricted=among,
        accuracy=compare_paired(first.right.tolist(), second.right.tolist()),
        nll=_mean_change(nll_rows(gold, before), nll_rows(gold, after)),
    )


def nll_rows(gold: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> Floats:
    """Each row's negative log-probability of the right label (nats)."""
    return -np.log([max(row[name], _LEAST) for name, row in zip(gold, probabilities, strict=True)])


def _mean_change(before: Floats, after: Floats) -> Estimate:
    changes = after - before
    rows = len(changes)
    drawn = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES) @ changes / rows
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=float(changes.mean()), low=float(low), high=float(high))


def _floor(judged: Judgements) -> float:
    if judged.confidence is None:
        raise ValueError("these rows have no confidence")
    confidence, draw = judged.confidence, np.random.default_rng(0)
    errors = [
        expected_calibration_error(confidence, draw.random(confidence.size) < confidence) for _ in range(_PERFECT)
    ]
    return float(np.mean(errors))
