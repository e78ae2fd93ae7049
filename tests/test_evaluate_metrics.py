"""The scores are scikit-learn's, the intervals hold what they promise, and odd files give no nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from reviewmill.evaluate.metrics import (
    Judgements,
    expected_calibration_error,
    measure,
    reliability,
    scores,
    selection,
    wilson,
)

LABELS = ("positive", "negative", "neutral")


def judged(generator: np.random.Generator, rows: int, *, sharpness: float = 3.0) -> Judgements:
    """Rows whose probabilities are exactly calibrated: the right label is drawn from them."""
    probabilities = generator.dirichlet(np.full(3, 1 / sharpness), rows)
    gold = (probabilities.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1)
    return Judgements(LABELS, gold, probabilities.argmax(axis=1), probabilities, probabilities.max(axis=1))


@st.composite
def answers(draw: st.DrawFn) -> Judgements:
    rows = draw(st.integers(1, 60))
    gold = np.array(draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    probabilities = generator.dirichlet([0.4, 0.4, 0.4], rows).round(6)
    probabilities[:, 0] += 1 - probabilities.sum(axis=1)
    said = probabilities.argmax(axis=1)
    return Judgements(LABELS, gold, said, probabilities, probabilities.max(axis=1))


@given(answers())
def test_every_number_is_finite_and_inside_its_interval(rows: Judgements) -> None:
    measured = measure(rows)
    found = [measured.scores.accuracy, measured.scores.macro_f1, *(label.f1 for label in measured.scores.labels)]
    assert measured.reliability is not None
    assert measured.selection is not None
    found += [measured.reliability.ece, *(bin_.accuracy for bin_ in measured.reliability.bins)]
    assert all(0 <= one.low <= one.high <= 1 for one in found)
    assert sum(bin_.rows for bin_ in measured.reliability.bins) == rows.gold.size
    assert measured.selection.curve[-1] == (1.0, pytest.approx(measured.scores.accuracy.value, abs=1e-5))
    assert sum(map(sum, measured.scores.confusion.counts)) == rows.gold.size


@pytest.mark.filterwarnings("ignore:A single label", "ignore:.*have only one label in common")
@given(answers())
def test_the_resamples_use_scikit_learns_formulas(rows: Judgements) -> None:
    """A resample's scores, computed from its confusion matrix, are those of scikit-learn over its rows."""
    from reviewmill.evaluate import metrics

    matrix = sk.confusion_matrix(rows.gold, rows.said, labels=range(3))
    drawn = metrics._Resampled.__new__(metrics._Resampled)
    one = type("One", (), {"multinomial": lambda *_, **__: matrix.ravel()[None]})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.np.random, "default_rng", lambda _: one)
        drawn.__init__(matrix, 0)
    assert drawn.accuracy[0] == pytest.approx(sk.accuracy_score(rows.gold, rows.said))
    assert drawn.f1[0] == pytest.approx(
        sk.f1_score(rows.gold, rows.said, labels=[0, 1, 2], average=None, zero_division=0)
    )
    kappa = sk.cohen_kappa_score(rows.gold, rows.said)
    assert np.isnan(kappa) or drawn.kappa[0] == pytest.approx(kappa)


def test_intervals_of_the_bootstrap_hold_the_truth_19_times_in_20() -> None:
    generator = np.random.default_rng(2)
    truth = measure(judged(generator, 60_000)).scores
    held = np.zeros(3)
    for _ in range(150):
        found = scores(judged(generator, 300))
        assert found.kappa is not None
        assert truth.kappa is not None
        pairs = [(found.accuracy, truth.accuracy), (found.macro_f1, truth.macro_f1), (found.kappa, truth.kappa)]
        held += [one.low <= true.value <= one.high for one, true in pairs]
    assert all(stats.binomtest(int(count), 150, 0.95).pvalue > 0.001 for count in held)


def test_scores_of_known_answers() -> None:
    found = scores(Judgements(LABELS, np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])))
    assert found.accuracy.value == pytest.approx(4 / 6)
    by_label = {label.label: label for label in found.labels}
    assert by_label["positive"].recall is not None
    assert by_label["positive"].recall.value == pytest.approx(2 / 3)
    assert by_label["neutral"].precision is not None
    assert by_label["neutral"].precision.value == pytest.approx(1 / 2)
    assert found.confusion.counts == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_two_labels_leave_the_third_out_of_macro_f1_and_never_hide_it() -> None:
    gold, said = np.array([0] * 10 + [1] * 10), np.array([0] * 8 + [2, 2] + [1] * 10)
    found = scores(Judgements(LABELS, gold, said))
    assert found.macro_f1.value == pytest.approx((2 * 8 / 18 + 1) / 2)
    assert found.confusion.gold == ["positive", "negative"]
    assert found.confusion.said == list(LABELS)
    assert found.confusion.counts[0] == [8, 0, 2]


