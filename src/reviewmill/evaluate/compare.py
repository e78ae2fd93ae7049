"""Several systems over the same rows: which is better, by how much, and beyond chance?"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field
from scipy import stats
from sklearn import metrics as sk

from reviewmill._version import __version__
from reviewmill.errors import InputError
from reviewmill.evaluate.measures import Estimate, Measured, Measures
from reviewmill.evaluate.paired import compare_paired
from reviewmill.evaluate.report import Data, Effort, Report, RowRecord, System

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMPARISON_VERSION: Final = 1
MOST_SYSTEMS: Final = 8
"""As many as there are colors that can be told apart."""


class Compared(Measured):
    """One system: what it is, how it did, what it took. The fields are those of `Report`."""

    name: str
    system: System
    unanswered: dict[str, int]
    outside: dict[str, int]
    accuracy_of_all: Estimate
    measures: Measures
    restricted: Measures | None
    effort: Effort


class Pair(Measured):
    """Two systems over the same rows; a comment without an answer counts as wrong.

    Attributes:
        first, second: names.
        rows: how many.
        only_first, only_second: rows that only that one got right.
        difference: accuracy of the second minus that of the first, with its 95% bootstrap interval.
        p_value: McNemar's exact test, two-sided.
        adjusted: the same, adjusted for the number of pairs (Benjamini & Hochberg).
        agreement: share of rows that got the same label from both.
        kappa: Cohen's kappa of the two; None where both always say the same one label.
        scored: `all labels`, or `labels that occur` where the file lacks some and both systems have probabilities.
    """

    first: str
    second: str
    rows: int
    only_first: int
    only_second: int
    difference: Estimate
    p_value: float
    adjusted: float
    agreement: float
    kappa: float | None
    scored: Literal["all labels", "labels that occur"]


class ComparedRow(Measured):
    """One comment, its right label, and what each system said, in the systems' order."""

    number: int
    id: str | int | None
    text: str
    gold: str
    labels: list[str | None]
    confidences: list[float | None]
    tags: list[str]


class Comparison(Measured):
    """Several systems over the same rows."""

    schema_version: Literal[1] = COMPARISON_VERSION
    kind: Literal["comparison"] = "comparison"
    reviewmill: str
    created: datetime
    data: Data
    labels: list[str]
    warnings: list[str]
    systems: list[Compared]
    pairs: list[Pair]
    rows: list[ComparedRow] = Field(repr=False)

    @property
    def all_restricted(self) -> bool:
        """Whether every system can be scored among the labels that occur."""
        return all(one.restricted is not None for one in self.systems)

    def shown(self, system: Compared) -> Measures:
        """The measures by which confidences are compared: restricted ones only where every system has them."""
        return system.restricted if self.all_restricted and system.restricted else system.measures

    @property
    def differing(self) -> list[ComparedRow]:
        """The rows on which not all systems say the same."""
        return [row for row in self.rows if len(set(row.labels)) > 1]


def compare(reports: Mapping[str, Report]) -> Comparison:
    """Put evaluations over the same rows side by side.

    Args:
        reports: name to evaluation, in the order in which they are to be shown; at least two.

    Raises:
        InputError: there are too few or too many, or their rows are not the same.
    """
    if not 2 <= len(reports) <= MOST_SYSTEMS:
        raise InputError(
            f"There are {len(reports)} systems to compare; it takes 2 to {MOST_SYSTEMS}.",
            hint="Name more with --model, --endpoint, --task, --wire or --baseline plain.",
        )
    first = next(iter(reports.values()))
    for name, report in reports.items():
        same = [row.number for row in report.rows] == [row.number for row in first.rows]
        if report.data.sha256 != first.data.sha256 or not same:
            raise InputError(f"{name} was measured on other rows ({report.data.file}).", hint="Compare on one file.")
    return Comparison(
        reviewmill=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        data=first.data,
        labels=first.labels,
        warnings=list(dict.fromkeys(warning for report in reports.values() for warning in report.warnings)),
        systems=[_compared(name, report) for name, report in reports.items()],
        pairs=_pairs(reports),
        rows=[_row(rows) for rows in zip(*(report.rows for report in reports.values()), strict=True)],
    )


def _compared(name: str, report: Report) -> Compared:
    return Compared(
        name=name,
        system=report.system,
        unanswered=report.unanswered,
        outside=report.outside,
        accuracy_of_all=report.accuracy_of_all,
        measures=report.measures,
        restricted=report.restricted,
        effort=report.effort,
    )


def _row(rows: Sequence[RowRecord]) -> ComparedRow:
    one = rows[0]
    return ComparedRow(
        number=one.number,
        id=one.id,
        text=one.text,
        gold=one.gold,
        labels=[row.label for row in rows],
        confidences=[row.confidence for row in rows],
        tags=one.tags,
    )


def _pairs(reports: Mapping[str, Report]) -> list[Pair]:
    pairs = [_pair(*one, *other) for one, other in combinations(reports.items(), 2)]
    adjusted = stats.false_discovery_control([pair.p_value for pair in pairs])
    return [pair.model_copy(update={"adjusted": float(p)}) for pair, p in zip(pairs, adjusted, strict=True)]


def _pair(first: str, one: Report, second: str, other: Report) -> Pair:
    restricted = one.restricted is not None and other.restricted is not None
    present = [name for name in one.labels if one.data.labels.get(name)] if restricted else []
    said = [[_chosen(row, present) for row in report.rows] for report in (one, other)]
    right = [[label == row.gold for label, row in zip(labels, one.rows, strict=True)] for labels in said]
    found = compare_paired(*right)
    names = [[label or "" for label in labels] for labels in said]
    several = len({*names[0], *names[1]}) > 1
    return Pair(
        first=first,
        second=second,
        rows=found.rows,
        only_first=found.only_first,
        only_second=found.only_second,
        difference=Estimate(value=found.difference, low=found.low, high=found.high),
        p_value=found.p_value,
        adjusted=found.p_value,
        agreement=sum(a == b for a, b in zip(*said, strict=True)) / found.rows,
        kappa=float(sk.cohen_kappa_score(*names)) if several else None,
        scored="labels that occur" if restricted else "all labels",
    )


def _chosen(row: RowRecord, present: Sequence[str]) -> str | None:
    """The label, or the most probable one among those that occur."""
    if not present or not row.probabilities:
        return row.label
    return max(present, key=lambda name: row.probabilities.get(name, 0.0))
