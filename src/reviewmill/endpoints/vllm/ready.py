"""Whether an engine does what a run needs of it: asked with real questions, not believed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from reviewmill.endpoints.capabilities import TOP_LOGPROBS, json_schema_format, probe
from reviewmill.endpoints.vllm.metrics import read_metrics
from reviewmill.errors import EndpointError
from reviewmill.scoring import score_labels
from reviewmill.tasks import CompactWire, JsonWire, Task, render

if TYPE_CHECKING:
    from reviewmill.endpoints.client import EndpointClient

_COMMENTS: Final = ("杯子收到了，密封很好，倒过来也不漏水。", "等了快两个星期才发货，打开一看还少了一个配件。")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried: what, whether it is as it must be, and what was seen."""

    what: str
    good: bool
    said: str


async def check_engine(client: EndpointClient, task: Task) -> AsyncIterator[Check]:
    """Try everything that an analysis needs, one after another; the first failure ends it.

    Args:
        client: of the engine; it names the model.
        task: whose questions are asked.
    """
    for step in (_name, _formats, _json, _label, _prefix):
        try:
            check = await step(client, task)
        except EndpointError as error:
            check = Check(step.__doc__ or "", good=False, said=str(error))
        yield check
        if not check.good:
            return


async def _name(client: EndpointClient, _: Task) -> Check:
    """model"""  # noqa: D403, D415
    return Check("model", good=True, said=await client.identify())


async def _formats(client: EndpointClient, _: Task) -> Check:
    """formats"""  # noqa: D403, D415
    able = await probe(client)
    seen = {"regex": able.regex, "choice": able.choice, "JSON Schema": able.json_schema}
    missing = [name for name, there in seen.items() if not there]
    if able.top_logprobs < TOP_LOGPROBS:
        missing.append(f"{TOP_LOGPROBS} log-probabilities a token (it gives {able.top_logprobs})")
    said = f"not enforced: {', '.join(missing)}" if missing else "regex, choice and JSON Schema are enforced"
    return Check("formats", not missing, said)


async def _json(client: EndpointClient, task: Task) -> Check:
    """JSON"""  # noqa: D415
    wire = JsonWire(task, keywords=False)
    reply = await client.complete(
        render(task, wire, keywords=False).messages(_COMMENTS[0]),
        max_tokens=wire.max_tokens,
        constraint=json_schema_format("answer", wire.schema),
    )
    shown = reply.text[:120].replace("\n", "⏎").replace("\t", "⇥")
    try:
        answer = json.loads(reply.text)
    except ValueError:
        return Check("JSON", good=False, said=f"{shown!r} is no JSON (it ended with {reply.finish_reason!r})")
    return Check("JSON", set(answer) == {task.name} and answer[task.name] in task.label_names, shown)


async def _label(client: EndpointClient, task: Task) -> Check:
    """probabilities"""  # noqa: D403, D415
    wire = CompactWire(task, keywords=False)
    reply = await client.complete(
        render(task, wire, keywords=False).messages(_COMMENTS[0]),
        max_tokens=wire.max_tokens,
        top_logprobs=TOP_LOGPROBS,
        constraint={"structured_outputs": {"choice": list(task.label_names)}},
    )
    scores = score_labels(reply.steps or (), task.label_names, start=0, terminators=wire.terminators)
    if scores is None or reply.text not in task.label_names:
        return Check("probabilities", good=False, said=f"{reply.text[:80]!r} came without any that could be read")
    shares = ", ".join(f"{name} {math.exp(value):.3f}" for name, value in scores.logprobs.items())
    return Check("probabilities", good=True, said=f"{shares}; {scores.mass:.1%} of the distribution are on the labels")


async def _prefix(client: EndpointClient, task: Task) -> Check:
    """prefix cache"""  # noqa: D403, D415
    prompt = render(task, CompactWire(task, keywords=False), keywords=False)
    seconds: list[float] = []
    before = await read_metrics(client.url)
    for comment in _COMMENTS:
        began = time.perf_counter()
        await client.complete(prompt.messages(comment), max_tokens=1)
        seconds.append(time.perf_counter() - began)
    after = await read_metrics(client.url)
    if before is None or after is None:
        return Check("prefix cache", good=False, said="the server shows no metrics of vLLM")
    asked, hit = after.prefix_queries - before.prefix_queries, after.prefix_hits - before.prefix_hits
    return Check("prefix cache", hit > 0, f"{hit} of {asked} prompt tokens were not computed again")
