"""What `vllm serve` must be told for one model on one device, why, and whether it fits at all. Pure."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from reviewmill.endpoints.vllm.budget import GIB, MIB, Budget, Load, reckon
from reviewmill.endpoints.vllm.gpus import Device
from reviewmill.endpoints.vllm.lengths import TaskLengths
from reviewmill.endpoints.vllm.shape import Shape, Subject
from reviewmill.errors import ModelError, SettingsError

DEFAULT_LENGTH: Final = 8192
DEFAULT_PORT: Final = 8000
STRUCTURED: Final = {"backend": "xgrammar", "disable_any_whitespace": True}
OVERRIDING: Final = "rope_parameters"

_OLDEST: Final = (7, 5)  # Turing: vLLM's wheels hold no code for older cards
_BFLOAT16: Final = (8, 0)
_FP8: Final = (8, 9)
_MOST_USE: Final = 0.92  # vLLM's own default
_SCREEN: Final = 1 * GIB
_DRIVER: Final = 512 * MIB
_MARGIN: Final = 256 * MIB
_LARGE: Final = 70 * GIB
_STEPS: Final = (1024, 512, 256, 192, 128, 96, 64, 48, 32, 24, 16, 8, 4, 2, 1)
_CPU_SEQUENCES: Final = 32
_CPU_KV: Final = 4 * GIB
_WIDTHS: Final = {"bfloat16": 2, "float16": 2, "float32": 4}
_SHORTEST: Final = 1024
_CHATML_KINDS: Final = frozenset({"qwen2", "qwen3"})

Quantising = Literal["auto", "none", "awq", "gptq", "fp8"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for; None and `auto`: what fits.

    Attributes:
        max_model_len: tokens of one question and its answer.
        quantization: how the weights are to be quantised; a check of the repository, but for `fp8`, which vLLM can do
            while it loads.
        kv_cache: `fp8` halves the key-value cache.
        tensor_parallel: cards that share the model.
        utilization: share of the card's memory that vLLM may use (0 to 1).
        sequences: answered at once.
        port: to listen on.
        eager: no CUDA graphs, no compilation: a faster start and slower answers.
    """

    max_model_len: int | None = None
    quantization: Quantising = "auto"
    kv_cache: Literal["auto", "fp8"] = "auto"
    tensor_parallel: int | None = None
    utilization: float | None = None
    sequences: int | None = None
    port: int = DEFAULT_PORT
    eager: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of the command or variable of its environment, and why it is there. `value` None: it takes none."""

    name: str
    value: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is to be served on one device.

    Attributes:
        model: what it is served as.
        source: where its shape was read.
        parameters: how many numbers its weights are; None where that is not known.
        device: for which it was made.
        weights: how they are held, in words (`AWQ, 4 bits`).
        dtype: of what is computed.
        max_model_len: tokens of one question and its answer.
        tensor_parallel, data_parallel: cards that share one copy of the model, and copies.
        load: what the engine is asked to do at once.
        lengths: the task's tokens.
        budget: of one card.
        flags, environment: for the command.
        notes: what else there is to know.
    """

    model: str
    source: str
    parameters: int | None
    device: Device
    weights: str
    dtype: str
    max_model_len: int
    tensor_parallel: int
    data_parallel: int
    load: Load
    lengths: TaskLengths
    budget: Budget
    flags: tuple[Flag, ...]
    environment: tuple[Flag, ...]
    notes: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The options as a program takes them."""
        return [
            part for flag in self.flags for part in ((flag.name,) if flag.value is None else (flag.name, flag.value))
        ]

    def program(self, python: str = "python") -> list[str]:
        """What serves: the CPU wheel's own script does not start, because it asks for the GPU wheel's version."""
        if self.device.kind == "cpu":
            return [python, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        return [str(Path(python).with_name("vllm")) if "/" in python else "vllm", "serve"]

    def command(self, folder: Path, key_file: Path) -> str:
        """The command for a shell; the key comes from its file and is in nobody's list of processes."""
        before = [f'VLLM_API_KEY="$(cat {shlex.quote(str(key_file))})"']
        before += [f"{flag.name}={shlex.quote(flag.value or '')}" for flag in self.environment if flag.name != KEY]
        return " ".join([*before, shlex.join([*self.program(), str(folder), *self.arguments()])])

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs; sizes in bytes."""
        return asdict(self)


KEY: Final = "VLLM_API_KEY"

LengthsOf = Callable[[str], TaskLengths]
"""The task's tokens for a family of models (its `model_type`)."""


