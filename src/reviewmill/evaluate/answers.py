"""Answers to labelled rows: through the same pipeline and cache as any run, so that a stopped evaluation continues.

Beside each analysis stands the cached answer itself, whose label log-probabilities are those of the model: before
weights and calibration.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reviewmill.batch.run import Progress
from reviewmill.errors import EndpointError, EndpointLostError, EndpointTimeoutError, EndpointUnreachableError
from reviewmill.pipeline import error_info
from reviewmill.schema import Comment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reviewmill.evaluate.labelled import LabelledRow
    from reviewmill.pipeline import Pipeline, Prepared
    from reviewmill.schema import Analysis, Answer

_PAGE: Final = 500
_GIVE_UP_AFTER: Final = 3
"""Rounds of nothing but lost connections before all is given up, as in a run."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One labelled row with what was found.

    Attributes:
        row: the comment and its right label.
        analysis: as any run would give it (weighed, calibrated).
        answer: what the model said, as it is cached; None where it was not asked or failed. `answer.logprobs` are the
            uncalibrated log-probabilities of the labels.
        fresh: whether the model was asked just now.
    """

    row: LabelledRow
    analysis: Analysis
    answer: Answer | None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """All labelled rows with what was found, and what finding it took.

    Attributes:
        rows: in the order that was given.
        asked: how many comments the model was asked about just now; the others came from the cache or a rule.
        seconds: wall time of asking them, without the engine's start; 0 if none was asked.
    """

    rows: list[Judged]
    asked: int
    seconds: float


async def answers(
    rows: Sequence[LabelledRow], pipeline: Pipeline, on_progress: Callable[[Progress], None] | None = None
) -> Judgement:
    """Answer labelled rows. What was answered is in the cache at once: the same call continues after a stop.

    Args:
        rows: the rows; `labelled.read_labelled` gives them.
        pipeline: prepares, asks, assembles.
        on_progress: called after each answer; must be quick.

    Returns:
        The rows with their analyses. A row that failed carries its own error.

    Raises:
        EndpointLostError: the endpoint went away; what was answered is kept.
        ReviewmillError: the endpoint cannot be opened.
    """
    prepared = [pipeline.prepare(Comment(row.text, _id(row), row.metadata)) for row in rows]
    asking = _Asking(pipeline, on_progress or (lambda _: None))
    await asking.settle([ready.text for ready in prepared if ready.text is not None])
    judged = [asking.judged(row, ready) for row, ready in zip(rows, prepared, strict=True)]
    return Judgement(judged, asking.progress.asked, asking.seconds)


def _id(row: LabelledRow) -> str | int | None:
    return row.id if isinstance(row.id, str | int | None) else str(row.id)


class _Asking:
    """Finds the answers to texts: in the cache, else from the model."""

    def __init__(self, pipeline: Pipeline, on_progress: Callable[[Progress], None]) -> None:
        self.progress = Progress(phase="answer")
        self.seconds = 0.0
        self._pipeline = pipeline
        self._on_progress = on_progress
        self._answers: dict[bytes, Answer] = {}
        self._errors: dict[bytes, EndpointError] = {}
        self._fresh: set[bytes] = set()
        self._lost = 0

    async def settle(self, texts: Sequence[str]) -> None:
        """Have an answer or an error for each text."""
        wanted = {self._pipeline.labeller.key(text): text for text in texts}
        keys = list(wanted)
        for start in range(0, len(keys), _PAGE):
            self._answers |= await self._pipeline.cached(keys[start : start + _PAGE])
        self.progress.distinct = len(wanted)
        self.progress.routes = Counter(cache=len(self._answers))
        self._on_progress(self.progress)
        missing = [(key, text) for key, text in wanted.items() if key not in self._answers]
        if missing:
            await self._ask(missing)

    async def _ask(self, missing: list[tuple[bytes, str]]) -> None:
        connection = self._pipeline.labeller.connection
        await connection.open(self._pipeline.labeller.prompt)
        self.progress.began = time.perf_counter()
        pending = iter(missing)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(connection.concurrency, len(missing))):
                    group.create_task(self._work(pending, connection.concurrency))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self.seconds = time.perf_counter() - self.progress.began

    async def _work(self, pending: Iterator[tuple[bytes, str]], concurrency: int) -> None:
        for key, text in pending:
            try:
                self._answers[key], route = await self._pipeline.answer(text, "job")
            except EndpointError as error:
                self._errors[key] = error
                self._lost += isinstance(error, EndpointUnreachableError | EndpointTimeoutError)
                self.progress.routes["error"] += 1
            else:
                self._lost = 0
                self.progress.routes[route] += 1
                if route == "model":
                    self._fresh.add(key)
                    self.progress.asked += 1
            self._on_progress(self.progress)
            if self._lost >= _GIVE_UP_AFTER * concurrency:
                raise EndpointLostError(
                    f"{self._pipeline.labeller.connection.about.endpoint} went away: the last {self._lost} comments "
                    "found no connection. Everything answered so far is kept.",
                    hint="Bring it back and run the same command again: it continues.",
                )

    def judged(self, row: LabelledRow, ready: Prepared) -> Judged:
        """The row with its analysis."""
        assembler = self._pipeline.assembler
        if ready.text is None:
            return Judged(row, assembler.unanswered(ready), None)
        key = self._pipeline.labeller.key(ready.text)
        answer = self._answers.get(key)
        if answer is None:
            return Judged(row, assembler.unanswered(ready, error_info(self._errors[key])), None)
        fresh = key in self._fresh
        return Judged(row, assembler.answered(ready, answer, "model" if fresh else "cache"), answer, fresh)


def describe(pipeline: Pipeline) -> dict[str, Any]:
    """What decided the answers of a pipeline, for reports: model, digest, endpoint, task, prompt, wire format."""
    labeller = pipeline.labeller
    about = labeller.connection.about
    return {
        "model": about.model,
        "fingerprint": about.fingerprint,
        "digest": about.digest,
        "endpoint": about.endpoint,
        "task": labeller.task.name,
        "task_hash": labeller.task.hash,
        "asked_hash": labeller.task.asked_hash,
        "prompt": labeller.prompt.id,
        "wire": labeller.wire.name,
        "keywords": labeller.keywords,
    }
