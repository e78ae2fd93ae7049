"""Scores, calibration and acceptance, each with a 95% interval. Pure: arrays in, `measures` out.

Point values are scikit-learn's. Intervals are from the bootstrap over rows (Efron 1979), percentile method. All scores
of right and wrong depend on the rows only through the confusion matrix, and drawing rows with replacement is drawing
that matrix's cells from a multinomial: so all resamples are one draw, and one array expression a score. Where a share
is 0 or 1 the bootstrap cannot tell how sure that is, and Wilson's interval (1927) stands instead.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from reviewmill.evaluate.measures import (
    Bin,
    Confusion,
    Estimate,
    LabelScore,
    Measures,
    Promise,
    Reliability,
    Scores,
    Selection,
    Threshold,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

RESAMPLES: Final = 2000
BINS: Final = 15
ROWS_PER_BIN: Final = 20
THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
TARGETS: Final = (0.9, 0.95, 0.98, 0.99)
ALPHA: Final = 0.05

_STEPS: Final = 20
_CURVE_POINTS: Final = 200
_LEAST_PROBABILITY: Final = 5e-7
"""Probabilities are given with six digits; 0 means at most this."""
_CELLS: Final = 4_000_000
_CHANCE_DRAWS: Final = 400


@dataclass(frozen=True)
class Judgements:
    """Right and given labels of rows, as arrays.

    Attributes:
        labels: names; the arrays hold their indices.
        gold: right labels (n).
        said: given labels (n).
        probabilities: of each label (n x labels), rows sum to 1; None if there are none.
        confidence: of the given label (n), not-a-number where there is none; None if no row has one.
    """

    labels: tuple[str, ...]
    gold: Ints
    said: Ints
    probabilities: Floats | None = None
    confidence: Floats | None = None

    @property
    def right(self) -> Bools:
        """Which rows are right (n)."""
        return np.equal(self.gold, self.said)

    def confident(self) -> Judgements | None:
        """The rows that have a confidence; None if none has."""
        if self.confidence is None or not (known := np.isfinite(self.confidence)).any():
            return None
        probabilities = None if self.probabilities is None else self.probabilities[known]
        return Judgements(self.labels, self.gold[known], self.said[known], probabilities, self.confidence[known])

    def restricted(self) -> Judgements | None:
        """The same rows, judged among the labels that occur only: the most probable of those, probabilities rescaled.

        None where some row has no probabilities to choose by, or only one label occurs.
        """
        present = np.unique(self.gold)
        if self.probabilities is None or present.size < 2 or not np.isfinite(self.probabilities).all():
            return None
        among = np.maximum(self.probabilities[:, present], _LEAST_PROBABILITY)
        among = among / among.sum(axis=1, keepdims=True)
        chosen = among.argmax(axis=1)
        names = tuple(self.labels[index] for index in present)
        return Judgements(names, np.searchsorted(present, self.gold), chosen, among, among.max(axis=1))


def measure(judged: Judgements, *, seed: int = 0) -> Measures:
    """Everything that can be measured on these rows.

    Args:
        judged: at least one row.
        seed: of the bootstrap; the same rows and seed give the same intervals.
    """
    if not judged.gold.size:
        raise ValueError("there are no rows to measure")
    confident = judged.confident()
    if confident is None or confident.confidence is None:
        return Measures(scores=scores(judged, seed=seed), reliability=None, selection=None)
    return Measures(
        scores=scores(judged, seed=seed),
        reliability=reliability(confident, seed=seed),
        selection=selection(confident.confidence, confident.right),
    )


def wilson(right: int, rows: int) -> Estimate:
    """A share with its 95% interval (Wilson 1927, Journal of the American Statistical Association 22).

    Args:
        right: right answers.
        rows: all; at least one.
    """
    interval = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    return Estimate(value=right / rows, low=float(interval.low), high=float(interval.high))


# -- right and wrong ------------------------------------------------------------------------------------------------


def scores(judged: Judgements, *, seed: int = 0) -> Scores:
    """Accuracy, macro-F1, Cohen's kappa, the scores of each label, the confusion matrix."""
    gold, said, names = judged.gold, judged.said, judged.labels
    present = np.unique(gold)
    with warnings.catch_warnings():  # it warns of a single label even where all labels are given
        warnings.filterwarnings("ignore", message="A single label was found")
        matrix = sk.confusion_matrix(gold, said, labels=range(len(names)))
    drawn = _Resampled(matrix, seed)
    accuracy = float(sk.accuracy_score(gold, said))
    macro = float(sk.f1_score(gold, said, labels=present, average="macro", zero_division=0))
    kappa = float(sk.cohen_kappa_score(gold, said)) if present.size > 1 else None
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        gold, said, labels=range(len(names)), zero_division=0
    )
    given = matrix.sum(axis=0)
    return Scores(
        rows=int(gold.size),
        accuracy=_share(accuracy, int(gold.size), drawn.accuracy),
        macro_f1=_estimate(macro, drawn.f1[:, present].mean(axis=1)),
        kappa=None if kappa is None else _estimate(kappa, drawn.kappa),
        labels=[
            LabelScore(
                label=name,
                rows=int(support[j]),
                said=int(given[j]),
                precision=_share(precision[j], int(given[j]), drawn.precision[:, j]) if given[j] else None,
                recall=_share(recall[j], int(support[j]), drawn.recall[:, j]) if support[j] else None,
                f1=_estimate(f1[j], drawn.f1[:, j]),
            )
            for j, name in enumerate(names)
            if support[j] or given[j]
        ],
        confusion=Confusion(
            gold=[names[i] for i in present], said=list(names), counts=matrix[present].astype(int).tolist()
        ),
    )


