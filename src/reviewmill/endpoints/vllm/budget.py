"""Where a card's memory goes: weights, what computing needs, and the key-value cache. Pure arithmetic.

The engine's own need is an estimate on the safe side; `reviewmill engine status` shows what vLLM found instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from reviewmill.endpoints.vllm.lengths import TaskLengths
from reviewmill.endpoints.vllm.shape import Shape

GIB: Final = 1 << 30
MIB: Final = 1 << 20

_CONTEXT: Final = 450 * MIB
"""CUDA's context and libraries, and what other processes of the engine hold on the card."""
_GRAPHS: Final = 600 * MIB
"""Captured CUDA graphs for the usual batch sizes."""
_PARALLEL: Final = 512 * MIB
"""Buffers of NCCL and of vLLM's own all-reduce, on each of several cards that share a model."""
_CPU_ENGINE: Final = 2 * GIB
"""Processes, libraries and compiled code on a CPU."""
_LOGIT_COPIES: Final = 4
"""32-bit rows of vocabulary size alive while sampling: logits, their log-softmax, and sorting scratch."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of one card (of the machine, on a CPU).

    Attributes:
        total: of the card.
        left_alone: not given to vLLM: a screen, other programs, what the driver keeps.
        weights, activations, engine: of one card.
        kv: what remains for the key-value cache; below 0 if nothing does.
        kv_per_token: bytes of one token there.
        block: tokens that are given out at once.
        tokens: that the cache holds.
        sequences: comments of the 95th percentile that it holds at once, the shared prefix counted once.
        sequences_typical: the same for typical ones.
    """

    total: int
    left_alone: int
    weights: int
    activations: int
    engine: int
    kv: int
    kv_per_token: int
    block: int
    tokens: int
    sequences: int
    sequences_typical: int


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is asked to do at once.

    Attributes:
        sequences: answered at once (`max_num_seqs`).
        batched: tokens computed in one step (`max_num_batched_tokens`).
        width: bytes of a number while computing.
        kv_width: bytes of a number in the cache.
        tensor_parallel: cards that share the model.
        eager: no CUDA graphs.
    """

    sequences: int
    batched: int
    width: int
    kv_width: int
    tensor_parallel: int = 1
    eager: bool = False


def reckon(
    shape: Shape,
    lengths: TaskLengths,
    load: Load,
    *,
    total: int,
    usable: int,
    weights: int,
    block: int = 16,
    cpu: bool = False,
) -> Budget:
    """Divide one card's memory.

    Args:
        shape: the model.
        lengths: the task's tokens.
        load: what the engine is asked to do at once.
        total: bytes of the card.
        usable: bytes that vLLM may use of it.
        weights: bytes of all weights, over all cards that share them.
        block: tokens of one block of the cache.
        cpu: a CPU's memory instead of a card's.
    """
    share = load.tensor_parallel
    here = -(-weights // share)
    step = load.batched * (2 * shape.intermediate // share + 4 * shape.hidden) * load.width
    logits = load.sequences * shape.vocabulary * 4 * _LOGIT_COPIES
    engine = _CPU_ENGINE if cpu else _CONTEXT + (0 if load.eager else _GRAPHS) + (_PARALLEL if share > 1 else 0)
    kv = usable - here - step - logits - engine
    per_token = shape.kv_bytes(load.kv_width, share)
    blocks = max(0, kv) // (per_token * block)
    # What all comments share is kept once; each has its own last, half-filled block.
    own = blocks - lengths.prefix // block
    return Budget(
        total=total,
        left_alone=total - usable,
        weights=here,
        activations=step + logits,
        engine=engine,
        kv=kv,
        kv_per_token=per_token,
        block=block,
        tokens=blocks * block,
        sequences=max(0, own // -(-(lengths.comment_long + lengths.answer) // block)),
        sequences_typical=max(0, own // -(-(lengths.comment + lengths.answer) // block)),
    )
