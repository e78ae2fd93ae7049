"""Asking the challenge suite, and counting by phenomenon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reviewmill._version import __version__
from reviewmill.errors import InputError
from reviewmill.evaluate.answers import answers, describe
from reviewmill.evaluate.challenge.suite import INSUFFICIENT, SENTIMENTS, Case, Phenomenon
from reviewmill.evaluate.labelled import LabelledRow
from reviewmill.evaluate.metrics import wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from reviewmill.batch.run import Progress
    from reviewmill.pipeline import Pipeline
    from reviewmill.schema import Analysis
    from reviewmill.tasks import Task

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case with what was found.

    Attributes:
        case: the case.
        phenomenon: the phenomenon's name.
        found: the label in the suite's words; `insufficient`; or None where the row failed.
        analysis: the whole result.
    """

    case: Case
    phenomenon: str
    found: str | None
    analysis: Analysis

    @property
    def right(self) -> bool:
        """Whether the right answer was found; a failed row is not right."""
        return self.found == self.case.label


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a group were right, with the 95% Wilson interval."""

    name: str
    right: int
    rows: int

    @property
    def rate(self) -> float:
        """The share of right answers."""
        return self.right / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval, 95%."""
        found = wilson(self.right, self.rows)
        return found.low, found.high

    def as_json(self) -> dict[str, Any]:
        """As it is written into reports."""
        low, high = self.interval
        interval = [round(low, 4), round(high, 4)]
        return {"name": self.name, "right": self.right, "rows": self.rows, "rate": self.rate, "interval": interval}


@dataclass(frozen=True, slots=True)
class Result:
    """The suite asked once.

    Attributes:
        subject: what was asked (`evaluate.answers.describe`).
        outcomes: every case.
        phenomena: in the suite's order.
    """

    subject: dict[str, Any]
    outcomes: list[Outcome]
    phenomena: Sequence[Phenomenon]

    @property
    def overall(self) -> Share:
        """All cases."""
        return _share("all", self.outcomes)

    def by_phenomenon(self) -> list[Share]:
        """Each phenomenon's cases."""
        return [_share(p.name, [o for o in self.outcomes if o.phenomenon == p.name]) for p in self.phenomena]

    def by_language(self) -> list[Share]:
        """Chinese, English, and the others together."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault(_language_group(outcome.case.lang), []).append(outcome)
        return [_share(name, group) for name, group in groups.items()]

    def by_label(self) -> list[Share]:
        """The cases with each right answer: how many of them were found."""
        return [
            _share(label, group)
            for label in (*SENTIMENTS, INSUFFICIENT)
            if (group := [o for o in self.outcomes if o.case.label == label])
        ]

    def pairs(self) -> Share:
        """Pairs of which both were right: who sees the one word gets both."""
        by_id = {outcome.case.id: outcome for outcome in self.outcomes}
        both = [(o, by_id[o.case.pair]) for o in self.outcomes if o.case.pair and o.case.id < o.case.pair]
        return Share("pairs", sum(one.right and other.right for one, other in both), len(both))

    @property
    def missed(self) -> list[Outcome]:
        """The cases that were not right, in the suite's order."""
        return [outcome for outcome in self.outcomes if not outcome.right]

    def as_json(self) -> dict[str, Any]:
        """The report as it is written."""
        return {
            "reviewmill": __version__,
            "kind": "challenge",
            "format": FORMAT,
            "subject": self.subject,
            "overall": self.overall.as_json(),
            "by_phenomenon": [share.as_json() for share in self.by_phenomenon()],
            "by_language": [share.as_json() for share in self.by_language()],
            "by_label": [share.as_json() for share in self.by_label()],
            "pairs": pairs.as_json() if (pairs := self.pairs()).rows else None,
            "cases": [_case_json(outcome) for outcome in self.outcomes],
        }


def translation(task: Task, mapping: Mapping[str, str] | None = None) -> dict[str, str]:
    """What each of a task's labels is in the suite's words.

    Args:
        task: the task.
        mapping: the task's label to `positive`, `neutral` or `negative`; for labels of other names.

    Raises:
        InputError: a label is none of the three and not translated, or the mapping names what does not exist.
    """
    given = dict(mapping or {})
    strange = [name for name in given if name not in task.label_names] + [
        wanted for wanted in given.values() if wanted not in SENTIMENTS
    ]
    if strange:
        raise InputError(
            f"--map names {', '.join(map(repr, strange))}, which is no label of the task {task.name!r} "
            f"({', '.join(task.label_names)}) or of the suite ({', '.join(SENTIMENTS)}).",
            hint="Write it like --map 好评=positive,中评=neutral,差评=negative .",
        )
    found = {name: given.get(name, name) for name in task.label_names}
    unknown = [name for name, wanted in found.items() if wanted not in SENTIMENTS]
    if unknown:
        raise InputError(
            f"The challenge suite asks for sentiment ({', '.join(SENTIMENTS)}), and the task {task.name!r} has the "
            f"label {', '.join(map(repr, unknown))}.",
            hint=f"Say what it means: --map {unknown[0]}=positive .",
        )
    return found


async def ask_suite(
    pipeline: Pipeline,
    phenomena: Sequence[Phenomenon],
    *,
    mapping: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Ask every case once; what is in the cache is not asked again.

    Args:
        pipeline: prepares, asks, assembles.
        phenomena: what to ask; `load_suite()` or some of it.
        mapping: see `translation`.
        on_progress: called after each answer; must be quick.

    Raises:
        InputError: the task's labels are not the suite's.
        ReviewmillError: the endpoint cannot be opened or went away.
    """
    words = translation(pipeline.labeller.task, mapping)
    cases = [(phenomenon.name, case) for phenomenon in phenomena for case in phenomenon.cases]
    rows = [LabelledRow(number, case.id, case.text, case.label) for number, (_, case) in enumerate(cases, 1)]
    judgement = await answers(rows, pipeline, on_progress)
    outcomes = [
        Outcome(case, name, _found(judged.analysis, words), judged.analysis)
        for (name, case), judged in zip(cases, judgement.rows, strict=True)
    ]
    return Result(describe(pipeline), outcomes, phenomena)


def _found(analysis: Analysis, words: Mapping[str, str]) -> str | None:
    if analysis["status"] == "insufficient":
        return INSUFFICIENT
    label = analysis.label
    return words[label] if label is not None else None


def _share(name: str, outcomes: Iterable[Outcome]) -> Share:
    right = [outcome.right for outcome in outcomes]
    return Share(name, sum(right), len(right))


def _language_group(lang: str) -> str:
    if lang in {"yue", "wuu"} or lang.startswith("zh"):
        return "Chinese"
    return "English" if lang.startswith("en") else "others"


def _case_json(outcome: Outcome) -> dict[str, Any]:
    analysis = outcome.analysis
    return {
        "id": outcome.case.id,
        "phenomenon": outcome.phenomenon,
        "text": outcome.case.text,
        "label": outcome.case.label,
        "found": outcome.found,
        "right": outcome.right,
        "confidence": analysis["confidence"],
        "probabilities": analysis["probabilities"],
        "flags": analysis["flags"],
        "why": outcome.case.why,
        "error": analysis["error"],
    }