class _Resampled:
    """The scores of every resample, from resampled confusion matrices (resamples x labels x labels)."""

    def __init__(self, matrix: Ints, seed: int) -> None:
        rows = int(matrix.sum())
        shares = matrix.ravel() / rows
        drawn = np.random.default_rng(seed).multinomial(rows, shares, size=RESAMPLES).reshape(-1, *matrix.shape)
        hits = np.diagonal(drawn, axis1=1, axis2=2)
        support, given = drawn.sum(axis=2), drawn.sum(axis=1)
        self.accuracy: Floats = hits.sum(axis=1) / rows
        self.precision = _divided(hits, given, np.nan)
        self.recall = _divided(hits, support, np.nan)
        self.f1 = _divided(2 * hits, support + given, 0.0)
        chance = (support * given).sum(axis=1) / rows**2
        self.kappa = _divided(self.accuracy - chance, 1 - chance, np.nan)


def _divided(over: NDArray[Any], under: NDArray[Any], otherwise: float) -> Floats:
    out: Floats = np.full(over.shape, otherwise)
    np.divide(over, under, out=out, where=under > 0)
    return out


def _estimate(value: float, drawn: Floats) -> Estimate:
    defined = drawn[np.isfinite(drawn)]
    low, high = np.quantile(defined, [0.025, 0.975]) if defined.size else (value, value)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _share(value: float, rows: int, drawn: Floats) -> Estimate:
    return wilson(round(value * rows), rows) if value in {0.0, 1.0} else _estimate(value, drawn)


# -- confidence -----------------------------------------------------------------------------------------------------


