"""What vLLM says of itself (`GET /metrics`, in Prometheus's text format)."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import httpx2

from reviewmill.errors import EndpointUnreachableError
from reviewmill.outbound import way_to

# NAME{LABELS} VALUE [TIME]; a label's value may hold escaped quotes.
_LINE: Final = re.compile(r'([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?\s+(\S+)')
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """vLLM's counters since it started; gauges as they are now. Over all copies of the model.

    Attributes:
        running, waiting: questions that are computed, and that wait for room.
        kv_usage: share of the key-value cache in use (0 to 1); the fullest copy's.
        prefix_queries, prefix_hits: prompt tokens looked up in the prefix cache, and found there.
        preemptions: questions that were thrown out of the cache half-answered, and computed again: too many at once.
        prompt_tokens, generated_tokens: in all.
        finished: questions by how they ended (`stop`, `length`, `abort`, ...).
        kv_tokens: tokens that the key-value cache really holds; None if it does not say.
    """

    running: int
    waiting: int
    kv_usage: float
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    finished: dict[str, int] = field(default_factory=dict)
    kv_tokens: int | None = None

    @property
    def hit_rate(self) -> float | None:
        """Share of the prompt tokens that were found in the prefix cache; None before the first."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else None


def parse_metrics(text: str) -> EngineMetrics | None:
    """Read vLLM's metrics; None if these are not vLLM's."""
    values: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or not match[1].startswith("vllm:"):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        # Counters got the suffix _total in some versions only.
        values[match[1].removesuffix("_total")].append((dict(_LABEL.findall(match[2] or "")), value))
    if "vllm:num_requests_running" not in values:
        return None

    def total(name: str) -> int:
        return int(sum(value for _, value in values[f"vllm:{name}"]))

    finished: dict[str, int] = defaultdict(int)
    for labels, value in values["vllm:request_success"]:
        finished[labels.get("finished_reason", "?")] += int(value)
    return EngineMetrics(
        running=total("num_requests_running"),
        waiting=total("num_requests_waiting"),
        kv_usage=max((value for _, value in values["vllm:kv_cache_usage_perc"]), default=0.0),
        prefix_queries=total("prefix_cache_queries"),
        prefix_hits=total("prefix_cache_hits"),
        preemptions=total("num_preemptions"),
        prompt_tokens=total("prompt_tokens"),
        generated_tokens=total("generation_tokens"),
        finished={reason: count for reason, count in finished.items() if count},
        kv_tokens=_kv_tokens([labels for labels, _ in values["vllm:cache_config_info"]]),
    )


def _kv_tokens(configs: list[dict[str, str]]) -> int | None:
    tokens = 0
    for config in configs:
        said = config.get("kv_cache_size_tokens", "")
        blocks, size = config.get("num_gpu_blocks", ""), config.get("block_size", "")
        if said.isdigit():
            tokens += int(said)
        elif blocks.isdigit() and size.isdigit():
            tokens += int(blocks) * int(size)
    return tokens or None


async def read_metrics(url: str) -> EngineMetrics | None:
    """Ask a server for its metrics; None if it has none, or is not vLLM.

    Args:
        url: base URL, with or without `/v1`.

    Raises:
        EndpointUnreachableError: it cannot be reached.
    """
    base = httpx2.URL(url.rstrip("/").removesuffix("/v1") + "/metrics")
    try:
        async with httpx2.AsyncClient(timeout=_SECONDS, **way_to(url)) as http:
            reply = await http.get(base)
    except httpx2.HTTPError as error:
        raise EndpointUnreachableError(f"{base} cannot be reached: {error}.", hint="Is the server running?") from error
    return parse_metrics(reply.text) if reply.status_code == 200 else None
