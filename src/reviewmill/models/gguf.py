"""Reads the header of a GGUF file: what the model is, its tokens, where a tensor lies; without loading it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from reviewmill.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    Scalar = int | float | bool | str

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
_LONGEST: Final = 1 << 24
_MOST_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The tokens of a model, and where their input embeddings lie in its file.

    Attributes:
        kind: of tokenizer (`tokenizer.ggml.model`): `gpt2` is BPE over bytes, `llama` SentencePiece.
        tokens: as the file writes them, by id.
        width: numbers of one token's embedding.
        coding: how they are written (`ggml_type`).
        start: where the first begins, in bytes from the file's beginning.
    """

    kind: str
    tokens: list[str]
    width: int
    coding: int
    start: int


def read_header(path: Path) -> dict[str, Scalar]:
    """The metadata of a GGUF file up to its tokenizer: `general.architecture`, `<architecture>.context_length`, ...

    Raises:
        ModelError: the file is no GGUF file, or is damaged at its beginning.
    """
    return _opened(path, _read)


def read_tokens(path: Path) -> TokenTable | None:
    """The tokens, and where their embeddings are; None where a file has no such table (a later part of a model).

    Raises:
        ModelError: the file is no GGUF file, or is damaged at its beginning.
    """
    return _opened(path, _read_tokens)


def _opened(path: Path, read: Callable[[BinaryIO], Read]) -> Read:
    try:
        with path.open("rb") as file:
            return read(file)
    except (struct.error, ValueError) as error:
        raise ModelError(
            f"{path} is not a GGUF file that can be read: {error}.",
            hint="Give a model in GGUF format (version 2 or 3); a download that broke off is the usual cause.",
        ) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error


def _read(file: BinaryIO) -> dict[str, Scalar]:
    _, count = _counts(file)
    header: dict[str, Scalar] = {}
    for _ in range(count):
        key = _string(file)
        # The vocabulary is long, and by the writers' custom comes after all that is wanted here.
        if key.startswith("tokenizer."):
            break
        value = _value(file, _unpack(file, "I")[0])
        if value is not None:
            header[key] = value
    return header


def _read_tokens(file: BinaryIO) -> TokenTable | None:
    tensors, count = _counts(file)
    header: dict[str, Scalar] = {}
    tokens: list[str] = []
    for _ in range(count):
        key = _string(file)
        (kind,) = _unpack(file, "I")
        if key == "tokenizer.ggml.tokens" and kind == _ARRAY:
            tokens = _strings(file)
        elif (value := _value(file, kind)) is not None:
            header[key] = value
    found: tuple[int, int, int] | None = None
    for _ in range(tensors):
        name, width, rows, coding, offset = _tensor(file)
        if name == "token_embd.weight" and rows == len(tokens):
            found = width, coding, offset
    if found is None or not tokens:
        return None
    width, coding, offset = found
    alignment = header.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _LONGEST:
        raise ValueError(f"an alignment of {alignment}")
    begin = -(-file.tell() // alignment) * alignment
    return TokenTable(str(header.get("tokenizer.ggml.model", "")), tokens, width, coding, begin + offset)


def _counts(file: BinaryIO) -> tuple[int, int]:
    """How many tensors and how many entries of metadata follow."""
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, tensors, count = _unpack(file, "IQQ")
    if version not in {2, 3}:
        raise ValueError(f"its version is {version}")
    return tensors, count


def _tensor(file: BinaryIO) -> tuple[str, int, int, int, int]:
    """What is said of one tensor: name, numbers in a row, rows, coding, offset."""
    name, (dimensions,) = _string(file), _unpack(file, "I")
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    shape = _unpack(file, f"{dimensions}Q")
    coding, offset = _unpack(file, "IQ")
    return name, shape[0] if shape else 1, shape[1] if len(shape) == 2 else 0, coding, offset


def _strings(file: BinaryIO) -> list[str]:
    inner, length = _unpack(file, "IQ")
    if inner != _STRING or length > _LONGEST:
        raise ValueError(f"an array of {length} tokens of type {inner}")
    return [_string(file) for _ in range(length)]


def _value(file: BinaryIO, kind: int) -> Scalar | None:
    """One value; None for an array, which is skipped."""
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, length = _unpack(file, "IQ")
        if length > _LONGEST:
            raise ValueError(f"an array of {length} items")
        if inner in _SCALARS:
            file.seek(length * struct.calcsize("<" + _SCALARS[inner]), io.SEEK_CUR)
            return None
        for _ in range(length):
            _value(file, inner)
        return None
    if kind not in _SCALARS:
        raise ValueError(f"unknown value type {kind}")
    scalar: Scalar = _unpack(file, _SCALARS[kind])[0]
    return scalar


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > _LONGEST:
        raise ValueError(f"a string of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends inside its header")
    return data.decode("utf-8", "replace")


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    form = "<" + form
    return struct.unpack(form, file.read(struct.calcsize(form)))