def test_restricted_takes_the_most_probable_label_that_occurs() -> None:
    probabilities = np.array([[0.3, 0.1, 0.6], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]])
    rows = Judgements(LABELS, np.array([0, 1, 1]), probabilities.argmax(1), probabilities, probabilities.max(1))
    restricted = rows.restricted()
    assert restricted is not None
    assert restricted.labels == ("positive", "negative")
    assert restricted.said.tolist()[:2] == [0, 1]
    assert restricted.confidence is not None
    assert restricted.confidence[:2] == pytest.approx([0.75, 2 / 3])
    assert Judgements(LABELS, rows.gold, rows.said).restricted() is None


def test_one_label_only_has_no_kappa_and_no_restriction() -> None:
    rows = judged(np.random.default_rng(0), 50)
    rows = Judgements(LABELS, np.zeros(50, dtype=int), rows.said, rows.probabilities, rows.confidence)
    assert scores(rows).kappa is None
    assert rows.restricted() is None


def test_all_right_is_not_certainly_always_right() -> None:
    found = scores(Judgements(LABELS, np.zeros(10, dtype=int), np.zeros(10, dtype=int)))
    assert (found.accuracy.value, found.accuracy.high) == (1, 1)
    assert 0.6 < found.accuracy.low < 0.8


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_has_not() -> None:
    rows = judged(np.random.default_rng(3), 3000)
    good = reliability(rows)
    assert good.ece.low == 0
    assert good.ece.value < 0.03
    boast = Judgements(LABELS, rows.gold, rows.said, rows.probabilities, np.full(3000, 0.99))
    accuracy = float(rows.right.mean())
    bad = reliability(boast)
    assert bad.ece.value == pytest.approx(0.99 - accuracy)
    assert bad.ece.low < 0.99 - accuracy < bad.ece.high
    assert len(bad.bins) == 1


def test_the_interval_of_a_calibration_error_holds_it() -> None:
    """Everybody says 0.9 and is right in 80%: the error is 0.1, whatever the bins."""
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(60):
        confidence = generator.normal(0.9, 0.01, 500).clip(0, 1)
        right = generator.random(500) < confidence - 0.1
        found = reliability(Judgements(("a", "b"), np.zeros(500, dtype=int), (~right).astype(int), None, confidence))
        held += found.ece.low <= 0.1 <= found.ece.high
    assert held >= 52


def test_what_is_calibrated_is_rarely_said_to_be_off() -> None:
    generator = np.random.default_rng(14)
    blamed = 0
    for _ in range(60):
        confidence = 1 - 0.6 * generator.beta(1, 5, 300)
        right = generator.random(300) < confidence
        found = reliability(Judgements(("a", "b"), np.zeros(300, dtype=int), (~right).astype(int), None, confidence))
        blamed += found.ece.low > 0
    assert stats.binomtest(blamed, 60, 0.08, alternative="greater").pvalue > 0.001


def test_calibration_error_by_hand() -> None:
    confidence = np.repeat([0.6, 0.9], 100)
    right = np.concatenate([np.arange(100) < 50, np.arange(100) < 90])
    assert expected_calibration_error(confidence, right) == pytest.approx(0.05)
    shuffled = np.random.default_rng(0).permutation(200)
    assert expected_calibration_error(confidence[shuffled], right[shuffled]) == pytest.approx(0.05)


def test_losses_are_scikit_learns() -> None:
    rows = judged(np.random.default_rng(6), 400)
    found = reliability(rows)
    assert found.nll is not None
    assert found.brier is not None
    assert found.nll.value == pytest.approx(sk.log_loss(rows.gold, rows.probabilities), rel=1e-4)
    truth = np.eye(3)[rows.gold]
    assert found.brier.value == pytest.approx(((rows.probabilities - truth) ** 2).sum(1).mean() / 2, rel=1e-4)
    assert found.nll.low < found.nll.value < found.nll.high


def test_acceptance_by_hand() -> None:
    confidence = np.array([0.99, 0.97, 0.97, 0.8, 0.6])
    found = selection(confidence, np.array([True, True, False, True, False]))
    assert found.curve == [(0.2, 1.0), (0.6, pytest.approx(2 / 3, abs=1e-4)), (0.8, 0.75), (1.0, 0.6)]
    at = {one.confidence: one for one in found.thresholds}
    assert (at[0.95].rows, at[0.95].coverage) == (3, 0.6)
    assert at[0.95].accuracy is not None
    assert at[0.95].accuracy.value == pytest.approx(2 / 3)
    assert found.promises[-1].confidence is None


def test_a_promise_is_broken_at_most_one_time_in_twenty() -> None:
    generator = np.random.default_rng(11)
    broken = kept = 0
    for _ in range(300):
        rows = judged(generator, 600, sharpness=8)
        assert rows.confidence is not None
        promise = next(one for one in selection(rows.confidence, rows.right).promises if one.target == 0.95)
        if promise.confidence is None:
            continue
        kept += 1
        # Calibrated: what is accepted is right, in truth, as often as its confidence says.
        broken += rows.confidence[rows.confidence >= promise.confidence].mean() < 0.95
    assert kept > 200
    assert stats.binomtest(broken, 300, 0.05, alternative="greater").pvalue > 0.001


def test_wilson() -> None:
    assert (wilson(8, 10).low, wilson(8, 10).high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no rows"):
        measure(Judgements(LABELS, np.array([], dtype=int), np.array([], dtype=int)))
