"""Students on disk: a ZIP of one JSON document and plain arrays. Nothing in it is ever executed.

`student.json` holds what decides its answers (format, features, labels, calibration) and where it comes from (task,
model, certificate); `features.npy`, `weights.npy` and `idf.npy` its numbers. No comment and no word stands in it:
features are hashes. (Whether a certain comment was among its training data may still be guessed from any classifier.)
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reviewmill.cascade.features import HASH_VERSION, Hasher
from reviewmill.cascade.learning import Calibrated
from reviewmill.cascade.student import Student
from reviewmill.errors import OutputError, StudentError

FORMAT: Final = 1
_MAX_BITS: Final = 22
_MAX_LABELS: Final = 100
_MAX_DOCUMENT: Final = 10_000_000
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class SavedStudent:
    """A student and where it comes from.

    Attributes:
        student: the student.
        about: `task` and `model` (each with a `name`), `certificate`, and whatever else was said of it.
    """

    student: Student
    about: dict[str, Any]


def student_bytes(student: Student, about: Mapping[str, Any]) -> bytes:
    """A student as it is written; the same student gives the same bytes."""
    document = {
        "format": FORMAT,
        "hash_version": HASH_VERSION,
        "hasher": {"bits": student.hasher.bits, "orders": student.hasher.orders, "words": student.hasher.words},
        "labels": list(student.labels),
        "bias": student.bias.tolist(),
        "spoken": {"scale": student.spoken.scale, "shift": student.spoken.shift.tolist()},
        "ranked": {"scale": student.ranked.scale, "shift": student.ranked.shift.tolist()},
        "about": dict(about),
    }
    kept = np.flatnonzero(np.any(student.table[:, :-1] != 0, axis=1)).astype(np.int32)
    members = {
        "student.json": json.dumps(document, ensure_ascii=False, indent=1).encode(),
        "features.npy": _bytes(kept),
        "weights.npy": _bytes(student.table[kept, :-1]),
        "idf.npy": _bytes(np.sqrt(student.table[:, -1])),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def save_student(path: Path, student: Student, about: Mapping[str, Any]) -> None:
    """Write a student to a temporary name, then rename.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(student_bytes(student, about))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Is the disk full?") from error


def load_student(path: Path) -> SavedStudent:
    """Read a student.

    Raises:
        StudentError: the file does not exist, is none of ours, is damaged, or of a version that this one cannot read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("student.json").file_size > _MAX_DOCUMENT:
                raise ValueError("its document is too large")  # noqa: TRY301
            document = json.loads(archive.read("student.json"))
            _check_version(path, document)
            return SavedStudent(_student(archive, document), _about(document["about"]))
    except StudentError:
        raise
    except FileNotFoundError:
        raise StudentError(f"There is no file {path}.", hint="`reviewmill distill RUN -o FILE` writes one.") from None
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, IndexError) as error:
        raise StudentError(f"{path} is no student of reviewmill, or is damaged: {error}.") from error


def _check_version(path: Path, document: Mapping[str, Any]) -> None:
    if document["format"] != FORMAT or document["hash_version"] != HASH_VERSION:
        raise StudentError(
            f"{path} is of another version (format {document['format']}, features {document['hash_version']}); this "
            f"reviewmill reads format {FORMAT}, features {HASH_VERSION}.",
            hint="Distil it again from its run.",
        )


def _about(found: Any) -> dict[str, Any]:
    """What is said of it, if that is what everybody relies on."""
    about: dict[str, Any] = found
    if not isinstance(about["task"]["name"], str) or not isinstance(about["model"]["name"], str):
        raise TypeError("it does not say whose student it is")
    if not isinstance(about.get("max_keywords", 0), int) or not isinstance(about["certificate"], dict):
        raise TypeError("what it says of itself is not what a student says")
    if not all(isinstance(word, str) for word in about["task"].get("orderable", [])):
        raise TypeError("what it leaves out as orders are not words")
    return about


def _student(archive: zipfile.ZipFile, document: Mapping[str, Any]) -> Student:
    hasher = Hasher(**document["hasher"])
    labels = tuple(map(str, document["labels"]))
    if not 1 <= hasher.bits <= _MAX_BITS or not 1 <= hasher.orders <= 8 or not 2 <= len(labels) <= _MAX_LABELS:
        raise ValueError("its sizes are not those of a student")
    idf = _array(archive, "idf.npy", (hasher.size,), np.float32)
    kept = _array(archive, "features.npy", (None,), np.int32)
    weights = _array(archive, "weights.npy", (len(kept), len(labels)), np.float32)
    if len(kept) and (kept.min() < 0 or kept.max() >= hasher.size - 1):
        raise ValueError("its features are out of range")
    table = np.zeros((hasher.size, len(labels) + 1), dtype=np.float32)
    table[kept, :-1] = weights
    table[:, -1] = idf**2
    bias = _numbers(document["bias"], len(labels))
    return Student(
        hasher, labels, table, bias, _calibrated(document["spoken"], labels), _calibrated(document["ranked"], labels)
    )


def _calibrated(found: Mapping[str, Any], labels: tuple[str, ...]) -> Calibrated:
    return Calibrated(float(_numbers([found["scale"]], 1)[0]), _numbers(found["shift"], len(labels)))


def _numbers(found: Any, length: int) -> npt.NDArray[np.float64]:
    numbers = np.asarray(found, dtype=np.float64)
    if numbers.shape != (length,) or not np.isfinite(numbers).all():
        raise ValueError("its numbers are not those of a student")
    return numbers


def _array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int | None, ...], kind: type[np.generic]
) -> npt.NDArray[Any]:
    """Read an array whose size is known before it is unpacked: an archive may claim to hold more than memory does."""
    most = 128 + np.dtype(kind).itemsize * int(np.prod([length or 1 << _MAX_BITS for length in shape]))
    if archive.getinfo(name).file_size > most:
        raise ValueError(f"{name} is too large")
    array: npt.NDArray[Any] = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
    fits = len(array.shape) == len(shape) and all(
        wanted in {None, found} for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != kind or (np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all()):
        raise ValueError(f"{name} is not what it should be")
    return array


def _bytes(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
