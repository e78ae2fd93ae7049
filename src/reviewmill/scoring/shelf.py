"""Where calibrations are found: those shipped with reviewmill, and the user's own folder.

One file each: JSON, or, with weights of n-grams, an `.npz` archive of plain arrays (read without pickle, so that
opening one runs nothing). A file that is damaged is an error and is never skipped: results would silently be others.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from reviewmill.errors import OutputError, SettingsError
from reviewmill.scoring.calibration import Bound, Calibration

AUTO: Final = "auto"
NONE: Final = "none"

_SUFFIXES: Final = (".json", ".npz")
_MOST_BYTES: Final = 64 * 1024**2
_REFIT: Final = "Fit one for what is asked now with `reviewmill calibrate`, or go without: --calibration none."


@dataclass(frozen=True, slots=True)
class Chosen:
    """The calibration in force, if any, and what the user should know about the choice."""

    calibration: Calibration | None
    notes: tuple[str, ...] = ()


def choose(setting: str, bound: Bound, task: str, folder: Path) -> Chosen:
    """Find the calibration to use.

    Args:
        setting: `auto` (the youngest of the user's own that match, else a shipped one that does), `none`, or one by
            path, name in the folder, or id.
        bound: what is asked, and of which model.
        task: the task's name.
        folder: the user's calibrations.

    Raises:
        SettingsError: the named one does not exist or does not match, or a file is damaged.
    """
    if setting == NONE:
        return Chosen(None)
    if setting != AUTO:
        return Chosen(checked(find(setting, folder), bound))
    own = list(stored(folder))
    fitting = [each for each in own if each.because_not_for(bound) is None]
    if fitting:
        return Chosen(max(fitting, key=lambda each: (each.created, each.id)))
    shipped = next((each for each in builtin() if each.because_not_for(bound) is None), None)
    left = [each for each in own if each.task == task and each.model]
    notes = [f"Calibration {each.id} ({each.model}) is not used: {each.because_not_for(bound)}." for each in left]
    return Chosen(shipped, tuple(notes))


def checked(calibration: Calibration, bound: Bound) -> Calibration:
    """The calibration, if it was fitted for exactly this.

    Raises:
        SettingsError: it was not; the message says what differs.
    """
    reason = calibration.because_not_for(bound)
    if reason is not None:
        raise SettingsError(
            f"Calibration {calibration.id} (task {calibration.task}, model {calibration.model}) does not fit: "
            f"{reason}.",
            hint=_REFIT,
        )
    return calibration


def check_named(setting: str, task: str, folder: Path) -> None:
    """Refuse early, before any model is there, a named calibration that cannot fit.

    Args:
        setting: as in `choose`.
        task: the task's `asked_hash`.
        folder: the user's calibrations.

    Raises:
        SettingsError: it does not exist, or is for another task.
    """
    if setting not in {AUTO, NONE}:
        found = find(setting, folder)
        checked(found, found.bound_to.model_copy(update={"task": task}))


@cache
def builtin() -> tuple[Calibration, ...]:
    """The shipped calibrations."""
    folder = resources.files("reviewmill.scoring") / "builtin"
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".toml")]
    return tuple(Calibration.model_validate(entry) for text in texts for entry in tomllib.loads(text)["calibration"])


def stored(folder: Path) -> Iterator[Calibration]:
    """The user's own, in the order of their file names.

    Raises:
        SettingsError: one of the files is damaged.
    """
    for _, calibration in shelved(folder):
        yield calibration


def shelved(folder: Path) -> Iterator[tuple[Path, Calibration]]:
    """The user's own with their files, in the order of their names.

    Raises:
        SettingsError: one of the files is damaged.
    """
    if folder.is_dir():
        for path in sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.name[0] != "."):
            yield path, load(path)


def find(name: str, folder: Path) -> Calibration:
    """A calibration by path, by its file's name in the folder (with or without extension), or by id.

    Raises:
        SettingsError: there is none, or its file is damaged.
    """
    places = [Path(name), *(folder / f"{name}{suffix}" for suffix in ("", *_SUFFIXES))]
    path = next((place for place in places if place.is_file()), None)
    if path is not None:
        return load(path)
    known = next((each for each in (*stored(folder), *builtin()) if each.id == name), None)
    if known is None:
        raise SettingsError(
            f"There is no calibration {name!r}: no such file, and none in {folder}.",
            hint="`reviewmill calibrations list` shows them; `auto` takes one that fits, `none` goes without.",
        )
    return known


def load(path: Path) -> Calibration:
    """Read a calibration's file.

    Raises:
        SettingsError: it cannot be read, or is no calibration.
    """
    try:
        return _load(path)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        said = f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg'].removeprefix('Value error, ')}"
    except OSError as error:
        said = error.strerror or str(error)
    except (ValueError, KeyError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        said = str(error)
    raise SettingsError(
        f"{path} cannot be read as a calibration: {said}.",
        hint="Delete it and fit it again with `reviewmill calibrate`, or go without: --calibration none.",
    )


def _load(path: Path) -> Calibration:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("it is too large for one")
    if path.suffix == ".npz":
        return _load_arrays(path)
    return Calibration.model_validate(json.loads(path.read_bytes()))


def _load_arrays(path: Path) -> Calibration:
    import numpy as np

    from reviewmill.scoring.stack import FEATURES, TextPart

    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > _MOST_BYTES:
            raise ValueError("what it would unpack to is too large for one")
    with np.load(path, allow_pickle=False) as arrays:
        head: dict[str, Any] = json.loads(arrays["calibration"].tobytes())
        features, labels = head.pop("features"), head.pop("text_labels")
        if features != FEATURES:
            raise ValueError(f"its n-grams are {features!r}, and here they are {FEATURES!r}")
        text = TextPart(labels, arrays["index"], arrays["weights"])
    return Calibration.model_validate(head | {"text": text})


def save(calibration: Calibration, path: Path) -> Path:
    """Write a calibration, atomically; the extension becomes `.json`, or `.npz` if there are weights of n-grams.

    Returns:
        Where it was written.

    Raises:
        OutputError: it cannot be written.
    """
    path = path if path.suffix not in _SUFFIXES else path.with_suffix("")
    path = path.with_name(path.name + (".npz" if calibration.text is not None else ".json"))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with temporary.open("xb") as file:
            _write(calibration, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another place with -o."
        ) from error
    return path


def _write(calibration: Calibration, file: Any) -> None:
    head = calibration.model_dump(mode="json")
    if calibration.text is None:
        file.write((json.dumps(head, ensure_ascii=False, indent=2) + "\n").encode())
        return
    import numpy as np

    from reviewmill.scoring.stack import FEATURES, TextPart

    text = calibration.text
    if not isinstance(text, TextPart):
        raise TypeError("only weights of n-grams can be written")
    head |= {"features": FEATURES, "text_labels": list(text.labels)}
    packed = np.frombuffer(json.dumps(head, ensure_ascii=False).encode(), dtype=np.uint8)
    np.savez_compressed(file, calibration=packed, index=text.index, weights=text.weights)
