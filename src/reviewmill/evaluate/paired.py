"""Is one system better than another? Tests over the same rows, and over different ones. Pure.

Right and wrong answers to the same rows are compared pair by pair: what both get right or wrong says nothing about
which is better, and leaving it out makes the test much sharper than comparing two accuracies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESAMPLES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Paired:
    """Two systems over the same rows.

    Attributes:
        rows: how many rows.
        first, second: each one's share of right answers.
        only_first, only_second: rows that only that one gets right.
        difference: `second - first`.
        low, high: 95% bootstrap interval of the difference (percentiles).
        p_value: McNemar's exact test of "they are equally good", two-sided.
        p_second_better: the same, one-sided: small speaks for the second.
        p_first_better: small speaks for the first.
    """

    rows: int
    first: float
    second: float
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float
    p_second_better: float
    p_first_better: float


def compare_paired(
    first: Sequence[bool], second: Sequence[bool], *, seed: int = 0, resamples: int = RESAMPLES
) -> Paired:
    """Compare two systems over the same rows.

    McNemar's test (McNemar 1947, Psychometrika 12) in its exact form: among the rows on which exactly one is right,
    either should be so half of the time. The interval is from the bootstrap: drawing rows with replacement is the same
    as drawing the four counts (both, one, the other, none) from a multinomial, so all resamples are one draw.

    Args:
        first: for each row, whether the first system is right.
        second: the same of the second system, in the same order.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: no rows, or not equally many.
    """
    one, other = _flags(first), _flags(second)
    if one.size != other.size or not one.size:
        raise ValueError(f"paired rows must be as many and at least one; these are {one.size} and {other.size}")
    counts = np.array([np.sum(one & ~other), np.sum(other & ~one), np.sum(one == other)])
    drawn = np.random.default_rng(seed).multinomial(one.size, counts / one.size, size=resamples)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / one.size, [0.025, 0.975])
    only_first, only_second = int(counts[0]), int(counts[1])
    return Paired(
        rows=one.size,
        first=float(one.mean()),
        second=float(other.mean()),
        only_first=only_first,
        only_second=only_second,
        difference=(only_second - only_first) / one.size,
        low=float(low),
        high=float(high),
        p_value=_sign_test(only_second, only_first, "two-sided"),
        p_second_better=_sign_test(only_second, only_first, "greater"),
        p_first_better=_sign_test(only_first, only_second, "greater"),
    )


def _flags(values: Sequence[bool]) -> NDArray[np.bool_]:
    return np.asarray(values, dtype=bool)


def _sign_test(wins: int, losses: int, alternative: str) -> float:
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses, 0.5, alternative=alternative).pvalue)


def p_paired_drop(before: Sequence[bool], after: Sequence[bool], *, margin: float = 0.0) -> float:
    """P-value of "the accuracy over these kinds of rows fell by at most `margin`", over the same rows.

    A small value says that it fell by more. Without a margin this is McNemar's exact test, one-sided; with one it is
    Tango's score test for a difference of paired shares (Tango 1998, Statistics in Medicine 17, 891-908).

    Args:
        before: for each row, whether the earlier system is right.
        after: the same of the later system.
        margin: the drop that is still accepted (0 to 1).
    """
    old, new = _flags(before), _flags(after)
    if old.size != new.size or not old.size:
        raise ValueError(f"paired rows must be as many and at least one; these are {old.size} and {new.size}")
    lost, won = int(np.sum(old & ~new)), int(np.sum(new & ~old))
    if margin <= 0:
        return _sign_test(lost, won, "greater")
    if not lost:
        return 1.0
    rows = old.size
    # The share of "won" that is most likely where the true drop is the margin.
    a, b, c = 2 * rows, (2 * rows - lost + won) * margin - lost - won, -won * margin * (1 - margin)
    share = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    spread = math.sqrt(rows * (2 * share + margin * (1 - margin)))
    return float(stats.norm.sf((lost - won - rows * margin) / spread))


def p_unpaired_drop(
    right_before: int, rows_before: int, right_after: int, rows_after: int, *, margin: float = 0.0
) -> float:
    """P-value of "the accuracy fell by at most `margin`", where the rows are others.

    The score test of Farrington & Manning (1990, Statistics in Medicine 9, 1447-1454): the variance is that of the most
    likely shares that differ by exactly the margin. Without a margin it is the usual two-sample test.

    Args:
        right_before: right answers of the earlier system.
        rows_before: its rows.
        right_after: right answers of the later system.
        rows_after: its rows.
        margin: the drop that is still accepted (0 to 1).
    """
    if not rows_before or not rows_after:
        raise ValueError("both systems need rows")
    before, after = right_before / rows_before, right_after / rows_after
    old, new = _likely_shares(before, rows_before, after, rows_after, margin)
    variance = old * (1 - old) / rows_before + new * (1 - new) / rows_after
    drop = before - after - margin
    if variance <= 0:
        return 0.0 if drop > 0 else 1.0
    return float(stats.norm.sf(drop / math.sqrt(variance)))


def _likely_shares(
    before: float, rows_before: int, after: float, rows_after: int, margin: float
) -> tuple[float, float]:
    """The most likely shares with `old - new = margin`: the root of Farrington & Manning's cubic."""
    ratio = rows_after / rows_before
    a = 1 + ratio
    b = -(1 + ratio + before + ratio * after + margin * (ratio + 2))
    c = margin * margin + margin * (2 * before + ratio + 1) + before + ratio * after
    d = -before * margin * (1 + margin)
    v = b**3 / (27 * a**3) - b * c / (6 * a * a) + d / (2 * a)
    u = math.copysign(math.sqrt(max(0.0, b * b / (9 * a * a) - c / (3 * a))), v)
    w = (math.pi + math.acos(min(1.0, max(-1.0, v / u**3)) if u else 0.0)) / 3
    old = min(1.0, max(margin, 2 * u * math.cos(w) - b / (3 * a)))
    return old, max(0.0, old - margin)
