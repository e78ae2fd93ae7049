"""What would fit where a model does not: found by planning it, not guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from reviewmill.endpoints.vllm.asked import Asked
from reviewmill.endpoints.vllm.gpus import Device, with_count
from reviewmill.endpoints.vllm.plan import LengthsOf, Plan, make_plan
from reviewmill.endpoints.vllm.shape import Subject, find_subject
from reviewmill.errors import ModelError, SettingsError
from reviewmill.models.catalog import builtin_catalog

_SHORTEST: Final = 1024
_COUNTS: Final = (2, 4, 8)
PREFERRED: Final = (
    "qwen2.5-7b-instruct",
    "qwen2.5-7b-instruct-awq",
    "qwen3-4b-instruct-2507",
)
"""What is planned where no model is named: the first that fits."""


def plan_or_advise(subject: Subject, device: Device, lengths_of: LengthsOf, asked: Asked, *, models_dir: Path) -> Plan:
    """Plan, or refuse with everything that was found to fit instead.

    Raises:
        ModelError: it does not fit; the hint says what does.
        SettingsError: what was asked for contradicts the model or the device.
    """
    try:
        return make_plan(subject, device, lengths_of, asked)
    except ModelError as refusal:
        if refusal.hint is None:
            found = list(_alternatives(subject, device, lengths_of, asked, models_dir))
            embedded = "the embedded engine (llama.cpp) with a .gguf model, partly on the card by --gpu-layers"
            refusal.hint = "What would fit: " + "; ".join([*found, embedded]) + "."
        raise


def first_that_fits(device: Device, lengths_of: LengthsOf, asked: Asked, *, models_dir: Path) -> Plan:
    """The plan of the first of `PREFERRED` that fits.

    Raises:
        ModelError: none does.
    """
    for name in PREFERRED:
        plan = _try(find_subject(name, models_dir), device, lengths_of, asked)
        if plan is not None:
            return plan
    return plan_or_advise(find_subject(PREFERRED[1], models_dir), device, lengths_of, asked, models_dir=models_dir)


def _alternatives(
    subject: Subject, device: Device, lengths_of: LengthsOf, asked: Asked, models_dir: Path
) -> Iterator[str]:
    yield from _other_weights(subject, device, lengths_of, asked, models_dir)
    plain = subject.shape.quantisation is None and asked.quantization == "auto"
    if plain and _try(subject, device, lengths_of, replace(asked, quantization="fp8")):
        yield "--quantization fp8, which vLLM does while it loads"
    length = asked.max_model_len or 8192
    while (length := length // 2) >= _SHORTEST:
        if _try(subject, device, lengths_of, replace(asked, max_model_len=length)):
            yield f"--max-model-len {length}"
            break
    if device.kind == "cuda":
        for count in _COUNTS:
            if count > device.count and _try(subject, with_count(device, count), lengths_of, asked):
                yield f"{count} of these cards (--gpu {count}x{device.name})"
                break


def _other_weights(
    subject: Subject, device: Device, lengths_of: LengthsOf, asked: Asked, models_dir: Path
) -> Iterator[str]:
    """Catalog models: first the same one with other weights, else the largest of the others."""
    models = [
        model for model in builtin_catalog().models if model.format == "safetensors" and model.name != subject.name
    ]
    own = subject.catalog
    fits = [model for model in models if _try(find_subject(model.name, models_dir), device, lengths_of, asked)]
    same = [m for m in fits if own and (m.family, m.parameters) == (own.family, own.parameters)]
    smaller = sorted((m for m in fits if m not in same), key=lambda m: (m.parameters, m.name), reverse=True)
    for model in same or smaller[:2]:
        yield f"--model {model.name} ({model.quantisation})"


def _try(subject: Subject, device: Device, lengths_of: LengthsOf, asked: Asked) -> Plan | None:
    try:
        return make_plan(subject, device, lengths_of, asked)
    except (ModelError, SettingsError):
        return None
