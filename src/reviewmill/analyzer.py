"""The Python face: `SentimentAnalyzer` for scripts and notebooks, `AsyncSentimentAnalyzer` for async code."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from reviewmill.cache import open_cache
from reviewmill.endpoints import About, connect, labeller_on
from reviewmill.errors import InputError
from reviewmill.pipeline import Pipeline
from reviewmill.schema import Analysis, Comment
from reviewmill.settings import Settings, load_settings
from reviewmill.tasks import Task, load_task

if TYPE_CHECKING:
    from reviewmill.batch.goals import CascadeOptions
    from reviewmill.batch.manifest import Manifest
    from reviewmill.batch.run import OnProgress
    from reviewmill.cascade.certificate import Certificate

T = TypeVar("T")
FrameT = TypeVar("FrameT")
Text = str | Comment
_INTERRUPTIBLE: Final = 0.2  # seconds


class AsyncSentimentAnalyzer:
    """Analyses comments with a local large language model.

    Without arguments it runs the embedded model in this process. It starts on first use; use it as an async context
    manager, or call `aclose()`.

    Args:
        api_url: an OpenAI-compatible server (`http://host:8000`, `…/v1` or `…/v1/chat/completions`); None: the
            embedded engine, or `endpoint` in the settings.
        model: a catalog name or `.gguf` file for the embedded engine, or the server's model name.
        task: a built-in task, a task file, or a `Task`.
        api_key: key for the server.
        keywords: whether to extract keywords; without, one token is generated a comment.
        cache: `sqlite`, `sqlite:PATH`, `redis://…` or `none`.
        settings: all settings at once; the other arguments then override it.
        **more: any other field of `Settings` (`concurrency=4`, `review_below=0.8`, ...).

    Raises:
        SettingsError: a setting is not valid.
        TaskError: the task does not exist or is not valid.
    """

    def __init__(
        self,
        api_url: str | None = None,
        *,
        model: str | None = None,
        task: str | Path | Task | None = None,
        api_key: str | None = None,
        keywords: bool | None = None,
        cache: str | None = None,
        settings: Settings | None = None,
        **more: Any,
    ) -> None:
        named = {"endpoint": api_url, "model": model, "api_key": api_key, "keywords": keywords, "cache": cache, **more}
        base = settings.model_dump(exclude_unset=True) if settings else {}
        self.settings = load_settings(**(base | {key: value for key, value in named.items() if value is not None}))
        self.task = load_task(task if task is not None else self.settings.task)
        self.warnings: list[str] = []
        self.certificate: Certificate | None = None
        self._pipeline: Pipeline | None = None
        self._resources = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what was started; the analyzer can be used again."""
        self._pipeline = None
        await self._resources.aclose()
        self._opening = asyncio.Lock()  # the next use may be in another loop

    async def pipeline(self) -> Pipeline:
        """Connect on first use; nothing is started yet.

        Raises:
            ModelError: the embedded model is not on this machine.
            EndpointError: the server cannot be reached, or does not serve the model.
            CacheError: the cache cannot be opened.
        """
        async with self._opening:
            if self._pipeline is None:
                cache = await asyncio.to_thread(
                    open_cache,
                    self.settings.cache,
                    cache_dir=self.settings.cache_dir,
                    ttl=self.settings.cache_ttl,
                    on_warning=self.warnings.append,
                )
                if cache is not None:
                    self._resources.callback(cache.close)
                connection = await connect(self.settings)
                self._resources.push_async_callback(connection.aclose)
                self.warnings.extend(note for note in connection.notes if note not in self.warnings)
                labeller = labeller_on(
                    connection, task=self.task, keywords=self.settings.keywords, wire=self.settings.wire
                )
                self._pipeline = Pipeline(self.settings, labeller, cache)
            return self._pipeline

    async def about(self) -> About:
        """What answers: model, file digest, endpoint."""
        return (await self.pipeline()).labeller.connection.about

    async def analyze(self, text: Text) -> Analysis:
        """Analyse one comment.

        Raises:
            EndpointError: the comment has words to judge, and no usable answer came.
        """
        return await (await self.pipeline()).analyse(_comment(text))

    async def analyze_batch(
        self,
        texts: Iterable[Text],
        *,
        agreement: float | None = None,
        budget: int | None = None,
        delta: float = 0.05,
        per_class: bool = False,
        student: str | Path | None = None,
    ) -> list[Analysis]:
        """Analyse many comments; the result has their order and length. Failures are in the rows (`status`).

        Args:
            texts: the comments.
            agreement: let a student answer, as far as at least this share of all labels is certainly the model's
                (docs/cascade.md); None: the model answers everything.
            budget: instead of `agreement`, ask the model at most so often.
            delta: probability with which the certificate may be wrong.
            per_class: whether the agreement must hold for each label by itself.
            student: a saved student to begin with.

        Returns:
            The analyses. After a cascade `certificate` says what may be said of them.

        Raises:
            SettingsError: the goal of the cascade is none.
        """
        if agreement is None and budget is None:
            return [analysis async for analysis in self.stream(texts)]
        from reviewmill.batch.goals import CascadeOptions
        from reviewmill.batch.texts import analyse_texts

        options = CascadeOptions(
            agreement, delta, budget, per_class=per_class, student=Path(student) if student is not None else None
        )
        comments = [_comment(text) for text in texts]
        batch = await analyse_texts(await self.pipeline(), comments, options)
        self.certificate = batch.certificate
        return batch.analyses

    async def stream(self, texts: Iterable[Text] | AsyncIterable[Text]) -> AsyncGenerator[Analysis, None]:
        """Analyse comments as they come, and yield the analyses in the same order.

        A bounded number is read ahead, so an endless input is fine. Equal texts are answered once.
        """
        pipeline = await self.pipeline()
        ahead = 4 * pipeline.labeller.connection.concurrency
        places = asyncio.Semaphore(pipeline.labeller.connection.concurrency)
        running: deque[asyncio.Task[Analysis]] = deque()

        async def one(text: Text) -> Analysis:
            async with places:
                return await pipeline.analyse_row(_comment(text))

        try:
            async for text in _aiter(texts):
                running.append(asyncio.create_task(one(text)))
                while len(running) >= ahead or (running and running[0].done()):
                    yield await running.popleft()
            while running:
                yield await running.popleft()
        finally:
            for task in running:
                task.cancel()

    async def analyze_file(
        self,
        path: str | Path,
        output: str | Path,
        *,
        text: str | None = None,
        id: str | None = None,  # noqa: A002 - the column's usual name
        format: str | None = None,  # noqa: A002
        on_progress: OnProgress | None = None,
        agreement: float | None = None,
        cascade: CascadeOptions | None = None,
    ) -> Manifest:
        """Analyse a file of any size into another; resumable (see `reviewmill.batch.run`).

        Args:
            path: CSV, TSV, JSONL, JSON, Parquet, XLSX or text lines.
            output: the file to write; its extension decides the format.
            text: the column that holds the comments; None: found.
            id: the column that holds the ids; None: found.
            format: the input's format, where its extension does not tell.
            on_progress: called often with a `Progress`.
            agreement: let a student answer, as far as at least this share of all labels is certainly the model's.
            cascade: the same with all options (`reviewmill.batch.goals.CascadeOptions`).

        Raises:
            InputError: the input is not a file of comments.
            OutputError: the output cannot be written.
            SettingsError: `agreement` is no share.
        """
        from reviewmill.batch.goals import CascadeOptions
        from reviewmill.batch.read import open_source
        from reviewmill.batch.run import Run

        source = await asyncio.to_thread(open_source, Path(path), text=text, id=id, format=format)
        if agreement is not None:
            cascade = CascadeOptions(agreement) if cascade is None else replace(cascade, agreement=agreement)
        run = Run(await self.pipeline(), source, Path(output), on_progress=on_progress, cascade=cascade)
        run.warnings = self.warnings
        return await run.execute()

    async def analyze_frame(self, frame: FrameT, text: str | None = None) -> FrameT:
        """Analyse a pandas or polars DataFrame; the same kind comes back, its columns and the result's beside them.

        Args:
            frame: the DataFrame; its index (pandas) is kept.
            text: the column that holds the comments; None: found by name.

        Raises:
            InputError: there is no such column.
        """
        from reviewmill.batch.frames import frame_texts, with_results

        texts = frame_texts(frame, text)
        return with_results(frame, await self.analyze_batch(texts), self.task)


