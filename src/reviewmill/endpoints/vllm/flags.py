"""The options of the command, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reviewmill.endpoints.vllm.asked import DEFAULT_LENGTH, Asked
from reviewmill.endpoints.vllm.budget import GIB, Budget, Load
from reviewmill.endpoints.vllm.gpus import Device
from reviewmill.endpoints.vllm.lengths import TaskLengths
from reviewmill.endpoints.vllm.shape import Subject

KEY: Final = "VLLM_API_KEY"
"""The variable that vLLM reads its key from."""

STRUCTURED: Final = {"backend": "xgrammar", "disable_any_whitespace": True}
_FP8: Final = (8, 9)


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of the command or variable of its environment, and why it is there. `value` None: it takes none."""

    name: str
    value: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What was decided, for whoever writes the command."""

    subject: Subject
    device: Device
    asked: Asked
    length: int
    rope: dict[str, Any] | None
    dtype: str
    dtype_reason: str
    use: float
    use_reason: str
    load: Load
    copies: int
    online_fp8: bool


def flags(draft: Draft) -> Iterator[Flag]:
    """The options of `vllm serve`."""
    yield Flag("--served-model-name", draft.subject.name, "the name that questions use, whatever the folder is called")
    yield Flag("--host", "127.0.0.1", "this machine only; put a gateway with TLS in front for others")
    yield Flag("--port", str(draft.asked.port), "where it listens")
    yield Flag("--dtype", draft.dtype, draft.dtype_reason)
    if draft.online_fp8:
        yield Flag("--quantization", "fp8", "halves unquantised weights while loading; asked for")
    if draft.asked.kv_cache == "fp8":
        yield Flag("--kv-cache-dtype", "fp8", "halves the cache; asked for")
    yield from _length_flags(draft)
    if draft.device.kind == "cuda":
        yield Flag("--gpu-memory-utilization", f"{draft.use:.2f}", draft.use_reason)
    if draft.load.tensor_parallel > 1:
        reason = f"the fewest cards that hold it; divides its {draft.subject.shape.heads} heads"
        yield Flag("--tensor-parallel-size", str(draft.load.tensor_parallel), reason)
    if draft.copies > 1:
        reason = "a copy a card answers more comments than one model spread over cards that need not share it"
        yield Flag("--data-parallel-size", str(draft.copies), reason)
    yield Flag(
        "--max-num-seqs", str(draft.load.sequences), "so many of the task's longer comments fit the cache at once"
    )
    yield Flag(
        "--max-num-batched-tokens",
        str(draft.load.batched),
        "tokens of one step; stated, because the memory for them is in the budget",
    )
    yield Flag("--enable-prefix-caching", None, "the task's words are computed once, not once a comment")
    yield Flag(
        "--structured-outputs-config",
        json.dumps(STRUCTURED, separators=(",", ":")),
        "one backend, so that an update cannot switch it; no white space, in which small models run away",
    )
    yield Flag("--logprobs-mode", "raw_logprobs", "before the mask: shows how much the model meant any label at all")
    yield Flag("--max-logprobs", "20", "alternatives that one answer may list; probabilities are read from them")
    yield Flag(
        "--generation-config",
        "vllm",
        "or the repository's own defaults apply to every answer (Qwen2.5: repetition penalty 1.05 to 1.1)",
    )
    yield Flag("--no-enable-log-requests", None, "comments do not go into the log")
    yield Flag("--disable-uvicorn-access-log", None, "a line a comment would be most of the log")
    if draft.subject.has_template is False:
        template = Path(__file__).with_name("chatml.jinja")
        yield Flag("--chat-template", str(template), "the folder brings none; this is the family's own (ChatML)")
    if draft.asked.eager:
        yield Flag("--enforce-eager", None, "starts sooner, answers slower; asked for")


def _length_flags(draft: Draft) -> Iterator[Flag]:
    reason = "a comment, the task's words and the answer; longer only costs memory"
    if draft.asked.max_model_len:
        reason = "as asked for"
    elif draft.length < DEFAULT_LENGTH:
        reason = "all that the model was trained for"
    yield Flag("--max-model-len", str(draft.length), reason)
    if draft.rope is not None:
        # vLLM 0.32 takes the window from max_position_embeddings and no longer multiplies it by the factor, so that
        # rope_parameters alone (as its documentation has it) are refused.
        window = int(draft.rope["original_max_position_embeddings"] * draft.rope["factor"])
        overrides = {"max_position_embeddings": window, "rope_parameters": draft.rope}
        yield Flag(
            "--hf-overrides",
            json.dumps(overrides, separators=(",", ":")),
            f"YaRN: the model was trained for {draft.subject.shape.native:,} positions; without, vLLM refuses more",
        )


def environment(draft: Draft, budget: Budget) -> Iterator[Flag]:
    """The variables of its environment."""
    yield Flag(KEY, None, "the key, by environment: arguments can be read by every user of the machine")
    yield Flag("HF_HUB_OFFLINE", "1", "the weights are here; nothing is asked of a hub")
    yield Flag("VLLM_NO_USAGE_STATS", "1", "nothing is reported to anybody")
    if draft.device.kind == "cpu":
        yield Flag("VLLM_CPU_KVCACHE_SPACE", str(budget.kv // GIB or 1), "GiB of the key-value cache")


def notes(draft: Draft, lengths: TaskLengths, budget: Budget) -> Iterator[str]:
    """What else there is to know."""
    yield from _weight_notes(draft)
    if draft.rope is not None:
        yield "YaRN stretches all positions, those of short texts too, and costs some accuracy: use it where needed."
    if draft.length < lengths.longest:
        yield (
            f"The longest comments ({lengths.comment_longest:,} tokens) do not fit beside the task's words "
            f"({lengths.prefix:,}) and the longest answer ({lengths.answer_longest:,}): they are shortened from the "
            "middle and flagged."
        )
    idle = draft.device.count - draft.load.tensor_parallel * draft.copies
    if idle:
        yield f"{idle} of {draft.device.count} cards stay idle: so many do not divide the model."
    if draft.load.sequences < 8:
        yield "Few comments at once: a smaller or quantised model would answer many more a second."
    if draft.device.kind == "cpu":
        yield "On a processor the embedded engine (llama.cpp) is several times as fast; this is for trying vLLM out."
    if budget.sequences_typical > 4 * draft.load.sequences:
        yield "The cache holds far more than the engine works on; the rest keeps the prefixes of other tasks warm."


def _weight_notes(draft: Draft) -> Iterator[str]:
    held, device = draft.subject.shape.quantisation, draft.device
    if held is None:
        if device.kind == "cuda" and draft.dtype == "float16":
            yield "float16 overflows where bfloat16 does not; look at a few answers before you trust a run."
        return
    if held.method in {"awq", "gptq"}:
        yield (
            f"No --quantization flag: config.json says {held.method}, and vLLM then chooses the card's fastest kernel; "
            "the flag could only name a slower one, or a wrong one."
        )
    if held.desc_act:
        yield "Its rows are ordered by activation (desc_act), which costs speed."
    if held.method == "fp8" and device.capability is not None and device.capability < _FP8:
        yield f"{device.name} computes no FP8: the weights are small, the arithmetic is 16-bit."
