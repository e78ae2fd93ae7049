"""What a prompt finds on labelled rows, and whether it is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from reviewmill.endpoints import Labeller
from reviewmill.errors import EndpointError, EndpointLostError
from reviewmill.evaluate.answers import answers
from reviewmill.pipeline import Pipeline
from reviewmill.scoring import reweigh
from reviewmill.tasks.task import MAX_KEYWORD_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reviewmill.batch.run import Progress
    from reviewmill.cache import AnswerCache
    from reviewmill.endpoints import Connection
    from reviewmill.evaluate.answers import Judged
    from reviewmill.evaluate.labelled import LabelledRow
    from reviewmill.settings import Settings
    from reviewmill.tasks import Task

# Errors of the comment or the model, which count as wrong; all others are the connection's, and stop the search.
_OF_THE_ROW: Final = frozenset({"answer_invalid", "answer_cut", "context_overflow", "endpoint_refused"})


@dataclass(frozen=True, slots=True)
class Found:
    """What one prompt found for one row.

    Attributes:
        label: the label as any run would give it; None where the model gave no usable answer.
        probabilities: as any run would give them (weighed, calibrated); empty without log-probabilities.
        logprobs: the model's own, uncalibrated and unweighed; empty likewise.
        keywords: as generated, where they were asked for.
        flags: what went wrong on the way.
        tokens_in: tokens of the whole prompt.
    """

    label: str | None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logprobs: Mapping[str, float] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    tokens_in: int = 0

    def share(self, label: str) -> float:
        """The probability of a label; 0 or 1 where there are no probabilities."""
        return self.probabilities.get(label, 0.0) if self.probabilities else float(self.label == label)

    def among(self, labels: Sequence[str]) -> str | None:
        """The most probable of these labels; where there are no probabilities, the label itself."""
        if not self.probabilities:
            return self.label
        return max(labels, key=lambda name: self.probabilities.get(name, 0.0))

    def weighed(self, weights: Mapping[str, float]) -> Found:
        """What would have been found with other weights of the labels."""
        if not self.logprobs:
            return self
        probabilities = reweigh(self.logprobs, weights)
        label = max(probabilities, key=probabilities.__getitem__)
        return Found(label, probabilities, self.logprobs, self.keywords, self.flags, self.tokens_in)


class Asker(Protocol):
    """Answers rows with a task's prompt."""

    async def ask(self, task: Task, rows: Sequence[LabelledRow]) -> list[Found]:
        """What the prompt finds, in the rows' order."""

    async def keywords(self, task: Task, rows: Sequence[LabelledRow]) -> list[tuple[str, ...]]:
        """The keywords that the prompt finds in the rows; empty where the task wants none."""


class EndpointAsker:
    """Asks a model, through the same pipeline and cache as any run.

    Args:
        settings: limits and thresholds; `keywords` says what the prompts under comparison ask for.
        present: the task that others are compared with: it is asked as it is in use, with the calibration that the
            settings choose. A calibration belongs to one prompt, so the others are asked without.
        connection: where answers come from.
        cache: keeps the answers, so that a stopped search continues; or None.
        on_progress: called after each answer.
    """

    def __init__(
        self,
        settings: Settings,
        present: Task,
        connection: Connection,
        cache: AnswerCache | None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._settings = settings
        self._present = present.hash
        self._connection = connection
        self._cache = cache
        self._on_progress = on_progress

    def pipeline(self, task: Task, *, keywords: bool | None = None) -> Pipeline:
        """The pipeline of one prompt."""
        wanted = self._settings.keywords if keywords is None else keywords
        labeller = Labeller(self._connection, task=task, keywords=wanted, wire=self._settings.wire)
        as_set = task.hash == self._present and wanted == self._settings.keywords
        settings = self._settings if as_set else self._settings.model_copy(update={"calibration": "none"})
        return Pipeline(settings, labeller, self._cache)

    async def ask(self, task: Task, rows: Sequence[LabelledRow]) -> list[Found]:
        """What the task's prompt finds.

        Raises:
            EndpointError: rows failed for reasons that are not theirs; the same command tries them again.
            EndpointLostError: the endpoint went away.
        """
        judgement = await answers(rows, self.pipeline(task), self._on_progress)
        _check_connection([judged for judged in judgement.rows if judged.analysis["status"] == "error"])
        return [_found(judged) for judged in judgement.rows]

    async def keywords(self, task: Task, rows: Sequence[LabelledRow]) -> list[tuple[str, ...]]:
        """The keywords that the task's prompt finds in the rows."""
        if not task.keywords:
            return [() for _ in rows]
        judgement = await answers(rows, self.pipeline(task, keywords=True), self._on_progress)
        return [judged.answer.keywords if judged.answer is not None else () for judged in judgement.rows]


def fit_keywords(task: Task, text: str, found: Sequence[str]) -> tuple[str, ...]:
    """Those that may stand in an example with this text: verbatim, short, each once."""
    fit = [
        w for w in dict.fromkeys(found) if w in text and len(w) <= MAX_KEYWORD_CHARS and not set(w) & set("|,，\r\n")
    ]
    return tuple(fit[: task.max_keywords])


def _found(judged: Judged) -> Found:
    analysis, answer = judged.analysis, judged.answer
    flags = tuple(analysis["flags"])
    if answer is None:
        return Found(None, flags=flags)
    probabilities = analysis["probabilities"]
    return Found(analysis.label, probabilities, answer.logprobs or {}, answer.keywords, flags, answer.tokens_in)


def _check_connection(failed: Sequence[Judged]) -> None:
    for judged in failed:
        error = judged.analysis["error"]
        if error is not None and error["type"] not in _OF_THE_ROW:
            kind = EndpointLostError if error["type"] == "endpoint_unreachable" else EndpointError
            raise kind(
                f"Row {judged.row.number:,} could not be asked: {error['message']}",
                hint="What was answered is kept; the same command continues.",
            )
