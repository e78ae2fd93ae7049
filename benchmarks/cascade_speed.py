"""How long would a large file take with the cascade, and how long in the plain way?

    python benchmarks/cascade_speed.py comments.jsonl labels.jsonl [--rows 200] [--target 0.90]

In one run on one engine: the plain way (`main_job.py`) and reviewmill without keywords answer the same `--rows`
comments of the first file, which gives both rates. Then the cascade runs over the second file, the model's
labels of all its comments, collected once (see `cascade.py`): it tells how many questions it needs, and takes
its own time. The whole run is that time and the questions at reviewmill's rate; the plain one is every comment
at the plain rate. Peak memory is that of this process, the model included.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
from pathlib import Path

from cascade import many, read_world
from main_job import distinct_comments, ours, plain, shared_engine
from reviewmill import AsyncSentimentAnalyzer
from reviewmill.cascade.router import Goal
from reviewmill.endpoints import embedded
from reviewmill.models import detect, resolve
from reviewmill.models.vectors import read_vectors
from reviewmill.settings import DEFAULT_MODEL, load_settings


async def rates(path: Path, rows: int, folder: Path) -> tuple[float, float]:
    """Comments a second, the plain way and ours."""
    texts = distinct_comments(path, rows)
    async with AsyncSentimentAnalyzer(keywords=False, cache=f"sqlite:{folder / 'answers'}") as analyzer:
        pipeline = await analyzer.pipeline()
        await pipeline.labeller.connection.open(pipeline.labeller.prompt)
        engine = await shared_engine(analyzer.settings)
        mine = await ours(analyzer, "label only", texts)
        usual = await asyncio.to_thread(plain, f"{engine.url}/v1", engine.api_key, texts)
        embedded.release(engine)
    return usual.rate, mine.rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="comments to measure both rates on")
    parser.add_argument("labels", type=Path, help="comments with the model's labels, JSON lines")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--target", type=float, default=0.90)
    parser.add_argument("--seed", type=int, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        usual, mine = asyncio.run(rates(asked.file, asked.rows, Path(folder)))
    world = read_world(asked.labels, None, "sentiment", None)
    settings = load_settings()
    embeddings = read_vectors(resolve(settings.model or DEFAULT_MODEL, models_dir=settings.models_dir).path)
    seeds = range(asked.seed, asked.seed + 1)
    (outcome,) = many(world, "as shipped", Goal(agreement=asked.target), seeds, embeddings=embeddings).outcomes
    whole = outcome.seconds + outcome.asked / mine
    straight = len(world.texts) / usual
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    hardware = detect()
    print(f"\n{hardware.cpu}, {hardware.physical_cores} cores; rates of {asked.rows} comments of {asked.file.name}")
    print(f"plain: {usual:.2f}/s; reviewmill, label only: {mine:.2f}/s")
    print(
        f"{world.name}: {len(world.texts):,} comments, {outcome.asked:,} asked ({outcome.asked / len(world.texts):.1%})"
    )
    print(f"agreement reached: {outcome.agreement:.2%} (target {asked.target:.2f})")
    print(
        f"whole run: {whole / 3600:.2f} h, of which the student {outcome.seconds:.0f} s; plain: {straight / 3600:.1f} h"
    )
    print(f"ratio: {straight / whole:.1f}; peak memory {memory:.2f} GiB")


if __name__ == "__main__":
    main()
