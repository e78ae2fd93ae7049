"""Measure an endpoint: comments and tokens a second, and the share of the engine's own rate that comes through.

The engine's own rate ("raw") is that of the same requests, made ready beforehand, sent with as many in flight, and not
read. The rate of comments is that of a real run: reading, asking, scoring, and committing each answer. Both are
measured twice, in the order raw, run, run, raw, on two halves of the comments, so that neither a machine that gets
slower nor a prompt that the engine still knows favours one of them.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reviewmill._version import __version__
from reviewmill.analyzer import AsyncSentimentAnalyzer
from reviewmill.endpoints import Labeller, PoolConnection, labeller_on
from reviewmill.errors import EndpointUnreachableError, InputError
from reviewmill.schema import Comment

if TYPE_CHECKING:
    from reviewmill.batch.run import Progress
    from reviewmill.endpoints.client import EndpointClient
    from reviewmill.pipeline import Pipeline
    from reviewmill.settings import Settings

ROUNDS: Final = 4
"""Comments of each half, for each request in flight."""
LEAST: Final = 12

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured with so many requests in flight.

    Attributes:
        concurrency: requests in flight, at each endpoint; for `auto`, where it ended.
        auto: whether the concurrency was found by measuring.
        comments: comments that were asked about (both halves).
        comments_per_second: of a real run.
        raw_per_second: the engine's own rate.
        ratio: the first as a share of the second.
        first_result_s: seconds from the first question to the first committed answer.
        tokens_in_per_second, tokens_out_per_second: prompt and generated tokens, at the rate of the run, as the engine
            counts them: a prompt's beginning that it has in its cache is counted too.
    """

    concurrency: int
    auto: bool
    comments: int
    comments_per_second: float
    raw_per_second: float
    ratio: float
    first_result_s: float
    tokens_in_per_second: float
    tokens_out_per_second: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        endpoint, model, task: of what.
        keywords: whether keywords were asked for.
        wire: the answer's format.
        opened_s: seconds until the model was ready.
        levels: one for each concurrency.
    """

    endpoint: str
    model: str
    task: str
    keywords: bool
    wire: str
    opened_s: float
    levels: list[Level] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as it is printed."""
        return {"reviewmill": __version__, **asdict(self)}


async def measure(
    settings: Settings, texts: Sequence[str], concurrencies: Sequence[int | None], on_step: OnStep = lambda _: None
) -> Report:
    """Measure the endpoint, or the pool, that the settings name.

    Args:
        settings: as for a run; cache and concurrency are not used.
        texts: comments to measure with; each level takes as many as it needs, from the start.
        concurrencies: requests in flight at each endpoint; None: found by measuring.
        on_step: told what is done now.

    Raises:
        InputError: there are too few comments.
        ReviewmillError: the endpoint cannot be opened, or a comment is not answered.
    """
    report: Report | None = None
    for concurrency in concurrencies:
        level = settings.model_copy(update={"cache": "none", "concurrency": concurrency})
        async with AsyncSentimentAnalyzer(settings=level) as analyzer:
            pipeline = await analyzer.pipeline()
            began = time.perf_counter()
            on_step("opening the model")
            await pipeline.labeller.connection.open(pipeline.labeller.prompt)
            await pipeline.answer("预热")
            if report is None:
                labeller = pipeline.labeller
                report = Report(
                    labeller.connection.about.endpoint,
                    labeller.connection.about.model,
                    labeller.task.name,
                    labeller.keywords,
                    labeller.wire_name,
                    round(time.perf_counter() - began, 2),
                )
            report.levels.append(await _level(analyzer, pipeline, texts, concurrency, on_step))
    if report is None:
        raise InputError("There is no concurrency to measure with.", hint="--concurrency 1,4,16")
    return report


