"""The engine room: one connection to the model, one gate in front of it, one pipeline per task, and the cache.

A request's comments go this way: answers in memory, then the cache (one look-up for all), then the model. Whoever
would have to wait behind too many is turned away before anything is done (`BusyError`), never in the middle.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar

from reviewmill.cache import AnswerCache, open_cache
from reviewmill.endpoints import Connection, Gate, PoolConnection, connect, labeller_on
from reviewmill.endpoints.connection import EMBEDDED, EmbeddedConnection
from reviewmill.errors import BusyError, CacheError, EndpointError, EndpointRefusedError, ReviewmillError, TaskError
from reviewmill.pipeline import Outcome, Pipeline, Prepared, error_info
from reviewmill.schema import TEXT_PREFIX_BYTES, Analysis, Answer, Comment
from reviewmill.scoring.shelf import AUTO, NONE, check_named
from reviewmill.server.hot import HotAnswers
from reviewmill.tasks import BUILTIN_TASKS, Task, load_task

if TYPE_CHECKING:
    from types import TracebackType

    from reviewmill.endpoints.client import EndpointClient
    from reviewmill.server.metrics import Metrics
    from reviewmill.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("reviewmill.server")

OnRead = Callable[[Comment, str, str], None]
"""Told of each comment that the model or the cache is asked about: it, its digest, and the digest of what is asked."""

_CONNECT_PAUSE_S: Final = 2.0
_CHECK_PAUSE_S: Final = 2.0
_CHECK_TIMEOUT_S: Final = 5.0
_WATCH_S: Final = 15.0
_HEAVY_CHARS: Final = 2_000
_RESERVE: Final = 0.25
"""Share of the model's places that no job gets."""
_HEAVY_COMMENTS: Final = 8


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the model would answer; if not, why."""

    ready: bool
    detail: str


class SteadyCache:
    """A cache whose failures cost time and never answers: what it cannot tell is asked again. Deleting may fail.

    Args:
        cache: the cache.
    """

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache
        self._failing = False
        self.warnings = cache.warnings

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """Look up answers; none if the cache fails."""
        try:
            return self._cache.get_many(keys)
        except CacheError as error:
            self._warn(error)
            return {}

    def put_many(self, items: Mapping[bytes, Answer]) -> None:
        """Store answers, if the cache can."""
        try:
            self._cache.put_many(items)
        except CacheError as error:
            self._warn(error)
        else:
            self._failing = False

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove answers."""
        self._cache.delete_many(keys)

    def delete_text(self, prefix: bytes) -> int:
        """Remove every answer about one text, and say how many there were."""
        return self._cache.delete_text(prefix)

    def describe(self) -> str:
        """Where the answers are kept."""
        return self._cache.describe()

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warn(self, error: CacheError) -> None:
        if not self._failing:
            log.warning("The service goes on without its cache: %s", error.message, extra={"hint": error.hint})
        self._failing = True


def _is_pool(connection: Connection) -> bool:
    return isinstance(connection, PoolConnection)


