"""Calibrating on a file: answers, fit, and how well it holds on rows that it was not fitted on.

Every row is judged once by a calibration that never saw it (cross-fitting over `FOLDS` folds, each with the labels'
shares of the whole file); what is kept at the end is fitted on all rows. So the numbers are about the recipe, and the
kept calibration has a little more to learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from reviewmill.errors import InputError
from reviewmill.evaluate.holding import Comparison, compare
from reviewmill.scoring.calibration import Bound, Calibration, FittedOn, Prior, softmax
from reviewmill.scoring.fitting import Absent, Fit, Scored, TextFeatures, fit, fit_prior, fit_stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reviewmill.evaluate.measures import Estimate

LEAST_ROWS: Final = 20
"""Fewer labelled rows than this say next to nothing; they are refused."""
FEW_ROWS: Final = 100
FOLDS: Final = 5
STRENGTHS: Final = (0.3, 3.0, 30.0)
"""Variances of n-grams' weights that are tried; which one is used is decided within each fold's own training rows."""
NESTED: Final = 1500
"""With more rows, the variance that the first fold's training rows choose serves all folds: choosing among three on so
many rows flatters nothing, and choosing five times takes minutes."""
MOST_ODDS: Final = 10.0
"""Without labels, no two labels' odds are changed by more than this factor."""
SKEWED: Final = 0.6
"""From this share of one label on, a file does not look like one with the shares that were expected."""

_INNER_FOLDS: Final = 3
_SEED: Final = 20240917

Probabilities = Mapping[str, float]
Fitting = Callable[["NDArray[np.int64]"], Fit]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fit.

    Attributes:
        calibration: the fitted one; None if it does not help, and then nothing is to be saved.
        comparison: before and after, on rows not fitted on; None without labels.
        shares: label to its share of the answers, before and after.
        said: what was decided and why, one sentence each.
    """

    calibration: Calibration | None
    comparison: Comparison | None
    shares: dict[str, tuple[float, float]]
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is calibrated: the names that a calibration carries, and what is in force without it.

    Attributes:
        task: the task's name.
        model: the model's name.
        bound: what it will be bound to.
        prior: the shipped calibration, or the task's weights.
        prior_name: which of them, in words.
    """

    task: str
    model: str
    bound: Bound
    prior: Prior
    prior_name: str


def fit_labelled(
    rows: Sequence[Scored], subject: Subject, files: Sequence[FittedOn], *, stack: bool = False, absent: Absent = "keep"
) -> Outcome:
    """Fit on labelled rows, and judge the fit on rows that it did not see.

    Args:
        rows: at least `LEAST_ROWS`, with at least two labels.
        subject: what is calibrated.
        files: where the rows are from.
        stack: whether to try n-grams too, and keep them if they win.
        absent: what becomes of labels that occur in no row.

    Raises:
        InputError: too few rows, or only one label.
    """
    counts = Counter(row.label for row in rows)
    _check(rows, counts)
    said = _notes(subject, counts, absent)
    before = [_apply(Fit(subject.prior.temperature, subject.prior.bias), row) for row in rows]
    folds = stratified_folds([row.label for row in rows], FOLDS)
    after = cross_fitted(rows, folds, lambda train: fit([rows[at] for at in train], subject.prior, absent=absent))
    fitted, text_note = fit(rows, subject.prior, absent=absent), None
    if stack:
        fitted, after, text_note = _with_ngrams(rows, subject.prior, absent, folds, fitted, after)
        said.append(text_note)
    gold = [row.label for row in rows]
    comparison = compare(gold, before, after)
    shares = _shares(before, after)
    if comparison.nll.value >= 0:
        said.append(
            f"It does not help: on rows not fitted on, the mean negative log-likelihood changes by "
            f"{interval(comparison.nll)}. Nothing was saved, and {subject.prior_name} stays in force."
        )
        return Outcome(None, comparison, shares, tuple(said))
    made = _made(subject, fitted, files, comparison, said)
    return Outcome(made, comparison, shares, tuple(said))


