"""The verdict over the third part, and what it shows of where the new prompt gains and loses. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from scipy.stats import false_discovery_control
from sklearn.metrics import f1_score

from reviewmill.evaluate.paired import Paired, compare_paired
from reviewmill.evaluate.slices import column_facets
from reviewmill.evaluate.tags import length_of, tags_of
from reviewmill.text import detect_language

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reviewmill.evaluate.improve.ask import Found
    from reviewmill.evaluate.labelled import LabelledRow

LEVEL: Final = 0.05
"""A prompt is taken if one no better would do as well by chance in at most so many cases."""

_LEAST_SLICE: Final = 10
"""Rows of a slice that is shown."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The third part's answer.

    Attributes:
        paired: the present prompt (first) against the new one (second).
        f1_present, f1_new: macro-F1 over the labels that occur.
        slices: kinds of rows, with what each prompt gets right there.
        changed: the rows whose label changed.
        tokens_present, tokens_new: mean tokens of the whole prompt; 0 where the endpoint does not count.
    """

    paired: Paired
    f1_present: float
    f1_new: float
    slices: list[Slice]
    changed: list[dict[str, Any]]
    tokens_present: float
    tokens_new: float

    @property
    def accepted(self) -> bool:
        """Whether the new prompt is better: McNemar's exact test, one-sided."""
        return self.paired.p_second_better <= LEVEL

    def as_json(self) -> dict[str, Any]:
        """As it is written into the report."""
        return {
            "accepted": self.accepted,
            "level": LEVEL,
            "test": "McNemar, exact, one-sided",
            **asdict(self.paired),
            "macro_f1": {"present": self.f1_present, "new": self.f1_new},
            "prompt_tokens": {"present": round(self.tokens_present, 1), "new": round(self.tokens_new, 1)},
            "slices": [asdict(each) for each in self.slices],
            "changed": self.changed,
        }


@dataclass(frozen=True, slots=True)
class Slice:
    """One kind of rows.

    Attributes:
        by, value: what kind (`label`, `language`, `length`, `sign`, a column of the file), and which.
        rows: how many.
        present, new: rows that each prompt gets right.
        won, lost: rows that only the new, only the present prompt gets right.
        p_worse: the chance of such a loss, or a greater one, if the two are equally good here, adjusted for how many
            slices were looked at (Benjamini & Hochberg 1995).
    """

    by: str
    value: str
    rows: int
    present: int
    new: int
    won: int
    lost: int
    p_worse: float


def judge(
    rows: Sequence[LabelledRow],
    texts: Sequence[str],
    present: Sequence[Found],
    new: Sequence[Found],
    among: Sequence[str],
) -> Verdict:
    """Compare two prompts over the same rows.

    Args:
        rows: the third part.
        texts: the rows' cleaned texts.
        present: what the present prompt found, in the rows' order.
        new: what the new prompt found.
        among: the labels that occur; an answer is the most probable of them.
    """
    gold = [row.label for row in rows]
    old = [found.among(among) or "" for found in present]
    now = [found.among(among) or "" for found in new]
    was_right = [a == b for a, b in zip(old, gold, strict=True)]
    is_right = [a == b for a, b in zip(now, gold, strict=True)]
    changed = [
        {"row": row.number, "id": row.id, "text": row.text, "label": row.label, "present": before, "new": after}
        for row, before, after in zip(rows, old, now, strict=True)
        if before != after
    ]
    return Verdict(
        paired=compare_paired(was_right, is_right),
        f1_present=float(f1_score(gold, old, labels=list(among), average="macro", zero_division=0)),
        f1_new=float(f1_score(gold, now, labels=list(among), average="macro", zero_division=0)),
        slices=_slices(rows, texts, was_right, is_right),
        changed=changed,
        tokens_present=_mean_tokens(present),
        tokens_new=_mean_tokens(new),
    )


def _mean_tokens(found: Sequence[Found]) -> float:
    return sum(each.tokens_in for each in found) / max(1, len(found))


def _slices(
    rows: Sequence[LabelledRow], texts: Sequence[str], was_right: Sequence[bool], is_right: Sequence[bool]
) -> list[Slice]:
    columns = column_facets([row.metadata for row in rows], least=_LEAST_SLICE)
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        for kind in dict.fromkeys(_kinds(row, text, columns[number])):
            members[kind].append(number)
    shown = {kind: held for kind, held in members.items() if len(held) >= _LEAST_SLICE}
    if not shown:
        return []
    pairs = [
        compare_paired([was_right[n] for n in held], [is_right[n] for n in held], resamples=1)
        for held in shown.values()
    ]
    adjusted = false_discovery_control([pair.p_first_better for pair in pairs])
    slices = [
        Slice(
            by,
            value,
            len(held),
            sum(was_right[n] for n in held),
            sum(is_right[n] for n in held),
            pair.only_second,
            pair.only_first,
            round(float(p_value), 4),
        )
        for ((by, value), held), pair, p_value in zip(shown.items(), pairs, adjusted, strict=True)
    ]
    return sorted(slices, key=lambda each: (each.by, -each.rows))


def _kinds(row: LabelledRow, text: str, columns: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    yield "label", row.label
    yield "language", detect_language(text) or "unknown"
    yield "length", length_of(text)
    for sign in tags_of(text):
        yield "sign", sign
    for column, values in columns.items():
        for value in values:
            yield column, value
