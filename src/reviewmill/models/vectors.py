"""What words are like, by a model's own token embeddings: read from its GGUF file, without loading the model."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from reviewmill.models.gguf import TokenTable, read_tokens

if TYPE_CHECKING:
    from pathlib import Path

_SPACE: Final = "\u2581"


class WordVectors:
    """The words among a model's tokens, each with a vector.

    Args:
        path: the model's file.
        table: what is in it.

    Attributes:
        words: by token: the text without spaces around it; "" where a token is no text by itself.
    """

    def __init__(self, path: Path, table: TokenTable) -> None:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        self.words = [_text(token, table.kind).strip() for token in table.tokens]
        self._coding = GGMLQuantizationType(table.coding)
        block, size = GGML_QUANT_SIZES[self._coding]
        shape = (len(table.tokens), table.width // block * size)
        self._rows = np.memmap(path, np.uint8, "r", offset=table.start, shape=shape)

    def of(self, tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """The vectors of some tokens: tokens x width."""
        from gguf.quants import dequantize

        found: npt.NDArray[np.float32] = dequantize(np.asarray(self._rows[tokens]), self._coding)
        return found


def read_vectors(path: Path) -> WordVectors | None:
    """The word vectors of a model; None where its file has none that can be read (an unknown tokenizer or coding).

    Raises:
        ModelError: the file is no GGUF file, or is damaged at its beginning.
    """
    table = read_tokens(path)
    if table is None or table.kind not in {"gpt2", "llama"}:
        return None
    try:
        vectors = WordVectors(path, table)
        vectors.of(np.arange(1))
    except (ValueError, NotImplementedError):
        # A coding that gguf does not know, or cannot turn into numbers. The student does without, as for a model at a
        # URL: it costs some more questions and changes no promise.
        return None
    return vectors


def _text(token: str, kind: str) -> str:
    """What a token writes."""
    if kind == "llama":
        return token.replace(_SPACE, " ")
    try:
        return bytes(_bytes()[character] for character in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):  # part of a character, or one that orders something
        return ""


@cache
def _bytes() -> dict[str, int]:
    """Which byte each letter of a byte-level token stands for (GPT-2: Radford et al. 2019, `encoder.py`)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