def fit_unlabelled(
    rows: Sequence[Mapping[str, float]],
    subject: Subject,
    files: Sequence[FittedOn],
    *,
    expected: Mapping[str, float] | None = None,
) -> Outcome:
    """Fit the biases alone, on comments without labels (batch calibration, arXiv 2309.17249).

    Args:
        rows: log-probabilities, at least `LEAST_ROWS`.
        subject: what is calibrated.
        files: where the rows are from.
        expected: label to its expected share; None: the same for all, as the paper has it.

    Raises:
        InputError: too few rows, or the expected shares are not shares of the task's labels.
    """
    if len(rows) < LEAST_ROWS:
        raise InputError(f"There are {len(rows)} comments to fit on; at least {LEAST_ROWS} are needed.")
    labels = tuple(subject.prior.bias)
    shares = _expected(labels, expected)
    fitted = fit_prior(rows, subject.prior, shares, most=MOST_ODDS)
    before = [_apply(Fit(subject.prior.temperature, subject.prior.bias), Scored("", row)) for row in rows]
    after = [_apply(fitted, Scored("", row)) for row in rows]
    moved = _shares(before, after)
    said = [
        f"Assumed: {'; '.join(f'{name} {share:.0%}' for name, share in shares.items())} of such comments. Nothing in "
        "the file can confirm that. If they are otherwise, this makes labels worse: then fit on labelled rows, or say "
        "what you expect (--expect)."
    ]
    most = max(labels, key=lambda name: moved[name][0])
    if moved[most][0] >= SKEWED and moved[most][0] - shares[most] > 0.15:
        said.append(
            f"Warning: {moved[most][0]:.0%} of the answers are {most!r}, far from the {shares[most]:.0%} that are "
            "assumed. Is the file really mixed so evenly? If most of it is rightly so, do not use this."
        )
    never = [name for name in labels if moved[name][0] == 0]
    if never:
        said.append(f"Warning: the model says {', '.join(map(repr, never))} to none of these comments.")
    return Outcome(_made(subject, fitted, files, None, said, method="prior"), None, moved, tuple(said))


def stratified_folds(labels: Sequence[str], folds: int, seed: int = _SEED) -> list[NDArray[np.int64]]:
    """Cut rows into folds that each have the labels' shares of the whole; the same rows give the same folds."""
    draw = np.random.default_rng(seed)
    fold_of = np.zeros(len(labels), dtype=np.int64)
    dealt = 0
    for label in sorted(set(labels)):
        places = np.array([at for at, each in enumerate(labels) if each == label])
        # Dealing goes on where the last label's ended, so that small labels do not all fall into the first folds.
        fold_of[draw.permutation(places)] = (np.arange(len(places)) + dealt) % folds
        dealt += len(places)
    return [np.flatnonzero(fold_of == fold) for fold in range(folds)]


def cross_fitted(
    rows: Sequence[Scored], folds: Sequence[NDArray[np.int64]], fitting: Fitting
) -> list[dict[str, float]]:
    """Each row's probabilities by what was fitted on the other folds.

    Args:
        rows: the rows.
        folds: which rows each fold has.
        fitting: fits on the rows at these places.
    """
    judged: list[dict[str, float]] = [{}] * len(rows)
    everything = np.arange(len(rows))
    for fold in folds:
        fitted = fitting(np.setdiff1d(everything, fold))
        for at in fold:
            judged[at] = _apply(fitted, rows[at])
    return judged


def _with_ngrams(
    rows: Sequence[Scored],
    prior: Prior,
    absent: Absent,
    folds: Sequence[NDArray[np.int64]],
    plain: Fit,
    without: list[dict[str, float]],
) -> tuple[Fit, list[dict[str, float]], str]:
    """The stacked fit and its cross-fitted probabilities if they win, else what came without; and what was found."""
    features = TextFeatures([row.text for row in rows])
    known: list[float] = []

    def fitting(train: NDArray[np.int64]) -> Fit:
        chosen = [rows[at] for at in train]
        if not known or len(rows) <= NESTED:
            known[:] = [_best_strength(chosen, train, prior, absent, features)]
        (strength,) = known
        return fit_stack(chosen, prior, strength=strength, absent=absent, features=features, at=train.tolist())

    stacked = cross_fitted(rows, folds, fitting)
    duel = compare([row.label for row in rows], without, stacked)
    right = duel.accuracy
    facts = (
        f"with them the mean negative log-likelihood changes by {interval(duel.nll)}, "
        f"and the accuracy from {right.first:.3f} to {right.second:.3f}"
    )
    if duel.nll.high < 0 and right.p_first_better > 0.05:
        return fitting(np.arange(len(rows))), stacked, f"The comments' n-grams win on rows not fitted on: {facts}."
    return plain, without, f"The comments' n-grams do not win on rows not fitted on and are left out: {facts}."


