"""An engine that costs nothing, to see how many comments a second the client can ask about.

    taskset -c 1 python benchmarks/fixed_engine.py --slots 256 --delay 0.02       # prints its address
    taskset -c 0 reviewmill bench --endpoint http://127.0.0.1:PORT/v1 --no-keywords --concurrency 256 comments.jsonl

It works on `--slots` questions at once and answers each after `--delay` seconds, always the same: one label, with 20
log-probabilities. Each of the two programs has one core. `bench` measures a run from its first question to its last
commit (asking, scoring, committing) and, as "raw", the same requests made ready beforehand and not read. Reading the
file before and writing the result after come on top.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal

from aiohttp import web

ODD = "zqx7"
"""What the client's probe asks for, to see that a format is enforced (`endpoints/capabilities.py`)."""


def answer(said: str) -> bytes:
    """A completion as vLLM gives it, with 20 alternatives at its only token."""
    likely = [("positive", -0.1), ("negative", -2.6), ("neutral", -3.9), *((f"t{n}", -9.0 - n) for n in range(17))]
    top = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in likely]
    token = {"token": said, "logprob": -0.1, "bytes": list(said.encode()), "top_logprobs": top}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": said},
        "logprobs": {"content": [token]},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 650, "completion_tokens": 1, "total_tokens": 651}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def serve(slots: int, delay: float, port: int) -> None:
    """Answer until stopped."""
    places, usual, odd = asyncio.Semaphore(slots), answer("positive"), answer(ODD)

    async def complete(request: web.Request) -> web.Response:
        body = await request.read()
        async with places:
            await asyncio.sleep(delay)
        return web.Response(body=odd if ODD.encode() in body else usual, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fixed", "object": "model"}]})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds")
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    asyncio.run(serve(asked.slots, asked.delay, asked.port))


if __name__ == "__main__":
    main()