class SentimentAnalyzer:
    """`AsyncSentimentAnalyzer` for code without `async`; works in Jupyter too. It takes the same arguments.

    Examples:
        >>> analyzer = SentimentAnalyzer()  # doctest: +SKIP
        >>> analyzer.analyze("这个手机拍照太差了，根本不像宣传那样清晰。")["sentiment"]  # doctest: +SKIP
        'negative'
    """

    def __init__(
        self,
        api_url: str | None = None,
        *,
        model: str | None = None,
        task: str | Path | Task | None = None,
        api_key: str | None = None,
        keywords: bool | None = None,
        cache: str | None = None,
        settings: Settings | None = None,
        **more: Any,
    ) -> None:
        # Settings and task are checked here, not at the first comment.
        self._analyzer = AsyncSentimentAnalyzer(
            api_url,
            model=model,
            task=task,
            api_key=api_key,
            keywords=keywords,
            cache=cache,
            settings=settings,
            **more,
        )
        self._resources = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what was started; the analyzer can be used again."""
        if self._portal is not None:
            self._portal.call(self._analyzer.aclose)
            self._portal = None
            self._resources.close()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._analyzer.settings

    @property
    def task(self) -> Task:
        """The task."""
        return self._analyzer.task

    @property
    def warnings(self) -> list[str]:
        """What went wrong without stopping anything (a cache that went away, ...)."""
        return self._analyzer.warnings

    def about(self) -> About:
        """What answers: model, file digest, endpoint."""
        return self._call(self._analyzer.about)

    def analyze(self, text: Text) -> Analysis:
        """Analyse one comment; see `AsyncSentimentAnalyzer.analyze`."""
        return self._call(self._analyzer.analyze, text)

    @property
    def certificate(self) -> Certificate | None:
        """What may be said of the last batch that was analysed with a cascade."""
        return self._analyzer.certificate

    def analyze_batch(
        self,
        texts: Iterable[Text],
        *,
        agreement: float | None = None,
        budget: int | None = None,
        delta: float = 0.05,
        per_class: bool = False,
        student: str | Path | None = None,
    ) -> list[Analysis]:
        """Analyse many comments; see `AsyncSentimentAnalyzer.analyze_batch`."""
        return self._call(
            lambda: self._analyzer.analyze_batch(
                texts, agreement=agreement, budget=budget, delta=delta, per_class=per_class, student=student
            )
        )

    def stream(self, texts: Iterable[Text]) -> Iterator[Analysis]:
        """Analyse comments as they come; see `AsyncSentimentAnalyzer.stream`."""
        analyses = self._analyzer.stream(texts)
        try:
            while True:
                try:
                    yield self._call(analyses.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._call(analyses.aclose)

    def analyze_file(
        self,
        path: str | Path,
        output: str | Path,
        *,
        text: str | None = None,
        id: str | None = None,  # noqa: A002 - the column's usual name
        format: str | None = None,  # noqa: A002
        on_progress: OnProgress | None = None,
        agreement: float | None = None,
        cascade: CascadeOptions | None = None,
    ) -> Manifest:
        """Analyse a file of any size; see `AsyncSentimentAnalyzer.analyze_file`."""
        return self._call(
            lambda: self._analyzer.analyze_file(
                path,
                output,
                text=text,
                id=id,
                format=format,
                on_progress=on_progress,
                agreement=agreement,
                cascade=cascade,
            )
        )

    def analyze_frame(self, frame: FrameT, text: str | None = None) -> FrameT:
        """Analyse a DataFrame; see `AsyncSentimentAnalyzer.analyze_frame`."""
        result: FrameT = self._call(lambda: self._analyzer.analyze_frame(frame, text))
        return result

    def with_pipeline(self, work: Callable[[Pipeline], Awaitable[T]]) -> T:
        """Do something else with the pipeline (evaluating, calibrating), in the analyzer's own loop."""

        async def call() -> T:
            return await work(await self._analyzer.pipeline())

        return self._call(call)

    def _call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        if self._portal is None:
            # A thread with a loop of its own: a notebook's loop is already running.
            self._portal = self._resources.enter_context(start_blocking_portal())
        running: list[asyncio.Task[Any]] = []

        async def call() -> T:
            running.extend(task for task in [asyncio.current_task()] if task)
            return await function(*arguments)

        future = self._portal.start_task_soon(call)
        try:
            # Waiting without a limit would, on some builds of Python, make Ctrl-C wait too.
            while not future.done():
                wait([future], timeout=_INTERRUPTIBLE)
            return future.result()
        except KeyboardInterrupt:
            # A running future cannot be cancelled from here; its task can.
            for task in running:
                self._portal.call(task.cancel)
            wait([future])
            raise


def _comment(text: Text) -> Comment:
    if isinstance(text, Comment):
        return text
    if not isinstance(text, str):
        raise InputError(f"A comment must be a str or a Comment, not {type(text).__name__}.")
    return Comment(text)


async def _aiter(texts: Iterable[Text] | AsyncIterable[Text]) -> AsyncIterator[Text]:
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
    else:
        for text in texts:
            yield text
            await asyncio.sleep(0)  # a list of cached texts must not starve the answers
