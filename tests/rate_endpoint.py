"""A model server in a process of its own that answers at an exact rate: so many slots, each for a fixed time.

It is what the tests of speed measure against: `slots / seconds` answers a second, and not one more. Unlike
`StubEndpoint` it spends little time on each request, so that a test measures the client. In a test:

    with RateEndpoint(slots=8, seconds=0.05) as engine: ... engine.url ... engine.counts() ... engine.kill()

Labels follow the same rule as those of `StubEndpoint`. `--vllm-metrics` shows the counters of vLLM at `/metrics`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, cast

from stub_endpoint import decide, keywords

if TYPE_CHECKING:
    from types import TracebackType

LABELS = ("positive", "neutral", "negative")


class RateEndpoint:
    """A running server; also a context manager.

    Args:
        slots: requests worked on at once; further ones wait in its line.
        seconds: how long each takes.
        model: the model's name.
        port: 0: any free one.
        metrics: show vLLM's counters.
        garbage: answer with words that are no label, but for the probes.
    """

    def __init__(
        self,
        *,
        slots: int = 8,
        seconds: float = 0.05,
        model: str = "stub-model",
        port: int = 0,
        metrics: bool = False,
        garbage: bool = False,
    ) -> None:
        options = ["--slots", f"{slots}", "--seconds", f"{seconds}", "--model", model, "--port", f"{port}"]
        options += ["--vllm-metrics"] * metrics + ["--garbage"] * garbage
        self.process = subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), "the server did not start"
        self.port = int(self.url.rsplit(":", 1)[1].removesuffix("/v1"))

    def __enter__(self) -> RateEndpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def counts(self) -> dict[str, Any]:
        """`asked` (times each comment was asked), `answered`, `most_waiting`, `first` and `last` answer (seconds).

        Probes do not count.
        """
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stub/counts", timeout=10) as reply:
            found: dict[str, Any] = json.loads(reply.read())
        return found

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def freeze(self) -> None:
        """Stop it without ending it: connections are accepted by the kernel, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.process.send_signal(signal.SIGCONT)


class _Engine:
    """The slots, the line in front of them, and the counters."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.running = 0
        self.waiting: deque[_Connection] = deque()
        self.asked: Counter[str] = Counter()
        self.answered = 0
        self.most_waiting = 0
        self.first = self.last = 0.0

    def take(self, connection: _Connection) -> None:
        if self.running < self.options.slots:
            self.start(connection, asyncio.get_running_loop().time())
        else:
            self.waiting.append(connection)
            self.most_waiting = max(self.most_waiting, len(self.waiting))

    def start(self, connection: _Connection, at: float) -> None:
        self.running += 1
        end = at + self.options.seconds
        asyncio.get_running_loop().call_at(end, self.finish, connection, end)

    def finish(self, connection: _Connection, end: float) -> None:
        self.running -= 1
        while self.waiting and self.waiting[0].gone:
            self.waiting.popleft()
        if self.waiting:  # from when its slot should have been free: a busy machine makes the rate no lower
            self.start(self.waiting.popleft(), end)
        if not connection.gone:
            if connection.comment() is not None:
                self.answered += 1
                self.last = time.monotonic()
                self.first = self.first or self.last
            connection.answer()

    def counts(self) -> dict[str, Any]:
        return {
            "asked": dict(self.asked),
            "answered": self.answered,
            "most_waiting": self.most_waiting,
            "first": self.first,
            "last": self.last,
        }

    def metrics(self) -> str:
        label = f'{{model_name="{self.options.model}"}}'
        return (
            f"vllm:num_requests_running{label} {self.running}\nvllm:num_requests_waiting{label} {len(self.waiting)}\n"
        )


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.buffer = b""
        self.gone = False
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def connection_lost(self, _error: Exception | None) -> None:
        self.gone = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        wanted = int(length[1]) if length else 0
        if len(rest) < wanted:
            return
        self.body, self.buffer = rest[:wanted], rest[wanted:]
        if head.startswith(b"POST"):
            comment = self.comment()
            if comment is not None:
                self.engine.asked[comment] += 1
            self.engine.take(self)
        elif b"/stub/counts" in head:
            self.send(json.dumps(self.engine.counts()).encode())
        elif b"/v1/models" in head:
            self.send(
                json.dumps(
                    {"data": [{"id": self.engine.options.model, "object": "model", "owned_by": "stub"}]}
                ).encode()
            )
        elif b"/metrics" in head and self.engine.options.vllm_metrics:
            self.send(self.engine.metrics().encode())
        else:
            self.send(b'{"detail": "Not Found"}', b"404 Not Found")

    def comment(self) -> str | None:
        messages = json.loads(self.body)["messages"]
        match = re.fullmatch("<<<(.*)>>>", messages[-1]["content"], re.DOTALL)
        return match[1] if match else None

    def answer(self) -> None:
        comment = self.comment()
        if comment is None:  # a probe: a grammar with one odd word is obeyed, everything else ignored
            odd = re.search(rb'"grammar": ?"root ::= \\"(\w+)', self.body)
            text = odd[1].decode() if odd else "Hello"
        elif self.engine.options.garbage:
            text = "As an assistant I would rather talk about the weather."
        else:
            text = decide(comment, LABELS)
            if b"kw" in self.body:
                text += "|" + ",".join(keywords(comment))
        tokens = re.findall(r"\w+|\W+", text)
        listed = {"content": [_logprob(token) for token in tokens]} if b'"logprobs"' in self.body else None
        reply = {
            "id": "x",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                    "logprobs": listed,
                }
            ],
            "usage": {"prompt_tokens": 500, "completion_tokens": len(tokens)},
        }
        self.send(json.dumps(reply, ensure_ascii=False).encode())

    def send(self, content: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(content))
        self.transport.write(head + content)


_OTHERS = [{"token": label, "bytes": list(label.encode()), "logprob": math.log(0.05)} for label in LABELS] + [
    {"token": f"~{number}", "bytes": list(f"~{number}".encode()), "logprob": -14.0 - number} for number in range(16)
]


def _logprob(token: str) -> dict[str, Any]:
    own = {"token": token, "bytes": list(token.encode()), "logprob": math.log(0.9)}
    return own | {"top_logprobs": [own, *(other for other in _OTHERS if other["token"] != token)]}


async def _serve(options: argparse.Namespace) -> None:
    engine = _Engine(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(engine), "127.0.0.1", options.port, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--model", default="stub-model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--vllm-metrics", action="store_true")
    parser.add_argument("--garbage", action="store_true")
    with contextlib.suppress(KeyboardInterrupt):
        try:
            import uvloop
        except ImportError:
            asyncio.run(_serve(parser.parse_args()))
        else:
            uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
