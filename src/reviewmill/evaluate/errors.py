"""Error sets: comments that got a wrong label, what may be the cause, and those whose right label may be wrong.

From a report of `evaluate`, or from corrections that people made in the service. Causes are signs in the text (see
`tags`): for each, how much more often a comment with it is judged wrongly than one without it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

from reviewmill.counted import counted
from reviewmill.errors import InputError
from reviewmill.evaluate.measures import Measured
from reviewmill.evaluate.tags import length_of, tags_of
from reviewmill.text import clean, detect_language

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from reviewmill.evaluate.report import Report, RowRecord

SUSPICIOUS: Final = 0.95
"""From this confidence on, an answer that is not the right label puts the right label under suspicion."""

NO_CAUSE: Final = "none of the signs"

How = Literal["confident", "cleanlab"]


class ErrorRow(Measured):
    """One wrongly judged comment.

    Attributes:
        source: `evaluation` or `correction`.
        text: the comment.
        label: what the model said.
        gold: the right label; of a correction, the person's.
        confidence: of the label; None where there was none.
        probabilities: of each label; empty where there were none, or where only the correction is known.
        keywords: what the model gave; empty for corrections.
        tags: signs of difficulty.
        language, length, flags: as in a report.
        cause: of the signs with which errors are more frequent, the one with which they are most beyond chance; or
            `none of the signs`.
        suspect: whether the right label may be what is wrong.
        why_suspect: the reason, in words; None if it is none.
        number, id: the row in the labelled file; None for corrections, whose id is the correction's.
        note, author: of a correction.
    """

    source: Literal["evaluation", "correction"]
    text: str
    label: str
    gold: str
    confidence: float | None
    probabilities: dict[str, float]
    keywords: list[str]
    tags: list[str]
    language: str | None
    length: str
    flags: list[str]
    cause: str
    suspect: bool
    why_suspect: str | None
    number: int | None = None
    id: str | int | None = None
    note: str | None = None
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Errors with one sign or of one kind.

    Attributes:
        name: the sign, or `positive → neutral`.
        errors: how many errors have it.
        rows: how many comments have it, right ones included; None where those are not known (corrections).
        rate: errors / rows; None likewise.
        ratio: that rate over the rate of all other comments; None likewise, or where the others have no error.
        p_value: of "comments with it are judged wrongly no more often", Fisher's exact test, one-sided; None likewise.
        confidence: mean confidence of these errors; None without confidences.
    """

    name: str
    errors: int
    rows: int | None = None
    rate: float | None = None
    ratio: float | None = None
    p_value: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class ErrorSet:
    """All errors, most confident first, and what they have in common.

    Attributes:
        errors: without the suspects.
        suspects: those whose right label may be wrong.
        judged: comments that were judged; None for corrections.
        by_cause: groups by sign, the largest first; an error is in the group of each of its signs.
        by_kind: groups by right and given label.
        warnings: what a reader has to know.
    """

    errors: list[ErrorRow]
    suspects: list[ErrorRow]
    judged: int | None
    by_cause: list[Group]
    by_kind: list[Group]
    warnings: list[str] = field(default_factory=list)


# -- from a report --------------------------------------------------------------------------------------------------


def errors_of(report: Report, *, how: How = "confident", suspicious: float = SUSPICIOUS) -> ErrorSet:
    """The error set of an evaluation.

    Args:
        report: the evaluation.
        how: what puts a right label under suspicion: `confident` (the model is at least as sure as `suspicious` of
            another one), or `cleanlab` (confident learning, Northcutt et al. 2021, arXiv 1911.00068; the extra
            `cleanlab`).
        suspicious: see `how`.

    Raises:
        InputError: cleanlab is asked for and not installed, or there are no probabilities to learn from.
    """
    judged = [row for row in report.rows if row.status == "ok"]
    wrong = [row for row in judged if not row.right]
    by_cause = _groups([(row.tags, row.right, row.confidence) for row in judged])
    frequent = [group for group in by_cause if group.ratio is None or group.ratio > 1]
    order = [group.name for group in sorted(frequent, key=lambda group: (group.p_value or 0.0, -group.errors))]
    suspects = _suspects(report, judged, how, suspicious)
    rows = [_error_row(row, _cause(row.tags, order), suspects.get(row.number)) for row in wrong]
    rows.sort(key=lambda row: -(row.confidence or 0.0))
    warnings = []
    if not any(row.confidence is not None for row in wrong) and wrong:
        warnings.append("The answers have no probabilities: errors are in the file's order, and nothing is suspected.")
    return ErrorSet(
        errors=[row for row in rows if not row.suspect],
        suspects=[row for row in rows if row.suspect],
        judged=len(judged),
        by_cause=by_cause,
        by_kind=_kinds(rows),
        warnings=warnings,
    )


