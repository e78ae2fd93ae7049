"""What `vllm serve` must be told for one model on one device, why, and whether it fits at all. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from reviewmill.endpoints.vllm.asked import DEFAULT_LENGTH, Asked
from reviewmill.endpoints.vllm.budget import GIB, MIB, Budget, Load
from reviewmill.endpoints.vllm.fit import WIDTHS, Fit, kept_small
from reviewmill.endpoints.vllm.flags import KEY, Draft, Flag, environment, flags, notes
from reviewmill.endpoints.vllm.gpus import Device
from reviewmill.endpoints.vllm.lengths import TaskLengths
from reviewmill.endpoints.vllm.shape import Subject
from reviewmill.errors import ModelError, SettingsError

_OLDEST: Final = (7, 5)  # Turing: vLLM's wheels hold no code for older cards
_MARLIN: Final = (8, 0)
_BFLOAT16: Final = (8, 0)
_FP8: Final = (8, 9)
_MOST_USE: Final = 0.92  # vLLM's own default
_SCREEN: Final = 1 * GIB
_DRIVER: Final = 512 * MIB
_MARGIN: Final = 256 * MIB
_CPU_BFLOAT16: Final = frozenset({"avx512-bf16", "amx"})
_CHATML_KINDS: Final = frozenset({"qwen2", "qwen3"})

LengthsOf = Callable[[str], TaskLengths]
"""The task's tokens for a family of models (its `model_type`)."""


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
    kv_width = 1 if _check_kv_cache(device, asked) else WIDTHS[dtype]
    weights, weights_words = _weights(subject, dtype, online_fp8=online_fp8)
    use, use_reason = _use(device, asked)
    fit = Fit(
        subject, device, lengths_of(shape.kind), asked, length, dtype, kv_width, weights, int(device.memory * use)
    )
    load, budget = fit.best()
    if device.kind == "cpu":
        budget = kept_small(budget, fit.lengths, load, length)
    copies = device.count // load.tensor_parallel
    draft = Draft(subject, device, asked, length, rope, dtype, dtype_reason, use, use_reason, load, copies, online_fp8)
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
        flags=tuple(flags(draft)),
        environment=tuple(environment(draft, budget)),
        notes=tuple(notes(draft, fit.lengths, budget)),
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
        if method == "fp8" and device.capability is not None and device.capability < _MARLIN:
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
    own = subject.shape.dtype if subject.shape.dtype in WIDTHS else "bfloat16"
    if device.kind == "cpu":
        if _CPU_BFLOAT16.intersection(device.features):
            return "bfloat16", "the processor computes in it"
        return "float32", "the processor has no 16-bit arithmetic (AVX-512 BF16, AMX) and would convert at every step"
    if held is not None and held.method in {"awq", "gptq"}:
        return "float16", f"what {held.method.upper()} kernels compute in on every card, and what the repository says"
    if own != "float16" and device.capability is not None and device.capability < _BFLOAT16:
        return "float16", f"compute capability {_dotted(device.capability)} has no bfloat16, in which the weights are"
    if own == "float32":
        return "bfloat16", "32-bit numbers would take twice the memory and change no label"
    return own, "as the weights are; stated, so that an update of vLLM cannot change it"


def _weights(subject: Subject, dtype: str, *, online_fp8: bool) -> tuple[int, str]:
    """Bytes of the weights, and how they are held, in words."""
    shape, width = subject.shape, WIDTHS[dtype]
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


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
