"""A cascade over texts in memory: the Python face's `analyze_batch(…, agreement=0.95)`.

The same journal as a run's, in a temporary folder; it does not outlive the call.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reviewmill.batch.asking import Asker
from reviewmill.batch.cascade import CascadeRun
from reviewmill.batch.goals import CascadeOptions
from reviewmill.batch.journal import Journal, Outcome
from reviewmill.batch.progress import OnProgress, Progress
from reviewmill.cascade.certificate import Certificate
from reviewmill.errors import RunError
from reviewmill.pipeline import Pipeline, Prepared
from reviewmill.schema import Analysis, Comment

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """The analyses, in the order of the comments, and what may be said of them."""

    analyses: list[Analysis]
    certificate: Certificate


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
        return await _analyse(pipeline, comments, options, journal, on_progress or (lambda _: None))


async def _analyse(
    pipeline: Pipeline, comments: Sequence[Comment], options: CascadeOptions, journal: Journal, on_progress: OnProgress
) -> Batch:
    prepared = await asyncio.to_thread(lambda: [pipeline.prepare(comment) for comment in comments])
    keys = await asyncio.to_thread(
        lambda: [None if ready.text is None else pipeline.labeller.key(ready.text) for ready in prepared]
    )
    await _plan(pipeline, journal, prepared, keys)
    progress = Progress(phase="answer", rows=len(comments))
    counts = Counter(journal.counts())
    progress.distinct = counts.total()
    del counts["pending"]
    progress.routes = counts
    asker = Asker(pipeline, journal, progress, on_progress)
    certificate = await CascadeRun(options, asker).execute()
    await asker.ask(journal.pending())
    return Batch(await asyncio.to_thread(_assembled, pipeline, journal, prepared, keys), certificate)


async def _plan(
    pipeline: Pipeline, journal: Journal, prepared: Sequence[Prepared], keys: Sequence[bytes | None]
) -> None:
    for start in range(0, len(prepared), _PAGE):
        page = range(start, min(start + _PAGE, len(prepared)))
        texts = [(key, prepared[at].text or "", at + 1) for at in page if (key := keys[at]) is not None]
        journal.add(texts)
        wanted = list(journal.unanswered([key for key, _, _ in texts])) if texts else []
        if wanted and (found := await pipeline.cached(wanted)):
            journal.record({key: Outcome(answer, "cache", None) for key, answer in found.items()})


def _assembled(
    pipeline: Pipeline, journal: Journal, prepared: Sequence[Prepared], keys: Sequence[bytes | None]
) -> list[Analysis]:
    analyses: list[Analysis] = []
    for start in range(0, len(prepared), _PAGE):
        page = range(start, min(start + _PAGE, len(prepared)))
        outcomes = journal.outcomes([key for at in page if (key := keys[at]) is not None])
        for at in page:
            key = keys[at]
            outcome = None if key is None else outcomes[key]
            analyses.append(_analysis(pipeline, prepared[at], outcome, row=at + 1))
    return analyses


def _analysis(pipeline: Pipeline, ready: Prepared, outcome: Outcome | None, *, row: int) -> Analysis:
    if outcome is None or outcome.answer is None:
        return pipeline.assembler.unanswered(ready, outcome.error if outcome is not None else None)
    if outcome.route is None:
        raise RunError("A journal holds an answer that nobody gave.")
    # The first comment with a text shows who answered it; its duplicates were answered by that answer.
    route = outcome.route if outcome.row == row or outcome.route == "student" else "cache"
    return pipeline.assembler.answered(ready, outcome.answer, route)