class EngineRoom:
    """Everything that answers comments. It belongs to one event loop.

    Args:
        settings: which model, cache and tasks.
        metrics: told what happens here.

    Raises:
        TaskError: a task file is not valid, or two tasks have one name.
        SettingsError: the calibration that is named does not exist, or is for another task.
        CacheError: the cache cannot be opened.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.hot = HotAnswers()
        self._metrics = metrics
        self._default = load_task(settings.task)
        self._tasks = _load_tasks(self._default, settings.service.tasks_dir)
        check_named(settings.calibration, self._default.asked_hash, settings.calibrations_dir)
        opened = open_cache(
            settings.cache, cache_dir=settings.cache_dir, ttl=settings.cache_ttl, on_warning=log.warning
        )
        self.cache: AnswerCache | None = SteadyCache(opened) if opened is not None else None
        self.connection: Connection | None = None
        self.gate: Gate | None = None
        self._pipelines: dict[tuple[str, bool], Pipeline] = {}
        self._connecting: asyncio.Task[Connection] | None = None
        self._failure: tuple[float, ReviewmillError] | None = None
        self._asking = 0
        self._health = Health(ready=False, detail="The model was not looked at yet.")
        self._checked = -_CHECK_PAUSE_S
        self._checking: asyncio.Task[None] | None = None
        metrics.before_scrape.append(self._measure)

    async def aclose(self) -> None:
        """Give everything back."""
        for task in (self._checking, self._connecting):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self.connection is not None:
            await self.connection.aclose()
        if self.cache is not None:
            await asyncio.to_thread(self.cache.close)

    # --- tasks ---

    def tasks(self) -> dict[str, Task]:
        """All tasks by name, the default one first."""
        return dict(self._tasks)

    def task(self, name: str | None = None) -> Task:
        """The task of this name; None: the default one. Never a path.

        Raises:
            TaskError: there is no such task.
        """
        task = self._default if name is None else self._tasks.get(name)
        if task is None:
            raise TaskError("There is no task of that name here.", hint=f"There are: {', '.join(self._tasks)}.")
        return task

    # --- the model ---

    async def pipeline(self, task: str | None = None, *, keywords: bool | None = None) -> Pipeline:
        """The pipeline of a task, connected.

        Args:
            task: the task's name; None: the default one.
            keywords: whether to ask for keywords; None: as the settings say.

        Raises:
            TaskError: there is no such task.
            ReviewmillError: the model cannot be reached.
        """
        wanted = self.task(task)
        name = (wanted.name, self._wants_keywords(wanted, keywords))
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            connection = await self._connect()
            labeller = labeller_on(connection, task=wanted, keywords=name[1], wire=self.settings.wire, gate=self.gate)
            made = Pipeline(self._settings_for(*name), labeller, self.cache)
            pipeline = self._pipelines.setdefault(name, made)
            if made is pipeline:
                _tell_calibration(made)
        return pipeline

    def _wants_keywords(self, task: Task, keywords: bool | None) -> bool:
        return task.keywords and (self.settings.keywords if keywords is None else keywords)

    def _settings_for(self, task: str, keywords: bool) -> Settings:
        """A calibration that was named is for the default task as it is asked by default; others take what fits."""
        if (task, keywords) == (self._default.name, self._wants_keywords(self._default, None)):
            return self.settings
        if self.settings.calibration in {AUTO, NONE}:
            return self.settings
        return self.settings.model_copy(update={"calibration": AUTO})

    async def _connect(self) -> Connection:
        """Connect once; who comes meanwhile waits for the same attempt, and a failure counts for a moment."""
        if self.connection is not None:
            return self.connection
        if self._failure is not None and time.monotonic() - self._failure[0] < _CONNECT_PAUSE_S:
            raise self._failure[1]
        if self._connecting is None:
            self._connecting = asyncio.create_task(connect(self.settings))
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, attempt: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if attempt.cancelled():
            return
        error = attempt.exception()
        if error is None:
            self.connection, self._failure = attempt.result(), None
            if isinstance(self.connection, PoolConnection):
                self.connection.reserve = _RESERVE
            self.gate = self.gate or self._make_gate(self.connection)
            self.connection.on_limit(self._resize_gate)
            self._resize_gate()
        elif isinstance(error, ReviewmillError):
            self._failure = (time.monotonic(), error)

    def _make_gate(self, connection: Connection) -> Gate:
        service = self.settings.service
        # Who may come in is decided by whole requests (`_admitted`), so that the gate itself turns nobody away.
        queue = connection.concurrency + service.queue + service.max_comments
        return Gate(connection.limit, self._background(connection), queue)

    def _background(self, connection: Connection) -> int:
        # A part of the places is never a job's, so that a single comment finds one at once.
        background = max(1, int(connection.limit * (1 - _RESERVE)))
        if isinstance(connection, EmbeddedConnection):
            # The embedded engine is given more than it works on at once: beyond its slots they would only stand there.
            background = max(1, min(background, connection.room.slots - 2))
        return background

    def _resize_gate(self) -> None:
        """The model takes more at once than before, or less."""
        if self.gate is not None and self.connection is not None:
            self.gate.resize(self.connection.limit, self._background(self.connection))

    async def check(self) -> Health:
        """Whether the model would answer now; what was found counts for two seconds, and while a look takes long."""
        if time.monotonic() - self._checked >= _CHECK_PAUSE_S:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._look_and_tell())
            await asyncio.wait({self._checking}, timeout=_CHECK_TIMEOUT_S)
        return self._health

    async def _look_and_tell(self) -> None:
        self._health = await self._look()
        self._checked = time.monotonic()
        self._metrics.model_up.set(self._health.ready)

    async def _look(self) -> Health:
        try:
            labeller = (await self.pipeline()).labeller
            client = await labeller.connection.open(labeller.prompt)
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                is_other = await self._is_other(labeller.connection, client)
        except TimeoutError:
            return Health(ready=False, detail=f"The model's endpoint was silent for {_CHECK_TIMEOUT_S:g} s.")
        except ReviewmillError as error:
            return Health(ready=False, detail=error.message)
        if is_other:
            await self._reconnect(labeller.connection)
            return Health(ready=False, detail="The endpoint serves another model than before.")
        about = labeller.connection.about
        notes = labeller.connection.notes if _is_pool(labeller.connection) else ()
        return Health(ready=True, detail=" ".join([f"{about.model} on {about.endpoint}", *notes]))

    async def _is_other(self, connection: Connection, client: EndpointClient) -> bool:
        """Whether the endpoint serves another model than when we connected."""
        if _is_pool(connection):
            return False  # it looks after its endpoints itself
        if connection.about.endpoint == EMBEDDED:
            await client.models()  # whether it is alive; its model is the file that was loaded
            return False
        try:
            return await client.identify() != connection.about.fingerprint
        except EndpointRefusedError:
            return True

    async def _reconnect(self, old: Connection) -> None:
        """The endpoint serves another model: its answers are others, and so are their keys."""
        log.warning("The endpoint %s serves another model than before; connecting anew.", old.about.endpoint)
        if self.connection is old:
            self.connection = None
            self._pipelines.clear()
            self.hot.clear()
        await old.aclose()

    async def watch(self) -> None:
        """Look after the model, again and again, until cancelled. Loads the embedded one."""
        while True:
            before = self._health
            health = await self.check()
            if health != before:
                log.info("The model is %s: %s", "ready" if health.ready else "not ready", health.detail)
            await asyncio.sleep(_WATCH_S if health.ready else _CHECK_PAUSE_S)

    # --- comments ---

    async def analyse(
        self,
        comments: Sequence[Comment],
        task: str | None = None,
        *,
        keywords: bool | None = None,
        on_read: OnRead | None = None,
    ) -> list[Analysis]:
        """Analyse comments; the result has their order and length, and a comment that failed carries its own error.

        Raises:
            TaskError: there is no such task.
            BusyError: too many comments wait already; nothing was done.
            ReviewmillError: the model cannot be reached at all.
        """
        wanted = self.task(task)
        with_keywords = self._wants_keywords(wanted, keywords)
        results: list[Analysis | None] = [None] * len(comments)
        cold: list[int] = []
        for at, comment in enumerate(comments):
            hot = self.hot.get((wanted.name, with_keywords, comment.text))
            if hot is None:
                cold.append(at)
                continue
            if on_read is not None and hot.cleaned_sha256 is not None:
                on_read(comment, hot.text_sha256, hot.cleaned_sha256)
            results[at] = hot.for_id(comment.id)
        self._metrics.cache.labels("hot").inc(len(comments) - len(cold))
        if cold:
            pipeline = await self.pipeline(wanted.name, keywords=with_keywords)
            analyses = await self._analyse_cold(pipeline, [comments[at] for at in cold], on_read)
            for at, analysis in zip(cold, analyses, strict=True):
                results[at] = analysis
        done = [analysis for analysis in results if analysis is not None]
        for analysis in done:
            self._metrics.analysed(analysis)
        return done

    def knows(self, comments: Sequence[Comment], task: str | None = None, *, keywords: bool | None = None) -> bool:
        """Whether all these comments would be answered from memory.

        Raises:
            TaskError: there is no such task.
        """
        wanted = self.task(task)
        frame = (wanted.name, self._wants_keywords(wanted, keywords))
        return all(self.hot.get((*frame, comment.text)) is not None for comment in comments)

    async def forget(self, digests: Collection[str]) -> int:
        """Delete every cached answer about the texts whose digests (of what the model read) these are.

        Raises:
            CacheError: the cache cannot be reached or written; nothing may be taken for deleted.
        """
        if self.cache is None:
            return 0
        prefixes = [bytes.fromhex(digest)[:TEXT_PREFIX_BYTES] for digest in digests]
        delete = self.cache.delete_text
        return await asyncio.to_thread(lambda: sum(delete(prefix) for prefix in prefixes))

    async def _analyse_cold(
        self, pipeline: Pipeline, comments: Sequence[Comment], on_read: OnRead | None
    ) -> list[Analysis]:
        heavy = len(comments) > _HEAVY_COMMENTS or sum(len(comment.text) for comment in comments) > _HEAVY_CHARS
        read = await _maybe_in_thread(heavy, _read_all, pipeline, comments)
        if on_read is not None:
            for each in read:
                for digest in each.cleaned_sha256:
                    on_read(each.prepared.comment, each.text_sha256, digest)
        texts = list(dict.fromkeys(text for each in read for text in each.prepared.texts))
        outcomes = await self._answers(pipeline, texts)
        analyses = await _maybe_in_thread(heavy, _assemble, pipeline, read, outcomes)
        frame = (pipeline.labeller.task.name, pipeline.labeller.keywords)
        for each, analysis in zip(read, analyses, strict=True):
            if not each.prepared.parts:
                cleaned = next(iter(each.cleaned_sha256), None)
                self.hot.keep((*frame, each.prepared.comment.text), analysis, each.text_sha256, cleaned)
        return analyses

    async def _answers(self, pipeline: Pipeline, texts: Sequence[str]) -> dict[str, Outcome]:
        keys = {text: pipeline.labeller.key(text) for text in texts}
        found = await pipeline.look_up({key: text for text, key in keys.items()})
        outcomes: dict[str, Outcome] = {text: (found[key], "cache") for text, key in keys.items() if key in found}
        self._metrics.cache.labels("cache").inc(len(outcomes))
        missing = [text for text in texts if text not in outcomes]
        if missing:
            self._metrics.cache.labels("nowhere").inc(len(missing))
            with self._admitted(len(missing)):
                outcomes |= await self._ask(pipeline, missing)
        return outcomes

    @contextmanager
    def _admitted(self, comments: int) -> Iterator[None]:
        """Let comments in, all or none; to an idle model any number may go."""
        if self.gate is None:
            raise RuntimeError("comments are admitted after connecting")
        most = self.gate.capacity + self.settings.service.queue
        if self._asking and self._asking + comments > most:
            waiting = max(0, self._asking - self.gate.capacity)
            raise BusyError(waiting, retry_after=self.gate.retry_after(waiting))
        self._asking += comments
        try:
            yield
        finally:
            self._asking -= comments

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place at the model for something else than a comment of a task.

        Raises:
            BusyError: too many wait already.
            ReviewmillError: the model cannot be reached.
        """
        await self._connect()
        if self.gate is None:
            raise RuntimeError("there is no gate after connecting")
        with self._admitted(1):
            async with self.gate.place("interactive"):
                yield

    async def _ask(self, pipeline: Pipeline, texts: Sequence[str]) -> dict[str, Outcome]:
        """Ask the model about each text, so many at once as it works on: one request never fills the line alone."""
        outcomes: dict[str, Outcome] = {}
        waiting = iter(texts)

        async def some() -> None:
            for text in waiting:
                outcomes[text] = await self._ask_one(pipeline, text)

        workers = [
            asyncio.create_task(some()) for _ in range(min(len(texts), pipeline.labeller.connection.concurrency))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return outcomes

    async def _ask_one(self, pipeline: Pipeline, text: str) -> Outcome:
        try:
            answer, route = await pipeline.answer(text)
        except EndpointError as error:
            return error_info(error)
        if route == "model":
            self._metrics.tokens.labels("in").inc(answer.tokens_in)
            self._metrics.tokens.labels("out").inc(answer.tokens_out)
        return answer, route

    def _measure(self) -> None:
        self._metrics.hot.set(len(self.hot))
        for priority in ("interactive", "job"):
            depth = self.gate.depth()[priority] if self.gate else 0
            inside = self.gate.inside()[priority] if self.gate else 0
            self._metrics.waiting.labels(priority).set(depth)
            self._metrics.asking.labels(priority).set(inside)


@dataclass(frozen=True, slots=True)
class _Read:
    """A comment that was cleaned, its digest, and those of what the model is asked."""

    prepared: Prepared
    text_sha256: str
    cleaned_sha256: tuple[str, ...]


def _read_all(pipeline: Pipeline, comments: Sequence[Comment]) -> list[_Read]:
    return [_read(pipeline.prepare(comment)) for comment in comments]


def _read(prepared: Prepared) -> _Read:
    return _Read(prepared, text_sha256(prepared.comment.text), tuple(text_sha256(text) for text in prepared.texts))


def _assemble(pipeline: Pipeline, read: Sequence[_Read], outcomes: Mapping[str, Outcome]) -> list[Analysis]:
    told: set[str] = set()

    def find(text: str) -> Outcome:
        outcome = outcomes[text]
        if isinstance(outcome, tuple) and text in told:
            outcome = outcome[0], "cache"  # the first comment with a text shows who answered
        told.add(text)
        return outcome

    return [pipeline.assembler.assemble(each.prepared, find) for each in read]


def _tell_calibration(pipeline: Pipeline) -> None:
    task, calibration = pipeline.labeller.task.name, pipeline.assembler.calibration
    said = calibration.describe() if calibration is not None else "none; confidence is the model's own"
    log.info("Calibration of the task %s: %s", task, said)
    for note in pipeline.calibration_notes:
        log.warning("%s", note)


def text_sha256(text: str) -> str:
    """The digest under which a text is known: SHA-256 of its UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


async def _maybe_in_thread(heavy: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what takes long in a thread, so that the other requests go on; what does not, here."""
    return await asyncio.to_thread(work, *args, **kwargs) if heavy else work(*args, **kwargs)


def _load_tasks(default: Task, folder: Path | None) -> dict[str, Task]:
    tasks = {default.name: default}
    for name in BUILTIN_TASKS:
        tasks.setdefault(name, load_task(name))
    for path in sorted(folder.glob("*.toml")) if folder is not None else ():
        task = load_task(path)
        known = tasks.setdefault(task.name, task)
        if known.hash != task.hash:
            raise TaskError(
                f"{path} is another task of the name {task.name!r}.", hint="Names must differ; rename one of them."
            )
    return tasks
