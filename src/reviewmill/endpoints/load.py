"""Watch an engine's own line, where it shows one, and tell the limiter."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from reviewmill.endpoints.limiter import Limiter
from reviewmill.endpoints.vllm.metrics import parse_metrics

_PAUSE_S: Final = 1.0
_TIMEOUT_S: Final = 5.0
_MOST_FAILURES: Final = 3

# llama.cpp shows these with --metrics, SGLang with --enable-metrics.
_LINES: Final = (
    ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """What an engine says of its own line: requests that it works on, and that wait."""

    running: int
    waiting: int


def read_line(text: str) -> Line | None:
    """Find the line in Prometheus's text format; None if it is not there."""
    metrics = parse_metrics(text)
    if metrics is not None:
        return Line(metrics.running, metrics.waiting)
    for running, waiting in _LINES:
        found = [_total(name, text) for name in (running, waiting)]
        if found[0] is not None and found[1] is not None:
            return Line(found[0], found[1])
    return None


def _total(name: str, text: str) -> int | None:
    values = re.findall(rf"^{name}(?:\{{[^\n]*\}})?[ \t]+([0-9.eE+]+)", text, re.MULTILINE)
    try:
        return sum(int(float(value)) for value in values) if values else None
    except (ValueError, OverflowError):
        return None


async def watch_line(http: httpx2.AsyncClient, url: str, limiter: Limiter) -> None:
    """Tell the limiter of the engine's line, once a second, until cancelled or until there is none to be seen.

    Args:
        http: a client for the engine, with its key.
        url: the engine's base URL.
        limiter: what is told.
    """
    failures = 0
    while failures < _MOST_FAILURES:
        try:
            reply = await http.get(url.removesuffix("/v1") + "/metrics", timeout=_TIMEOUT_S)
        except httpx2.HTTPError:
            failures += 1  # the requests themselves tell whether it is away
        else:
            line = read_line(reply.text) if reply.status_code == 200 else None
            if line is None:
                return
            failures = 0
            limiter.observe_queue(line.running, line.waiting)
        await asyncio.sleep(_PAUSE_S)


async def slots_of(http: httpx2.AsyncClient, url: str) -> int | None:
    """How many requests llama.cpp's server works on at once (`GET /props`); None if it is another, or does not say."""
    try:
        reply = await http.get(url.removesuffix("/v1") + "/props", timeout=_TIMEOUT_S)
        said: Any = reply.json() if reply.status_code == 200 else {}
    except (httpx2.HTTPError, ValueError):
        return None
    slots = said.get("total_slots") if isinstance(said, dict) else None
    return slots if isinstance(slots, int) and 0 < slots <= 4096 else None
