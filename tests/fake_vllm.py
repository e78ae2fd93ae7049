"""A program that behaves like vLLM's server where the engine room looks, in a second instead of a minute.

It takes vLLM's options, reads its key from the environment, and answers by the stub's rules (`stub_endpoint.py`) with
/health and /metrics beside. `FAKE_VLLM` in the environment names what goes wrong: `runaway` (JSON that is white space
only), `no-schema`, `no-cache`, `dies` (at every start), `deaf` (never ready).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from typing import Any

import stub_endpoint


class _FakeHandler(stub_endpoint._Handler):
    def do_GET(self) -> None:  # noqa: N802 - the base class's name for it
        fake = self.server.stub
        assert isinstance(fake, FakeVllm)
        if self.path == "/health":
            return self._send(503 if fake.fault == "deaf" else 200, "")
        if self.path == "/metrics":
            return self._send(200, fake.metrics(), kind="text/plain")
        return super().do_GET()


class FakeVllm(stub_endpoint.StubEndpoint):
    """The stub, with vLLM's counters and faults."""

    def __init__(self, fault: str, **knobs: Any) -> None:
        self.fault = fault
        self.seen: set[str] = set()
        self.queries = 0
        self.hits = 0
        super().__init__(**knobs)
        self._server.RequestHandlerClass = _FakeHandler

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        prefix = "".join(message["content"] for message in request["messages"][:-1])
        self.queries += len(prefix) + len(request["messages"][-1]["content"])
        self.hits += len(prefix) if prefix in self.seen and self.fault != "no-cache" else 0
        self.seen.add(prefix)
        reply = super().answer(request)
        if self.fault == "runaway" and "sentiment" in str(request.get("response_format")):
            reply["choices"][0]["message"]["content"] = "{" + "\n\t" * 100
            reply["choices"][0]["finish_reason"] = "length"
        return reply

    def metrics(self) -> str:
        labels = f'engine="0",model_name="{self.models[0]}"'
        return (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            f"vllm:num_requests_running{{{labels}}} {self.in_flight}.0\n"
            f"vllm:num_requests_waiting{{{labels}}} 0.0\n"
            f"vllm:kv_cache_usage_perc{{{labels}}} 0.25\n"
            f"vllm:prefix_cache_queries_total{{{labels}}} {self.queries}.0\n"
            f"vllm:prefix_cache_hits_total{{{labels}}} {self.hits}.0\n"
            f"vllm:num_preemptions_total{{{labels}}} 3.0\n"
            f"vllm:prompt_tokens_total{{{labels}}} {self.queries}.0\n"
            f"vllm:generation_tokens_total{{{labels}}} {self.total}.0\n"
            f'vllm:request_success_total{{{labels},finished_reason="stop"}} {self.total}.0\n'
            f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="1000"}} 1.0\n'
        )


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    arguments, others = parser.parse_known_args()
    fault = os.environ.get("FAKE_VLLM", "")
    key = os.environ["VLLM_API_KEY"]
    print(f"options: {' '.join(others)}; the key is {key}", flush=True)
    print(f"PYTHONPATH={os.environ.get('PYTHONPATH')}", flush=True)
    if fault == "dies":
        sys.exit("no room for the weights")
    assert re.fullmatch(r"[\w-]{43}", key), "vLLM takes any key; ours are long"
    FakeVllm(
        fault,
        port=arguments.port,
        capabilities=stub_endpoint.VLLM - ({"json_schema"} if fault == "no-schema" else set()),
        models=tuple(arguments.served_model_name),
        api_key=key,
    )
    threading.Event().wait()


if __name__ == "__main__":
    main()
