"""What of the embedded engine fits into memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.endpoints.room import Room, bytes_per_token, fit

MIB = 1024**2
DEFAULT = {"weights": 1059 * MIB, "per_slot": 126 * MIB}
"""Qwen2.5-1.5B as Q4_K_M, with slots of 4,608 tokens."""


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (24_000, Room(16, mapped=True)),
        (4_100, Room(16, mapped=True)),
        (3_600, Room(16, mapped=False)),
        (2_400, Room(8, mapped=False)),
        (1_900, Room(4, mapped=False)),
        (1_510, Room(1, mapped=False)),
        (200, Room(1, mapped=False)),
    ],
)
def test_the_embedded_default(memory, expected) -> None:
    assert fit(**DEFAULT, slots=16, memory=memory * MIB) == expected


@given(st.integers(1, 2**36), st.integers(1, 2**32), st.integers(1, 256), st.integers(0, 2**40), st.integers(0, 2**38))
def test_more_memory_is_never_less_room(weights, per_slot, slots, memory, more) -> None:
    small = fit(weights=weights, per_slot=per_slot, slots=slots, memory=memory)
    large = fit(weights=weights, per_slot=per_slot, slots=slots, memory=memory + more)
    assert 1 <= small.slots <= large.slots <= slots
    assert large.mapped or not small.mapped


def test_what_a_token_takes_is_what_llama_cpp_says() -> None:
    qwen = {"block_count": 28, "embedding_length": 1536, "attention.head_count": 12, "attention.head_count_kv": 2}
    named = {"general.architecture": "qwen2", **{f"qwen2.{name}": value for name, value in qwen.items()}}
    assert bytes_per_token(named) == 28 * 1024  # 16 slots of 4,608 tokens: "KV self size = 2016.00 MiB"
    gemma = {**named, "qwen2.attention.key_length": 256, "qwen2.attention.value_length": 256}
    assert bytes_per_token(gemma) == 56 * 1024
    del named["qwen2.attention.head_count_kv"]  # a list, for instance: then as if all heads had their own
    assert bytes_per_token(named) == 6 * 28 * 1024
    assert bytes_per_token({"general.architecture": "rwkv7", "rwkv7.block_count": 12}) is None