def _error_row(row: RowRecord, cause: str, why: str | None) -> ErrorRow:
    return ErrorRow(
        source="evaluation",
        text=row.text,
        label=row.label or "",
        gold=row.gold,
        confidence=row.confidence,
        probabilities=row.probabilities,
        keywords=row.keywords,
        tags=row.tags,
        language=row.language,
        length=row.length,
        flags=row.flags,
        cause=cause,
        suspect=why is not None,
        why_suspect=why,
        number=row.number,
        id=row.id,
    )


def _suspects(report: Report, judged: Sequence[RowRecord], how: How, suspicious: float) -> dict[int, str]:
    """Row number to the reason why its right label may be wrong."""
    if how == "cleanlab":
        return _by_cleanlab(report, judged)
    present = {name for name, count in report.data.labels.items() if count}
    return {
        row.number: f"the model is {row.confidence:.0%} sure of {row.label}"
        for row in judged
        # An answer that the file has no label for says nothing about the file's label.
        if not row.right and row.label in present and row.confidence is not None and row.confidence >= suspicious
    }


def _by_cleanlab(report: Report, judged: Sequence[RowRecord]) -> dict[int, str]:
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise InputError(
            "cleanlab is not installed.", hint='Install it with: pip install "reviewmill[cleanlab]"'
        ) from None
    present = [name for name in report.labels if report.data.labels.get(name)]
    rows = [row for row in judged if row.probabilities]
    if len(present) < 2 or not rows:
        raise InputError(
            "Confident learning needs probabilities and at least two labels that occur.",
            hint="Use --suspects confident, or an endpoint that gives log-probabilities.",
        )
    table = np.array([[row.probabilities[name] for name in present] for row in rows]).clip(1e-6)
    table /= table.sum(axis=1, keepdims=True)
    gold = np.array([present.index(row.gold) for row in rows])
    found = find_label_issues(gold, table, filter_by="confident_learning", n_jobs=1)
    return {row.number: "confident learning (cleanlab)" for row, odd in zip(rows, found, strict=True) if odd}


# -- from corrections -----------------------------------------------------------------------------------------------


class ExportedCorrection(BaseModel):
    """One correction as the service gives it (`GET /v1/corrections`), or a JSONL export of such."""

    model_config = ConfigDict(extra="ignore")

    text: str
    task: str
    label: str
    model_label: str | None = None
    confidence: float | None = None
    note: str | None = None
    author: str | None = None
    id: str | None = None
    external_id: str | None = None
    updated_at: str = ""


