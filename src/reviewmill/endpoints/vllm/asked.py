"""What the user may ask of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DEFAULT_LENGTH: Final = 8192
DEFAULT_PORT: Final = 8000

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
