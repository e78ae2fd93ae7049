"""A cascade over texts in memory: the Python face's `analyze_batch(…, agreement=0.95)`.

The same journal as a run's, in a temporary folder; it does not outlive the call.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reviewmill.batch.asking import Asker
from reviewmill.batch.cascade import CascadeRun
from reviewmill.batch.goals import CascadeOptions
from reviewmill.batch.journal import Journal, Outcome
from reviewmill.batch.progress import OnProgress, Progress
from reviewmill.batch.threads import in_thread
from reviewmill.cascade.certificate import Certificate
from reviewmill.errors import RunError
from reviewmill.pipeline import Pipeline, Prepared
from reviewmill.schema import Analysis, Answer, Comment, ErrorInfo, Route

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """The analyses, in the order of the comments, and what may be said of them after a cascade."""

    analyses: list[Analysis]
    certificate: Certificate | None


async def analyse_texts(
    pipeline: Pipeline, comments: Sequence[Comment], options: CascadeOptions, on_progress: OnProgress | None = None
) -> Batch:
    """Analyse comments with a cascade.

    Raises:
        ReviewmillError: see `CascadeRun.execute`; what the model answered is in the cache.
    """
    with (
        tempfile.TemporaryDirectory(prefix="reviewmill-") as folder,
        Journal(Path(folder) / "journal", {}, lock_dir=Path(folder)) as journal,
    ):
        return await analyse_in(journal, pipeline, comments, options, on_progress)


async def analyse_in(
    journal: Journal,
    pipeline: Pipeline,
    comments: Sequence[Comment],
    options: CascadeOptions | None = None,
    on_progress: OnProgress | None = None,
) -> Batch:
    """Analyse comments, and keep in this journal what is known of them; it can be continued.

    Raises:
        ReviewmillError: see `Asker.ask`.
    """
    on_progress = on_progress or (lambda _: None)
    prepared = await asyncio.to_thread(lambda: [pipeline.prepare(comment) for comment in comments])
    keys = await asyncio.to_thread(
        lambda: {text: pipeline.labeller.key(text) for ready in prepared for text in ready.texts}
    )
    await _plan(pipeline, journal, prepared, keys)
    progress = Progress(phase="answer", rows=len(comments))
    counts = Counter(journal.counts())
    progress.distinct = counts.total()
    del counts["pending"]
    progress.routes = counts
    asker = Asker(pipeline, journal, progress, on_progress)
    certificate = await CascadeRun(options, asker).execute() if options is not None else None
    await asker.ask(journal.pending(), progress.distinct - progress.done)
    return Batch(await in_thread(_assembled, pipeline, journal, prepared, keys), certificate)


async def _plan(pipeline: Pipeline, journal: Journal, prepared: Sequence[Prepared], keys: Mapping[str, bytes]) -> None:
    for start in range(0, len(prepared), _PAGE):
        page = enumerate(prepared[start : start + _PAGE], start=start + 1)
        texts = [(keys[text], text, row) for row, ready in page for text in ready.texts]
        journal.add(texts)
        unanswered = journal.unanswered([key for key, _, _ in texts]) if texts else set()
        wanted = {key: text for key, text, _ in texts if key in unanswered}
        if wanted and (found := await pipeline.look_up(wanted)):
            journal.record({key: Outcome(answer, "cache", None) for key, answer in found.items()})


def _assembled(
    pipeline: Pipeline, journal: Journal, prepared: Sequence[Prepared], keys: Mapping[str, bytes]
) -> list[Analysis]:
    analyses: list[Analysis] = []
    for start in range(0, len(prepared), _PAGE):
        page = prepared[start : start + _PAGE]
        outcomes = journal.outcomes(list(dict.fromkeys(keys[text] for ready in page for text in ready.texts)))
        for row, ready in enumerate(page, start=start + 1):
            found = {text: _told(outcomes[keys[text]], row) for text in ready.texts}
            analyses.append(pipeline.assembler.assemble(ready, found.__getitem__))
    return analyses


def _told(outcome: Outcome, row: int) -> tuple[Answer, Route] | ErrorInfo:
    if outcome.answer is not None and outcome.route is not None:
        # The first comment with a text shows who answered it; its duplicates were answered by that answer.
        return outcome.answer, outcome.route if outcome.row == row or outcome.route == "student" else "cache"
    if outcome.error is not None:
        return outcome.error
    raise RunError("A journal holds an answer that nobody gave.")