def expected_calibration_error(confidence: Floats, right: Bools, *, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over bins of equally many rows (adaptive ECE).

    Equal mass, because most rows of a good model have nearly the same confidence and would share one of the usual bins
    of equal width (Nixon et al. 2019, arXiv 1904.01685). Rows of equal confidence are never parted.

    Args:
        confidence: of the given label (n).
        right: whether it is right (n).
        bins: at most so many; fewer where there are few rows.
    """
    gaps = np.bincount(_bins_of(confidence, bins), weights=confidence - right)
    return float(np.abs(gaps).sum() / confidence.size)


def _bins_of(confidence: Floats, bins: int = BINS) -> Ints:
    """Each row's bin, counted from the least confident."""
    count = max(2, min(bins, confidence.size // ROWS_PER_BIN))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1]))
    placed = np.searchsorted(edges, confidence, side="right")
    return np.unique(placed, return_inverse=True)[1]


def reliability(judged: Judgements, *, seed: int = 0) -> Reliability:
    """Calibration error, Brier score, log-loss, and the reliability diagram.

    A calibration error is a mean of absolute values: chance alone makes it larger than it is, and a resample adds
    chance once more. So the lower end of its interval is the basic bootstrap's, which takes that excess off, and 0
    where exactly calibrated answers would show as much in one of twenty draws (consistency resampling, Bröcker & Smith
    2007, Weather and Forecasting 22); the upper end is the percentile, which errs to the safe side.

    Args:
        judged: rows with confidences.
        seed: of the bootstrap.
    """
    if judged.confidence is None:
        raise ValueError("these rows have no confidence")
    confidence, right = judged.confidence, judged.right
    placed = _bins_of(confidence)
    ece = expected_calibration_error(confidence, right)
    losses = _losses(judged)
    gaps = np.eye(placed.max() + 1)[placed] * (confidence - right)[:, None]
    drawn_gaps, drawn_losses = _resampled_means(gaps, losses, seed)
    high = float(np.quantile(np.abs(drawn_gaps).sum(axis=1), 0.975))
    chance = _error_by_chance(confidence, placed, seed)
    return Reliability(
        rows=int(confidence.size),
        ece=Estimate(value=ece, low=0.0 if ece <= chance else max(0.0, 2 * ece - high), high=max(ece, high)),
        brier=_estimate(_brier(judged), drawn_losses[:, 0]) if losses.size else None,
        nll=_estimate(_nll(judged), drawn_losses[:, 1]) if losses.size else None,
        auroc=float(sk.roc_auc_score(right, confidence)) if 0 < right.sum() < right.size else None,
        confidence=float(confidence.mean()),
        bins=[_bin(confidence[placed == j], right[placed == j]) for j in range(placed.max() + 1)],
    )


def _error_by_chance(confidence: Floats, placed: Ints, seed: int) -> float:
    """The calibration error that exactly calibrated answers stay below in 19 of 20 draws."""
    generator = np.random.default_rng(seed)
    members = np.eye(placed.max() + 1)[placed]
    errors = []
    block = max(1, _CELLS // confidence.size)
    for start in range(0, _CHANCE_DRAWS, block):
        size = min(block, _CHANCE_DRAWS - start)
        right = generator.random((size, confidence.size)) < confidence
        errors.append(np.abs((confidence - right) @ members).sum(axis=1) / confidence.size)
    return float(np.quantile(np.concatenate(errors), 0.95))


def _bin(confidence: Floats, right: Bools) -> Bin:
    accuracy = wilson(int(right.sum()), right.size)
    return Bin(rows=int(right.size), confidence=float(confidence.mean()), accuracy=accuracy)


def _probabilities(judged: Judgements) -> Floats | None:
    if judged.probabilities is None:
        return None
    floored: Floats = np.maximum(judged.probabilities, _LEAST_PROBABILITY)
    floored /= floored.sum(axis=1, keepdims=True)
    return floored


def _brier(judged: Judgements) -> float:
    labels = range(len(judged.labels))
    return float(sk.brier_score_loss(judged.gold, _probabilities(judged), labels=labels, scale_by_half=True))


def _nll(judged: Judgements) -> float:
    return float(sk.log_loss(judged.gold, _probabilities(judged), labels=range(len(judged.labels))))


def _losses(judged: Judgements) -> Floats:
    """Each row's part of the Brier score and of the log-loss (n x 2); n x 0 without probabilities."""
    probabilities = _probabilities(judged)
    if probabilities is None:
        return np.empty((judged.gold.size, 0))
    truth = np.eye(len(judged.labels))[judged.gold]
    brier = 0.5 * ((probabilities - truth) ** 2).sum(axis=1)
    return np.column_stack([brier, -np.log(probabilities[np.arange(judged.gold.size), judged.gold])])


def _resampled_means(gaps: Floats, losses: Floats, seed: int) -> tuple[Floats, Floats]:
    """Column means of both over resampled rows (resamples x columns), in blocks of bounded memory."""
    generator = np.random.default_rng(seed)
    rows = gaps.shape[0]
    resamples = int(np.clip(20_000_000 // rows, 200, RESAMPLES))
    block = max(1, _CELLS // rows)
    columns = np.hstack([gaps, losses])
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=size)
        parts.append(weights @ columns / rows)
    means = np.vstack(parts)
    return means[:, : gaps.shape[1]], means[:, gaps.shape[1] :]


# -- acceptance -----------------------------------------------------------------------------------------------------


def selection(confidence: Floats, right: Bools) -> Selection:
    """What accepting the most confident answers without a look would bring.

    Args:
        confidence: of each answer (n).
        right: whether it is right (n).
    """
    order = np.argsort(-confidence, kind="stable")
    levels: Floats = confidence[order]
    hits = np.cumsum(right[order], dtype=np.int64)
    # Only ends of runs of equal confidence can be thresholds.
    ends = np.flatnonzero(np.append(levels[1:] < levels[:-1], True))
    counts, kept = ends + 1, hits[ends]
    coverage, accuracy = counts / confidence.size, kept / counts
    chosen = np.unique(np.linspace(0, ends.size - 1, min(ends.size, _CURVE_POINTS)).round().astype(int))
    return Selection(
        curve=[(round(float(coverage[i]), 5), round(float(accuracy[i]), 5)) for i in chosen],
        aurc=float(sk.auc(np.append(0.0, coverage), 1 - np.append(accuracy[0], accuracy))),
        thresholds=[_threshold(confidence, right, level) for level in THRESHOLDS],
        promises=[_promise(target, levels[ends], counts, kept) for target in TARGETS],
    )


def _threshold(confidence: Floats, right: Bools, level: float) -> Threshold:
    taken = confidence >= level
    rows = int(taken.sum())
    accuracy = wilson(int(right[taken].sum()), rows) if rows else None
    return Threshold(confidence=level, rows=rows, coverage=rows / confidence.size, accuracy=accuracy)


def _promise(target: float, levels: Floats, counts: Ints, hits: Ints) -> Promise:
    """The widest acceptance whose accuracy is above the target, with 95% confidence.

    Prefixes of the rows, most confident first, are tested one after another from the smallest on (exact binomial test),
    up to the first that fails: tests in a fixed order need no correction for their number (Maurer et al. 1995; used for
    this in Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052). The first has room for some two errors.
    """
    total = int(counts[-1])
    smallest = min(total, 2 * int(np.ceil(np.log(ALPHA) / np.log(target))))
    wanted = np.linspace(smallest, total, _STEPS)
    best: int | None = None
    for step in np.unique(np.searchsorted(counts, wanted).clip(max=counts.size - 1)):
        if stats.binomtest(int(hits[step]), int(counts[step]), target, alternative="greater").pvalue > ALPHA:
            break
        best = int(step)
    if best is None:
        return Promise(target=target, confidence=None, rows=0, coverage=0.0, accuracy=None)
    rows = int(counts[best])
    accuracy = wilson(int(hits[best]), rows)
    return Promise(target=target, confidence=float(levels[best]), rows=rows, coverage=rows / total, accuracy=accuracy)


def indices(names: Sequence[str], labels: Sequence[str]) -> Ints:
    """Each name's place among the labels."""
    place = {label: number for number, label in enumerate(labels)}
    return np.array([place[name] for name in names], dtype=np.int64)