def make_plan(subject: Subject, device: Device, lengths_of: LengthsOf, asked: Asked) -> Plan:
    """Decide how a model is served on a device.

    Args:
        subject: the model.
        device: what it is to run on.
        lengths_of: the task's tokens for a family of models.
        asked: what the user wants of it.

    Raises:
        ModelError: it does not fit, or the device cannot compute it. The message says what is missing; whoever
            knows other models and devices adds what would fit (`advice.py`).
        SettingsError: what was asked for contradicts the model or the device.
    """
    shape = subject.shape
    _check_device(subject, device)
    online_fp8 = _check_quantising(subject, device, asked)
    length, rope = _length(subject, asked)
    dtype, dtype_reason = _dtype(subject, device)
    kv_width = 1 if _check_kv_cache(device, asked) else _WIDTHS[dtype]
    weights, weights_words = _weights(subject, dtype, online_fp8=online_fp8)
    use, use_reason = _use(device, asked)
    fit = _Fit(
        subject, device, lengths_of(shape.kind), asked, length, dtype, kv_width, weights, int(device.memory * use)
    )
    load, budget = fit.best()
    if device.kind == "cpu":
        budget = replace(budget, kv=min(budget.kv, max(_CPU_KV, _whole_gib(length * budget.kv_per_token))))
        budget = _recount(budget, fit.lengths)
    copies = device.count // load.tensor_parallel
    draft = _Draft(subject, device, asked, length, rope, dtype, dtype_reason, use, use_reason, load, copies, online_fp8)
    return Plan(
        model=subject.name,
        source=subject.source,
        parameters=shape.parameters if shape.dense else None,
        device=device,
        weights=weights_words,
        dtype=dtype,
        max_model_len=length,
        tensor_parallel=load.tensor_parallel,
        data_parallel=copies,
        load=load,
        lengths=fit.lengths,
        budget=budget,
        flags=tuple(_flags(draft)),
        environment=tuple(_environment(draft, budget)),
        notes=tuple(_notes(draft, fit.lengths, budget)),
    )


def _check_device(subject: Subject, device: Device) -> None:
    if device.capability is not None and device.capability < _OLDEST:
        raise ModelError(
            f"{device.name} has compute capability {_dotted(device.capability)}; vLLM needs 7.5 (Turing) or newer.",
            hint="Use the embedded engine (llama.cpp) there: a .gguf model, with --gpu-layers.",
        )
    if device.kind == "cpu" and subject.shape.quantisation is not None:
        raise ModelError(
            f"{subject.name} is quantised for a GPU, and there is none.",
            hint="On a processor use the embedded engine with a .gguf model (the default), or an unquantised model.",
        )
    if subject.has_template is False and subject.shape.kind not in _CHATML_KINDS:
        raise ModelError(
            f"{subject.name} brings no chat template, so vLLM would refuse every question.",
            hint="Take the instruct (chat) model of its family, or put its chat_template.jinja into the folder.",
        )


def _check_quantising(subject: Subject, device: Device, asked: Asked) -> bool:
    """Whether vLLM is to quantise to FP8 while loading.

    Raises:
        SettingsError: the repository holds something else than was asked for.
    """
    held = subject.shape.quantisation
    method = held.method if held else "none"
    wanted = asked.quantization
    if wanted in {"auto", method}:
        if method == "fp8" and device.capability is not None and device.capability < (8, 0):
            raise SettingsError(f"{device.name} cannot compute an FP8 model.", hint="Take an AWQ or GPTQ model.")
        return False
    if wanted == "fp8" and held is None:
        if device.capability is None or device.capability < _FP8:
            raise SettingsError(
                f"{device.name} computes no FP8: that needs compute capability 8.9 (Ada) or 9.0 (Hopper).",
                hint="Take an AWQ or GPTQ model instead.",
            )
        return True
    holds = f"is quantised with {method.upper()}" if held else "holds unquantised weights"
    raise SettingsError(
        f"{subject.name} {holds}; it cannot be served as {wanted}: vLLM reads what a repository holds.",
        hint="Leave --quantization out, or name a model that was quantised that way (`reviewmill models list`).",
    )


