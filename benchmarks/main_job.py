"""The plain way against reviewmill, on the same embedded endpoint and the same distinct comments, in one run.

    python benchmarks/main_job.py FILE [--rows 60] [--model NAME] [--json OUT]

The plain way is what the usual tutorial does: `requests`, one comment after another, JSON with a confidence that the
model states, enforced by JSON Schema, temperature 0; its prompt is shorter than ours and is cached by the engine too.
Then: the same with 30% duplicates, and the same again with everything cached.

"Client" is the processor time of the thread that does all of reviewmill's own work (cleaning, HTTP, scoring, cache),
as a share of the wall time; llama.cpp runs in threads of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from reviewmill import AsyncSentimentAnalyzer
from reviewmill.batch.read import open_source
from reviewmill.endpoints import embedded
from reviewmill.endpoints.connection import EmbeddedConnection
from reviewmill.models import detect, resolve
from reviewmill.settings import DEFAULT_MODEL, Settings
from reviewmill.text import clean, triage

PLAIN_PROMPT = (
    "你是一名专业的情感分析师。请分析下面评论的情感倾向，只返回JSON，不要解释："
    '{"sentiment": "positive/neutral/negative", "confidence": 0到1的小数, "keywords": ["关键词"]}'
)
PLAIN_SCHEMA = {
    "type": "object",
    "properties": {
        "sentiment": {"type": "string", "enum": ["positive", "neutral", "negative"]},
        "confidence": {"type": "number"},
        "keywords": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    },
    "required": ["sentiment", "confidence", "keywords"],
}


@dataclass
class Measured:
    """One way over one list of comments."""

    way: str
    comments: int
    seconds: float
    generated_tokens: float | None = None
    prompt_tokens: float | None = None
    client_share: float | None = None

    @property
    def rate(self) -> float:
        """Comments a second."""
        return self.comments / self.seconds


def distinct_comments(path: Path, rows: int) -> list[str]:
    """The first comments of the file that differ after cleaning and have something to judge."""
    texts: dict[str, str] = {}
    for row in open_source(path).rows():
        if row.text is not None and triage(clean(row.text).text) is None:
            texts.setdefault(clean(row.text).text, row.text)
        if len(texts) == rows:
            break
    return list(texts.values())


def plain(url: str, key: str, texts: Sequence[str]) -> Measured:
    """One request after another."""
    tokens = 0
    session = requests.Session()
    began = time.perf_counter()
    for text in texts:
        reply = session.post(
            f"{url}/chat/completions",
            headers={"Authorization": f"Bearer {key}"},
            json={
                "model": "default",
                "messages": [{"role": "system", "content": PLAIN_PROMPT}, {"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 256,
                "response_format": {"type": "json_schema", "json_schema": {"name": "result", "schema": PLAIN_SCHEMA}},
            },
            timeout=600,
        ).json()
        tokens += reply["usage"]["completion_tokens"]
    return Measured("plain", len(texts), time.perf_counter() - began, tokens / len(texts))


async def ours(analyzer: AsyncSentimentAnalyzer, way: str, texts: Sequence[str]) -> Measured:
    """The whole list through reviewmill."""
    began, cpu = time.perf_counter(), time.thread_time()
    analyses = await analyzer.analyze_batch(texts)
    seconds, spent = time.perf_counter() - began, time.thread_time() - cpu
    failed = [analysis for analysis in analyses if analysis["status"] == "error"]
    if failed:
        raise SystemExit(f"{len(failed)} comments failed: {failed[0]['error']}")
    return Measured(way, len(texts), seconds, client_share=spent / seconds)


async def tokens_per_comment(analyzer: AsyncSentimentAnalyzer, texts: Sequence[str]) -> float:
    """Mean tokens that the model generated, as it counted them; read back from the cache."""
    pipeline = await analyzer.pipeline()
    keys = [pipeline.labeller.key(clean(text).text) for text in texts]
    answers = await pipeline.cached(keys)
    return sum(answer.tokens_out for answer in answers.values()) / len(answers)


async def measure(path: Path, rows: int, model: str, folder: Path) -> list[Measured]:
    """All four measurements on one endpoint."""
    texts = distinct_comments(path, rows)
    duplicated = [*texts, *random.Random(0).choices(texts, k=round(len(texts) * 3 / 7))]
    random.Random(0).shuffle(duplicated)
    async with AsyncSentimentAnalyzer(model=model, cache=f"sqlite:{folder / 'a'}") as analyzer:
        pipeline = await analyzer.pipeline()
        await pipeline.labeller.connection.open(pipeline.labeller.prompt)
        # The same engine: one process holds a model once.
        engine = await shared_engine(analyzer.settings)
        distinct = await ours(analyzer, "reviewmill, distinct", texts)
        distinct.generated_tokens = await tokens_per_comment(analyzer, texts)
        again = await ours(analyzer, "reviewmill, again (cached)", texts)
        usual = await asyncio.to_thread(plain, f"{engine.url}/v1", engine.api_key, texts)
        embedded.release(engine)
    async with AsyncSentimentAnalyzer(model=model, cache=f"sqlite:{folder / 'b'}") as analyzer:
        pipeline = await analyzer.pipeline()
        await pipeline.labeller.connection.open(pipeline.labeller.prompt)
        with_duplicates = await ours(analyzer, "reviewmill, 30% duplicates", duplicated)
    return [usual, distinct, with_duplicates, again]


async def shared_engine(settings: Settings) -> embedded.EmbeddedEngine:
    """The engine that an analyzer with these settings runs on."""
    model = resolve(settings.model, models_dir=settings.models_dir)
    shared = EmbeddedConnection(settings, model)
    return await embedded.acquire(model.path, shared.wish, shared.room, prefix_dir=settings.cache_dir / "prefixes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(options.file, options.rows, options.model, Path(folder)))
    hardware = detect()
    print(f"{options.file.name}, {hardware.cpu}, {hardware.physical_cores} cores, {options.model}\n")
    print(f"{'way':<30}{'comments':>9}{'seconds':>9}{'per s':>10}{'ratio':>9}{'tokens':>8}{'client':>8}")
    for result in results:
        tokens = f"{result.generated_tokens:.1f}" if result.generated_tokens else ""
        share = f"{result.client_share:.2%}" if result.client_share is not None else ""
        ratio = f"{result.rate / results[0].rate:.2f}x"
        print(
            f"{result.way:<30}{result.comments:>9}{result.seconds:>9.2f}{result.rate:>10.2f}{ratio:>9}"
            f"{tokens:>8}{share:>8}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(result) | {"rate": result.rate} for result in results], indent=2))


if __name__ == "__main__":
    main()
