"""The regression gate: did the accuracy fall by more than is accepted, beyond what chance explains?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from reviewmill.errors import InputError
from reviewmill.evaluate.measures import Measured
from reviewmill.evaluate.paired import compare_paired, p_paired_drop, p_unpaired_drop
from reviewmill.text import clean

if TYPE_CHECKING:
    from reviewmill.evaluate.report import Report

ALPHA: Final = 0.05
SAME_ROWS: Final = 0.8
"""Pairs are compared where they are at least this share of the rows of both evaluations; else all rows of each."""


class Gate(Measured):
    """The comparison with an earlier evaluation. Comments without an answer count as wrong on both sides.

    Attributes:
        test: `paired` over the rows that both have, or `two-sample` over all rows of each.
        rows: how many rows (the later evaluation's, where they are others).
        before, after: accuracy.
        drop: `before - after`.
        max_drop: the drop that is accepted.
        p_value: of "the true drop is at most `max_drop`".
        only_before, only_after: rows that only that one got right; None where the rows are others.
        verdict: `worse` if the drop is more than accepted beyond chance (p at most 0.05); `unclear` if it is more than
            accepted here and chance may explain it; else `passed`.
    """

    test: Literal["paired", "two-sample"]
    rows: int
    before: float
    after: float
    drop: float
    max_drop: float
    p_value: float
    only_before: int | None
    only_after: int | None
    verdict: Literal["passed", "unclear", "worse"]

    def in_words(self) -> str:
        """One line for the log of a pipeline."""
        moved = f"{abs(self.drop) * 100:.1f} points {'lower' if self.drop > 0 else 'higher'}"
        same = "same rows" if self.test == "paired" else "other rows, two-sample test"
        line = (
            f"accuracy {self.after:.1%} against {self.before:.1%} before: {moved if self.drop else 'unchanged'} "
            f"({self.rows:,} rows, {same}; p = {self.p_value:.3f} for a drop of at most {self.max_drop * 100:g} points)"
        )
        ends = {
            "passed": "Not worse",
            "unclear": "Lower by more than accepted, but chance may explain it; more rows would tell",
            "worse": "Significantly worse",
        }
        return f"{ends[self.verdict]}: {line}."


def check_against(after: Report, before: Report, *, max_drop: float) -> Gate:
    """Compare an evaluation with an earlier one.

    Rows are the same where their cleaned texts are. The right labels are the later evaluation's, so that a corrected
    file does not count against anybody.

    Args:
        after: the new evaluation.
        before: the earlier one.
        max_drop: the accepted drop in accuracy (0 to 1).

    Raises:
        InputError: the two are about different labels.
    """
    if set(after.labels) != set(before.labels):
        raise InputError(
            f"The earlier report is about other labels ({', '.join(before.labels)}) than this evaluation "
            f"({', '.join(after.labels)}).",
            hint="Compare reports of the same task, or write a new one to compare with.",
        )
    earlier = {clean(row.text).text: row.label for row in before.rows}
    now = {clean(row.text).text: row for row in after.rows}
    common = [text for text in now if text in earlier]
    if len(common) >= SAME_ROWS * max(len(earlier), len(now)):
        old = [earlier[text] == now[text].gold for text in common]
        new = [now[text].right for text in common]
        pair = compare_paired(old, new, resamples=1)
        p_value = p_paired_drop(old, new, margin=max_drop)
        return _gate(
            "paired", len(common), pair.first, pair.second, max_drop, p_value, (pair.only_first, pair.only_second)
        )
    old_right, new_right = sum(row.right for row in before.rows), sum(row.right for row in after.rows)
    p_value = p_unpaired_drop(old_right, len(before.rows), new_right, len(after.rows), margin=max_drop)
    shares = old_right / len(before.rows), new_right / len(after.rows)
    return _gate("two-sample", len(after.rows), *shares, max_drop, p_value, (None, None))


def _gate(
    test: Literal["paired", "two-sample"],
    rows: int,
    before: float,
    after: float,
    max_drop: float,
    p_value: float,
    only: tuple[int | None, int | None],
) -> Gate:
    drop = before - after
    verdict: Literal["passed", "unclear", "worse"] = "passed"
    if drop > max_drop:
        verdict = "worse" if p_value <= ALPHA else "unclear"
    return Gate(
        test=test,
        rows=rows,
        before=before,
        after=after,
        drop=drop,
        max_drop=max_drop,
        p_value=p_value,
        only_before=only[0],
        only_after=only[1],
        verdict=verdict,
    )