def _check_kv_cache(device: Device, asked: Asked) -> bool:
    if asked.kv_cache == "auto":
        return False
    if device.capability is None or device.capability < _FP8:
        raise SettingsError(
            f"{device.name} keeps no FP8 key-value cache: that needs compute capability 8.9 (Ada) or newer.",
            hint="Leave --kv-cache out.",
        )
    return True


def _length(subject: Subject, asked: Asked) -> tuple[int, dict[str, Any] | None]:
    """Tokens of one question, and the rope parameters that make them possible, where needed."""
    native = subject.shape.native
    length = asked.max_model_len or min(DEFAULT_LENGTH, native)
    if length <= native:
        return length, None
    limit = subject.stretched
    if limit is None or length > limit:
        most = f"{limit:,} tokens with YaRN" if limit else f"{native:,} tokens"
        raise SettingsError(
            f"{subject.name} reaches {most}; {length:,} were asked for.",
            hint=f"Ask for --max-model-len {limit or native} or less, or take a model with a longer window.",
        )
    factor = math.ceil(length / native * 10) / 10
    return length, {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": native,
        "rope_theta": subject.shape.rope_theta,
    }


def _dtype(subject: Subject, device: Device) -> tuple[str, str]:
    held = subject.shape.quantisation
    own = subject.shape.dtype if subject.shape.dtype in _WIDTHS else "bfloat16"
    if device.kind == "cpu":
        if "avx512" in device.features or "amx" in device.features or "neon" in device.features:
            return "bfloat16", "the processor computes in it"
        return "float32", "the processor has no 16-bit arithmetic (AVX-512, AMX), and would convert at every step"
    if held is not None and held.method in {"awq", "gptq"}:
        return "float16", f"what {held.method.upper()} kernels compute in on every card, and what the repository says"
    if own != "float16" and device.capability is not None and device.capability < _BFLOAT16:
        return "float16", f"compute capability {_dotted(device.capability)} has no bfloat16, in which the weights are"
    if own == "float32":
        return "bfloat16", "32-bit numbers would take twice the memory and change no label"
    return own, "as the weights are; stated, so that an update of vLLM cannot change it"


def _weights(subject: Subject, dtype: str, *, online_fp8: bool) -> tuple[int, str]:
    """Bytes of the weights, and how they are held, in words."""
    shape, width = subject.shape, _WIDTHS[dtype]
    held = shape.quantisation
    if held is not None:
        words = f"{held.method.upper()}, {held.bits} bits" if held.bits else held.method.upper()
    else:
        words = "FP8, quantised while loading" if online_fp8 else f"unquantised, {dtype}"
    if subject.weight_bytes is not None:
        own = 4 if shape.dtype == "float32" else 2
        factor = 1.0 if held else (0.55 if online_fp8 else width / own)
        return int(subject.weight_bytes * factor), words
    if not shape.dense:
        raise ModelError(
            f"The size of a {shape.kind} model cannot be reckoned from its config.json.",
            hint="Download it, and give its folder as --model: then its files are counted.",
        )
    return shape.weight_bytes(width, online_fp8=online_fp8), words


