"""The worker: takes jobs from the store, one at a time, and runs each in its folder.

What keeps a job from running twice or getting lost:

* The store gives a job to one worker at a time, for a lease that heartbeats renew, under a fencing token that every
  later write must carry.
* Each claim works in a folder of its own, which nobody reads unless the job was finished under its token.
* The run's journal goes from claim to claim, so that a job that is taken over continues; with a cascade, with the
  samples that were drawn.

A job waits for what is not its own fault (the endpoint is down, the disk is full) and tries again; it fails for its
own input, or when the waiting has brought nothing for `MAX_TRIES` tries, or when `MAX_STUCK` workers in a row died of
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from reviewmill.batch.manifest import Manifest
from reviewmill.batch.read import Row, Source, open_source
from reviewmill.batch.run import Run
from reviewmill.batch.threads import in_thread
from reviewmill.errors import (
    EndpointLostError,
    InputError,
    OutputError,
    ReviewmillError,
    RunError,
    StoreError,
    TaskError,
)
from reviewmill.pipeline import Pipeline, Prepared
from reviewmill.schema import Comment
from reviewmill.server.jobs.files import JobFiles
from reviewmill.server.jobs.goal import options_of
from reviewmill.server.jobs.results import ResultGoneError, Shape, forget_texts, summary_of, text_digest
from reviewmill.store import CommentRow, JobRecord, Store

log = logging.getLogger(__name__)

MAX_TRIES: Final = 200
"""Tries in a row that brought no answer before a job fails; with the waits between them, more than three hours."""

MAX_FAULTS: Final = 5
"""Tries in a row that ended in an error nobody expected, before a job fails."""

MAX_STUCK: Final = 5
"""Claims in a row that ended without a word and without an answer, before a job is taken for the reason and fails."""

ROW_ROUNDS: Final = 3
"""Further tries of rows for which the endpoint broke down or was too slow, before they keep that error."""

BEAT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
IDLE_S: Final = 1.0

_ROW_ERRORS_TRIED_AGAIN: Final = frozenset({"endpoint_error", "endpoint_timeout", "endpoint_unreachable"})

PipelineOf = Callable[[str, bool | None], Awaitable[Pipeline]]
"""Gives the pipeline of a task, with keywords or without (None: as the settings say)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    state: Literal["done", "failed"]
    summary: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class Standing:
    """How far a job is, as its worker tells the store.

    Attributes:
        run: the run under way.
        waiting: why it waits, if it does.
        stuck: claims in a row, this one included, that brought no answer; see `MAX_STUCK`.
        last: the progress of the claim before.
        cascade: whether a student may answer; then the progress says what it is certified to.
    """

    stuck: int
    last: dict[str, Any]
    run: Run | None = None
    waiting: str | None = None
    rows_total: int | None = None
    cascade: bool = False

    def as_json(self) -> dict[str, Any]:
        """What the store keeps."""
        if self.run is None:
            return {**self.last, "waiting": self.waiting, "stuck": self.stuck}
        progress = self.run.progress
        if progress.asked or progress.done > (self.last.get("done") or 0):
            self.stuck = 0
        return {
            "phase": progress.phase,
            "rows": progress.rows,
            "rows_total": self.rows_total,
            "distinct": progress.distinct,
            "done": progress.done,
            "routes": dict(progress.routes),
            "rate": round(progress.rate, 2) if progress.rate else None,
            "eta_s": round(progress.eta) if progress.eta is not None else None,
            **({"stage": progress.stage, "certified": progress.certified} if self.cascade else {}),
            "waiting": self.waiting,
            "stuck": self.stuck,
        }


@dataclass(slots=True)
class Claim:
    """A job that this worker holds, as far as it knows."""

    job: JobRecord
    files: JobFiles
    standing: Standing
    held_since: float = field(default_factory=time.monotonic)


