"""How far a student may answer alone: exact finite-sample tests of its agreement with the model. Pure: NumPy and SciPy.

The setting (docs/guarantee.md has the theorems with their proofs). N comments need an answer. Some have the model's
label already; U have none. A student predicts the U, its ordering is fixed, and *then* a uniform sample without
replacement is drawn from the U and shown to the model. If the k most confident get the student's label and all others
the model's, the output disagrees with the model at most where the student does among the k. The number of those is
unknown but not random; the number in the sample is hypergeometric, and what the sample finds is corrected too. That is
all there is to it: no bound on a tail, no limit theorem, no assumption on the student, which may be as bad or as
wrongly confident as it likes.

Sources: BARGAIN (Zeighami, Shankar and Parameswaran 2025, arXiv 2509.02896) for the problem; rectifying inspection
(Dodge and Romig 1929, "A Method of Sampling Inspection") for counting only the bad ones that the sample left; fixed-
sequence testing (Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen 2001) for many prefixes at one price; Katz
(1953) and Buonaccorsi (1987) for inverting the hypergeometric distribution.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

PREFIXES: Final = 200
"""How many prefixes of the confidence ordering are tested: a fine grid costs nothing, and stops closer to the limit."""

_CAUTION: Final = 1e-6
"""P-values are raised by this share, which is more than floating-point arithmetic can have taken from them."""
_NEGLIGIBLE: Final = 1e-18

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]


# -- the hypergeometric distribution --------------------------------------------------------------------------------


def tail(population: int, bad: int, drawn: int, seen: int) -> float:
    """P(X <= seen) for the number X of bad ones among so many drawn without replacement, never too small.

    Args:
        population: comments.
        bad: how many of them are bad.
        drawn: size of the uniform sample.
        seen: bad ones in the sample.
    """
    good = population - bad
    least = max(0, drawn - good)
    if seen < least:
        return 0.0
    if seen >= min(bad, drawn):
        return 1.0
    log = _log_choose(bad, seen) + _log_choose(good, drawn - seen) - _log_choose(population, drawn)
    term = math.exp(log)
    if term == 0.0:
        return 1.0 if seen * population > drawn * bad else sys.float_info.min
    total = 0.0
    for count in range(seen, least - 1, -1):  # from the last term down, each from the one before
        total += term
        term *= count * (good - drawn + count) / ((bad - count + 1) * (drawn - count + 1))
        if term < total * _NEGLIGIBLE:
            break
    return min(1.0, total * (1 + _CAUTION))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def most_bad(population: int, drawn: int, seen: int, delta: float) -> int:
    """An upper confidence bound (1 - delta) for the bad ones among the population, given those in a uniform sample.

    It is the largest number that the sample does not refute: P(X <= seen) > delta.
    """
    low, high = seen, population - (drawn - seen)  # tail() falls as the number of bad ones grows
    while low < high:
        middle = (low + high + 1) // 2
        if tail(population, middle, drawn, seen) > delta:
            low = middle
        else:
            high = middle - 1
    return low


def interval(population: int, drawn: int, seen: int, level: float = 0.95) -> tuple[int, int]:
    """An exact two-sided confidence interval for the bad ones among a population (Clopper and Pearson's manner).

    Args:
        population: comments.
        drawn: size of the uniform sample without replacement.
        seen: bad ones in it.
        level: at least with this probability the interval holds the true number.
    """
    half = (1 - level) / 2
    good_at_most = most_bad(population, drawn, drawn - seen, half)
    return population - good_at_most, most_bad(population, drawn, seen, half)


def allowed(total: int, target: float) -> int:
    """How many of so many comments may disagree so that at least the share `target` agrees (exact, rounded down)."""
    return total - math.ceil(Fraction(repr(target)) * total)


# -- one round: how far down its ordering may the student answer? ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """The test of one prefix.

    Attributes:
        size: comments in the prefix.
        drawn: of these, how many are in the sample.
        disagreeing: of these, on how many the student and the model disagree.
        allowed: disagreements that the prefix may hold (`fixed_sequence`), or that may be left in it once the sampled
            ones are corrected (`rectifying`).
        p: how probable so few are in the sample if there were more than allowed; it passes at p <= delta.
    """

    size: int
    drawn: int
    disagreeing: int
    allowed: int
    p: float


def rectifying(ranks: Counts, disagrees: Flags, rest: int, bound: int, delta: float) -> Step | None:
    """The largest prefix that leaves few disagreements to the output, of all prefixes of the ordering at once.

    The sampled comments get the model's label, so that what counts is what the sample did not find. Had a prefix more
    than `bound` of those, then at most x of the first `bound + 1 + x` disagreements of the ordering would be in the
    sample, where x is how many it found in the prefix; and that is a hypergeometric tail, whichever prefix it is.

    Args:
        ranks: for each sampled comment its place in the ordering, 0 for the most confident.
        disagrees: for each, whether the student's label is not the model's.
        rest: comments in the ordering, from which the sample was drawn.
        bound: how many disagreements may be left.
        delta: error probability, 0 to 1.

    Returns:
        The prefix; None if the sample is too small for any.
    """
    drawn = len(ranks)
    most = most_seen(rest, drawn, bound, delta)
    if most < 0:
        return None
    found = np.sort(ranks[disagrees])
    size = int(found[most]) if len(found) > most else rest
    seen = min(most, len(found))
    p = tail(rest, bound + 1 + seen, drawn, seen) if bound + 1 + seen <= rest else 0.0
    return Step(size, int(np.sum(ranks < size)), seen, bound, p)


@lru_cache(4096)
def most_seen(rest: int, drawn: int, bound: int, delta: float) -> int:
    """So many disagreements may a sample find in a prefix that passes `rectifying`; -1: not even none.

    Args:
        rest: comments from which the sample is drawn.
        drawn: its size.
        bound: how many disagreements may be left.
        delta: error probability, 0 to 1.
    """
    low, high = -1, drawn  # that so few are found is the more probable, the more they are
    while low < high:
        middle = (low + high + 1) // 2
        if bound + 1 + middle > rest or tail(rest, bound + 1 + middle, drawn, middle) <= delta:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class Test:
    """A fixed sequence of prefixes, tested until the first that fails.

    Attributes:
        delta: the probability of error that it may have.
        steps: the prefixes that were tested; all but the last have passed, and the last may have.
    """

    delta: float
    steps: tuple[Step, ...]

    @property
    def passed(self) -> Step | None:
        """The largest prefix that passed."""
        passed = [step for step in self.steps if step.p <= self.delta]
        return passed[-1] if passed else None

    @property
    def size(self) -> int:
        """Comments in it; 0: the student may answer none."""
        return self.passed.size if self.passed else 0


def fixed_sequence(
    ranks: Counts, disagrees: Flags, prefixes: Sequence[int], limit: Callable[[int], int], delta: float
) -> Test:
    """Test prefixes of an ordering, the smallest first, until one fails.

    Since the order of the tests is fixed before the sample is drawn, no correction for their number is needed: to
    accept a prefix that must not be accepted, the first such prefix must be, and that happens with a probability of at
    most delta. The limit may differ from prefix to prefix, as it does for certificates by label; where it is the same
    for all, `rectifying` grants more.

    Args:
        ranks: for each sampled comment its place in the ordering, 0 for the most confident.
        disagrees: for each, whether the student's label is not the model's.
        prefixes: sizes to test, ascending, chosen without looking at the sample.
        limit: how many disagreements a prefix of some size may hold.
        delta: error probability, 0 to 1.
    """
    order = np.argsort(ranks, kind="stable")
    ranks, bad = ranks[order], np.cumsum(disagrees[order])
    steps: list[Step] = []
    for size in prefixes:
        drawn = int(np.searchsorted(ranks, size))
        seen = int(bad[drawn - 1]) if drawn else 0
        bound = limit(size)
        p = 0.0 if bound >= size else tail(size, bound + 1, drawn, seen)
        steps.append(Step(size, drawn, seen, bound, p))
        if p > delta:
            break
    return Test(delta, tuple(steps))


def even_prefixes(size: int, count: int = PREFIXES) -> list[int]:
    """So many prefixes of an ordering of so many comments, at even distances; the last is the whole."""
    return sorted({math.ceil(size * number / count) for number in range(1, count + 1)} - {0})


def share(delta: float, round_: int, rounds: int) -> float:
    """The part of the error probability that a round (from 0) may spend: nine tenths of what is left, the last all.

    Whatever round's test is used in the end, and however that choice was made, all parts sum to delta (Boole's
    inequality). Most runs need no second test.
    """
    left = delta * 0.1**round_
    return left if round_ == rounds - 1 else 0.9 * left


def worth(size: int, bound: int) -> bool:
    """Whether a prefix that passed is to be used: at least half of what the student says in it is sure to agree.

    Where many may disagree, a student that knows nothing may answer as many; that would be allowed, and of no use.
    Not to use a prefix is always safe: all its comments go to the model.

    Args:
        size: comments of the prefix.
        bound: how many of them may disagree.
    """
    return 2 * bound <= size


# -- one prefix: what can be certified of it? ------------------------------------------------------------------------


def certain_agreement(total: int, size: int, drawn: int, seen: int, delta: float) -> float:
    """The agreement of the whole output that holds with confidence 1 - delta, where the prefix was fixed beforehand.

    The sampled comments carry the model's label, so that the disagreements among them are not in the output.

    Args:
        total: comments that needed an answer; those outside the prefix carry the model's label.
        size: comments of the prefix.
        drawn: size of the uniform sample from the prefix.
        seen: disagreements in it.
        delta: error probability.
    """
    return 1 - (most_bad(size, drawn, seen, delta) - seen) / total if total else 1.0


# -- planning: what is likely to come of it? These are guesses, on which no guarantee rests. -------------------------


def smallest_population(target: float, delta: float, seed_size: Callable[[int], int]) -> int:
    """The smallest number of comments for which a cascade is worth beginning.

    That is, where a student that disagrees on half of what is allowed can answer half of the comments.

    Args:
        target: agreement to certify.
        delta: error probability.
        seed_size: comments labelled to train the first student, by the number of comments.
    """
    low, high = 1, 1
    while not _pays(high, target, delta, seed_size):
        low, high = high, high * 2
        if high > 10**9:
            return high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _pays(middle, target, delta, seed_size) else (middle + 1, high)
    return high


def _pays(total: int, target: float, delta: float, seed_size: Callable[[int], int]) -> bool:
    rest = total - seed_size(total)
    sample = total // 2 - seed_size(total)
    if sample < 1 or rest <= sample:
        return False
    seen = math.floor(sample * (1 - target) / 2)
    return seen <= most_seen(rest, sample, allowed(total, target), delta)


def likely_bound(bad: Reals, spread: float | Reals, delta: float) -> Reals:
    """About where the test puts its upper bound if the prefix holds so many bad ones and one in `spread` is sampled."""
    z = float(ndtri(1 - delta))
    found: Reals = bad + spread * z * z / 2 + z * np.sqrt(bad * spread + (spread * z) ** 2 / 4)
    return found
