"""Reads the header of a GGUF file: what the model is, without loading it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, Final

from reviewmill.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    Scalar = int | float | bool | str

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
_LONGEST: Final = 1 << 24


def read_header(path: Path) -> dict[str, Scalar]:
    """The metadata of a GGUF file up to its tokenizer: `general.architecture`, `<architecture>.context_length`, ...

    Raises:
        ModelError: the file is no GGUF file, or is damaged at its beginning.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except (struct.error, ValueError) as error:
        raise ModelError(
            f"{path} is not a GGUF file that can be read: {error}.",
            hint="Give a model in GGUF format (version 2 or 3); a download that broke off is the usual cause.",
        ) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error


def _read(file: BinaryIO) -> dict[str, Scalar]:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, _, count = _unpack(file, "IQQ")
    if version not in {2, 3}:
        raise ValueError(f"its version is {version}")
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


def _value(file: BinaryIO, kind: int) -> Scalar | None:
    """One value; None for an array, which is skipped."""
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, length = _unpack(file, "IQ")
        if length > _LONGEST:
            raise ValueError(f"an array of {length} items")
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