class Worker:
    """Takes jobs and runs them, one at a time.

    Args:
        store: where jobs wait.
        root: the folder of all jobs.
        pipeline_of: gives the pipeline of a task.
        name: who this is, for people to read.
        lease_s: how long a job stays this worker's without a heartbeat, in seconds.
    """

    def __init__(self, store: Store, root: Path, pipeline_of: PipelineOf, *, name: str, lease_s: float) -> None:
        self._store = store
        self._root = root
        self._pipeline_of = pipeline_of
        self._name = name
        self._lease_s = lease_s
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="job-worker")
        self._stopping = asyncio.Event()
        self._nudged = asyncio.Event()

    def stop(self) -> None:
        """Let `work` return: the job in hand goes back to the queue."""
        self._stopping.set()
        self._nudged.set()

    def nudge(self) -> None:
        """Look for a job now."""
        self._nudged.set()

    async def work(self) -> None:
        """Take jobs until told to stop."""
        while not self._stopping.is_set():
            job = await self._claim()
            if job is not None:
                await self._take_safely(job)
                continue
            self._nudged.clear()
            if not self._stopping.is_set():
                await _until(self._nudged, IDLE_S)
        self._threads.shutdown(wait=False)

    async def _take_safely(self, job: JobRecord) -> None:
        try:
            await self._take(job)
        except Exception:  # a fault of ours must not end the worker; the job's lease runs out
            log.exception("job %s: unexpected error", job.id)
            await _until(self._stopping, self._lease_s)

    async def _claim(self) -> JobRecord | None:
        try:
            return await self._call(self._store.jobs.claim, self._name, self._lease_s)
        except StoreError as error:
            log.warning("no job could be claimed: %s", error.message)
            return None

    # -- one job ------------------------------------------------------------------------------------------------

    async def _take(self, job: JobRecord) -> None:
        """Run one job as far as it goes: to its end, or until it is no longer ours, or until we are to stop."""
        last = {name: value for name, value in job.progress.items() if name not in {"waiting", "stuck"}}
        stuck = int(job.progress.get("stuck", 0)) + 1
        standing = Standing(stuck=stuck, last=last, cascade=job.options.get("cascade") is not None)
        claim = Claim(job, JobFiles(self._root, job.id), standing)
        log.info("job %s: claimed, token %d, attempt %d", job.id, job.token, job.attempts)
        working = asyncio.create_task(self._work(claim))
        keeping = asyncio.create_task(self._keep(claim))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and not keeping.done():
                await self._end(claim, working.result())
            else:
                await _cancelled(working)
                await self._leave(claim, keeping.result() if keeping.done() else None)
        finally:
            for task in (working, keeping, stopping):
                await _cancelled(task)

    async def _keep(self, claim: Claim) -> str:
        """Send heartbeats, progress with them, until the job is no longer ours; returns what it is then."""
        job = claim.job
        beat_s = min(BEAT_S, self._lease_s / 4)
        while True:
            sent = time.monotonic()
            try:
                async with asyncio.timeout(claim.held_since + self._lease_s - sent):
                    progress = claim.standing.as_json()
                    answer = await self._call(self._store.jobs.heartbeat, job.id, job.token, self._lease_s, progress)
            except TimeoutError:
                log.warning("job %s: the lease is over, and the store does not answer", job.id)
                return "lost"
            except StoreError as error:
                log.warning("job %s: no heartbeat: %s", job.id, error.message)
            else:
                if answer != "running":
                    return answer
                claim.held_since = sent
            await asyncio.sleep(beat_s)

    async def _end(self, claim: Claim, ended: Ended) -> None:
        """Tell the store how the job ended, and remove what is needed no more."""
        job = claim.job
        while True:
            try:
                ours = await self._call(
                    self._store.jobs.finish,
                    job.id,
                    job.token,
                    ended.state,
                    summary=ended.summary,
                    error=ended.error,
                    progress=claim.standing.as_json(),
                )
                break
            except StoreError as error:
                if self._stopping.is_set() or time.monotonic() - claim.held_since >= self._lease_s:
                    log.warning("job %s: its end could not be told to the store: %s", job.id, error.message)
                    return
                await asyncio.sleep(BEAT_S)
        if not ours:
            await self._leave(claim, "lost")
            return
        log.info("job %s: %s", job.id, ended.state)
        await asyncio.to_thread(claim.files.tidy, job.token if ended.state == "done" else None)
        if ended.state == "done":  # what was deleted between our last look and the end
            await asyncio.to_thread(self._forget_late, claim)

    async def _leave(self, claim: Claim, answer: str | None) -> None:
        """Let go of a job that did not end here."""
        job, files = claim.job, claim.files
        if answer is None:
            log.info("job %s: given back", job.id)
            claim.standing.stuck -= 1
            try:
                progress = claim.standing.as_json()
                await self._call(self._store.jobs.heartbeat, job.id, job.token, self._lease_s, progress)
                await self._call(self._store.jobs.release, job.id, job.token)
            except StoreError as error:
                log.warning("job %s could not be given back; its lease will run out: %s", job.id, error.message)
            return
        log.info("job %s: %s", job.id, answer)
        try:
            current = await self._call(self._store.jobs.get, job.id)
        except StoreError:
            return  # whoever has the job now tidies up after us
        if current is None:
            await asyncio.to_thread(files.remove)
        elif current.state == "cancelled":
            await asyncio.to_thread(files.tidy, None)

    # -- the work -----------------------------------------------------------------------------------------------

    async def _work(self, claim: Claim) -> Ended:
        """Try until the job is done or failed for good."""
        if claim.standing.stuck > MAX_STUCK:
            return _failed(
                RunError(
                    f"{MAX_STUCK} workers in a row ended while they worked on this job, and none got an answer.",
                    hint="The service's log says more; smaller files may go through.",
                ),
                claim,
            )
        tries = faults = rounds = 0
        while True:
            before = claim.standing.run
            try:
                manifest = await self._attempt(claim)
                unsettled = _ROW_ERRORS_TRIED_AGAIN & manifest.tally.error_types.keys()
                if not unsettled or rounds >= ROW_ROUNDS:
                    summary = summary_of(manifest)
                    return Ended("done", await asyncio.to_thread(self._apply_tombstones, claim, manifest) or summary)
                rounds, waited = rounds + 1, rounds
                claim.standing.waiting = f"Some comments were not answered ({', '.join(sorted(unsettled))})."
            except (InputError, TaskError) as error:
                return _failed(error, claim)
            except ReviewmillError as error:
                run = claim.standing.run
                answered = run is not None and run is not before and run.progress.asked > 0
                tries = 0 if answered else tries + 1
                faults = faults + 1 if _is_fault(error) else 0
                if tries >= MAX_TRIES or faults >= MAX_FAULTS:
                    return _failed(error, claim)
                waited = max(tries, 1) - 1
                claim.standing.waiting = _without_folders(error.message, claim)
                log.warning("job %s waits: %s", claim.job.id, error.message)
            except Exception:  # a fault of ours must not end the worker
                log.exception("job %s: unexpected error", claim.job.id)
                faults += 1
                if faults >= MAX_FAULTS:
                    return _failed(RunError("An internal error.", hint="The service's log says more."), claim)
                waited = faults
            await asyncio.sleep(min(2.0**waited, LONGEST_WAIT_S))
            claim.standing.waiting = None

    async def _attempt(self, claim: Claim) -> Manifest:
        """One pass over the file, which takes up what the passes before it left."""
        job, files = claim.job, claim.files
        result = files.result(job.token)
        pipeline = await self._pipeline_of(job.task, job.options.get("keywords"))
        try:
            await in_thread(files.begin_run, job.token)
        except FileNotFoundError as error:
            raise OutputError(
                "The job's folder is not on this server.", hint="All servers of one database need the same data_dir."
            ) from error
        except OSError as error:
            raise OutputError(f"The job's folder cannot be written: {error}", hint="Is the disk full?") from error
        source = await in_thread(_source_of, job, files)
        task = pipeline.labeller.task
        customer = job.options.get("customer")
        in_parts = pipeline.settings.long == "split"
        Shape(task.name, list(task.label_names), source.columns, source.text_column, customer, in_parts).write(
            files.shape(job.token)
        )
        claim.standing.rows_total = job.options.get("rows")
        run = Run(
            pipeline,
            source,
            result,
            on_planned=_noter(self._store, job, customer),
            keep_journal=True,
            insist=True,
            lock_dir=result.parent,
            cascade=options_of(job.options.get("cascade")),
        )
        claim.standing.run = run
        return await run.execute()

    def _apply_tombstones(self, claim: Claim, manifest: Manifest) -> dict[str, Any] | None:
        """Remove what was deleted while the job ran; the summary of what is left, or None if nothing was."""
        counts = self._forget(claim)
        return None if counts is None else summary_of(manifest) | counts

    def _forget_late(self, claim: Claim) -> None:
        try:
            counts = self._forget(claim)
            if counts is not None:
                job = self._store.jobs.get(claim.job.id)
                if job is not None and job.summary is not None:
                    self._store.jobs.amend(job.id, job.summary | counts)
        except (StoreError, OutputError, ResultGoneError) as error:
            log.warning("job %s: deletions could not be looked up again: %s", claim.job.id, error.message)

    def _forget(self, claim: Claim) -> dict[str, Any] | None:
        job = claim.job
        texts = self._store.comments.tombstones(job.owner, since=_arrived_at(job))
        customers = self._store.comments.tombstoned_customers(job.owner, since=_arrived_at(job))
        if not texts and not customers:
            return None
        run = claim.standing.run
        forget = _cache_forgetter(run.pipeline) if run is not None else lambda _: None
        forgotten = forget_texts(claim.files, job.token, texts=texts, customers=customers, on_text=forget)
        return None if forgotten is None else forgotten.counts

    async def _call(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Ask the store, in threads of our own: a heartbeat must not stand in a line behind somebody's long work."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments, **named))


def _arrived_at(job: JobRecord) -> datetime:
    """When its file came: a file that was attached to a chat may have come long before."""
    since = job.options.get("since")
    return job.created_at if since is None else datetime.fromisoformat(since)


def _source_of(job: JobRecord, files: JobFiles) -> Source:
    path = files.upload(job.format)
    try:
        return open_source(path, text=job.text_column, id=job.id_column, format=job.format)
    except InputError as error:
        raise InputError(error.message.replace(str(path), job.filename), hint=error.hint) from error


def _noter(store: Store, job: JobRecord, customer: str | None) -> Callable[[Sequence[Row], Sequence[Prepared]], None]:
    """Notes which comments the job holds, so that a deletion finds them; the index holds no texts."""

    def note(rows: Sequence[Row], prepared: Sequence[Prepared]) -> None:
        noted = []
        for row, ready in zip(rows, prepared, strict=True):
            if row.text:
                whose = row.fields.get(customer) if customer is not None else None
                noted += [
                    CommentRow(
                        owner=job.owner,
                        text_sha256=text_digest(row.text),
                        cleaned_sha256=text_digest(text),
                        customer_id=None if whose is None else str(whose),
                        job_id=job.id,
                        created_at=job.created_at,
                    )
                    for text in ready.texts or [""]
                ]
        store.comments.note(noted)

    return note


def _cache_forgetter(pipeline: Pipeline) -> Callable[[str], None]:
    """Deletes the cached answers about a comment that was deleted while its job ran."""

    def forget(text: str) -> None:
        if pipeline.cache is not None:
            for cleaned in pipeline.prepare(Comment(text)).texts:
                pipeline.cache.delete_text(pipeline.labeller.text_prefix(cleaned))

    return forget


def _is_fault(error: ReviewmillError) -> bool:
    """Whether waiting is not likely to help."""
    return isinstance(error, RunError) and not isinstance(error, EndpointLostError)


def _failed(error: ReviewmillError, claim: Claim) -> Ended:
    message = _without_folders(error.message, claim)
    return Ended("failed", error={"type": type(error).__name__, "message": message, "hint": error.hint})


def _without_folders(message: str, claim: Claim) -> str:
    """A message as the job's owner may read it."""
    return message.replace(f"{claim.files.folder}/", "")


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended; what it ended with is nobody's business any more."""
    task.cancel()
    await asyncio.wait({task})


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