def _use(device: Device, asked: Asked) -> tuple[float, str]:
    """Share of the memory that vLLM may use, and why."""
    if asked.utilization is not None:
        return asked.utilization, "as asked for"
    if device.kind == "cpu":
        share = (device.free if device.free is not None else device.memory) * 0.9 / device.memory
        return share, "nine tenths of what is available"
    aside = _SCREEN if device.display else _DRIVER
    share = min(_MOST_USE, (device.memory - aside) / device.memory)
    reason = (
        f"leaves {aside / GIB:g} GiB {'to a screen and' if device.display else 'to'} the driver, or 8% if that is more"
    )
    if device.free is not None and device.free - _MARGIN < share * device.memory:
        share = (device.free - _MARGIN) / device.memory
        reason = f"only {device.free / GIB:.1f} GiB of the card are free now; vLLM does not start if it asks for more"
    share = math.floor(share * 100) / 100
    if share <= 0:
        raise ModelError(f"{device.name} has no free memory.", hint="End what uses it (`nvidia-smi` lists it).")
    return share, reason


@dataclass(slots=True)
class _Fit:
    """Finds how many cards share the model, and how many sequences are answered at once."""

    subject: Subject
    device: Device
    lengths: TaskLengths
    asked: Asked
    length: int
    dtype: str
    kv_width: int
    weights: int
    usable: int
    tried: list[tuple[Load, Budget]] = field(default_factory=list)

    def best(self) -> tuple[Load, Budget]:
        """The fewest cards that hold the model and one longest question, and the most sequences there.

        Raises:
            ModelError: it does not fit.
            SettingsError: the number of cards does not divide the model.
        """
        for tensor_parallel in self._divisions():
            for sequences in self._steps():
                load = self._load(sequences, tensor_parallel)
                budget = self._budget(load)
                self.tried.append((load, budget))
                if budget.tokens >= self.length and (budget.sequences >= sequences or sequences == 1):
                    return load, budget
                if self.asked.sequences and budget.tokens >= self.length:
                    return load, budget
        raise self._refusal()

    def _divisions(self) -> list[int]:
        possible = [count for count in range(1, self.device.count + 1) if divides(self.subject.shape, count)]
        wanted = self.asked.tensor_parallel
        if wanted is None:
            return possible
        if wanted not in possible:
            few = (
                f"there are {self.device.count} cards"
                if wanted > self.device.count
                else (f"its {self.subject.shape.heads} heads divide by {', '.join(map(str, possible))} only")
            )
            raise SettingsError(
                f"{self.subject.name} cannot be shared by {wanted} cards: {few}.", hint="Leave --tensor-parallel out."
            )
        return [wanted]

    def _steps(self) -> list[int]:
        if self.asked.sequences:
            return [self.asked.sequences]
        most = _STEPS[0] if self._large() else 256
        most = _CPU_SEQUENCES if self.device.kind == "cpu" else most
        return [step for step in _STEPS if step <= most]

    def _large(self) -> bool:
        # As vLLM itself: larger steps slow an A100 down (vLLM pull request 17885).
        return self.device.memory >= _LARGE and (self.device.capability or (0, 0)) >= (9, 0)

    def _load(self, sequences: int, tensor_parallel: int) -> Load:
        batched = 8192 if self._large() else 2048
        return Load(sequences, batched, _WIDTHS[self.dtype], self.kv_width, tensor_parallel, self.asked.eager)

    def _budget(self, load: Load) -> Budget:
        cpu = self.device.kind == "cpu"
        return reckon(
            self.subject.shape,
            self.lengths,
            load,
            total=self.device.memory,
            usable=self.usable,
            weights=self.weights,
            block=128 if cpu else 16,
            cpu=cpu,
        )

    def _refusal(self) -> ModelError:
        load, budget = max(self.tried, key=lambda one: one[1].kv)
        need = self.length * budget.kv_per_token
        cards = f" of each of {load.tensor_parallel} cards" if load.tensor_parallel > 1 else ""
        return ModelError(
            f"{self.subject.name} does not fit {self.device}{cards}: its weights take {budget.weights / GIB:.1f} GiB, "
            f"computing {(budget.activations + budget.engine) / GIB:.1f}, one question of {self.length:,} tokens "
            f"{need / GIB:.1f}, and vLLM may use {self.usable / GIB:.1f} of {budget.total / GIB:.1f} GiB."
        )


