"""The certificate: exact probabilities, and simulated worlds in which its promise is counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from reviewmill.cascade import guarantee
from reviewmill.cascade.guarantee import (
    allowed,
    certain_agreement,
    even_prefixes,
    fixed_sequence,
    interval,
    most_bad,
    most_seen,
    rectifying,
    share,
    smallest_population,
    tail,
)

TRIALS = 1000


def too_many(violations: int, trials: int, delta: float) -> bool:
    """More violations than a guarantee at delta gives once in ten thousand times."""
    return bool(binom.sf(violations - 1, trials, delta) < 1e-4)


# -- the numbers are right ---------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.data())
def test_the_tail_is_that_of_scipy_and_never_smaller(population: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, population))
    drawn = data.draw(st.integers(0, population))
    seen = data.draw(st.integers(0, drawn))
    exact = float(hypergeom.cdf(seen, population, bad, drawn))
    assert tail(population, bad, drawn, seen) == pytest.approx(exact, rel=1e-5, abs=1e-12)
    assert tail(population, bad, drawn, seen) >= exact * (1 - 1e-9)


def test_the_tail_counts_what_can_be_counted_by_hand() -> None:
    samples = list(itertools.combinations([1, 1, 1, 0, 0, 0, 0], 3))
    for seen in range(4):
        share_of_samples = sum(sum(sample) <= seen for sample in samples) / len(samples)
        assert tail(7, 3, 3, seen) == pytest.approx(share_of_samples, rel=1e-5)


def test_large_populations_lose_no_digits_that_matter() -> None:
    assert tail(10_000_000, 500_001, 1000, 38) == pytest.approx(hypergeom.cdf(38, 10_000_000, 500_001, 1000), rel=1e-5)


@pytest.mark.parametrize(
    ("total", "target", "expected"),
    [
        (20_000, 0.95, 1000),
        (100, 0.9, 10),
        (3, 0.95, 0),
        (1000, 0.999, 1),
        (7, 0.7, 2),
        (10, 0.7, 3),
        (0, 0.9, 0),
    ],
)
def test_allowed_disagreements_are_exact_where_floats_are_not(total: int, target: float, expected: int) -> None:
    assert allowed(total, target) == expected


@given(st.integers(0, 10_000), st.floats(0.5, 0.999))
def test_allowed_disagreements_reach_the_target_and_one_more_would_not(total: int, target: float) -> None:
    from fractions import Fraction

    bound = allowed(total, target)
    wanted = Fraction(repr(target)) * total
    assert total - bound >= wanted
    assert total - bound - 1 < wanted


@given(st.integers(1, 200), st.data())
def test_the_interval_is_the_inversion_of_both_tails(population: int, data: st.DataObject) -> None:
    drawn = data.draw(st.integers(1, population))
    seen = data.draw(st.integers(0, drawn))
    low, high = interval(population, drawn, seen, 0.9)
    possible = range(seen, population - (drawn - seen) + 1)
    kept = [
        bad
        for bad in possible
        if hypergeom.cdf(seen, population, bad, drawn) > 0.05 * (1 + 1e-6)
        and hypergeom.sf(seen - 1, population, bad, drawn) > 0.05 * (1 + 1e-6)
    ]
    assert low <= min(kept)
    assert max(kept) <= high
    assert seen <= low <= high <= population - (drawn - seen)


@pytest.mark.parametrize(("population", "bad", "drawn"), [(500, 20, 100), (2000, 600, 150), (300, 0, 50), (80, 80, 10)])
def test_intervals_and_bounds_hold_as_often_as_they_promise(population: int, bad: int, drawn: int) -> None:
    chance = np.random.default_rng(7)
    seen = chance.hypergeometric(bad, population - bad, drawn, size=TRIALS)
    intervals = {int(value): interval(population, drawn, int(value), 0.9) for value in np.unique(seen)}
    bounds = {int(value): most_bad(population, drawn, int(value), 0.1) for value in np.unique(seen)}
    missed = sum(not intervals[int(value)][0] <= bad <= intervals[int(value)][1] for value in seen)
    assert not too_many(missed, TRIALS, 0.1)
    assert not too_many(sum(bounds[int(value)] < bad for value in seen), TRIALS, 0.1)


@given(st.floats(0.001, 0.5), st.integers(1, 6))
def test_the_rounds_spend_delta_and_no_more(delta: float, rounds: int) -> None:
    parts = [share(delta, number, rounds) for number in range(rounds)]
    assert sum(parts) == pytest.approx(delta)
    assert min(parts) > 0


# -- worlds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Comments in the student's order of confidence: the model's labels, and the student's."""

    truth: np.ndarray
    said: np.ndarray

    @property
    def bad(self) -> np.ndarray:
        return self.truth != self.said


