"""One pass over a file of comments: read → clean → dedupe → cache → model → write. Resumable; the journal is the truth.

1. *Plan*: read the input, clean and triage each row, note each distinct text in the journal, take what the cache has.
2. *Answer*: ask the model about the texts that have no answer, a bounded number at once; commit each answer before the
   next question takes its place, so that a kill loses at most what was in flight.
3. *Write*: read the input again and write every row, in order, to a temporary file that takes the output's name when
   it is whole; beside it the manifest.

Memory does not grow with the input.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from reviewmill.batch.asking import Asker
from reviewmill.batch.columns import Columns
from reviewmill.batch.goals import CascadeOptions, keep_student
from reviewmill.batch.journal import Journal, Outcome
from reviewmill.batch.manifest import Manifest, Tally, describe_run
from reviewmill.batch.progress import OnProgress as OnProgress
from reviewmill.batch.progress import Progress as Progress
from reviewmill.batch.read import Row, Source
from reviewmill.batch.threads import in_thread
from reviewmill.batch.write import check_target, write_rows
from reviewmill.endpoints import PoolConnection
from reviewmill.errors import RunError
from reviewmill.pipeline import Pipeline, Prepared
from reviewmill.schema import Analysis, Answer, Comment, ErrorInfo, Route

if TYPE_CHECKING:
    from reviewmill.cascade.certificate import Certificate

_PAGE: Final = 500
_SAMPLE: Final = 30
T = TypeVar("T")


OnPlanned = Callable[[Sequence[Row], Sequence[Prepared]], None]


class Run:
    """One resumable pass over one file.

    Args:
        pipeline: prepares, asks, assembles.
        source: the input.
        output: the file to write; its extension decides the format.
        on_progress: called often; must be quick.
        on_planned: called with the rows that were planned, a page at a time, in a thread.
        keep_journal: leave the journal where it is when all is done; somebody else deletes it.
        insist: raise `EndpointLostError` before anything is written if a comment found the endpoint unreachable,
            instead of writing rows with that error.
        lock_dir: where the journal's lock lies; None: in the folder that the settings name.
        cascade: what a student may answer; None: nothing.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        output: Path,
        *,
        on_progress: OnProgress | None = None,
        on_planned: OnPlanned | None = None,
        keep_journal: bool = False,
        insist: bool = False,
        lock_dir: Path | None = None,
        cascade: CascadeOptions | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.source = source
        self.output = output
        self.progress = Progress()
        self.warnings: list[str] = []
        self.journal_path = output.with_name(output.name + ".journal")
        self._on_progress = on_progress or (lambda _: None)
        self._on_planned = on_planned
        self._keep_journal = keep_journal
        self._insist = insist
        self._lock_dir = lock_dir or pipeline.settings.state_dir / "locks"
        in_parts = pipeline.settings.long == "split"
        self._columns = Columns(pipeline.labeller.task, source, output, in_parts=in_parts)
        self._sample: list[Analysis] = []
        self._cascade = cascade
        self._stopped = False

    async def execute(self) -> Manifest:
        """Run to the end, or until cancelled.

        Returns:
            The manifest, as written beside the output.

        Raises:
            OutputError: the output or the journal cannot be written; what was answered is kept.
            EndpointLostError: the endpoint went away.
            RunError: another process holds the journal, or the input changed meanwhile.
            ReviewmillError: the endpoint cannot be opened.
        """
        self._columns.check_output()
        started = time.time()
        cascade = await asyncio.to_thread(self._cascade.describe) if self._cascade is not None else None
        fingerprint = await asyncio.to_thread(describe_run, self.pipeline, self.source, self.output, cascade)
        with Journal(self.journal_path, fingerprint, lock_dir=self._lock_dir) as journal:
            continued = journal.continued
            await self._plan(journal)
            check_target(self.output, rows=self.progress.rows)  # before the model is asked for what XLSX cannot hold
            planned = time.time()
            certificate = await self._answer(journal)
            answered = time.time()
            tally = await in_thread(self._write, journal, hurry=self._stop)
            connection = self.pipeline.labeller.connection
            manifest = Manifest(
                description=fingerprint,
                tally=tally,
                distinct=dict(self.progress.routes),
                asked=self.progress.asked,
                seconds={"plan": round(planned - started, 2), "answer": round(answered - planned, 2)},
                notes=self._notes(),
                continued=continued,
                started=started,
                finished=time.time(),
                sample=self._sample if tally.rows <= _SAMPLE else [],
                endpoints=connection.report() if isinstance(connection, PoolConnection) else [],
                certificate=certificate.as_json(connection.about.model) if certificate else None,
            )
            await in_thread(keep_student, journal, self.output)
            manifest.write(self.output)
            if not tally.errors and not self._keep_journal:
                journal.discard()
        return manifest

    def _stop(self) -> None:
        self._stopped = True  # who writes sees it at the next row, and removes the temporary file

    def _notes(self) -> list[str]:
        pipeline = self.pipeline
        labeller, calibration = pipeline.labeller, pipeline.assembler.calibration
        said = (*labeller.capabilities.fallbacks(), *self.warnings, *pipeline.calibration_notes)
        notes = list(dict.fromkeys((*said, *labeller.connection.notes)))
        if calibration is not None:
            notes.append(f"`confidence` is calibrated: {calibration.describe()}.")
        elif labeller.capabilities.top_logprobs:
            notes.append("`confidence` is the model's own probability of the label; it is not calibrated.")
        return notes

    # -- plan ---------------------------------------------------------------------------------------------------

    async def _plan(self, journal: Journal) -> None:
        rows = self.source.rows()
        while page := await asyncio.to_thread(lambda: list(islice(rows, _PAGE))):
            texts = await asyncio.to_thread(self._keyed, page)
            journal.add(texts)
            await self._take_cached(journal, {key: text for key, text, _ in texts})
            self.progress.rows += len(page)
            self._on_progress(self.progress)
        self.progress.routes = Counter(journal.counts())
        self.progress.distinct = self.progress.routes.total()
        del self.progress.routes["pending"]

    def _keyed(self, rows: Sequence[Row]) -> list[tuple[bytes, str, int]]:
        """The texts of these rows that are to be answered: key, cleaned text, row number."""
        prepared = [self._prepared(row) for row in rows]
        if self._on_planned is not None:
            self._on_planned(rows, prepared)
        texts = ((row.number, text) for row, ready in zip(rows, prepared, strict=True) for text in ready.texts)
        return [(self.pipeline.labeller.key(text), text, number) for number, text in texts]

    async def _take_cached(self, journal: Journal, texts: dict[bytes, str]) -> None:
        wanted = {key: texts[key] for key in journal.unanswered(list(texts))} if texts else {}
        if wanted and (found := await self.pipeline.look_up(wanted)):
            journal.record({key: Outcome(answer, "cache", None) for key, answer in found.items()})

    # -- answer -------------------------------------------------------------------------------------------------

    async def _answer(self, journal: Journal) -> Certificate | None:
        self.progress.phase = "answer"
        self._on_progress(self.progress)
        asker = Asker(self.pipeline, journal, self.progress, self._on_progress, insist=self._insist)
        certificate = None
        if self._cascade is not None:
            from reviewmill.batch.cascade import CascadeRun  # NumPy and SciPy, which a plain run can do without

            certificate = await CascadeRun(self._cascade, asker).execute()
        await asker.ask(journal.pending(), self.progress.distinct - self.progress.done)
        return certificate

    # -- write --------------------------------------------------------------------------------------------------

    def _write(self, journal: Journal) -> Tally:
        self.progress.phase, self.progress.rows = "write", 0
        tally = Tally()
        records = (self._columns.record(row, analysis) for row, analysis in self._analyses(journal, tally))
        write_rows(self.output, self._columns.names, records)
        return tally

    def _analyses(self, journal: Journal, tally: Tally) -> Iterator[tuple[Row, Analysis]]:
        """Every row with its analysis, in the input's order."""
        for page in _pages(self.source.rows(), _PAGE):
            if self._stopped:
                raise RunError("The run was stopped while it wrote the output.")
            prepared = [self._prepared(row) for row in page]
            keys = {text: self.pipeline.labeller.key(text) for ready in prepared for text in ready.texts}
            outcomes = journal.outcomes(list(keys.values()))
            for row, ready in zip(page, prepared, strict=True):
                analysis = self._analysis(row, ready, {text: outcomes.get(keys[text]) for text in ready.texts})
                tally.add(analysis, self.pipeline.labeller.task.name)
                if tally.rows <= _SAMPLE:
                    self._sample.append(analysis)
                yield row, analysis
            self.progress.rows += len(page)
            self._on_progress(self.progress)

    def _prepared(self, row: Row) -> Prepared:
        if row.text is None:
            return Prepared(Comment("", row.id), None, error=row.error)
        return self.pipeline.prepare(Comment(row.text, row.id))

    def _analysis(self, row: Row, ready: Prepared, outcomes: Mapping[str, Outcome | None]) -> Analysis:
        def find(text: str) -> tuple[Answer, Route] | ErrorInfo:
            outcome = outcomes[text]
            if outcome is not None and outcome.answer is not None:
                # The first row that holds a text shows who answered it; its duplicates were answered by that answer.
                # A student's answer is no cached one: it shows on every row that it holds for.
                shown = outcome.row == row.number or outcome.route == "student"
                return outcome.answer, outcome.route if outcome.route and shown else "cache"
            if outcome is not None and outcome.error is not None:
                return outcome.error
            raise RunError(
                f"Row {row.number} of {self.source.path} was not there when the run began: the file changed meanwhile.",
                hint="Run the same command again.",
            )

        return self.pipeline.assembler.assemble(ready, find)


def _pages(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while page := list(islice(rows, size)):
        yield page
