"""Tests of the tests: they find what is there, and no more often than they may cry wolf."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reviewmill.evaluate.paired import compare_paired, p_paired_drop, p_unpaired_drop

RUNS = 800


def pairs(generator: np.random.Generator, rows: int, lost: float, won: float) -> tuple[np.ndarray, np.ndarray]:
    """Right answers before and after: a share of rows is lost, another won, most of the rest stays right."""
    kind = generator.choice(4, size=rows, p=[lost, won, 0.9 * (1 - lost - won), 0.1 * (1 - lost - won)])
    return (kind == 0) | (kind == 2), (kind == 1) | (kind == 2)


def test_counts_and_difference() -> None:
    found = compare_paired([True, True, False, False, True], [True, False, True, True, True])
    assert (found.only_first, found.only_second, found.rows) == (1, 2, 5)
    assert found.difference == pytest.approx(0.2)
    assert (found.first, found.second) == pytest.approx((0.6, 0.8))
    assert found.p_value == pytest.approx(stats.binomtest(2, 3).pvalue)


def test_a_system_against_itself() -> None:
    same = compare_paired([True, False] * 20, [True, False] * 20)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_bootstrap_covers_the_true_difference_19_times_in_20() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for run in range(200):
        old, new = pairs(generator, 400, lost=0.05, won=0.08)
        found = compare_paired(old, new, seed=run, resamples=1000)
        held += found.low <= 0.03 <= found.high
    assert stats.binomtest(held, 200, 0.95).pvalue > 0.001


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.03])
def test_a_drop_of_the_margin_is_called_a_larger_one_in_one_of_twenty_at_most(margin: float) -> None:
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(RUNS):
        old, new = pairs(generator, 500, lost=0.05 + margin, won=0.05)
        alarms += p_paired_drop(old, new, margin=margin) <= 0.05
    # Tango's test is approximate: 5.5% is its known excess at such sizes.
    assert stats.binomtest(alarms, RUNS, 0.055, alternative="greater").pvalue > 0.001


def test_a_real_drop_is_found() -> None:
    generator = np.random.default_rng(8)
    found = sum(p_paired_drop(*pairs(generator, 1000, lost=0.08, won=0.03), margin=0.01) <= 0.05 for _ in range(200))
    assert found > 190


def test_pairs_see_what_two_samples_cannot() -> None:
    old, new = np.ones(400, dtype=bool), np.ones(400, dtype=bool)
    old[:60], new[:70] = False, False  # ten rows got lost, none was won
    assert p_paired_drop(old, new) < 0.001
    assert p_unpaired_drop(int(old.sum()), 400, int(new.sum()), 400) > 0.15


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05])
def test_other_rows_and_a_drop_of_the_margin(margin: float) -> None:
    generator = np.random.default_rng(9)
    alarms = 0
    for _ in range(RUNS):
        before, after = generator.binomial(400, 0.9), generator.binomial(600, 0.9 - margin)
        alarms += p_unpaired_drop(before, 400, after, 600, margin=margin) <= 0.05
    assert stats.binomtest(alarms, RUNS, 0.055, alternative="greater").pvalue > 0.001
    assert alarms > 0.03 * RUNS


@given(st.integers(1, 40), st.data(), st.floats(0, 0.3))
def test_every_p_value_is_one(rows: int, data: st.DataObject, margin: float) -> None:
    old = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    new = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    assert 0 <= p_paired_drop(old, new, margin=margin) <= 1
    assert 0 <= p_unpaired_drop(sum(old), rows, sum(new), rows, margin=margin) <= 1
    found = compare_paired(old, new, resamples=50)
    assert found.low <= found.high
    assert found.difference == pytest.approx(found.second - found.first)


def test_without_a_margin_the_two_sample_test_is_the_usual_one() -> None:
    table = [[380, 20], [350, 50]]
    chi2 = stats.chi2_contingency(table, correction=False)
    assert p_unpaired_drop(380, 400, 350, 400) == pytest.approx(chi2.pvalue / 2)


@pytest.mark.parametrize("rows", [([], []), ([True], [True, False])])
def test_rows_that_are_no_pairs(rows: tuple[list[bool], list[bool]]) -> None:
    with pytest.raises(ValueError, match="as many"):
        compare_paired(*rows)
    with pytest.raises(ValueError, match="as many"):
        p_paired_drop(*rows)