async def _level(
    analyzer: AsyncSentimentAnalyzer,
    pipeline: Pipeline,
    texts: Sequence[str],
    concurrency: int | None,
    on_step: OnStep,
) -> Level:
    connection = pipeline.labeller.connection
    width = concurrency or connection.limit
    ready = [prepared.text for text in texts if (prepared := pipeline.prepare(Comment(text))).text is not None]
    distinct = list(dict.fromkeys(text for text in ready if text is not None))
    half = min(len(distinct) // 2, max(LEAST, ROUNDS * width))
    if half < 1:
        raise InputError("There are too few comments to measure with.", hint="Give a file with more.")
    halves = distinct[:half], distinct[half : 2 * half]
    name = f"{width} in flight" if concurrency else "concurrency found by measuring"
    runs: list[_Timed] = []
    raws: list[_Raw] = []

    async def run(part: Sequence[str]) -> None:
        on_step(f"{name}: a run")
        runs.append(await _run(analyzer, part))

    async def raw(part: Sequence[str]) -> None:
        on_step(f"{name}: the engine alone")
        raws.append(await _raw(pipeline, part, concurrency))

    if concurrency is None:  # it has to be found first
        on_step(f"{name}: looking for it")
        await _run(analyzer, distinct)
    await raw(halves[0])
    await run(halves[1])
    await run(halves[0])
    await raw(halves[1])
    rate = 2 * half / sum(timed.seconds for timed in runs)
    engine = sum(r.rate for r in raws) / len(raws)
    tokens_in, tokens_out = (sum(counts) / (2 * half) for counts in zip(*(r.tokens for r in raws), strict=True))
    return Level(
        concurrency=connection.limit if concurrency is None else concurrency,
        auto=concurrency is None,
        comments=2 * half,
        comments_per_second=round(rate, 3),
        raw_per_second=round(engine, 3),
        ratio=round(rate / engine, 4),
        first_result_s=round(min(timed.first for timed in runs), 3),
        tokens_in_per_second=round(tokens_in * rate, 1),
        tokens_out_per_second=round(tokens_out * rate, 1),
    )


@dataclass(slots=True)
class _Timed:
    """A run's first and last answer, in seconds after its first question."""

    first: float = 0.0
    seconds: float = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.asked and progress.began is not None and progress.phase == "answer":
            self.seconds = time.perf_counter() - progress.began
            self.first = self.first or self.seconds


async def _run(analyzer: AsyncSentimentAnalyzer, texts: Sequence[str]) -> _Timed:
    """A real run over these comments, in a folder that is thrown away."""
    timed = _Timed()
    with tempfile.TemporaryDirectory(prefix="reviewmill-bench-") as folder:
        source, output = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        source.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
        manifest = await analyzer.analyze_file(source, output, text="text", on_progress=timed)
    if manifest.tally.errors:
        raise EndpointUnreachableError(
            f"{manifest.tally.errors} of {len(texts)} comments were not answered: {manifest.tally.first_error}",
            hint="Speed means nothing before every comment is answered.",
        )
    return timed


@dataclass(frozen=True, slots=True)
class _Raw:
    """An engine's own rate, and the prompt and generated tokens that it counted."""

    rate: float
    tokens: tuple[int, int]


async def _raw(pipeline: Pipeline, texts: Sequence[str], concurrency: int | None) -> _Raw:
    """The engine's own rate; of a pool, the sum over its endpoints, each measured alone with its share."""
    connection = pipeline.labeller.connection
    if not isinstance(connection, PoolConnection):
        return await _raw_of(pipeline.labeller, texts, concurrency or connection.limit)
    members = [member for member in connection.members if member.state == "up" and member.connection is not None]
    total, tokens_in, tokens_out = 0.0, 0, 0
    for number, member in enumerate(members):
        if member.connection is None:
            continue
        share = texts[number :: len(members)]
        labeller = labeller_on(
            member.connection,
            task=pipeline.labeller.task,
            keywords=pipeline.labeller.keywords,
            wire=pipeline.settings.wire,
        )
        one = await _raw_of(labeller, share, concurrency or member.limit)
        total, tokens_in, tokens_out = total + one.rate, tokens_in + one.tokens[0], tokens_out + one.tokens[1]
    return _Raw(total, (tokens_in, tokens_out))


async def _raw_of(labeller: Labeller, texts: Sequence[str], concurrency: int) -> _Raw:
    requests = [await labeller.request(text) for text in texts]
    waiting = iter(requests)
    answers: list[bytes] = []

    async def some() -> None:
        client: EndpointClient
        for client, body in waiting:
            answers.append(await client.send(body))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(requests))):
            group.create_task(some())
    seconds = time.perf_counter() - began
    usages = [json.loads(answer).get("usage") or {} for answer in answers]
    tokens = [sum(usage.get(name) or 0 for usage in usages) for name in ("prompt_tokens", "completion_tokens")]
    return _Raw(len(requests) / seconds, (tokens[0], tokens[1]))
