"""How many cards share a model, and how many sequences are answered at once there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from reviewmill.endpoints.vllm.asked import Asked
from reviewmill.endpoints.vllm.budget import GIB, Budget, Load, reckon
from reviewmill.endpoints.vllm.gpus import Device
from reviewmill.endpoints.vllm.lengths import TaskLengths
from reviewmill.endpoints.vllm.shape import Shape, Subject
from reviewmill.errors import ModelError, SettingsError

WIDTHS: Final = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of one number."""

_LARGE: Final = 70 * GIB
_STEPS: Final = (1024, 512, 256, 192, 128, 96, 64, 48, 32, 24, 16, 8, 4, 2, 1)
_CPU_SEQUENCES: Final = 32


@dataclass(slots=True)
class Fit:
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
        return Load(sequences, batched, WIDTHS[self.dtype], self.kv_width, tensor_parallel, self.asked.eager)

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


def kept_small(budget: Budget, lengths: TaskLengths, load: Load, length: int) -> Budget:
    """On a CPU: no more key-value cache than is of use, because what vLLM reserves there is taken from everybody."""
    tokens = max(length, 2 * (lengths.prefix + load.sequences * (lengths.comment_long + lengths.answer)))
    kv = min(budget.kv, -(-tokens * budget.kv_per_token // GIB) * GIB)
    blocks = kv // (budget.kv_per_token * budget.block)
    own = blocks - lengths.prefix // budget.block
    return replace(
        budget,
        left_alone=budget.left_alone + budget.kv - kv,
        kv=kv,
        tokens=blocks * budget.block,
        sequences=max(0, own // -(-(lengths.comment_long + lengths.answer) // budget.block)),
        sequences_typical=max(0, own // -(-(lengths.comment + lengths.answer) // budget.block)),
    )