def divides(shape: Shape, cards: int) -> bool:
    """Whether so many cards can share a model: heads, their keys and the inner layer must split evenly."""
    keys = shape.kv_heads % cards == 0 or cards % shape.kv_heads == 0
    if shape.heads % cards or not keys or shape.intermediate % cards:
        return False
    group = shape.quantisation.group_size if shape.quantisation else None
    return not group or group <= 0 or cards == 1 or (shape.intermediate // cards) % group == 0


def _recount(budget: Budget, lengths: TaskLengths) -> Budget:
    blocks = budget.kv // (budget.kv_per_token * budget.block)
    own = blocks - lengths.prefix // budget.block
    return replace(
        budget,
        tokens=blocks * budget.block,
        sequences=max(0, own // -(-(lengths.comment_long + lengths.answer) // budget.block)),
        sequences_typical=max(0, own // -(-(lengths.comment + lengths.answer) // budget.block)),
    )


def _whole_gib(size: int) -> int:
    return -(-size // GIB) * GIB


@dataclass(frozen=True, slots=True)
class _Draft:
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


def _flags(draft: _Draft) -> Iterator[Flag]:
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


def _length_flags(draft: _Draft) -> Iterator[Flag]:
    reason = "a comment, the task's words and the answer; longer only costs memory"
    if draft.asked.max_model_len:
        reason = "as asked for"
    elif draft.length < DEFAULT_LENGTH:
        reason = "all that the model was trained for"
    yield Flag("--max-model-len", str(draft.length), reason)
    if draft.rope is not None:
        yield Flag(
            "--hf-overrides",
            json.dumps({OVERRIDING: draft.rope}, separators=(",", ":")),
            f"YaRN: the model was trained for {draft.subject.shape.native:,} positions; without, vLLM refuses more",
        )


def _environment(draft: _Draft, budget: Budget) -> Iterator[Flag]:
    yield Flag(KEY, None, "the key, by environment: arguments can be read by every user of the machine")
    yield Flag("HF_HUB_OFFLINE", "1", "the weights are here; nothing is asked of a hub")
    yield Flag("VLLM_NO_USAGE_STATS", "1", "nothing is reported to anybody")
    if draft.device.kind == "cpu":
        yield Flag("VLLM_CPU_KVCACHE_SPACE", str(budget.kv // GIB or 1), "GiB of the key-value cache")


def _notes(draft: _Draft, lengths: TaskLengths, budget: Budget) -> Iterator[str]:
    held = draft.subject.shape.quantisation
    if held is not None and held.method in {"awq", "gptq"}:
        yield (
            f"No --quantization flag: config.json says {held.method}, and vLLM then takes its fastest kernel (Marlin); "
            f"the flag would only add a way to be wrong."
        )
        if held.desc_act:
            yield "Its rows are ordered by activation (desc_act), which costs speed."
    if held is not None and held.method == "fp8" and draft.device.capability and draft.device.capability < _FP8:
        yield f"{draft.device.name} computes no FP8: the weights are small, the arithmetic is 16-bit."
    if draft.rope is not None:
        yield "YaRN stretches all positions, short texts too, and costs a little accuracy there: use it where needed only."
    if draft.length < lengths.longest:
        yield (
            f"The longest comments ({lengths.comment_longest:,} tokens) do not fit beside the task's words "
            f"({lengths.prefix:,}) and the longest answer ({lengths.answer_longest:,}): such comments are shortened from "
            "the middle and flagged."
        )
    idle = draft.device.count - draft.load.tensor_parallel * draft.copies
    if idle:
        yield f"{idle} of {draft.device.count} cards stay idle: so many do not divide the model."
    if draft.device.kind == "cuda" and draft.dtype == "float16" and held is None:
        yield "float16 overflows where bfloat16 does not; look at a few answers before you trust a run."
    if draft.load.sequences < 8:
        yield "Few comments at once: a smaller or quantised model would answer many more a second."
    if draft.device.kind == "cpu":
        yield "On a processor the embedded engine (llama.cpp) is several times as fast; this is for trying vLLM out."
    if budget.sequences_typical > 4 * draft.load.sequences:
        yield "The cache holds far more than the engine works on; the rest keeps the prefixes of other tasks warm."


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