def interval(change: Estimate) -> str:
    """A change with its 95% interval, for people."""
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _best_strength(
    rows: Sequence[Scored], places: NDArray[np.int64], prior: Prior, absent: Absent, features: TextFeatures
) -> float:
    """The variance of n-grams' weights that does best within these rows, by cross-validation."""
    folds = stratified_folds([row.label for row in rows], _INNER_FOLDS)
    losses = {}
    for strength in STRENGTHS:

        def fitting(train: NDArray[np.int64], strength: float = strength) -> Fit:
            chosen = [rows[at] for at in train]
            at = places[train].tolist()
            return fit_stack(chosen, prior, strength=strength, absent=absent, features=features, at=at)

        judged = cross_fitted(rows, folds, fitting)
        losses[strength] = -sum(np.log(max(p[row.label], 1e-12)) for p, row in zip(judged, rows, strict=True))
    return min(losses, key=losses.__getitem__)


def _apply(fitted: Fit, row: Scored) -> dict[str, float]:
    scores = {name: value / fitted.temperature + fitted.bias[name] for name, value in row.logprobs.items()}
    return softmax(fitted.text.add(scores, row.text) if fitted.text is not None else scores)


def _check(rows: Sequence[Scored], counts: Counter[str]) -> None:
    if len(rows) < LEAST_ROWS:
        raise InputError(
            f"There are {len(rows)} labelled rows to fit on; at least {LEAST_ROWS} are needed.",
            hint="Label more; from about 60 on it pays.",
        )
    if len(counts) < 2:
        raise InputError(
            f"All {len(rows)} rows have the label {next(iter(counts))!r}; nothing can be learned from one label.",
            hint="Add rows with other labels, in about the shares in which they occur.",
        )


def _notes(subject: Subject, counts: Counter[str], absent: Absent) -> list[str]:
    said = [f"Fitted from, and held near, {subject.prior_name}."]
    missing = [name for name in subject.prior.bias if name not in counts]
    if missing and absent == "keep":
        said.append(
            f"No row is labelled {', '.join(map(repr, missing))}: fitted among the labels that occur; the bias of the "
            "others stays as it was, so they can still be said. If they are never right on such comments: --absent fit."
        )
    elif missing:
        said.append(f"No row is labelled {', '.join(map(repr, missing))}: fitted as never right.")
    if counts.total() < FEW_ROWS:
        said.append(f"Only {counts.total()} rows: it can move only a little, and the numbers are rough.")
    return said


def _expected(labels: Sequence[str], expected: Mapping[str, float] | None) -> dict[str, float]:
    if expected is None:
        return dict.fromkeys(labels, 1 / len(labels))
    if set(expected) != set(labels) or not all(share > 0 for share in expected.values()):
        raise InputError(
            f"Expected shares must name each of the labels {', '.join(labels)} with a share above 0.",
            hint="For example: --expect " + ",".join(f"{name}={100 // len(labels)}" for name in labels),
        )
    total = sum(expected.values())
    return {name: expected[name] / total for name in labels}


def _shares(
    before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    def of(rows: Sequence[Mapping[str, float]]) -> Counter[str]:
        return Counter(max(row, key=row.__getitem__) for row in rows)

    first, second = of(before), of(after)
    return {name: (first[name] / len(before), second[name] / len(after)) for name in before[0]}


def _made(
    subject: Subject,
    fitted: Fit,
    files: Sequence[FittedOn],
    comparison: Comparison | None,
    notes: Sequence[str],
    *,
    method: str | None = None,
) -> Calibration:
    return Calibration.model_validate(
        {
            "task": subject.task,
            "model": subject.model,
            "labels": tuple(fitted.bias),
            "temperature": fitted.temperature,
            "bias": fitted.bias,
            "bound_to": subject.bound,
            "method": method or ("stack" if fitted.text is not None else "vector"),
            "fitted_on": tuple(files),
            "before": comparison.before.brief() if comparison else None,
            "after": comparison.after.brief() if comparison else None,
            "notes": tuple(notes),
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "text": fitted.text,
        }
    )
