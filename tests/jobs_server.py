"""The service in a process of its own, as tests of jobs need it: `python tests/jobs_server.py PORT`; settings by
`REVIEWMILL_*`. It prints "ready" when it answers."""

from __future__ import annotations

import asyncio
import logging
import sys

import uvicorn

from reviewmill.server.app import create_app
from reviewmill.settings import load_settings


async def main(port: int) -> None:
    app = create_app(load_settings())
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await serving


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(int(sys.argv[1])))
