"""A process that works on jobs and serves nothing: `python tests/jobs_process.py DATA_DIR ENDPOINT [LEASE [WORKERS]]`.

It prints "ready" when its workers run, and gives its jobs back on SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from pydantic import SecretStr

from reviewmill.analyzer import AsyncSentimentAnalyzer
from reviewmill.pipeline import Pipeline
from reviewmill.server.jobs.room import JobRoom
from reviewmill.settings import ServiceSettings
from reviewmill.store import Store, database_url


async def main(data_dir: Path, endpoint: str, lease_s: float = 30.0, workers: int = 1) -> None:
    settings = ServiceSettings(
        database=SecretStr(os.environ["JOBS_DATABASE"]), data_dir=data_dir, lease_s=lease_s, job_workers=workers
    )
    own = {"cache": "none", "cache_dir": data_dir / "cache", "state_dir": data_dir / "state"}
    analyzer = AsyncSentimentAnalyzer(endpoint, concurrency=4, attempts=1, **own)

    async def pipeline_of(task: str, keywords: bool | None) -> Pipeline:
        return await analyzer.pipeline()

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with Store.open(database_url(settings)) as store:
        room = JobRoom(store, settings, pipeline_of)
        await room.start()
        print("ready", flush=True)
        await stop.wait()
        await room.aclose()
    await analyzer.aclose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(
        main(Path(sys.argv[1]), sys.argv[2], *(float(each) for each in sys.argv[3:4]), *map(int, sys.argv[4:5]))
    )
