"""Calibrating on files: read, ask the model (or the cache), fit."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from reviewmill.counted import counted
from reviewmill.errors import EndpointError, InputError
from reviewmill.evaluate.answers import Judgement, answers
from reviewmill.evaluate.calibrating import Outcome, Subject, fit_labelled, fit_unlabelled
from reviewmill.evaluate.labelled import LabelledRow
from reviewmill.pipeline import bound_of
from reviewmill.schema import Comment
from reviewmill.scoring.calibration import FittedOn, Prior
from reviewmill.scoring.fitting import Absent, Scored
from reviewmill.scoring.shelf import builtin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reviewmill.batch.read import Source
    from reviewmill.batch.run import Progress
    from reviewmill.evaluate.labelled import Labelled
    from reviewmill.pipeline import Pipeline

    OnProgress = Callable[[Progress], None]

MOST_UNLABELLED: Final = 1000
"""So many comments without labels are drawn from a file: mean probabilities are then known to about two points."""
_SEED: Final = 20240917


async def calibrate_labelled(
    pipeline: Pipeline,
    labelled: Labelled,
    *,
    stack: bool = False,
    absent: Absent = "keep",
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Fit a calibration on a labelled file; see `calibrating.fit_labelled`.

    Raises:
        InputError: too few usable rows, or only one label.
        EndpointError: the endpoint gives no log-probabilities.
        ReviewmillError: the endpoint cannot be opened, or went away.
    """
    _check_logprobs(pipeline)
    rows, lost = _scored(pipeline, await answers(labelled.rows, pipeline, on_progress))
    counts = Counter(row.label for row in rows)
    file = FittedOn(name=labelled.path.name, rows=max(1, len(rows)), sha256=labelled.digest, labels=dict(counts))
    outcome = fit_labelled(rows, subject_of(pipeline), [file], stack=stack, absent=absent)
    return _told(outcome, [*labelled.warnings, *lost])


async def calibrate_unlabelled(
    pipeline: Pipeline,
    source: Source,
    *,
    expected: Mapping[str, float] | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Fit the label prior alone on a file without labels; see `calibrating.fit_unlabelled`.

    At most `MOST_UNLABELLED` distinct comments are used, drawn uniformly; the same file gives the same ones.

    Raises:
        InputError: too few usable rows, or expected shares that are none.
        EndpointError: the endpoint gives no log-probabilities.
        ReviewmillError: the endpoint cannot be opened, or went away.
    """
    _check_logprobs(pipeline)
    texts = {row.text: row for row in source.rows() if row.text is not None and row.text.strip()}
    drawn = random.Random(_SEED).sample(list(texts.values()), min(len(texts), MOST_UNLABELLED))  # noqa: S311
    asked = [LabelledRow(row.number, row.id, row.text or "", "") for row in drawn]
    rows, lost = _scored(pipeline, await answers(asked, pipeline, on_progress))
    file = FittedOn(name=source.path.name, rows=max(1, len(rows)), sha256=source.digest())
    outcome = fit_unlabelled([row.logprobs for row in rows], subject_of(pipeline), [file], expected=expected)
    if len(texts) > len(drawn):
        lost = [f"{len(drawn):,} of {len(texts):,} distinct comments were drawn.", *lost]
    return _told(outcome, lost)


def subject_of(pipeline: Pipeline) -> Subject:
    """What is in force where the user has no calibration: the shipped one, else the task's weights."""
    bound, task = bound_of(pipeline.labeller), pipeline.labeller.task
    model = pipeline.labeller.connection.about.model
    shipped = next((each for each in builtin() if each.because_not_for(bound) is None), None)
    if shipped is not None:
        prior = Prior.from_calibration(shipped)
        return Subject(task.name, model, bound, prior, f"the shipped calibration ({shipped.id})")
    weighed = any(weight != 1 for weight in task.weights.values())
    name = "the task's weights" if weighed else "the model's own probabilities"
    return Subject(task.name, model, bound, Prior.from_weights(task.weights), name)


def _check_logprobs(pipeline: Pipeline) -> None:
    if not pipeline.labeller.capabilities.top_logprobs:
        raise EndpointError(
            f"{pipeline.labeller.connection.about.endpoint} gives no log-probabilities: there is nothing to calibrate.",
            hint="llama.cpp and vLLM give them; the embedded model does too.",
        )


def _scored(pipeline: Pipeline, judgement: Judgement) -> tuple[list[Scored], list[str]]:
    """The rows that can be fitted on, and a sentence on each kind of those that cannot."""
    rows, insufficient, failed = [], 0, Counter[str]()
    for judged in judgement.rows:
        text = pipeline.prepare(Comment(judged.row.text)).text
        if judged.answer is not None and judged.answer.logprobs and text is not None:
            rows.append(Scored(judged.row.label, judged.answer.logprobs, text))
        elif judged.analysis["status"] == "insufficient":
            insufficient += 1
        else:
            error = judged.analysis["error"]
            failed[error["message"] if error else "an answer without log-probabilities"] += 1
    said = [f"Left out: {counted(insufficient, 'row')} with nothing to judge."] if insufficient else []
    said += [f"Left out: {counted(count, 'row')} that failed: {reason}" for reason, count in failed.most_common(3)]
    if not rows:
        raise InputError("No row can be used: " + (" ".join(said) or "there are none."))
    return rows, said


def _told(outcome: Outcome, more: Sequence[str]) -> Outcome:
    return Outcome(outcome.calibration, outcome.comparison, outcome.shares, (*more, *outcome.said))