def world(
    size: int, labels: int, error: Callable[[np.ndarray], np.ndarray], *, skew: float = 1.0, seed: int = 0
) -> World:
    """A student whose probability of error is a function of its place in the ordering (0 to 1)."""
    chance = np.random.default_rng(seed)
    shares = skew ** np.arange(labels)
    truth = chance.choice(labels, size, p=shares / shares.sum())
    place = (np.arange(size) + 0.5) / size
    wrong = chance.random(size) < error(place)
    said = np.where(wrong, (truth + chance.integers(1, labels, size)) % labels, truth)
    return World(truth, said)


WORLDS = {
    "good": world(2000, 2, lambda q: 0.02 + 0 * q),
    "good, rising": world(3000, 3, lambda q: 0.4 * q**4),
    "on the edge": world(2000, 2, lambda q: 0.1 + 0 * q),
    "bad": world(1500, 3, lambda q: 0.45 + 0 * q),
    "wrong where it is sure": world(2000, 2, lambda q: 0.5 * (1 - q) ** 3),
    "worst first": world(2000, 4, lambda q: (q < 0.1).astype(float)),
    "just too many, all at the end": world(2000, 2, lambda q: (q > 0.89).astype(float)),
    "just too many, in the middle": world(2000, 5, lambda q: (np.abs(q - 0.5) < 0.06).astype(float)),
    "seven labels, skewed": world(2500, 7, lambda q: 0.3 * q**2, skew=0.4),
    "one label hardly there": world(2500, 2, lambda q: 0.15 * q, skew=0.03),
    "small": world(200, 2, lambda q: 0.2 * q),
}


Certify = Callable[[np.ndarray, np.ndarray, int, int, float], int]


def in_sequence(ranks: np.ndarray, disagrees: np.ndarray, size: int, limit: int, delta: float) -> int:
    return fixed_sequence(ranks, disagrees, even_prefixes(size, 50), lambda _: limit, delta).size


def all_at_once(ranks: np.ndarray, disagrees: np.ndarray, size: int, limit: int, delta: float) -> int:
    step = rectifying(ranks, disagrees, size, limit, delta)
    return step.size if step else 0