def corrections_in(path: Path, *, task: str | None = None) -> list[ExportedCorrection]:
    """Read a JSONL file of corrections.

    Args:
        path: the file.
        task: those of one task; None: all.

    Raises:
        InputError: it cannot be read, or a line is no correction.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", hint="Is it a JSONL file in UTF-8?") from None
    return corrections_from(
        ((f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()), task=task
    )


def corrections_from(
    items: Iterable[tuple[str, str | dict[str, Any]]], *, task: str | None = None
) -> list[ExportedCorrection]:
    """Corrections from (where, JSON or mapping) pairs.

    Raises:
        InputError: one is no correction; the message says where.
    """
    found = []
    for where, item in items:
        try:
            one = ExportedCorrection.model_validate(json.loads(item) if isinstance(item, str) else item)
        except (ValueError, ValidationError) as error:
            first = error.errors(include_input=False)[0] if isinstance(error, ValidationError) else None
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else "it is not JSON"
            raise InputError(
                f"{where} is no correction: {said}.",
                hint="Each needs text, task and label, as `GET /v1/corrections` gives them.",
            ) from None
        if task is None or one.task == task:
            found.append(one)
    return found


def errors_from_corrections(corrections: Sequence[ExportedCorrection]) -> ErrorSet:
    """The error set of corrections: those whose label differs from the model's; the latest about a text counts.

    What people confirmed is no error, and what the model had said is not always known: both are counted in warnings.
    """
    latest: dict[tuple[str, str], ExportedCorrection] = {}
    for one in sorted(corrections, key=lambda each: each.updated_at, reverse=True):
        latest.setdefault((one.task, clean(one.text).text), one)
    unknown = sum(one.model_label is None for one in latest.values())
    confirmed = sum(one.model_label == one.label for one in latest.values())
    wrong = [one for one in latest.values() if one.model_label not in {None, one.label}]
    tags = {id(one): tags_of(clean(one.text).text) for one in wrong}
    by_cause = _groups([(tags[id(one)], False, one.confidence) for one in wrong], whole=False)
    order = [group.name for group in by_cause]
    rows = [_correction_row(one, tags[id(one)], _cause(tags[id(one)], order)) for one in wrong]
    rows.sort(key=lambda row: -(row.confidence or 0.0))
    warnings = []
    if repeated := len(corrections) - len(latest):
        warnings.append(
            f"{counted(repeated, 'correction was', 'corrections were')} left out: a later one is about the same text."
        )
    if unknown:
        warnings.append(f"Left out: {counted(unknown, 'correction')} without what the model had said.")
    if confirmed:
        what = counted(confirmed, "correction confirms", "corrections confirm")
        warnings.append(f"{what} the model's label: no error.")
    return ErrorSet(rows, [], None, by_cause, _kinds(rows), warnings)


def _correction_row(one: ExportedCorrection, tags: list[str], cause: str) -> ErrorRow:
    text = clean(one.text)
    return ErrorRow(
        source="correction",
        text=one.text,
        label=one.model_label or "",
        gold=one.label,
        confidence=one.confidence,
        probabilities={},
        keywords=[],
        tags=tags,
        language=detect_language(text.text),
        length=length_of(text.text),
        flags=list(text.flags),
        cause=cause,
        suspect=False,
        why_suspect=None,
        id=one.external_id or one.id,
        note=one.note,
        author=one.author,
    )


# -- groups ---------------------------------------------------------------------------------------------------------


def _cause(tags: Sequence[str], order: Sequence[str]) -> str:
    """The sign of the row whose errors are most beyond chance."""
    return next((name for name in order if name in tags), NO_CAUSE)


def _groups(rows: Sequence[tuple[Sequence[str], bool, float | None]], *, whole: bool = True) -> list[Group]:
    """Errors by sign, the largest group first.

    Args:
        rows: of each comment its signs, whether it is right, and its confidence.
        whole: whether the right ones are among them, so that rates are known.
    """
    total, wrong = len(rows), sum(not right for _, right, _ in rows)
    with_sign: Counter[str] = Counter(tag for tags, _, _ in rows for tag in tags)
    errors: Counter[str] = Counter(tag for tags, right, _ in rows if not right for tag in tags)
    groups = []
    for name, count in errors.items():
        sure = [sureness for tags, right, sureness in rows if not right and name in tags and sureness is not None]
        mean = float(np.mean(sure)) if sure else None
        if not whole:
            groups.append(Group(name, count, confidence=mean))
            continue
        members = with_sign[name]
        others, other_errors = total - members, wrong - count
        table = [[count, members - count], [other_errors, others - other_errors]]
        ratio = (count / members) / (other_errors / others) if other_errors else None
        p_value = float(stats.fisher_exact(table, alternative="greater").pvalue)
        groups.append(Group(name, count, members, count / members, ratio, p_value, mean))
    return sorted(groups, key=lambda group: -group.errors)


def _kinds(rows: Sequence[ErrorRow]) -> list[Group]:
    counts = Counter(f"{row.gold} → {row.label}" for row in rows)
    groups = []
    for name, count in counts.most_common():
        sure = [r.confidence for r in rows if f"{r.gold} → {r.label}" == name and r.confidence is not None]
        groups.append(Group(name, count, confidence=float(np.mean(sure)) if sure else None))
    return groups
