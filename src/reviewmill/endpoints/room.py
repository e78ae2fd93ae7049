"""How much room the embedded engine has in memory: how many comments at once, and how it reads its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_REST: Final = 320 * 1024**2
"""Bytes for llama.cpp's buffers, and for Python with its libraries (measured: 265 MiB)."""
_MAPPED: Final = 1.6
"""A mapped file lies in memory once as it is, and what the processor wants in another order a second time (measured
with Q4_K_M: half of it)."""
_BYTES: Final = 2
"""Of a number in the KV cache."""


@dataclass(frozen=True, slots=True)
class Room:
    """What fits.

    Attributes:
        slots: comments that are worked on at once, at least 1.
        mapped: whether the file is mapped into memory, which other processes share, or read, which takes less.
    """

    slots: int
    mapped: bool


def bytes_per_token(header: Mapping[str, int | float | bool | str]) -> int | None:
    """What one token takes in the KV cache, by a GGUF file's metadata; None if it does not say.

    Where layers differ (the metadata is a list then), each counts as the largest it could be.
    """

    def number(name: str) -> int | None:
        value = header.get(f"{header.get('general.architecture')}.{name}")
        return value if isinstance(value, int) and value > 0 else None

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    if layers is None or heads is None or width is None:
        return None
    key = number("attention.key_length") or width // heads
    value = number("attention.value_length") or width // heads
    return layers * (number("attention.head_count_kv") or heads) * (key + value) * _BYTES


def fit(*, weights: int, per_slot: int, slots: int, memory: int) -> Room:
    """As many slots as were wished, or as there is room for; the file mapped if that fits too.

    Args:
        weights: bytes of the model's file.
        per_slot: bytes of one slot's KV cache.
        slots: how many are wished, at least 1.
        memory: bytes that all of it may take.
    """
    left = memory - _REST - slots * per_slot
    if left >= weights * _MAPPED:
        return Room(slots, mapped=True)
    return Room(max(1, min(slots, (memory - _REST - weights) // per_slot)), mapped=False)