@pytest.mark.parametrize("certify", [in_sequence, all_at_once])
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize(("target", "sample"), [(0.9, 150), (0.95, 300)])
def test_the_target_is_missed_at_most_as_often_as_delta(
    name: str, target: float, sample: int, certify: Certify
) -> None:
    """In each trial a fresh sample; what counts is whether the output holds more disagreements than it may."""
    here, delta = WORLDS[name], 0.1
    size = len(here.truth)
    sample, limit = min(sample, size // 2), allowed(size, target)
    chance = np.random.default_rng(11)
    violations = 0
    for _ in range(TRIALS):
        ranks = chance.choice(size, sample, replace=False)
        granted = certify(ranks, here.bad[ranks], size, limit, delta)
        unsampled = np.ones(size, dtype=bool)
        unsampled[ranks] = False
        violations += int(np.sum((here.bad & unsampled)[:granted])) > limit
    assert not too_many(violations, TRIALS, delta)


@pytest.mark.parametrize("disagreements", [100, 115, 130, 160, 250, 400])
@pytest.mark.parametrize("where", ["first", "last", "everywhere"])
def test_however_many_disagreements_there_are_too_many_are_left_at_most_as_often_as_delta(
    disagreements: int, where: str
) -> None:
    """Worlds on both sides of the edge: 100 may be left, and a sample of 200 of 1,000 finds a fifth of them."""
    size, sample, limit, delta = 1000, 200, 100, 0.1
    bad = np.zeros(size, dtype=bool)
    spread = np.random.default_rng(3).choice(size, disagreements, replace=False)
    bad[{"first": slice(disagreements), "last": slice(size - disagreements, size), "everywhere": spread}[where]] = True
    chance = np.random.default_rng(19)
    violations = 0
    for _ in range(TRIALS):
        ranks = chance.choice(size, sample, replace=False)
        granted = all_at_once(ranks, bad[ranks], size, limit, delta)
        left = bad.copy()
        left[ranks] = False
        violations += int(left[:granted].sum()) > limit
    assert not too_many(violations, TRIALS, delta)
    if where != "last" and disagreements > 150:  # the bound is reached: a smaller p-value would not be honest
        assert violations > 0.05 * TRIALS


def test_what_the_sample_corrects_lets_a_longer_prefix_pass() -> None:
    size, sample, limit = 20_000, 2000, 1000
    bad = np.random.default_rng(0).random(size) < 0.3 * (np.arange(size) / size) ** 3
    chance = np.random.default_rng(1)
    ranks = chance.choice(size, sample, replace=False)
    assert all_at_once(ranks, bad[ranks], size, limit, 0.05) > in_sequence(ranks, bad[ranks], size, limit, 0.05) > 0


def test_the_test_can_be_violated_so_that_this_file_proves_something() -> None:
    """Two per cent more than allowed, and a test at an inflated delta: it is passed about as often as it says."""
    size, sample = 2000, 200
    bad = np.zeros(size, dtype=bool)
    bad[np.random.default_rng(0).choice(size, 201, replace=False)] = True
    chance = np.random.default_rng(1)
    passed = 0
    for _ in range(TRIALS):
        ranks = chance.choice(size, sample, replace=False)
        passed += fixed_sequence(ranks, bad[ranks], [size], lambda _: 200, 0.3).size == size
    assert 0.2 * TRIALS < passed <= 0.35 * TRIALS


@pytest.mark.parametrize("labels", [2, 3, 5, 7])
def test_certificates_by_label_hold_for_all_labels_at_once(labels: int) -> None:
    """The output's comments with each label: at least the target has the model's label, for every label at once."""
    delta, target = 0.1, 0.9
    here = world(3000, labels, lambda q: 0.5 * q**3, skew=0.6, seed=labels)
    base = np.bincount(np.random.default_rng(3).choice(labels, 150), minlength=labels)
    chance = np.random.default_rng(5)
    violations = answered = 0
    for _ in range(TRIALS):
        drawn = chance.choice(3000, 400, replace=False)
        output, granted = here.truth.copy(), np.zeros(3000, dtype=bool)
        for label in range(labels):
            group = np.flatnonzero(here.said == label)
            ranks = np.flatnonzero(np.isin(group, drawn))
            known = int(base[label])
            test = fixed_sequence(
                ranks,
                here.bad[group[ranks]],
                even_prefixes(len(group), 20),
                lambda size, known=known: allowed(size + known, target),
                delta / labels,
            )
            granted[group[: test.size]] = True
        granted[drawn] = False
        output[granted] = here.said[granted]
        answered += int(granted.sum())
        counts = np.bincount(output, minlength=labels) + base
        wrong = np.bincount(output[output != here.truth], minlength=labels)
        violations += bool(np.any(wrong > np.floor((1 - target) * counts + 1e-9)))
    assert answered > 0
    assert not too_many(violations, TRIALS, delta)


@pytest.mark.parametrize("kind", ["learning", "getting worse", "adversary"])
def test_several_rounds_whose_best_is_used_miss_at_most_as_often_as_delta(kind: str) -> None:
    """Each round draws a fresh sample from what has no label; between rounds the student changes with all it saw.

    The adversary uses the labels that it has seen to put disagreements where the next sample will be too small to find
    them, asks the model about comments that agree, and the round that spares most is used, whichever it is.
    """
    size, target, delta, rounds = 1500, 0.9, 0.1, 3
    limit, chance = allowed(size, target), np.random.default_rng(13)
    violations = used = 0
    for _ in range(TRIALS):
        bad = chance.random(size) < {"learning": 0.2, "getting worse": 0.06, "adversary": 0.105}[kind]
        asked = np.zeros(size, dtype=bool)
        best: tuple[int, int] = (0, 0)
        for number in range(rounds):
            rest = np.flatnonzero(~asked)
            order = chance.permutation(rest)
            if kind == "adversary":  # the most disagreements first, where fewest have been sampled
                order = order[np.argsort(~bad[order], kind="stable")] if number % 2 else order
            elif kind == "learning":
                order = order[np.argsort(bad[order] + chance.random(len(rest)), kind="stable")]
            ranks = chance.choice(len(rest), 150, replace=False)
            passed = all_at_once(ranks, bad[order[ranks]], len(rest), limit, share(delta, number, rounds))
            unsampled = np.ones(len(rest), dtype=bool)
            unsampled[ranks] = False
            granted = order[:passed][unsampled[:passed]]
            best = max(best, (len(granted), int(bad[granted].sum())))
            asked[order[ranks]] = True
            if kind == "adversary":  # labels spent where student and model agree anyway
                asked[chance.permutation(np.flatnonzero(~asked & ~bad))[:100]] = True
            if kind == "getting worse":
                bad |= ~asked & (chance.random(size) < 0.03)
            if kind == "learning":
                bad &= chance.random(size) < 0.6
        used += best[0] > 0
        violations += best[1] > limit
    assert used > 0
    assert not too_many(violations, TRIALS, delta)


@pytest.mark.parametrize("name", ["good", "bad", "wrong where it is sure", "seven labels, skewed"])
def test_a_fixed_prefix_agrees_at_least_as_certified(name: str) -> None:
    here, delta, sample, total = WORLDS[name], 0.1, 200, 4000
    size = len(here.truth)
    chance = np.random.default_rng(17)
    drawn = np.array([chance.choice(size, sample, replace=False) for _ in range(TRIALS)])
    seen = here.bad[drawn].sum(axis=1)
    promised = {int(value): certain_agreement(total, size, sample, int(value), delta) for value in np.unique(seen)}
    missed = sum(1 - (here.bad.sum() - value) / total < promised[int(value)] - 1e-12 for value in seen)
    assert not too_many(missed, TRIALS, delta)
    assert max(promised.values()) > 0.5


@given(st.integers(1, 400), st.data())
def test_as_many_may_be_seen_as_the_tail_says(rest: int, data: st.DataObject) -> None:
    drawn, bound = data.draw(st.integers(0, rest)), data.draw(st.integers(0, rest))
    delta = data.draw(st.floats(0.001, 0.5))
    most = most_seen(rest, drawn, bound, delta)
    passing = [
        seen
        for seen in range(drawn + 1)
        if bound + 1 + seen > rest or hypergeom.cdf(seen, rest, bound + 1 + seen, drawn) <= delta * (1 - 1e-5)
    ]
    assert most >= max(passing, default=-1)
    assert most < 0 or bound + 1 + most > rest or hypergeom.cdf(most, rest, bound + 1 + most, drawn) <= delta


@given(st.integers(1, 300), st.data())
def test_a_rectified_prefix_ends_before_the_disagreement_that_would_be_one_too_many(
    rest: int, data: st.DataObject
) -> None:
    drawn, bound = data.draw(st.integers(0, rest)), data.draw(st.integers(0, rest))
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    ranks = chance.choice(rest, drawn, replace=False)
    disagrees = chance.random(drawn) < 0.3
    step, most = rectifying(ranks, disagrees, rest, bound, 0.1), most_seen(rest, drawn, bound, 0.1)
    assert (step is None) == (most < 0)
    if step is not None:
        assert step.disagreeing == int(disagrees[ranks < step.size].sum()) <= most
        assert step.drawn == int((ranks < step.size).sum())
        assert step.p <= 0.1
        assert step.size == rest or (disagrees[ranks == step.size].all() and step.disagreeing == most)


# -- no harm where there is nothing to test ----------------------------------------------------------------------------


def test_a_prefix_smaller_than_what_is_allowed_needs_no_sample() -> None:
    none = np.empty(0, dtype=np.int64)
    assert fixed_sequence(none, none.astype(bool), [5, 10, 11], lambda _: 10, 0.05).size == 10


def test_the_first_failure_ends_the_sequence() -> None:
    ranks, bad = np.arange(100), np.zeros(100, dtype=bool)
    bad[40:60] = True  # bad in the middle; later prefixes would pass again
    test = fixed_sequence(ranks, bad, list(range(10, 101, 10)), lambda size: size // 10, 0.05)
    assert test.size < 50
    assert test.steps[-1].p > 0.05


@given(st.integers(1, 5000), st.integers(1, 300))
def test_prefixes_ascend_and_end_with_the_whole(size: int, count: int) -> None:
    prefixes = even_prefixes(size, count)
    assert prefixes == sorted(set(prefixes))
    assert prefixes[-1] == size
    assert prefixes[0] > 0
    assert len(prefixes) <= count


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.98, 0.995])
def test_below_the_smallest_population_half_cannot_be_spared_and_above_it_can(target: float) -> None:
    def seed(total: int) -> int:
        return min(200, total)

    smallest = smallest_population(target, 0.05, seed)
    assert 400 < smallest < 100_000
    sample = smallest // 2 - seed(smallest)
    seen = math.floor(sample * (1 - target) / 2)
    assert tail(smallest - seed(smallest), allowed(smallest, target) + 1 + seen, sample, seen) <= 0.05
    assert smallest_population(target, 0.01, seed) >= smallest


def test_it_imports_nothing_of_the_rest() -> None:
    from pathlib import Path

    lines = Path(guarantee.__file__).read_text(encoding="utf-8").splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert not any("reviewmill" in line for line in imports)
